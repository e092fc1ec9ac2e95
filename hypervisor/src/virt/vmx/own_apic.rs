//! A guest that has the processor's local APIC to itself: interrupts reach it without an exit, and so
//! does HLT.

use super::bitmap::Bitmap;
use super::instruction::{self, read};
use super::{MACHINE, VmxCpu};
use acrn_vdev::lapic::Changed;
use acrn_vmx::{Field, Pin, Secondary};

/// Whether the processor can do without the exits.
pub fn gives_apic() -> bool {
    MACHINE
        .get()
        .is_some_and(|(caps, controls)| caps.gives_apic(controls))
}

/// From the handler of an NMI, which may have come between the last look for requests and the entry:
/// a preemption timer of 0 ends the guest before its first instruction. Without a current VMCS nothing
/// is written.
pub fn leave_soon() {
    let pin = read(Field::PinControls) | u64::from(Pin::PREEMPTION_TIMER.bits());
    // SAFETY: decides about exits only; the processor has the timer where a guest has its APIC.
    unsafe {
        instruction::write(Field::PreemptionTimer, 0);
        instruction::write(Field::PinControls, pin);
    }
}

impl VmxCpu {
    /// Whether the guest has the processor's local APIC to itself.
    #[inline]
    pub fn has_apic(&self) -> bool {
        self.has_apic
    }

    /// Gives the guest the processor's local APIC, or takes it away again. The VMCS is loaded.
    #[cold]
    pub fn give_apic(&mut self, on: bool) {
        let Some((_, all)) = MACHINE.get().filter(|_| gives_apic()) else {
            return;
        };
        self.has_apic = on;
        let mut controls = if on { all.with_own_apic() } else { *all };
        controls.secondary -= Secondary::X2APIC_MODE;
        self.keeps_apic = controls.secondary.contains(Secondary::INTERRUPT_DELIVERY);
        self.unshown = Changed::all();
        self.pin = controls.pin - Pin::PREEMPTION_TIMER - Pin::POSTED_INTERRUPTS;
        self.primary = controls.primary;
        self.threshold = 0;
        self.controls = controls;
        let bitmap = match (on, self.tsc_offset) {
            (false, _) => Bitmap::Plain,
            (true, 0) => Bitmap::Own,
            (true, _) => Bitmap::OwnOffset,
        };
        // SAFETY: controls that the processor allows, with the fields that they need: those of the
        // virtual local APIC have been there since the VMCS was made.
        unsafe {
            instruction::write(Field::SecondaryControls, controls.secondary.bits().into());
            instruction::write(Field::PinControls, self.pin.bits().into());
            instruction::write(Field::PrimaryControls, controls.primary.bits().into());
        }
        self.use_bitmap(bitmap);
    }

    /// Puts one of the guest's MSR bitmaps in force.
    pub(super) fn use_bitmap(&self, bitmap: Bitmap) {
        // SAFETY: all of them are this VM's, one behind the other.
        unsafe { instruction::write(Field::MsrBitmap, self.config.msr_bitmap + bitmap as u64) };
    }

    /// The guest has left as [`leave_soon`] wanted.
    #[cold]
    #[inline(never)]
    pub(super) fn has_left(&self) {
        if self.has_apic {
            // SAFETY: what was in force before.
            unsafe { instruction::write(Field::PinControls, self.pin.bits().into()) };
        }
    }
}
