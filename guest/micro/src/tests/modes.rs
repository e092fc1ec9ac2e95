//! Emulated instructions where they are seldom: in real mode, at the end of what is mapped, across
//! two pages.

use super::vm::{UserVm, counter, request};
use crate::apic::{self, IOAPIC_WINDOW};
use crate::cpu::{self, ms, wait_for};
use crate::report::Test;
use crate::trap::{Fault, GP, guarded};
use crate::window;
use core::arch::asm;

/// 16-bit code: a write and a read beyond the VM's memory through DS, a port by 32 bits, three
/// elements of OUTSB, and then counting.
const REAL: &[u8] = &[
    0xb8, 0x00, 0xb0, // mov ax, 0xb000
    0x8e, 0xd8, // mov ds, ax
    0xb8, 0x34, 0x12, // mov ax, 0x1234
    0xa3, 0x10, 0x00, // mov [0x10], ax
    0x66, 0x8b, 0x1e, 0x20, 0x00, // mov ebx, [0x20]
    0xba, 0x00, 0x05, // mov dx, 0x500
    0x66, 0x89, 0xd8, // mov eax, ebx
    0x66, 0xef, // out dx, eax
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xfc, // cld
    0xb9, 0x03, 0x00, // mov cx, 3
    0xbe, 0x00, 0x10, // mov si, 0x1000
    0xf3, 0x6e, // rep outsb
    0xff, 0x06, 0x00, 0x20, // inc word [0x2000]
    0xeb, 0xfa, // jmp back
];

pub(super) fn real_mode(t: &Test) {
    cpu::enable_interrupts();
    let vm = match UserVm::prepared(b"real", 1, REAL) {
        Ok(vm) => vm,
        Err(result) => return expect!(t, false, "preparing the VM: {result}"),
    };
    expect!(t, vm.set_real_mode(0x1000) == 0, "SET_VCPU_REGS");
    expect!(t, vm.start() == 0, "START_VM");
    // Address, size, value, and the answer.
    let expected = [
        (0xb_0010, 2, 0x1234, 0),
        (0xb_0020, 4, 0, 0xdead_beef),
        (0x500, 4, 0xdead_beef, 0),
        (0x500, 1, 0xb8, 0),
        (0x500, 1, 0x00, 0),
        (0x500, 1, 0xb0, 0),
    ];
    for (address, size, value, answer) in expected {
        let Some(got) = request() else {
            expect!(t, false, "no request for {address:#x}");
            break;
        };
        let fits = (got.address, got.size, got.value) == (address, size, value);
        expect!(t, fits, "{got:x?} for {address:#x}");
        vm.answer(answer);
    }
    expect!(t, wait_for(ms(10_000), || counter() != 0), "it stands");
    expect!(t, vm.destroy() == 0, "DESTROY_VM");
    cpu::disable_interrupts();
}

#[repr(C, align(4096))]
struct Pages([[u8; 4096]; 2]);
static mut PAGES: Pages = Pages([[0xcc; 4096]; 2]);

/// MOV EAX, [RDI]; RET.
const READ: [u8; 3] = [0x8b, 0x07, 0xc3];
/// MOV EAX, [RDI + disp32]; RET.
const LONG_READ: [u8; 7] = [0x8b, 0x87, 0, 0, 0, 0, 0xc3];

/// Puts code so that its first `before` bytes are the last of the first page.
fn put(code: &[u8], before: usize) -> u64 {
    let start = (&raw mut PAGES) as u64 + 4096 - before as u64;
    for (at, byte) in code.iter().enumerate() {
        // SAFETY: inside the two pages.
        unsafe { (start as *mut u8).add(at).write_volatile(*byte) };
    }
    window::pages((&raw const PAGES) as u64) + 4096 - before as u64
}

fn call(code: u64) -> u32 {
    let value: u64;
    // SAFETY: code that reads a register of the I/O APIC, or faults.
    unsafe {
        asm!("call {}", in(reg) code, in("rdi") IOAPIC_WINDOW, out("rax") value);
    }
    value as u32
}

pub(super) fn code_edges(t: &Test) {
    let version = apic::ioapic_read(1);
    apic::ioapic_select(1);
    // Nothing is mapped behind the last byte.
    let code = put(&READ, READ.len());
    window::second(false);
    let value = call(code);
    expect!(t, value == version, "at the end of a page: {value:#x}");
    window::second(true);
    for before in 1..LONG_READ.len() {
        let value = call(put(&LONG_READ, before));
        expect!(t, value == version, "{before} bytes before: {value:#x}");
    }
    // The rest is not there: a page fault for an instruction fetch, from the processor itself.
    let code = put(&LONG_READ, 3);
    window::second(false);
    let fault = guarded(code, |code| {
        core::hint::black_box(call(code));
    });
    let vector = fault.map(|fault| fault.vector);
    expect!(t, vector == Some(14), "the rest is missing: {fault:?}");
    window::second(true);
    // An address that is none.
    for address in [1u64 << 47, 0xffff_7fff_ffff_fff8, 1 << 63] {
        let fault: Option<Fault> = guarded(address, |address| {
            // SAFETY: has to fault.
            unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _) };
        });
        expect!(t, fault == GP, "{address:#x}: {fault:?}");
    }
}
