//! Delivery of interrupts: by the processor, which then keeps the guest's local APIC (SDM volume
//! 3C, chapter 30), or by injection.

use super::bitmap::Bitmap;
use super::instruction::{self, read};
use super::{TPR, VmxCpu};
use crate::virt::Registers;
use acrn_vdev::lapic::{Changed, PostedInterrupts, VLapic};
use acrn_vmx::exit::{self, event, reason};
use acrn_vmx::{Field, Pin, Primary, Secondary};

impl VmxCpu {
    /// Sees to it that what is requested is delivered as soon as possible.
    #[inline]
    pub(super) fn offer_interrupt(
        &mut self,
        registers: &Registers,
        lapic: &mut VLapic,
        window: bool,
    ) {
        self.virtual_apic.set_word(TPR, lapic.tpr().into());
        if self.keeps_apic {
            if !(lapic.changed() | self.unshown).is_empty() {
                self.show(lapic);
            }
            if window != self.primary.contains(Primary::INTERRUPT_WINDOW) {
                self.set_primary(self.primary ^ Primary::INTERRUPT_WINDOW);
            }
            return;
        }
        let (mut primary, mut threshold) = (self.primary, 0);
        primary.set(Primary::INTERRUPT_WINDOW, window);
        if !window && let Some(vector) = lapic.pending_ignoring_tpr() {
            let vector = vector.0;
            if vector >> 4 <= lapic.tpr() >> 4 {
                threshold = vector >> 4;
            } else if self.interrupt_possible(registers) {
                self.event = u32::from(vector) | event::EXTERNAL | exit::EVENT_VALID;
                self.delivered = Some(acrn_abi::Vector(vector));
            } else {
                primary |= Primary::INTERRUPT_WINDOW;
            }
        }
        self.set_threshold(threshold);
        self.set_primary(primary);
    }

    /// Tells the local APIC what was delivered since the last entry, and the task priority.
    #[inline]
    pub(super) fn collect_interrupt(&mut self, lapic: &mut VLapic, posted: &PostedInterrupts) {
        if self.keeps_apic {
            let status = read(Field::GuestInterruptStatus) as u16;
            if status != self.status || !posted.is_empty() {
                self.status = status;
                lapic.adopt(|at| self.virtual_apic.word(at));
            }
        } else if let Some(vector) = self.delivered.take() {
            lapic.delivered(vector);
        }
        let tpr = self.virtual_apic.word(TPR) as u8;
        if (tpr ^ lapic.tpr()) & 0xf0 != 0 {
            lapic.set_tpr(tpr & 0xf0);
        }
    }

    /// Whether the processor takes what is posted when it is notified.
    #[inline]
    pub fn takes_posted(&self) -> bool {
        self.controls.pin.contains(Pin::POSTED_INTERRUPTS)
    }

    /// The vector behind [`crate::virt::Exit::Interrupt`], where exits acknowledge interrupts.
    #[inline]
    pub fn acknowledged(&self) -> Option<u8> {
        let info = match self.reason as u16 {
            reason::EXTERNAL_INTERRUPT => read(Field::ExitInterruptionInfo) as u32,
            _ => 0,
        };
        (info & exit::EVENT_VALID != 0).then_some(info as u8)
    }

    /// The exit for a priority that falls below `class`. Without a shadow of the task priority,
    /// each write of CR8 exits.
    #[inline]
    fn set_threshold(&mut self, class: u8) {
        if class != self.threshold && self.primary.contains(Primary::TPR_SHADOW) {
            self.threshold = class;
            // SAFETY: not above the priority in the page.
            unsafe { instruction::write(Field::TprThreshold, class.into()) };
        }
    }

    /// Brings the register page up to date, and what the processor derives from it.
    #[cold]
    fn show(&mut self, lapic: &mut VLapic) {
        let changed = lapic.take_changed() | self.unshown;
        self.unshown = Changed::empty();
        lapic.show(changed, |at, value| self.virtual_apic.set_word(at, value));
        if changed.contains(Changed::VECTORS) {
            self.status = lapic.interrupt_status();
            // SAFETY: the guest's part.
            unsafe { instruction::write(Field::GuestInterruptStatus, self.status.into()) };
            let level = lapic.level_triggered();
            if level != self.level {
                self.level = level;
                self.write_level();
            }
        }
        if changed.contains(Changed::REGISTERS) {
            self.set_x2apic(lapic.is_x2apic());
            // One that is off drops what is posted.
            let takes = self.takes_posted() && lapic.is_enabled();
            self.set_pin(Pin::POSTED_INTERRUPTS, takes);
        }
    }

    /// An EOI of these vectors exits.
    pub(super) fn write_level(&self) {
        let fields = [
            Field::EoiExitBitmap0,
            Field::EoiExitBitmap1,
            Field::EoiExitBitmap2,
            Field::EoiExitBitmap3,
        ];
        for (field, bits) in fields.into_iter().zip(self.level) {
            // SAFETY: decides about exits only.
            unsafe { instruction::write(field, bits) };
        }
    }

    /// In x2APIC mode most accesses need no exit; by memory they all do.
    fn set_x2apic(&mut self, on: bool) {
        if on == self.controls.secondary.contains(Secondary::X2APIC_MODE) {
            return;
        }
        self.controls.secondary.set(Secondary::X2APIC_MODE, on);
        // SAFETY: a control that the processor has, without more fields than are set.
        unsafe {
            instruction::write(
                Field::SecondaryControls,
                self.controls.secondary.bits().into(),
            );
        }
        self.use_bitmap(if on {
            Bitmap::Virtualized
        } else {
            Bitmap::Plain
        });
    }
}
