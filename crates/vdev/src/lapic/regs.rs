//! The register file, by register number: the xAPIC offset and the x2APIC MSR index are both
//! derived from it. Also the xAPIC (memory-mapped) view.

use acrn_abi::Vector;

use super::page::Changed;
use super::timer::TimerMode;
use super::{
    ESR_ILLEGAL_REGISTER, ESR_RECEIVE_ILLEGAL_VECTOR, ESR_SEND_ILLEGAL_VECTOR, FIRST_LEGAL_VECTOR,
    Icr, LVT_MASKED, LapicAction, Mode, SVR_ENABLE, Shorthand, VLapic,
};
use crate::interrupt::DeliveryMode;

/// Register numbers: xAPIC offset / 16, x2APIC MSR - 0x800 (SDM 3A, tables 10-1 and 10-6).
pub(super) mod reg {
    pub const ID: u16 = 0x02;
    pub const VERSION: u16 = 0x03;
    pub const TPR: u16 = 0x08;
    pub const APR: u16 = 0x09;
    pub const PPR: u16 = 0x0a;
    pub const EOI: u16 = 0x0b;
    pub const RRD: u16 = 0x0c;
    pub const LDR: u16 = 0x0d;
    pub const DFR: u16 = 0x0e;
    pub const SVR: u16 = 0x0f;
    pub const ISR: u16 = 0x10;
    pub const ISR_END: u16 = 0x17;
    pub const TMR: u16 = 0x18;
    pub const TMR_END: u16 = 0x1f;
    pub const IRR: u16 = 0x20;
    pub const IRR_END: u16 = 0x27;
    pub const ESR: u16 = 0x28;
    pub const ICR_LOW: u16 = 0x30;
    pub const ICR_HIGH: u16 = 0x31;
    pub const LVT_TIMER: u16 = 0x32;
    pub const LVT_ERROR: u16 = 0x37;
    pub const TIMER_INITIAL: u16 = 0x38;
    pub const TIMER_CURRENT: u16 = 0x39;
    pub const TIMER_DIVIDE: u16 = 0x3e;
    pub const SELF_IPI: u16 = 0x3f;
}

/// Integrated local APIC with six LVT entries, no EOI broadcast suppression.
const VERSION: u32 = 0x0005_0014;
/// Vector, enable, focus checking.
pub(super) const SVR_WRITABLE: u32 = 0x3ff;
/// Divide configuration bits.
pub(super) const DIVIDE_WRITABLE: u32 = 0xb;
/// Delivery status of an LVT entry and the ICR: read only, always idle.
pub(super) const DELIVERY_STATUS: u32 = 1 << 12;
/// Remote IRR of a LINT entry: read only.
pub(super) const REMOTE_IRR: u32 = 1 << 14;

/// Writable bits of LVT entry `index`, in the order of `LocalSource`.
pub(super) fn lvt_writable(index: u16) -> u32 {
    match index {
        0 => 0x7_00ff,
        1 | 2 => 0x1_07ff,
        3 | 4 => 0x1_a7ff,
        _ => 0x1_00ff,
    }
}

impl VLapic {
    /// Memory-mapped read of the 32-bit register at `offset` of the register page. `now` is the
    /// guest's TSC. Reads all ones outside xAPIC mode, where the page is ordinary memory.
    pub fn read(&mut self, offset: u16, now: u64) -> u32 {
        if self.mode != Mode::XApic {
            return u32::MAX;
        }
        match self.read_register(offset >> 4, now) {
            Some(value) if offset & 0xf == 0 => value,
            _ => {
                self.raise_error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Memory-mapped write of the 32-bit register at `offset` of the register page.
    pub fn write(&mut self, offset: u16, value: u32, now: u64) -> LapicAction {
        if self.mode != Mode::XApic {
            return LapicAction::None;
        }
        let register = if offset & 0xf == 0 {
            offset >> 4
        } else {
            u16::MAX
        };
        match register {
            reg::LDR => {
                self.changed |= Changed::REGISTERS;
                self.ldr = value & 0xff00_0000;
                LapicAction::IdentityChanged
            }
            reg::DFR => {
                self.dfr = value | 0x0fff_ffff;
                LapicAction::IdentityChanged
            }
            reg::ICR_LOW => {
                self.icr_low = value & !DELIVERY_STATUS;
                self.send(Icr::from_xapic(value, self.icr_high))
            }
            reg::ICR_HIGH => {
                self.icr_high = value & 0xff00_0000;
                LapicAction::None
            }
            // Read only.
            reg::ID | reg::VERSION | reg::APR | reg::PPR | reg::RRD => LapicAction::None,
            reg::ISR..=reg::IRR_END | reg::TIMER_CURRENT => LapicAction::None,
            _ => self
                .write_register(register, value, now)
                .unwrap_or_else(|| {
                    self.raise_error(ESR_ILLEGAL_REGISTER);
                    LapicAction::None
                }),
        }
    }

    /// Reads register `number`; `None` when there is none.
    pub(super) fn read_register(&self, number: u16, now: u64) -> Option<u32> {
        Some(match number {
            reg::ID if self.mode == Mode::X2Apic => self.id,
            reg::ID => self.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => self.tpr.into(),
            reg::PPR => self.ppr.into(),
            reg::APR | reg::RRD | reg::EOI => 0,
            reg::LDR => self.ldr,
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..=reg::ISR_END => self.isr.register((number - reg::ISR).into()),
            reg::TMR..=reg::TMR_END => self.tmr.register((number - reg::TMR).into()),
            reg::IRR..=reg::IRR_END => self.irr.register((number - reg::IRR).into()),
            reg::ESR => self.esr,
            reg::ICR_LOW => self.icr_low,
            reg::ICR_HIGH => self.icr_high,
            reg::LVT_TIMER..=reg::LVT_ERROR => {
                *self.lvt.get(usize::from(number - reg::LVT_TIMER))?
            }
            reg::TIMER_INITIAL => self.timer.initial(),
            reg::TIMER_CURRENT => self.timer.current(now),
            reg::TIMER_DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// Writes a register that means the same in both modes; `None` when there is none.
    pub(super) fn write_register(
        &mut self,
        number: u16,
        value: u32,
        now: u64,
    ) -> Option<LapicAction> {
        // The task priority is shown at each entry, the others are not.
        if !matches!(number, reg::EOI | reg::TPR | reg::TIMER_INITIAL) {
            self.changed |= Changed::REGISTERS;
        }
        Some(match number {
            reg::EOI => self.eoi(),
            reg::TPR => {
                self.set_tpr(value as u8);
                LapicAction::PriorityChanged
            }
            reg::SVR => {
                self.write_svr(value, now);
                LapicAction::LvtChanged
            }
            reg::ESR => {
                self.esr = core::mem::take(&mut self.esr_pending);
                LapicAction::None
            }
            reg::LVT_TIMER..=reg::LVT_ERROR => self.write_lvt(number - reg::LVT_TIMER, value, now),
            reg::TIMER_INITIAL => {
                self.timer_fire(now);
                self.timer.set_initial(value, now);
                LapicAction::TimerChanged
            }
            reg::TIMER_DIVIDE => {
                self.timer_fire(now);
                self.timer.set_divide(value, now);
                LapicAction::TimerChanged
            }
            _ => return None,
        })
    }

    /// Software-disabling masks every LVT entry (SDM 3A, 10.4.7.2). What is requested or in
    /// service stays.
    fn write_svr(&mut self, value: u32, now: u64) {
        self.timer_fire(now);
        self.svr = value & SVR_WRITABLE;
        if self.svr & SVR_ENABLE == 0 {
            for lvt in &mut self.lvt {
                *lvt |= LVT_MASKED;
            }
        }
    }

    fn write_lvt(&mut self, index: u16, value: u32, now: u64) -> LapicAction {
        if index == 0 {
            // An expiry before this write counts under the old mode and mask.
            self.timer_fire(now);
            self.timer.set_mode(TimerMode::from_lvt(value));
        }
        let disabled = if self.svr & SVR_ENABLE == 0 {
            LVT_MASKED
        } else {
            0
        };
        if let Some(lvt) = self.lvt.get_mut(usize::from(index)) {
            *lvt = value & lvt_writable(index) | disabled;
        }
        if index == 0 {
            LapicAction::TimerChanged
        } else {
            LapicAction::LvtChanged
        }
    }

    /// The guest wrote the ICR.
    pub(super) fn send(&mut self, icr: Icr) -> LapicAction {
        if !icr.is_effective() {
            return LapicAction::None;
        }
        if icr.mode.uses_vector() && icr.vector.0 < FIRST_LEGAL_VECTOR {
            self.raise_error(ESR_SEND_ILLEGAL_VECTOR);
            return LapicAction::PriorityChanged;
        }
        if icr.shorthand == Shorthand::Oneself && icr.mode != DeliveryMode::Nmi {
            self.request(icr.vector, false);
            return LapicAction::PriorityChanged;
        }
        LapicAction::SendIpi(icr)
    }

    /// The x2APIC self-IPI register.
    pub(super) fn self_ipi(&mut self, vector: Vector) -> LapicAction {
        if vector.0 < FIRST_LEGAL_VECTOR {
            self.raise_error(ESR_SEND_ILLEGAL_VECTOR | ESR_RECEIVE_ILLEGAL_VECTOR);
        } else {
            self.request(vector, false);
        }
        LapicAction::PriorityChanged
    }
}
