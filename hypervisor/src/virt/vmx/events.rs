//! Interrupts, NMIs and exceptions: their injection, what holds them back, and those whose delivery
//! an exit has cut off (SDM volume 3C, 27.6, 28.2.4).

use super::VmxCpu;
use super::instruction::{self, read};
use crate::arch::cpu;
use crate::virt::{Event, Registers, exception};
use acrn_vmx::exit::{self, event, reason};
use acrn_vmx::{Field, Primary};

/// Guest interruptibility (SDM 25.4.2).
pub(super) mod blocked {
    pub const BY_STI: u32 = 1 << 0;
    pub const BY_MOV_SS: u32 = 1 << 1;
    pub const BY_NMI: u32 = 1 << 3;
}

impl VmxCpu {
    /// Whether an exception, interrupt or NMI was being delivered when the guest stopped, or is
    /// to be delivered already.
    #[inline]
    pub fn event_pending(&self) -> bool {
        self.event & exit::EVENT_VALID != 0
    }

    /// Delivers `event` at the next entry, in place of what was to be delivered.
    pub fn inject(&mut self, event: Event) {
        let (vector, mut kind, code) = match event {
            Event::External(vector) => (vector, event::EXTERNAL, None),
            Event::Nmi => (2, event::NMI, None),
            Event::Exception(vector, code) => (vector, event::HARDWARE_EXCEPTION, code),
        };
        if vector == exception::DB && self.reason == u32::from(reason::EXCEPTION_OR_NMI) {
            // INT1's own exception is a trap of that instruction.
            let own = read(Field::ExitInterruptionInfo) as u32 & event::KIND;
            if own == event::PRIVILEGED_SOFTWARE_EXCEPTION {
                kind = own;
                self.length = read(Field::ExitInstructionLength) as u32;
            }
        }
        self.event = u32::from(vector) | kind | exit::EVENT_VALID;
        // Real mode has no error codes.
        if let Some(code) = code
            && read(Field::GuestCr0) & cpu::cr0::PE != 0
        {
            self.event |= exit::EVENT_ERROR_CODE;
            self.error_code = code;
        }
        if matches!(event, Event::Exception(..)) {
            self.end_shadow();
        }
    }

    /// Interrupts are no longer blocked by STI or MOV SS.
    #[inline]
    pub(super) fn end_shadow(&mut self) {
        self.set_interruptibility(self.interruptibility & !(blocked::BY_STI | blocked::BY_MOV_SS));
    }

    #[inline]
    pub(super) fn set_interruptibility(&mut self, value: u32) {
        if self.interruptibility != value {
            self.interruptibility = value;
            // SAFETY: the guest's part.
            unsafe { instruction::write(Field::GuestInterruptibility, value.into()) };
        }
    }

    /// Whether an external interrupt can be injected now.
    #[inline]
    pub fn interrupt_possible(&self, registers: &Registers) -> bool {
        registers.rflags & 1 << 9 != 0
            && self.interruptibility & (blocked::BY_STI | blocked::BY_MOV_SS) == 0
            && !self.event_pending()
    }

    /// None is known.
    #[inline]
    pub fn may_lose_shadow(&self) -> bool {
        false
    }

    /// Whether an NMI can be injected now.
    #[inline]
    pub fn nmi_possible(&self) -> bool {
        let blocking = blocked::BY_STI | blocked::BY_MOV_SS | blocked::BY_NMI;
        self.interruptibility & blocking == 0 && !self.event_pending()
    }

    /// Tell when an NMI is possible, by [`crate::virt::Exit::NmiWindow`].
    pub fn request_nmi_window(&mut self) {
        self.set_primary(self.primary | Primary::NMI_WINDOW);
    }

    /// The NMI window has opened.
    pub fn end_nmi(&mut self) {
        self.set_primary(self.primary - Primary::NMI_WINDOW);
    }

    #[inline]
    pub(super) fn set_primary(&mut self, value: Primary) {
        if self.primary != value {
            self.primary = value;
            // SAFETY: both window controls are required ones.
            unsafe { instruction::write(Field::PrimaryControls, value.bits().into()) };
        }
    }

    /// An event whose delivery was cut off by the exit is delivered again at the next entry;
    /// software interrupts are raised anew by their instruction. Instructions that exit do so
    /// outside of any delivery, so only other exits look here.
    #[inline]
    pub(super) fn collect_event(&mut self) {
        let cut_off = read(Field::IdtVectoringInfo) as u32;
        if cut_off & exit::EVENT_VALID != 0 {
            self.keep_event(cut_off);
        }
    }

    pub(super) fn keep_event(&mut self, cut_off: u32) {
        match cut_off & event::KIND {
            event::EXTERNAL | event::HARDWARE_EXCEPTION => {}
            event::NMI => {
                self.set_interruptibility(self.interruptibility & !blocked::BY_NMI);
            }
            _ => return,
        }
        // The bits between are undefined here and have to be 0 at entry.
        self.event = cut_off & (exit::EVENT_VALID | 0xfff);
        if cut_off & exit::EVENT_ERROR_CODE != 0 {
            self.error_code = read(Field::IdtVectoringErrorCode) as u32;
        }
    }

    /// The IRET that ended an NMI handler has caused the exit: it will be executed again.
    pub(super) fn block_nmis_again(&mut self, unblocked: bool) {
        if unblocked && !self.event_pending() {
            self.set_interruptibility(self.interruptibility | blocked::BY_NMI);
        }
    }
}
