//! The x2APIC view: registers as MSRs 0x800..=0x8FF, and the two other MSRs of the local APIC
//! (SDM 3A, 10.12 and 10.5.4.1).

use acrn_abi::Vector;

use super::regs::{DELIVERY_STATUS, DIVIDE_WRITABLE, REMOTE_IRR, SVR_WRITABLE, lvt_writable, reg};
use super::{ApicBase, FIRST_LEGAL_VECTOR, GpFault, Icr, LapicAction, Mode, VLapic};

/// `IA32_APIC_BASE`.
const IA32_APIC_BASE: u32 = 0x1b;
/// `IA32_TSC_DEADLINE`.
const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// First x2APIC register.
const X2APIC_BASE: u32 = 0x800;
/// Reserved bits of the low half of the ICR.
const ICR_RESERVED: u32 = 0xfff3_2000;

impl VLapic {
    /// Reads `IA32_APIC_BASE`, `IA32_TSC_DEADLINE` or an x2APIC register.
    ///
    /// # Errors
    /// Another MSR, a register that cannot be read, or an x2APIC register outside x2APIC mode.
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, GpFault> {
        match msr {
            IA32_APIC_BASE => Ok(self.apic_base().0),
            IA32_TSC_DEADLINE => Ok(self.tsc_deadline(now)),
            _ => self.read_x2apic(x2apic_register(self.mode, msr)?, now),
        }
    }

    fn read_x2apic(&self, register: u16, now: u64) -> Result<u64, GpFault> {
        match register {
            reg::ICR_LOW => Ok(u64::from(self.icr_high) << 32 | u64::from(self.icr_low)),
            reg::APR | reg::EOI | reg::RRD | reg::DFR | reg::ICR_HIGH => Err(GpFault),
            _ => self
                .read_register(register, now)
                .map(u64::from)
                .ok_or(GpFault),
        }
    }

    /// Writes `IA32_APIC_BASE`, `IA32_TSC_DEADLINE` or an x2APIC register.
    ///
    /// # Errors
    /// Another MSR, a read-only register, a reserved bit, a forbidden mode transition, or an
    /// x2APIC register outside x2APIC mode.
    #[inline]
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<LapicAction, GpFault> {
        match msr {
            IA32_APIC_BASE => self.set_apic_base(ApicBase(value)),
            IA32_TSC_DEADLINE => Ok(self.set_tsc_deadline(value, now)),
            _ => self.write_x2apic(x2apic_register(self.mode, msr)?, value, now),
        }
    }

    fn write_x2apic(
        &mut self,
        register: u16,
        value: u64,
        now: u64,
    ) -> Result<LapicAction, GpFault> {
        if register == reg::ICR_LOW {
            return self.write_x2apic_icr(value);
        }
        let writable = x2apic_writable(register).ok_or(GpFault)?;
        if value & !u64::from(writable) != 0 {
            return Err(GpFault);
        }
        if register == reg::SELF_IPI {
            return Ok(self.self_ipi(Vector(value as u8)));
        }
        self.write_register(register, value as u32, now)
            .ok_or(GpFault)
    }

    /// The short way for what nearly every write of the x2APIC's ICR asks for: a fixed interrupt
    /// for one CPU. Its vector and the id of the target; `None`, and nothing has happened, when
    /// it is anything else.
    #[inline]
    pub fn plain_ipi(&mut self, value: u64) -> Option<(Vector, u32)> {
        let (low, high) = (value as u32, (value >> 32) as u32);
        const LOGICAL: u32 = 1 << 11;
        // All but vector, destination mode, level and trigger mode.
        const PLAIN: u32 = !(0xff | LOGICAL | 0xc000);
        if self.mode != Mode::X2Apic || low & PLAIN != 0 || (low as u8) < FIRST_LEGAL_VECTOR {
            return None;
        }
        let id = match (low & LOGICAL != 0, high & 0xffff) {
            (false, _) => high,
            // A cluster has 16 members, a bit each.
            (true, one) if one.is_power_of_two() => high >> 16 << 4 | one.trailing_zeros(),
            _ => return None,
        };
        self.icr_low = low;
        self.icr_high = high;
        Some((Vector(low as u8), id))
    }

    fn write_x2apic_icr(&mut self, value: u64) -> Result<LapicAction, GpFault> {
        let low = value as u32;
        if low & ICR_RESERVED != 0 {
            return Err(GpFault);
        }
        self.icr_low = low & !DELIVERY_STATUS;
        self.icr_high = (value >> 32) as u32;
        Ok(self.send(Icr::from_x2apic(low, self.icr_high)))
    }

    /// Reads `IA32_TSC_DEADLINE`: zero once the deadline has passed, or in another timer mode.
    pub fn tsc_deadline(&mut self, now: u64) -> u64 {
        let deadline = self.timer.tsc_deadline();
        if deadline != 0 && deadline <= now {
            self.timer_fire(now);
            return 0;
        }
        deadline
    }

    /// Writes `IA32_TSC_DEADLINE`; ignored in another timer mode. A deadline in the past is
    /// requested at once.
    #[inline]
    pub fn set_tsc_deadline(&mut self, value: u64, now: u64) -> LapicAction {
        self.timer.set_tsc_deadline(value);
        if value <= now {
            self.timer_fire(now);
        }
        LapicAction::TimerChanged
    }
}

fn x2apic_register(mode: Mode, msr: u32) -> Result<u16, GpFault> {
    match msr.checked_sub(X2APIC_BASE) {
        Some(register @ 0..=0xff) if mode == Mode::X2Apic => Ok(register as u16),
        _ => Err(GpFault),
    }
}

/// Bits that may be set in a write; `None` for registers that cannot be written. Read-only status
/// bits may be set, so that a guest can write back what it read.
fn x2apic_writable(register: u16) -> Option<u32> {
    Some(match register {
        reg::EOI | reg::ESR => 0,
        reg::TPR | reg::SELF_IPI => 0xff,
        reg::SVR => SVR_WRITABLE,
        reg::LVT_TIMER..=reg::LVT_ERROR => {
            let index = register - reg::LVT_TIMER;
            let remote_irr = if matches!(index, 3 | 4) {
                REMOTE_IRR
            } else {
                0
            };
            lvt_writable(index) | DELIVERY_STATUS | remote_irr
        }
        reg::TIMER_INITIAL => u32::MAX,
        reg::TIMER_DIVIDE => DIVIDE_WRITABLE,
        _ => return None,
    })
}
