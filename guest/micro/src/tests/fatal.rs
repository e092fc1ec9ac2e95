//! What ends the VM, and must end nothing else.

use crate::cpu;
use crate::report::Test;
use core::arch::asm;

/// Page tables in the I/O APIC's page: the VM cannot go on.
pub(super) fn tables_in_mmio(_: &Test) {
    cpu::write_cr3(0xfec0_0000);
    print!("FAIL tables_in_mmio: still running\n");
}

/// Runs code from the local APIC's page.
pub(super) fn code_in_mmio(_: &Test) {
    // SAFETY: the test wants the machine to end.
    unsafe { asm!("call {}", in(reg) 0xfec0_0000_u64) };
    print!("FAIL code_in_mmio: still running\n");
}

/// No handler for anything.
pub(super) fn triple_fault(_: &Test) {
    crate::trap::forget_table();
    // SAFETY: the test wants the machine to end.
    unsafe { asm!("ud2") };
}

/// Runs for ever, so that the shell has something to look at.
pub(super) fn endless(_: &Test) {
    print!("looping\n");
    loop {
        cpu::relax();
        core::hint::black_box(cpu::cpuid(0, 0));
    }
}
