//! Handing a guest over from its virtual local APIC to a processor's own, in x2APIC mode.
//!
//! From then on the guest reaches the registers that matter to its speed itself ([`readable`],
//! [`writable`]). What it may not have stays virtual and is answered here as before: who it is and
//! whom it interrupts (id, logical id, ICR), and the entries of the local vector table whose lines are
//! the machine's. SVR is both: the virtual one has to know whether the APIC is on.

use super::regs::reg;
use super::{LVT_MASKED, LocalSource, VLapic, VectorSet};

/// First x2APIC register.
const X2APIC_BASE: u32 = 0x800;

/// Read by the guest from the hardware, in order.
const READABLE: [u16; 9] = [
    reg::TPR,
    reg::PPR,
    reg::ESR,
    reg::LVT_TIMER,
    reg::LVT_ERROR,
    reg::TIMER_INITIAL,
    reg::TIMER_CURRENT,
    reg::TIMER_DIVIDE,
    reg::SVR,
];

/// Written by the guest to the hardware.
const WRITABLE: [u16; 8] = [
    reg::TPR,
    reg::EOI,
    reg::ESR,
    reg::LVT_TIMER,
    reg::LVT_ERROR,
    reg::TIMER_INITIAL,
    reg::TIMER_DIVIDE,
    reg::SELF_IPI,
];

/// The MSRs that a guest with a local APIC of hardware reads without an exit.
pub fn readable() -> impl Iterator<Item = u32> {
    let vectors = reg::ISR..=reg::IRR_END;
    READABLE.into_iter().chain(vectors).map(msr)
}

/// The MSRs that a guest with a local APIC of hardware writes without an exit.
pub fn writable() -> impl Iterator<Item = u32> {
    WRITABLE.into_iter().map(msr)
}

/// The MSR whose writes are the virtual local APIC's and the hardware's.
pub const SVR_MSR: u32 = msr(reg::SVR);

const fn msr(register: u16) -> u32 {
    X2APIC_BASE + register as u32
}

/// What the hardware begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// x2APIC MSRs and their values, in the order in which they are to be written. A count begins anew,
    /// since the two timers do not run at the same rate.
    pub registers: [(u32, u32); 6],
    /// Guest TSC at which the timer is due, in TSC-deadline mode; 0 when it is off.
    pub tsc_deadline: u64,
}

impl VLapic {
    /// Stops the timer, which is the hardware's from now on, and says what that begins with.
    pub fn hand_over(&mut self, now: u64) -> Handover {
        let lvt = |source: LocalSource| self.lvt[source as usize];
        let handover = Handover {
            // The entry before the count and the deadline, which its mode clears.
            registers: [
                (msr(reg::SVR), self.svr),
                (msr(reg::TPR), self.tpr.into()),
                (msr(reg::LVT_ERROR), lvt(LocalSource::Error)),
                (msr(reg::TIMER_DIVIDE), self.timer.divide()),
                (msr(reg::LVT_TIMER), lvt(LocalSource::Timer)),
                (msr(reg::TIMER_INITIAL), self.timer.current(now)),
            ],
            tsc_deadline: self.timer.tsc_deadline(),
        };
        self.timer.reset();
        self.lvt[LocalSource::Timer as usize] = LVT_MASKED;
        handover
    }

    /// Takes the highest vector that is requested, for the hardware to deliver.
    pub fn take_requested(&mut self) -> Option<u8> {
        let vector = self.irr.highest()?;
        self.irr.remove(vector);
        self.highest_irr = self.irr.highest().unwrap_or(0);
        Some(vector)
    }

    /// Nothing is in service here any more: the guest's EOI ends what is in service in the hardware.
    pub fn forget_service(&mut self) {
        self.isr = VectorSet::EMPTY;
        self.highest_isr = 0;
        self.update_ppr();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{GpFault, LapicAction};
    use super::*;
    use acrn_abi::Vector;

    fn x2apic() -> VLapic {
        let mut lapic = VLapic::new(3, false, 0);
        assert_eq!(
            lapic.write_msr(0x1b, 0xfee0_0c00, 0),
            Ok(LapicAction::IdentityChanged)
        );
        write(&mut lapic, SVR_MSR, 0x1ff);
        lapic
    }

    fn write(lapic: &mut VLapic, msr: u32, value: u64) {
        assert!(lapic.write_msr(msr, value, 100).is_ok(), "{msr:#x}");
    }

    #[test]
    fn the_hardware_goes_on_where_the_virtual_one_stops() {
        let mut lapic = x2apic();
        write(&mut lapic, 0x808, 0x20);
        write(&mut lapic, 0x83e, 0xb);
        write(&mut lapic, 0x832, 0x4_00ec);
        write(&mut lapic, 0x6e0, 5000);
        write(&mut lapic, 0x837, 0xfe);
        let handover = lapic.hand_over(200);
        assert_eq!(
            handover.registers,
            [
                (0x80f, 0x1ff),
                (0x808, 0x20),
                (0x837, 0xfe),
                (0x83e, 0xb),
                (0x832, 0x4_00ec),
                (0x838, 0),
            ]
        );
        assert_eq!(handover.tsc_deadline, 5000);
        assert_eq!(lapic.timer_deadline(), None);
        assert_eq!(lapic.timer_fire(10_000), None);
    }

    #[test]
    fn a_count_begins_anew_with_what_is_left() {
        let mut lapic = x2apic();
        write(&mut lapic, 0x83e, 0xb);
        write(&mut lapic, 0x832, 0xec);
        write(&mut lapic, 0x838, 100_000);
        let handover = lapic.hand_over(40_100);
        assert_eq!(handover.registers[5], (0x838, 60_000));
        assert_eq!(handover.tsc_deadline, 0);
    }

    #[test]
    fn what_is_requested_is_taken_from_the_highest() {
        let mut lapic = x2apic();
        for vector in [0x41, 0xc0, 0x30] {
            assert!(lapic.request(Vector(vector), false));
        }
        assert!(lapic.accept(Vector(0xc0)));
        lapic.forget_service();
        assert_eq!(lapic.highest_pending(), Some(Vector(0x41)));
        assert_eq!(lapic.take_requested(), Some(0x41));
        assert_eq!(lapic.take_requested(), Some(0x30));
        assert_eq!(lapic.take_requested(), None);
        assert_eq!(lapic.highest_pending(), None);
    }

    #[test]
    fn who_the_guest_is_and_whom_it_interrupts_stays_virtual() {
        const ID: u32 = 0x802;
        const LDR: u32 = 0x80d;
        const ICR: u32 = 0x830;
        const LINT: [u32; 2] = [0x835, 0x836];
        for virtual_one in [ID, LDR, ICR].into_iter().chain(LINT) {
            assert!(readable().all(|msr| msr != virtual_one));
            assert!(writable().all(|msr| msr != virtual_one));
        }
        assert!(writable().all(|msr| msr != SVR_MSR));
    }

    #[test]
    fn the_hardware_has_only_registers_that_exist() {
        let mut lapic = x2apic();
        for msr in readable() {
            assert!(lapic.read_msr(msr, 0).is_ok(), "{msr:#x}");
        }
        for msr in writable() {
            assert_ne!(lapic.write_msr(msr, 0, 0), Err(GpFault), "{msr:#x}");
        }
    }
}
