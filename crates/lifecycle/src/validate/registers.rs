//! The state in which a vCPU starts.
//!
//! A state is accepted when the processor would enter it (Intel SDM 3C 27.3.1, AMD APM 2 15.5.1),
//! so that a bad one is an error for the Device Model and not the end of the VM.

use acrn_abi::hypercall::{DescriptorPtr, Errno, Regs};
use core::fmt;

mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const ET: u64 = 1 << 4;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    /// PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG.
    pub const KNOWN: u64 = 0xe005_003f;
}

mod cr4 {
    pub const PAE: u64 = 1 << 5;
    pub const PCIDE: u64 = 1 << 17;
}

mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

mod rflags {
    pub const FIXED: u64 = 1 << 1;
    pub const VM: u64 = 1 << 17;
    /// All flags up to ID, without the reserved ones.
    pub const KNOWN: u64 = 0x003f_7fd5;
}

/// Bits of access rights (SDM 3C 25.4.1).
mod rights {
    pub const ACCESSED: u32 = 1 << 0;
    pub const WRITABLE_OR_READABLE: u32 = 1 << 1;
    pub const CODE: u32 = 1 << 3;
    pub const NOT_SYSTEM: u32 = 1 << 4;
    pub const DPL: u32 = 3 << 5;
    pub const PRESENT: u32 = 1 << 7;
    pub const LONG: u32 = 1 << 13;
    pub const BIG: u32 = 1 << 14;
    pub const GRANULAR: u32 = 1 << 15;
    pub const KNOWN: u32 = 0xf0ff;

    /// Flat data segment: 4 GiB, read and write.
    pub const FLAT_DATA: u32 = 0xc093;
    /// Data segment of real mode.
    pub const REAL_DATA: u32 = 0x93;
    /// Code segment of real mode.
    pub const REAL_CODE: u32 = 0x9b;
}

const TABLE_INDICATOR: u16 = 1 << 2;

/// What the processor can do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Width of physical addresses in bits.
    pub physical_bits: u32,
    /// Bits of CR4 that a guest may set.
    pub cr4: u64,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Access rights in the VMCS's format.
    pub access: u32,
    /// Limit in bytes.
    pub limit: u32,
    /// Linear base.
    pub base: u64,
}

/// The kind of code that runs in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Real mode.
    Real,
    /// Protected mode, or the compatibility part of long mode.
    Protected,
    /// 64-bit code.
    Long,
}

/// A state that the processor enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// General registers in the order of their encoding.
    pub gprs: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER, with LMA as it follows from the rest.
    pub efer: u64,
    /// Code segment.
    pub cs: Segment,
    /// ES, SS, DS, FS and GS.
    pub data: [Segment; 5],
    /// Base and limit of the GDT.
    pub gdt: (u64, u16),
    /// Base and limit of the IDT.
    pub idt: (u64, u16),
    /// LDT selector.
    pub ldt: u16,
    /// Task register selector.
    pub tr: u16,
    /// Kind of code.
    pub code: Code,
}

/// Why a state is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRegisters {
    /// Reserved fields are not zero.
    Reserved,
    /// Reserved bits of CR0, or paging without protection, or NW without CD.
    Cr0(u64),
    /// Bits above the physical address width.
    Cr3(u64),
    /// Bits that this processor or this hypervisor does not have, or PCIDE outside of long mode.
    Cr4(u64),
    /// Reserved bits, long mode without PAE, or LMA that contradicts LME and CR0.PG.
    Efer(u64),
    /// Reserved bits, or virtual-8086 mode.
    Rflags(u64),
    /// Not a present code segment of privilege level 0, or one that does not fit the mode.
    Cs {
        /// Access rights.
        access: u32,
        /// Limit.
        limit: u32,
        /// Base.
        base: u64,
    },
    /// Not an address in this mode.
    Rip(u64),
    /// Base of the GDT or IDT that is not canonical.
    Table(u64),
    /// LDTR or TR names the LDT.
    Selector(u16),
}

impl BadRegisters {
    /// The result for the caller.
    pub const fn errno(self) -> Errno {
        Errno::EINVAL
    }
}

impl fmt::Display for BadRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => f.write_str("reserved fields of the register block are not zero"),
            Self::Cr0(v) => write!(f, "CR0 {v:#x} is not possible"),
            Self::Cr3(v) => write!(f, "CR3 {v:#x} is beyond the physical addresses"),
            Self::Cr4(v) => write!(f, "CR4 {v:#x} is not possible here"),
            Self::Efer(v) => write!(f, "EFER {v:#x} is not possible with CR0 and CR4"),
            Self::Rflags(v) => write!(f, "RFLAGS {v:#x} is not possible"),
            Self::Cs {
                access,
                limit,
                base,
            } => write!(
                f,
                "CS with rights {access:#x}, limit {limit:#x}, base {base:#x} is not possible"
            ),
            Self::Rip(v) => write!(f, "RIP {v:#x} is no address in this mode"),
            Self::Table(v) => write!(f, "descriptor table base {v:#x} is not canonical"),
            Self::Selector(v) => write!(f, "selector {v:#x} of LDTR or TR names the LDT"),
        }
    }
}

impl core::error::Error for BadRegisters {}

impl Start {
    /// Real mode at an address of the first megabyte, as after a wake-up (ACPI 6.5, 5.2.10).
    pub fn real_mode(address: u32) -> Self {
        let code = Code::Real;
        let selector = (address >> 4) as u16;
        Self {
            gprs: [0; 16],
            rip: u64::from(address & 0xf),
            rflags: rflags::FIXED,
            cr0: cr0::ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: Segment {
                access: rights::REAL_CODE,
                ..data_segment(selector, code)
            },
            data: [data_segment(0, code); 5],
            gdt: (0, 0xffff),
            idt: (0, 0x3ff),
            ldt: 0,
            tr: 0,
            code,
        }
    }

    /// Judges the state of a register block.
    ///
    /// Data segments are flat in protected mode and those of real mode otherwise, with the given
    /// selectors; only CS can be described in full. The accessed bit of CS is set, bit 1 of
    /// RFLAGS too, as hardware has them.
    ///
    /// # Errors
    /// [`BadRegisters`].
    pub fn new(regs: &Regs, limits: &Limits) -> Result<Self, BadRegisters> {
        if regs.reserved_64 != [0; 4] || regs.reserved_32 != [0; 3] {
            return Err(BadRegisters::Reserved);
        }
        let efer = control(regs, limits)?;
        let code = match (regs.cr0 & cr0::PE != 0, efer & efer::LMA != 0) {
            (false, _) => Code::Real,
            (true, true) if regs.cs_ar & rights::LONG != 0 => Code::Long,
            _ => Code::Protected,
        };
        let known = regs.rflags & !(rflags::KNOWN | rflags::FIXED) == 0;
        if !known || regs.rflags & rflags::VM != 0 {
            return Err(BadRegisters::Rflags(regs.rflags));
        }
        let cs = code_segment(regs, code, efer & efer::LMA != 0)?;
        let reachable = match code {
            Code::Long => is_canonical(regs.rip),
            _ => regs.rip >> 32 == 0,
        };
        if !reachable {
            return Err(BadRegisters::Rip(regs.rip));
        }
        for selector in [regs.ldt_sel, regs.tr_sel] {
            if selector & TABLE_INDICATOR != 0 {
                return Err(BadRegisters::Selector(selector));
            }
        }
        let selectors = [
            regs.es_sel,
            regs.ss_sel,
            regs.ds_sel,
            regs.fs_sel,
            regs.gs_sel,
        ];
        Ok(Self {
            gprs: general(regs),
            rip: regs.rip,
            rflags: regs.rflags | rflags::FIXED,
            cr0: regs.cr0,
            cr3: regs.cr3,
            cr4: regs.cr4,
            efer,
            cs,
            data: selectors.map(|selector| data_segment(selector, code)),
            gdt: table(&regs.gdt)?,
            idt: table(&regs.idt)?,
            ldt: regs.ldt_sel,
            tr: regs.tr_sel,
            code,
        })
    }
}

/// Checks the control registers and returns EFER as it will be.
fn control(regs: &Regs, limits: &Limits) -> Result<u64, BadRegisters> {
    let (cr0, cr4, given) = (regs.cr0, regs.cr4, regs.ia32_efer);
    let paging = cr0 & cr0::PG != 0;
    if cr0 & !cr0::KNOWN != 0
        || paging && cr0 & cr0::PE == 0
        || cr0 & cr0::NW != 0 && cr0 & cr0::CD == 0
    {
        return Err(BadRegisters::Cr0(cr0));
    }
    if regs.cr3.checked_shr(limits.physical_bits).unwrap_or(0) != 0 {
        return Err(BadRegisters::Cr3(regs.cr3));
    }
    let known = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    let active = paging && given & efer::LME != 0;
    let contradicts = given & efer::LMA != 0 && !active;
    if given & !known != 0 || contradicts || active && cr4 & cr4::PAE == 0 {
        return Err(BadRegisters::Efer(given));
    }
    if cr4 & !limits.cr4 != 0 || cr4 & cr4::PCIDE != 0 && !active {
        return Err(BadRegisters::Cr4(cr4));
    }
    Ok(if active { given | efer::LMA } else { given })
}

fn code_segment(regs: &Regs, code: Code, long_mode: bool) -> Result<Segment, BadRegisters> {
    let (access, limit, base) = (regs.cs_ar, regs.cs_limit, regs.cs_base);
    let flag = |bit| access & bit != 0;
    // After reset real-mode CS is a data segment on some processors, a code segment on others.
    let runs = flag(rights::CODE) || code == Code::Real && flag(rights::WRITABLE_OR_READABLE);
    let needed = rights::NOT_SYSTEM | rights::PRESENT;
    let long = flag(rights::LONG);
    let sizes = !long || long_mode && !flag(rights::BIG);
    let limit_fits = if flag(rights::GRANULAR) {
        limit & 0xfff == 0xfff
    } else {
        limit >> 20 == 0
    };
    let valid = access & !rights::KNOWN == 0
        && access & needed == needed
        && access & rights::DPL == 0
        && runs
        && sizes
        && limit_fits
        && base >> 32 == 0;
    if !valid {
        return Err(BadRegisters::Cs {
            access,
            limit,
            base,
        });
    }
    Ok(Segment {
        selector: regs.cs_sel,
        access: access | rights::ACCESSED,
        limit,
        base,
    })
}

fn data_segment(selector: u16, code: Code) -> Segment {
    match code {
        Code::Real => Segment {
            selector,
            access: rights::REAL_DATA,
            limit: 0xffff,
            base: u64::from(selector) << 4,
        },
        _ => Segment {
            selector,
            access: rights::FLAT_DATA,
            limit: u32::MAX,
            base: 0,
        },
    }
}

fn table(pointer: &DescriptorPtr) -> Result<(u64, u16), BadRegisters> {
    let (base, limit, reserved) = (pointer.base, pointer.limit, pointer.reserved);
    if reserved != [0; 3] {
        return Err(BadRegisters::Reserved);
    }
    if !is_canonical(base) {
        return Err(BadRegisters::Table(base));
    }
    Ok((base, limit))
}

fn general(regs: &Regs) -> [u64; 16] {
    let g = &regs.gprs;
    [
        g.rax, g.rcx, g.rdx, g.rbx, g.rsp, g.rbp, g.rsi, g.rdi, g.r8, g.r9, g.r10, g.r11, g.r12,
        g.r13, g.r14, g.r15,
    ]
}

/// With four levels of page tables bits 63 to 47 are alike.
const fn is_canonical(address: u64) -> bool {
    let top = address as i64 >> 47;
    top == 0 || top == -1
}

#[cfg(test)]
mod tests {
    use super::*;
    use acrn_abi::hypercall::GpRegs;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        physical_bits: 40,
        cr4: 0x0007_0fff & !(1 << 11),
    };

    /// 32-bit protected mode without paging.
    fn protected() -> Regs {
        Regs {
            gprs: GpRegs {
                rsi: 7,
                r15: 9,
                ..GpRegs::default()
            },
            rip: 0x100_0000,
            cr0: 0x31,
            cs_ar: 0xc09b,
            cs_limit: u32::MAX,
            cs_sel: 0x10,
            ss_sel: 0x18,
            ..Regs::default()
        }
    }

    #[test]
    fn real_mode_begins_at_an_address_as_a_register_block_would_say_it() {
        let regs = Regs {
            rip: 5,
            cs_sel: 0x9a01,
            cs_base: 0x9_a010,
            cs_limit: 0xffff,
            cs_ar: 0x9b,
            cr0: 0x10,
            gdt: DescriptorPtr {
                limit: 0xffff,
                ..<_>::default()
            },
            idt: DescriptorPtr {
                limit: 0x3ff,
                ..<_>::default()
            },
            ..Regs::default()
        };
        assert_eq!(Start::new(&regs, &LIMITS), Ok(Start::real_mode(0x9_a015)));
    }

    fn long() -> Regs {
        Regs {
            cr0: 0x8000_0031,
            cr3: 0x5000,
            cr4: cr4::PAE,
            ia32_efer: efer::LME,
            cs_ar: 0xa09b,
            ..protected()
        }
    }

    /// The reset vector of a firmware image.
    fn real() -> Regs {
        Regs {
            rip: 0xfff0,
            cr0: 0x10,
            cs_ar: 0x9b,
            cs_limit: 0xffff,
            cs_base: 0xffff_0000,
            cs_sel: 0xf000,
            ds_sel: 0x1234,
            ..Regs::default()
        }
    }

    fn start(regs: &Regs) -> Result<Start, BadRegisters> {
        Start::new(regs, &LIMITS)
    }

    #[test]
    fn the_states_that_device_models_use_are_accepted() {
        let state = start(&protected()).unwrap();
        assert_eq!(state.code, Code::Protected);
        assert_eq!((state.gprs[6], state.gprs[15]), (7, 9));
        assert_eq!((state.rflags, state.data[1].selector), (2, 0x18));
        assert_eq!(
            (state.data[1].access, state.data[1].limit),
            (0xc093, u32::MAX)
        );
        let state = start(&long()).unwrap();
        assert_eq!((state.code, state.efer), (Code::Long, 0x500));
        let state = start(&real()).unwrap();
        assert_eq!((state.code, state.cs.base), (Code::Real, 0xffff_0000));
        assert_eq!(
            (state.data[2].base, state.data[2].limit),
            (0x1_2340, 0xffff)
        );
    }

    #[test]
    fn paging_needs_protection_and_long_mode_needs_pae() {
        let cr0 = 0x8000_0010;
        assert_eq!(start(&Regs { cr0, ..real() }), Err(BadRegisters::Cr0(cr0)));
        let no_pae = Regs { cr4: 0, ..long() };
        assert_eq!(start(&no_pae), Err(BadRegisters::Efer(efer::LME)));
        let lma_alone = Regs {
            ia32_efer: efer::LMA,
            ..protected()
        };
        assert_eq!(start(&lma_alone), Err(BadRegisters::Efer(efer::LMA)));
    }

    #[test]
    fn reserved_bits_are_refused_in_every_register() {
        let good = protected();
        let cr0 = [1 << 32, 1 << 6, 1 << 29].map(|bit| good.cr0 | bit);
        for cr0 in cr0 {
            assert_eq!(start(&Regs { cr0, ..good }), Err(BadRegisters::Cr0(cr0)));
        }
        for cr4 in [1 << 13, 1 << 12, 1 << 63, cr4::PCIDE] {
            assert_eq!(start(&Regs { cr4, ..good }), Err(BadRegisters::Cr4(cr4)));
        }
        for ia32_efer in [1 << 12, 1 << 1] {
            let bad = start(&Regs { ia32_efer, ..good });
            assert_eq!(bad, Err(BadRegisters::Efer(ia32_efer)));
        }
        for rflags in [1 << 3, 1 << 15, 1 << 17, 1 << 22] {
            let bad = start(&Regs { rflags, ..good });
            assert_eq!(bad, Err(BadRegisters::Rflags(rflags)));
        }
        let cr3 = 1 << 40;
        assert_eq!(start(&Regs { cr3, ..good }), Err(BadRegisters::Cr3(cr3)));
        let reserved_64 = [0, 0, 0, 1];
        let bad = start(&Regs {
            reserved_64,
            ..good
        });
        assert_eq!(bad, Err(BadRegisters::Reserved));
    }

    #[test]
    fn cs_is_present_code_of_level_0_whose_limit_and_size_fit() {
        for cs_ar in [
            0, 0xc093, 0x409b, 0xc01b, 0xc08b, 0xc0fb, 0xe09b, 0xa09b, 0x1_c09b, 0xc19b,
        ] {
            let bad = start(&Regs {
                cs_ar,
                ..protected()
            });
            assert!(matches!(bad, Err(BadRegisters::Cs { .. })), "{cs_ar:#x}");
        }
        let bad = start(&Regs {
            cs_ar: 0xe09b,
            ..long()
        });
        assert!(matches!(bad, Err(BadRegisters::Cs { .. })));
        let data = start(&Regs {
            cs_ar: 0x93,
            ..real()
        });
        assert!(data.is_ok());
        let untouched = start(&Regs {
            cs_ar: 0xc09a,
            ..protected()
        });
        assert_eq!(untouched.unwrap().cs.access, 0xc09b);
    }

    #[test]
    fn addresses_are_those_of_the_mode() {
        let rip = 1 << 32;
        assert_eq!(
            start(&Regs { rip, ..protected() }),
            Err(BadRegisters::Rip(rip))
        );
        assert!(start(&Regs { rip, ..long() }).is_ok());
        let rip = 1 << 47;
        assert_eq!(start(&Regs { rip, ..long() }), Err(BadRegisters::Rip(rip)));
        let mut regs = protected();
        regs.idt.base = 0x8000_0000_0000;
        assert_eq!(start(&regs), Err(BadRegisters::Table(0x8000_0000_0000)));
        regs = Regs {
            tr_sel: 4,
            ..protected()
        };
        assert_eq!(start(&regs), Err(BadRegisters::Selector(4)));
    }

    proptest! {
        #[test]
        fn no_block_is_too_strange(
            cr0: u64, cr3: u64, cr4: u64, ia32_efer: u64, rflags: u64, rip: u64, cs_ar: u32,
            cs_limit: u32, cs_base: u64, physical_bits in 0u32..80,
        ) {
            let regs = Regs {
                cr0, cr3, cr4, ia32_efer, rflags, rip, cs_ar, cs_limit, cs_base, ..Regs::default()
            };
            let _ = Start::new(&regs, &Limits { physical_bits, cr4: u64::MAX });
        }

        #[test]
        fn what_is_accepted_has_consistent_long_mode(
            cr0 in 0u64..4, high in 0u64..4, cr4: u64, efer: u64, cs_ar in 0u32..0x1_0000,
        ) {
            let regs = Regs {
                cr0: cr0 | high << 30,
                cr4: cr4 & 0x3f,
                ia32_efer: efer & 0xd01,
                cs_ar,
                ..protected()
            };
            if let Ok(state) = start(&regs) {
                let active = state.efer & efer::LMA != 0;
                prop_assert_eq!(active, state.efer & efer::LME != 0 && state.cr0 & cr0::PG != 0);
                prop_assert!(!active || state.cr4 & cr4::PAE != 0);
                prop_assert_eq!(state.code == Code::Real, state.cr0 & cr0::PE == 0);
                prop_assert!(state.code != Code::Long || active);
            }
        }
    }
}
