//! Task switches, which VMX leaves to the hypervisor (SDM volume 3C, 26.4.2): what an exit says of one,
//! and the state behind it. The switch itself is [`acrn_emulate::task`].

use super::VmxCpu;
use super::events::blocked;
use super::instruction::{self, read};
use crate::arch::cpu;
use crate::virt::{Registers, Segment};
use acrn_abi::Gpa;
use acrn_emulate::task::{Event, EventKind, Request, Source, State};
use acrn_vmx::Field;
use acrn_vmx::exit::{self, event};

impl VmxCpu {
    /// The switch behind [`crate::virt::Exit::TaskSwitch`], and what it begins with. The event that a
    /// task gate was to deliver is the caller's.
    pub fn task_switch(&mut self, registers: &Registers) -> Option<(Request, State)> {
        // Bits 15:0 selector, 31:30 source (SDM volume 3C, table 28-2).
        let qualification = read(Field::ExitQualification);
        let (source, is_instruction) = match qualification >> 30 & 3 {
            0 => (Source::Call, true),
            1 => (Source::Return, true),
            2 => (Source::Jump, true),
            _ => gate(),
        };
        match source {
            // It does so even if it fails.
            Source::Return => self.block_nmis(false),
            Source::Gate(Event {
                kind: EventKind::Nmi,
                ..
            }) => self.block_nmis(true),
            _ => {}
        }
        let length = match is_instruction {
            true => read(Field::ExitInstructionLength) as u32,
            false => 0,
        };
        let request = Request {
            selector: qualification as u16,
            source,
            return_eip: (registers.rip as u32).wrapping_add(length),
        };
        Some((request, self.task(registers)))
    }

    fn block_nmis(&mut self, block: bool) {
        let others = self.interruptibility & !blocked::BY_NMI;
        self.set_interruptibility(others | if block { blocked::BY_NMI } else { 0 });
    }

    fn task(&self, registers: &Registers) -> State {
        let control = self.control();
        State {
            cr0: control.cr0,
            cr3: control.cr3,
            cr4: control.cr4,
            efer: control.efer,
            physical_bits: cpu::physical_address_bits() as u8,
            dr6: cpu::read_dr6(),
            dr7: read(Field::GuestDr7),
            eip: registers.rip as u32,
            eflags: registers.rflags as u32,
            gpr: core::array::from_fn(|number| registers.gpr[number] as u32),
            segments: core::array::from_fn(|number| {
                let [selector, base, limit, access] = Field::segment(number).map(read);
                Segment {
                    selector: selector as u16,
                    access: access as u32,
                    limit: limit as u32,
                    base,
                }
            }),
            gdt: (
                read(Field::GuestGdtrBase),
                read(Field::GuestGdtrLimit) as u16,
            ),
        }
    }

    /// Loads the task that was switched to.
    pub fn set_task(
        &mut self,
        registers: &mut Registers,
        state: &State,
        memory: impl Fn(Gpa) -> Option<u64>,
    ) {
        for (number, segment) in state.segments.iter().enumerate() {
            self.write_segment(number, segment);
        }
        self.write_cr0(state.cr0);
        // SAFETY: the guest's part.
        unsafe {
            instruction::write(Field::GuestCr3, state.cr3);
            instruction::write(Field::GuestDr7, state.dr7);
        }
        cpu::write_dr6(state.dr6);
        self.load_pdptes(&memory);
        self.flush = true;
        for (register, value) in registers.gpr.iter_mut().zip(state.gpr) {
            *register = value.into();
        }
        registers.rip = state.eip.into();
        registers.rflags = state.eflags.into();
        self.end_shadow();
    }
}

/// What a task gate of the IDT delivers, and whether an instruction asked for it, behind which the
/// old task goes on.
fn gate() -> (Source, bool) {
    let information = read(Field::IdtVectoringInfo) as u32;
    let (kind, is_instruction) = match information & event::KIND {
        event::EXTERNAL => (EventKind::External, false),
        event::NMI => (EventKind::Nmi, false),
        event::SOFTWARE_INTERRUPT | event::SOFTWARE_EXCEPTION => (EventKind::Software, true),
        // INT1 is not the program's own in the eyes of error codes.
        event::PRIVILEGED_SOFTWARE_EXCEPTION => (EventKind::Exception, true),
        _ => (EventKind::Exception, false),
    };
    let has_code = information & exit::EVENT_ERROR_CODE != 0;
    let event = Event {
        kind,
        vector: information as u8,
        error_code: has_code.then(|| read(Field::IdtVectoringErrorCode) as u32),
    };
    (Source::Gate(event), is_instruction)
}
