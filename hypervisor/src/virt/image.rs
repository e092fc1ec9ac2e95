//! States that a vCPU begins with, the same for both vendors.

use super::{ControlState, Segment, SegmentName, StartState};
use crate::arch::cpu::{self, efer};

/// DR6 after INIT or power-up.
pub const RESET_DR6: u64 = 0xffff_0ff0;
/// DR7 after INIT or power-up.
pub const RESET_DR7: u64 = 0x400;
/// PAT after INIT or power-up.
pub const RESET_PAT: u64 = 0x0007_0406_0007_0406;

/// State of a guest to begin with.
pub struct Image {
    /// Control registers.
    pub control: ControlState,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    pub segments: [Segment; 8],
    /// GDT base and limit.
    pub gdt: (u64, u16),
    /// IDT base and limit.
    pub idt: (u64, u16),
}

impl Image {
    /// After INIT or power-up (APM volume 2, 14.1; SDM volume 3A, 10.1.1).
    pub const RESET: Self = {
        const fn segment(selector: u16, access: u32, base: u64) -> Segment {
            Segment {
                selector,
                access,
                limit: 0xffff,
                base,
            }
        }
        const DATA: Segment = segment(0, 0x93, 0);
        Self {
            control: ControlState {
                cr0: cpu::cr0::ET | cpu::cr0::NW | cpu::cr0::CD,
                cr2: 0,
                cr3: 0,
                cr4: 0,
                efer: 0,
                cpl: 0,
            },
            segments: [
                DATA,
                segment(0xf000, 0x9b, 0xffff_0000),
                DATA,
                DATA,
                DATA,
                DATA,
                segment(0, 0x82, 0),
                segment(0, 0x8b, 0),
            ],
            gdt: (0, 0xffff),
            idt: (0, 0xffff),
        }
    };

    /// A whole state, as [`StartState`] gives it.
    pub fn starting(start: &StartState) -> Self {
        let mut control = start.control;
        control.cr0 |= cpu::cr0::ET;
        control.efer &= efer::SCE | efer::LME | efer::LMA | efer::NXE;
        if control.efer & efer::LME != 0 && control.cr0 & cpu::cr0::PG != 0 {
            control.efer |= efer::LMA;
        }
        let [es, ss, ds, fs, gs] = start.data;
        let [.., mut ldtr, mut tr] = Self::RESET.segments;
        ldtr.selector = start.ldt;
        tr.selector = start.tr;
        Self {
            control,
            segments: [es, start.cs, ss, ds, fs, gs, ldtr, tr],
            gdt: start.gdt,
            idt: start.idt,
        }
    }

    /// Code segment after a start-up IPI: real mode at `page` * 4096.
    pub fn code_at(page: u8) -> Segment {
        Segment {
            selector: u16::from(page) << 8,
            base: u64::from(page) << 12,
            ..Self::RESET.segments[SegmentName::Cs as usize]
        }
    }
}
