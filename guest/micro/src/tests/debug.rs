//! Exceptions that the hypervisor sees first: debug and alignment exceptions arrive as on a bare
//! processor.

use crate::cpu::{read_dr6, read_dr7, write_dr0, write_dr1, write_dr6, write_dr7};
use crate::report::Test;
use crate::trap::{Fault, RETURN_VECTOR, guarded, in_ring3};
use core::arch::asm;

const DEBUG: u8 = 1;
const ALIGNMENT: u8 = 17;

const DR6_CLEAR: u64 = 0xffff_0ff0;
const DR7_CLEAR: u64 = 0x400;

#[inline(never)]
fn step() {
    // SAFETY: a trap after the second NOP at the latest.
    unsafe {
        asm!(
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            "nop",
            "nop",
            "nop"
        );
    }
}

fn watched() -> u64 {
    static mut WORD: u64 = 0;
    (&raw mut WORD) as u64
}

fn expect_debug(t: &Test, name: &str, fault: Option<Fault>, bit: u64) {
    let vector = fault.map(|fault| fault.vector);
    expect!(t, vector == Some(DEBUG), "{name}: {fault:?}");
    let dr6 = read_dr6();
    expect!(t, bit == 0 || dr6 & bit != 0, "{name}: DR6 {dr6:#x}");
    write_dr6(DR6_CLEAR);
    write_dr7(DR7_CLEAR);
    expect!(t, read_dr7() == DR7_CLEAR, "DR7 {:#x}", read_dr7());
}

pub(super) fn exceptions(t: &Test) {
    write_dr6(DR6_CLEAR);
    expect_debug(t, "single step", guarded((), |()| step()), 1 << 14);
    // Execution of a place, and a write to one.
    write_dr0(step as *const () as u64);
    write_dr7(DR7_CLEAR | 2);
    expect_debug(t, "breakpoint", guarded((), |()| step()), 1);
    write_dr1(watched());
    write_dr7(DR7_CLEAR | 8 | 0xd << 20);
    let fault = guarded(watched(), |at| {
        // SAFETY: the word is this test's.
        unsafe { asm!("mov qword ptr [{}], 5", "nop", "nop", in(reg) at) };
    });
    expect_debug(t, "watchpoint", fault, 2);
    alignment(t);
}

/// Only in ring 3, with CR0.AM and EFLAGS.AC.
fn alignment(t: &Test) {
    extern "C" fn misaligned(at: u64) -> ! {
        // SAFETY: has to fault; otherwise comes back by INT.
        unsafe {
            asm!("push 0x40202", "popfq", "mov eax, [{}]", "int {v}", in(reg) at,
                v = const RETURN_VECTOR, options(noreturn));
        }
    }
    let old: u64;
    // SAFETY: CR0.AM does nothing to ring 0.
    unsafe {
        asm!("mov {0}, cr0", "mov {1}, {0}", "or {1}, {2}", "mov cr0, {1}", out(reg) old,
            out(reg) _, in(reg) 1u64 << 18);
    }
    let fault = in_ring3(watched() + 1, misaligned);
    let wanted = Some(Fault {
        vector: ALIGNMENT,
        error: 0,
    });
    // An emulator without alignment checks comes back by INT.
    let unchecked = fault.map(|fault| fault.vector) == Some(RETURN_VECTOR);
    expect!(t, fault == wanted || unchecked, "#AC: {fault:?}");
    // SAFETY: as it was.
    unsafe { asm!("mov cr0, {}", in(reg) old) };
}
