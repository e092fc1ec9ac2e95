//! Code that is not what it was when the hypervisor fetched from its address last.

use crate::apic::{self, IOAPIC_WINDOW};
use crate::report::Test;
use crate::trap::{UD, guarded};
use crate::window;
use core::arch::asm;

#[repr(C, align(4096))]
struct Page([u8; 4096]);

static mut FIRST: Page = Page([0xcc; 4096]);
static mut SECOND: Page = Page([0xcc; 4096]);

/// Puts code into a page and returns the page's address, which is the same for all.
fn put(page: *mut Page, code: &[u8]) -> u64 {
    for (at, byte) in code.iter().enumerate() {
        // SAFETY: inside the page, which nothing else writes.
        unsafe { page.cast::<u8>().add(at).write_volatile(*byte) };
    }
    page as u64
}

const TO_EAX: &[u8] = &[0x8b, 0x07, 0xc3]; // mov eax, [rdi]; ret
const TO_ECX: &[u8] = &[0x8b, 0x0f, 0xc3]; // mov ecx, [rdi]; ret
const TO_EDX: &[u8] = &[0x8b, 0x17, 0xc3]; // mov edx, [rdi]; ret
const VMCALL: &[u8] = &[0x0f, 0x01, 0xc1, 0xc3]; // vmcall; ret
const UNDEFINED: &[u8] = &[0x0f, 0x0b, 0xc3]; // ud2; ret

/// Calls what reads the I/O APIC's window and returns what EAX, ECX and EDX have got.
fn read(code: u64) -> [u64; 3] {
    let (a, c, d): (u64, u64, u64);
    // SAFETY: the code changes one of the three registers.
    unsafe {
        asm!("call {}", in(reg) code, in("rdi") IOAPIC_WINDOW, inout("rax") 0u64 => a,
            inout("rcx") 0u64 => c, inout("rdx") 0u64 => d);
    }
    [a, c, d]
}

fn call(code: u64) {
    // SAFETY: a hypercall of an unknown number, or an exception.
    unsafe {
        asm!("call {}", in(reg) code, in("r8") 0x8000_00fe_u64, in("rdi") 0u64, in("rsi") 0u64,
            out("rax") _);
    }
}

pub(super) fn moving(t: &Test) {
    const PIN: u8 = 21;
    let value = 0x1_0035;
    apic::ioapic_write(0x10 + PIN * 2, value as u32);
    apic::ioapic_select(0x10 + PIN * 2);
    let (first, second) = (&raw mut FIRST, &raw mut SECOND);
    for round in 0..3 {
        let at = window::code(put(first, TO_EAX), 0);
        for _ in 0..2 {
            expect!(t, read(at) == [value, 0, 0], "round {round}: EAX");
        }
        put(first, TO_ECX);
        expect!(t, read(at) == [0, value, 0], "round {round}: other bytes");
        let at = window::code(put(second, TO_EDX), 0);
        expect!(t, read(at) == [0, 0, value], "round {round}: another page");
        let at = window::code(first as u64, 1);
        expect!(t, read(at) == [0, value, 0], "round {round}: another table");
        let at = window::code(put(first, VMCALL), 1);
        for _ in 0..2 {
            let fault = guarded(at, call);
            expect!(t, fault.is_none(), "round {round}: VMCALL: {fault:?}");
        }
        let at = window::code(put(second, UNDEFINED), 1);
        let fault = guarded(at, call);
        expect!(t, fault == UD, "round {round}: UD2 at its place: {fault:?}");
    }
    apic::ioapic_route(PIN, 1 << 16);
}
