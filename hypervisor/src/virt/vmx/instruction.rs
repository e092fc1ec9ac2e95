//! The VMX instructions (SDM volume 3C, chapter 31). All of them run in VMX root operation but for
//! VMXON, which enters it.

use crate::percpu::Page;
use acrn_vmx::Field;
use core::arch::asm;

/// A VMX instruction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

macro_rules! with_region {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The page is a VMX region that stays at its address, and nobody but the processor
        /// touches it as long as it is in use there.
        pub unsafe fn $name(region: *const Page) -> Result<(), Failed> {
            let address = region as u64;
            let failed: u8;
            // SAFETY: the caller's duty; the hypervisor is identity-mapped, so the address is
            // the physical one.
            unsafe {
                asm!(concat!($instruction, " qword ptr [{}]"), "setbe {}", in(reg) &raw const address,
                    out(reg_byte) failed, options(nostack));
            }
            if failed == 0 { Ok(()) } else { Err(Failed) }
        }
    };
}

with_region!(
    /// Enters VMX root operation.
    vmxon,
    "vmxon"
);
/// Leaves VMX root operation.
///
/// # Safety
/// The CPU is in it, and no VMCS is active on it.
pub unsafe fn vmxoff() {
    // SAFETY: the caller's promise.
    unsafe { asm!("vmxoff", options(nostack)) };
}

with_region!(
    /// Writes a VMCS back to its region and makes it inactive.
    vmclear,
    "vmclear"
);
with_region!(
    /// Makes a VMCS the current one of this CPU.
    vmptrld,
    "vmptrld"
);

/// Reads a field of the current VMCS.
#[inline(always)]
pub fn read(field: Field) -> u64 {
    let value;
    // SAFETY: reads from the current VMCS, which is no memory of the program's. The callers have one,
    // and read fields that exist where their control is on.
    unsafe {
        asm!("vmread {}, {}", out(reg) value, in(reg) field as u64,
            options(nomem, nostack));
    }
    value
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// For host fields and those that name physical memory: the value is right. What is in the
/// guest's part can do nothing but to the guest.
#[inline(always)]
pub unsafe fn write(field: Field, value: u64) {
    // SAFETY: the caller's duty.
    unsafe {
        asm!("vmwrite {}, {}", in(reg) field as u64, in(reg) value, options(nomem, nostack));
    }
}

/// What INVEPT and INVVPID drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Scope {
    /// One EPTP or VPID.
    Single = 1,
    /// All of them.
    All = 2,
}

/// Drops guest-physical and combined translations.
pub fn invept(scope: Scope, eptp: u64) {
    let descriptor = [eptp, 0];
    // SAFETY: dropping translations changes no memory; the processor has the scope, which the
    // capabilities say.
    unsafe {
        asm!("invept {}, [{}]", in(reg) scope as u64, in(reg) &raw const descriptor,
            options(nostack));
    }
}

/// Drops linear and combined translations.
pub fn invvpid(scope: Scope, vpid: u16) {
    let descriptor = [u64::from(vpid), 0];
    // SAFETY: as for `invept`.
    unsafe {
        asm!("invvpid {}, [{}]", in(reg) scope as u64, in(reg) &raw const descriptor,
            options(nostack));
    }
}

/// Delivers an NMI that ended a guest to the host's handler, whose IRET lets the next one in.
pub fn deliver_nmi() {
    // SAFETY: the gate of vector 2 has a stack of its own and its handler returns.
    unsafe { asm!("int 2", options(nostack)) }
}
