//! The VMX-preemption timer (SDM volume 3C, 26.5.1): leaves the guest in time for its own local
//! APIC's timer, without an interrupt of the host.

use super::instruction;
use super::{MACHINE, VmxCpu};
use acrn_vmx::{Field, Pin};

/// Whether the processor has the timer.
pub fn keeps_deadlines() -> bool {
    MACHINE
        .get()
        .is_some_and(|(_, controls)| controls.pin.contains(Pin::PREEMPTION_TIMER))
}

impl VmxCpu {
    /// Turns the timer on or off; whether there is one.
    #[inline]
    pub fn use_deadline(&mut self, on: bool) -> bool {
        let exists = self.controls.pin.contains(Pin::PREEMPTION_TIMER);
        self.set_pin(Pin::PREEMPTION_TIMER, exists && on);
        exists
    }

    /// Sets the timer, which counts while the guest runs and begins anew at each entry. When it
    /// ends too early it is set again.
    #[inline]
    pub fn set_time_left(&mut self, ticks: u64) {
        if self.pin.contains(Pin::PREEMPTION_TIMER) {
            let count = (ticks >> self.timer_shift).min(u32::MAX.into());
            // SAFETY: decides about exits only.
            unsafe { instruction::write(Field::PreemptionTimer, count) };
        }
    }

    /// Turns a pin-based control on or off.
    #[inline]
    pub(super) fn set_pin(&mut self, control: Pin, on: bool) {
        if self.pin.contains(control) != on {
            self.pin.set(control, on);
            // SAFETY: a control that the processor has; the fields that it needs are set.
            unsafe { instruction::write(Field::PinControls, self.pin.bits().into()) };
        }
    }
}
