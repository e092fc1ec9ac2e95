//! From an entry to the next exit, and what the exit says.

use super::instruction::{self, Scope, read};
use super::{MACHINE, TPR, UNKNOWN, VmxCpu, entry};
use crate::arch::cpu::{self, efer};
use crate::virt::{Exit, IoExit, NestedFault, Registers, SegmentName, exception, gpr};
use acrn_abi::{Gpa, Vector};
use acrn_vdev::lapic::{PostedInterrupts, VLapic};
use acrn_vmx::exit::{self, event, reason};
use acrn_vmx::{Field, check};
use core::fmt;

impl VmxCpu {
    /// Runs the guest until the next exit. The VMCS is loaded.
    pub fn enter(
        &mut self,
        registers: &mut Registers,
        _slot: usize,
        lapic: &mut VLapic,
        window: bool,
        posted: &PostedInterrupts,
    ) -> Exit {
        self.offer_interrupt(registers, lapic, window);
        if self.flush {
            self.flush = false;
            self.drop_translations();
        }
        // SAFETY: the guest's part; events were put together by `inject` and `collect_event`.
        unsafe {
            if self.event_pending() {
                instruction::write(Field::EntryInterruptionInfo, self.event.into());
                if self.event & exit::EVENT_ERROR_CODE != 0 {
                    instruction::write(Field::EntryExceptionErrorCode, self.error_code.into());
                }
                if self.event & event::KIND == event::PRIVILEGED_SOFTWARE_EXCEPTION {
                    instruction::write(Field::EntryInstructionLength, self.length.into());
                }
            }
            instruction::write(Field::GuestRip, registers.rip);
            if registers.gpr[gpr::RSP] != self.rsp {
                instruction::write(Field::GuestRsp, registers.gpr[gpr::RSP]);
            }
            if registers.rflags != self.rflags {
                instruction::write(Field::GuestRflags, registers.rflags);
            }
        }
        // SAFETY: the VMCS is complete and the current one; its host part was written here.
        let result = unsafe { entry::vmx_enter(registers, self.launched, &mut self.host_rsp) };
        if result != entry::LEFT {
            return self.entry_refused(result);
        }
        self.reason = read(Field::ExitReason) as u32;
        if self.reason & exit::ENTRY_FAILED != 0 {
            self.delivered = None;
            (self.rsp, self.rflags) = (UNKNOWN, UNKNOWN);
            return Exit::InvalidState;
        }
        self.launched = true;
        let (rsp, rflags) = (read(Field::GuestRsp), read(Field::GuestRflags));
        (self.rsp, self.rflags) = (rsp, rflags);
        registers.rip = read(Field::GuestRip);
        registers.gpr[gpr::RSP] = rsp;
        registers.rflags = rflags;
        self.interruptibility = read(Field::GuestInterruptibility) as u32;
        self.event = 0;
        self.collect_interrupt(lapic, posted);
        self.decode()
    }

    #[cold]
    pub(super) fn entry_refused(&mut self, result: u32) -> Exit {
        self.reason = Self::NOT_ENTERED;
        self.entry_error = match result {
            entry::HAS_ERROR => read(Field::InstructionError) as u32,
            _ => 0,
        };
        self.delivered = None;
        Exit::InvalidState
    }

    #[cold]
    pub(super) fn drop_translations(&mut self) {
        let Some((caps, _)) = MACHINE.get() else {
            return;
        };
        let scope = |single| if single { Scope::Single } else { Scope::All };
        instruction::invept(scope(caps.invept_single()), self.config.nested_root);
        if self.vpid != 0 {
            instruction::invvpid(scope(caps.invvpid_single()), self.vpid);
        }
    }

    /// The nested tables have changed.
    pub fn request_flush(&mut self) {
        self.flush = true;
    }

    #[inline]
    pub(super) fn decode(&mut self) -> Exit {
        match self.reason as u16 {
            reason::EXTERNAL_INTERRUPT => Exit::Interrupt,
            reason::CPUID => Exit::Cpuid,
            reason::RDMSR => Exit::Msr { write: false },
            reason::WRMSR => Exit::Msr { write: true },
            reason::IO => Exit::Io,
            reason::EPT_VIOLATION => self.ept_violation(),
            reason::VIRTUALIZED_EOI => {
                Exit::EndOfInterrupt(Vector(read(Field::ExitQualification) as u8))
            }
            reason::HLT => Exit::Hlt,
            reason::PAUSE => Exit::Pause,
            reason::INTERRUPT_WINDOW | reason::TPR_BELOW_THRESHOLD => Exit::InterruptWindow,
            reason::NMI_WINDOW => Exit::NmiWindow,
            reason::PREEMPTION_TIMER => {
                self.has_left();
                Exit::Deadline
            }
            reason::EXCEPTION_OR_NMI => self.exception(),
            reason::VMCALL => Exit::Hypercall,
            reason::CONTROL_REGISTER => Exit::ControlRegister,
            reason::TASK_SWITCH => Exit::TaskSwitch,
            reason::XSETBV => Exit::Xsetbv,
            reason::WBINVD => Exit::Wbinvd,
            reason::INVD => Exit::Invd,
            reason::GETSEC
            | reason::RDPMC
            | reason::VMCLEAR..=reason::VMXON
            | reason::MWAIT
            | reason::MONITOR
            | reason::INVEPT
            | reason::INVVPID
            | reason::VMFUNC
            | reason::ENCLS
            | reason::XSAVES
            | reason::XRSTORS
            | reason::UMWAIT
            | reason::TPAUSE => Exit::Refused,
            reason::TRIPLE_FAULT => Exit::Shutdown,
            reason::INIT | reason::SIPI => Exit::Interrupt,
            _ => {
                self.collect_event();
                Exit::Unknown
            }
        }
    }

    /// An exception that is intercepted, or an NMI of the host.
    #[cold]
    pub(super) fn exception(&mut self) -> Exit {
        self.collect_event();
        let info = read(Field::ExitInterruptionInfo) as u32;
        if info & event::KIND == event::NMI {
            instruction::deliver_nmi();
            return Exit::Nmi;
        }
        self.block_nmis_again(info & exit::EVENT_NMI_UNBLOCKED != 0);
        let vector = info as u8;
        if vector == exception::DB {
            // The exit leaves DR6 alone and says what would have been in it (SDM 28.2.1).
            const CAUSES: u64 = 0xf;
            let found = read(Field::ExitQualification) & 0xe00f;
            cpu::write_dr6(cpu::read_dr6() & !CAUSES | found);
        }
        Exit::Exception(vector)
    }

    #[inline]
    pub(super) fn ept_violation(&mut self) -> Exit {
        self.collect_event();
        let qualification = read(Field::ExitQualification);
        self.block_nmis_again(qualification & 1 << 12 != 0);
        Exit::NestedFault
    }

    /// The access behind [`Exit::Io`].
    #[inline]
    pub fn port_access(&self) -> IoExit {
        let next = read(Field::GuestRip).wrapping_add(read(Field::ExitInstructionLength));
        IoExit::new(read(Field::ExitQualification) as u32, next)
    }

    /// The access behind [`Exit::NestedFault`].
    #[inline]
    pub fn nested_fault(&self) -> NestedFault {
        const LINEAR_VALID: u64 = 1 << 7;
        const TRANSLATED: u64 = 1 << 8;
        let qualification = read(Field::ExitQualification);
        NestedFault {
            gpa: Gpa(read(Field::GuestPhysicalAddress)),
            fetch: qualification & 4 != 0,
            page_walk: qualification & (LINEAR_VALID | TRANSLATED) != LINEAR_VALID | TRANSLATED,
        }
    }

    /// Instruction bytes that hardware fetched for a nested fault: it does not.
    pub fn fetched(&self) -> &[u8] {
        &[]
    }

    /// Continues behind the instruction that caused the exit, `length` bytes long when hardware
    /// does not say it.
    #[inline]
    pub fn advance(&mut self, registers: &mut Registers, length: u64) {
        let length = match self.reason as u16 {
            reason::EPT_VIOLATION => length,
            _ => read(Field::ExitInstructionLength),
        };
        registers.rip = registers.rip.wrapping_add(length);
        self.finish_instruction(registers);
    }

    /// What retiring an instruction does besides moving RIP.
    #[inline]
    pub fn finish_instruction(&mut self, registers: &mut Registers) {
        self.end_shadow();
        if registers.rip >> 32 != 0 && !self.is_64_bit() {
            registers.rip &= 0xffff_ffff;
        }
    }

    pub(super) fn is_64_bit(&self) -> bool {
        read(Field::GuestEfer) & efer::LMA != 0 && read(Field::GuestCsAccess) & 1 << 13 != 0
    }

    /// Shows the vendor's part of a state dump.
    pub fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        if self.reason == Self::NOT_ENTERED {
            let error = self.entry_error;
            let what = exit::instruction_error(error);
            writeln!(out, "VM entry failed with error {error}: {what}\r")?;
        }
        if self.reason & exit::ENTRY_FAILED != 0 {
            self.explain(out)?;
        }
        writeln!(
            out,
            "exit reason {:#x} qualification {:#x} gpa {:#x} idt {:#x} inj {:#x} \
             interruptibility {:#x}\r",
            self.reason,
            read(Field::ExitQualification),
            read(Field::GuestPhysicalAddress),
            read(Field::IdtVectoringInfo),
            self.event,
            self.interruptibility
        )?;
        let segment = |name| self.segment(name);
        let (cs, ss) = (segment(SegmentName::Cs), segment(SegmentName::Ss));
        writeln!(
            out,
            "cs {:04x} access {:05x} base {:x}  ss {:04x} access {:05x}  tr {:04x}  efer {:x}\r",
            cs.selector,
            cs.access,
            cs.base,
            ss.selector,
            ss.access,
            segment(SegmentName::Tr).selector,
            read(Field::GuestEfer)
        )
    }

    /// Names the check that the last entry has failed.
    fn explain(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let Some((caps, _)) = MACHINE.get() else {
            return Ok(());
        };
        let linear_bits = cpu::cpuid(0x8000_0008, 0).eax >> 8 & 0xff;
        let processor = check::Processor::new(caps, cpu::physical_address_bits(), linear_bits);
        match check::failed_check(&Current(self), &processor) {
            Some(failed) => writeln!(out, "VM entry refused: {failed}\r"),
            None => writeln!(
                out,
                "VM entry refused for {}, by no check that is known\r",
                check::guest_state_qualification(read(Field::ExitQualification))
            ),
        }
    }
}

/// The VMCS that is loaded, for the checks.
struct Current<'a>(&'a VmxCpu);

impl check::Vmcs for Current<'_> {
    fn read(&self, field: Field) -> u64 {
        read(field)
    }
    fn virtual_task_priority(&self) -> Option<u8> {
        Some(self.0.virtual_apic.word(TPR) as u8)
    }
}
