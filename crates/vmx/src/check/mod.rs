//! Which check of VM entry failed (SDM volume 3C, 27.2 and 27.3).
//!
//! The processor says little about a VM entry that it refuses: the number of an instruction error, or
//! an exit reason. [`failed_check`] goes through the manual's checks, in the manual's order, over the
//! fields of the VMCS, and names the first that does not hold. It is for the report of an entry that
//! has failed, not for the way to one: it reads most of the VMCS.
//!
//! Not looked at: what depends on memory that the VMCS points to (a shadow VMCS, page-directory
//! pointers without EPT), and what only system-management mode, Intel PT, CET, user interrupts and
//! tertiary controls bring, none of which this hypervisor enables.

mod context;
mod execution;
mod exit_entry;
mod host;
mod registers;
mod segments;
mod state;
#[cfg(test)]
mod tests;

use crate::{Capabilities, Field};
use context::Checker;
use core::fmt;

/// The current VMCS as far as it can be read.
pub trait Vmcs {
    /// The value of a field. A field is read only when the controls say that the processor has it.
    fn read(&self, field: Field) -> u64;

    /// The task priority in the virtual-APIC page, when it can be told.
    fn virtual_task_priority(&self) -> Option<u8> {
        None
    }
}

/// What the checks need to know of the processor.
#[derive(Clone, Copy, Debug)]
pub struct Processor<'a> {
    /// Capability MSRs.
    pub capabilities: &'a Capabilities,
    /// Width of physical addresses in bits.
    pub physical_bits: u32,
    /// Width of linear addresses in bits: 48, or 57 with 5-level paging.
    pub linear_bits: u32,
    /// Bits of IA32_EFER that are not reserved.
    pub efer: u64,
    /// Bits of IA32_DEBUGCTL that are not reserved.
    pub debug_control: u64,
    /// Bits of IA32_PERF_GLOBAL_CTRL that are not reserved.
    pub perf_global: u64,
}

impl<'a> Processor<'a> {
    /// A processor with the usual bits of EFER, DEBUGCTL and PERF_GLOBAL_CTRL.
    #[must_use]
    pub const fn new(capabilities: &'a Capabilities, physical_bits: u32, linear_bits: u32) -> Self {
        Self {
            capabilities,
            physical_bits,
            linear_bits,
            // SCE, LME, LMA, NXE.
            efer: 0xd01,
            debug_control: 0xffc7,
            perf_global: u64::MAX,
        }
    }
}

/// A check that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The field that is at fault.
    pub field: Field,
    /// Its value.
    pub value: u64,
    /// What is wrong with it.
    pub reason: &'static str,
    /// The field that it does not agree with, and that one's value.
    pub with: Option<(Field, u64)>,
    /// Section of the manual.
    pub section: &'static str,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({:#x}", self.field, self.reason, self.value)?;
        if let Some((field, value)) = self.with {
            write!(f, "; {field} {value:#x}")?;
        }
        write!(f, "), SDM volume 3C, {}", self.section)
    }
}

/// The first check that fails, of all; `None` when all that is known here holds.
#[must_use]
pub fn failed_check(vmcs: &dyn Vmcs, processor: &Processor<'_>) -> Option<Failed> {
    failed_control(vmcs, processor)
        .or_else(|| failed_host_state(vmcs, processor))
        .or_else(|| failed_guest_state(vmcs, processor))
}

/// The first check of the control fields that fails (27.2.1): VM-instruction error 7.
#[must_use]
pub fn failed_control(vmcs: &dyn Vmcs, processor: &Processor<'_>) -> Option<Failed> {
    let checker = Checker::new(vmcs, processor);
    execution::check(&checker)
        .and_then(|()| exit_entry::check(&checker))
        .err()
}

/// The first check of the host state that fails (27.2.2 to 27.2.4): VM-instruction error 8.
#[must_use]
pub fn failed_host_state(vmcs: &dyn Vmcs, processor: &Processor<'_>) -> Option<Failed> {
    host::check(&Checker::new(vmcs, processor)).err()
}

/// The first check of the guest state that fails (27.3.1): exit reason 33.
#[must_use]
pub fn failed_guest_state(vmcs: &dyn Vmcs, processor: &Processor<'_>) -> Option<Failed> {
    let checker = Checker::new(vmcs, processor);
    registers::check(&checker)
        .and_then(|()| segments::check(&checker))
        .and_then(|()| state::check(&checker))
        .err()
}

/// What the exit qualification of exit reason 33, invalid guest state, adds (27.8).
#[must_use]
pub const fn guest_state_qualification(qualification: u64) -> &'static str {
    match qualification {
        2 => "loading the page-directory-pointer-table entries",
        3 => "injection of an NMI while events are blocked",
        4 => "the VMCS link pointer",
        _ => "the guest state",
    }
}
