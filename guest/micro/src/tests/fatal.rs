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

/// Page tables in the hypervisor's memory.
pub(super) fn tables_in_hypervisor(_: &Test) {
    cpu::write_cr3(hidden_page());
    print!("FAIL tables_in_hypervisor: still running\n");
}

/// Page tables in firmware's ROM, which are none.
pub(super) fn tables_in_rom(_: &Test) {
    cpu::write_cr3(0xf_f000);
    print!("FAIL tables_in_rom: still running\n");
}

fn hidden_page() -> u64 {
    super::addresses::hidden()
        .next()
        .map_or(0x400_0000, |range| range.start)
}

#[repr(C, packed)]
struct TablePointer(u16, u64);

/// The interrupt table in the hypervisor's memory: no exception can be delivered.
pub(super) fn idt_in_hypervisor(_: &Test) {
    let table = TablePointer(4095, hidden_page());
    // SAFETY: the test wants the machine to end.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const table) };
}

/// The segments there: none can be loaded, and no exception delivered.
pub(super) fn gdt_in_hypervisor(_: &Test) {
    let table = TablePointer(4095, hidden_page());
    // SAFETY: the test wants the machine to end.
    unsafe { asm!("lgdt [{}]", "mov ss, {1:e}", "ud2", in(reg) &raw const table, in(reg) 16) };
}

/// The stack in the I/O APIC's page, when an interrupt comes.
pub(super) fn stack_in_mmio(_: &Test) {
    // SAFETY: the test wants the machine to end.
    unsafe { asm!("mov rsp, {}", "ud2", in(reg) 0xfec0_0800_u64) };
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
