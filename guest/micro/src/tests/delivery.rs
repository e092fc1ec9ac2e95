//! Events whose delivery is cut off: the stack lies in device memory that the hypervisor maps at its
//! first use, so that the first push ends in a nested fault. Each event arrives once, with an error
//! code if it has one, whatever its kind.
//!
//! Nothing answers at those addresses, so what is pushed is lost. The handlers look at RSP, which
//! tells the size of the frame, and go back by a stack of their own.

use crate::apic::{self, NMI, TO_SELF};
use crate::cpu::{self, ms, wait_for};
use crate::report::Test;
use crate::trap;
use crate::window;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

global_asm!(
    r#"
.section .text
// A stub for each vector up to 0x81.
.balign 16
delivery_stubs:
.set vector, 0
.rept 0x82
    .balign 16
    mov eax, vector
    jmp delivery_taken
    .set vector, vector + 1
.endr
delivery_taken:
    mov [rip + delivery_rsp], rsp
    lock inc qword ptr [rip + delivery_count]
    mov rsp, [rip + delivery_saved]
    jmp 2f

// u64 delivery_call(fn rdi): the vector of the event that has ended the function, or 0x100.
delivery_call:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    pushfq
    mov [rip + delivery_saved], rsp
    sub rsp, 8
    call rdi
    add rsp, 8
    mov eax, 0x100
2:  popfq
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

// IRET to the caller: NMIs are no longer blocked.
delivery_unblock:
    pop rax
    mov rcx, rsp
    push 16
    push rcx
    pushfq
    push 8
    push rax
    iretq

.section .bss
.balign 8
delivery_saved: .skip 8
delivery_rsp: .skip 8
delivery_count: .skip 8
.section .text
"#
);

unsafe extern "C" {
    static delivery_stubs: u8;
    static delivery_rsp: AtomicU64;
    static delivery_count: AtomicU64;
    fn delivery_call(action: extern "C" fn()) -> u64;
    fn delivery_unblock();
}

/// What raises an event.
struct Case {
    name: &'static str,
    vector: u8,
    has_code: bool,
    raise: extern "C" fn(),
}

const EXTERNAL: u8 = 0x61;
const SOFTWARE: u8 = 0x81;
/// Not mapped by the guest's own tables.
const NOWHERE: u64 = 0x7000_0000_0000;

macro_rules! raises {
    ($name:ident, $($text:literal),+ $(; $register:tt = $value:expr)?) => {
        extern "C" fn $name() {
            // SAFETY: the event ends this, and what it changes is not used afterwards.
            unsafe { asm!($($text),+ $(, in($register) $value)?) };
        }
    };
}
raises!(divide, "xor eax, eax", "div eax");
raises!(undefined, "ud2");
raises!(breakpoint, "int3");
raises!(icebp, ".byte 0xf1");
raises!(software, "int 0x81");
raises!(protection, "mov es, eax"; "eax" = 0x1000u32);
raises!(page, "mov rax, [rax]"; "rax" = NOWHERE);
raises!(
    single_step,
    "pushfq",
    "or qword ptr [rsp], 0x100",
    "popfq",
    "nop",
    "nop",
    "nop"
);

extern "C" fn external() {
    apic::command(0, TO_SELF | u32::from(EXTERNAL));
    cpu::enable_interrupts();
    wait_for(ms(3000), || false);
}

extern "C" fn external_and_exit() {
    apic::command(0, TO_SELF | u32::from(EXTERNAL));
    cpu::enable_interrupts();
    loop {
        core::hint::black_box(cpu::cpuid(0, 0));
    }
}

/// #UD in the shadow of STI, while an interrupt waits: it comes after the exception.
extern "C" fn undefined_before_interrupt() {
    apic::command(0, TO_SELF | u32::from(EXTERNAL));
    // SAFETY: the exception ends this.
    unsafe { asm!("sti", "ud2") };
}

extern "C" fn nmi() {
    apic::command(apic::id(), NMI);
    wait_for(ms(3000), || false);
}

/// Whatever comes once more comes now.
extern "C" fn settle() {
    cpu::enable_interrupts();
    wait_for(ms(3), || false);
    cpu::disable_interrupts();
}

const fn case(name: &'static str, vector: u8, has_code: bool, raise: extern "C" fn()) -> Case {
    Case {
        name,
        vector,
        has_code,
        raise,
    }
}

const CASES: &[Case] = &[
    case("#DE", 0, false, divide),
    case("#DB by single step", 1, false, single_step),
    case("NMI", 2, false, nmi),
    case("INT3", 3, false, breakpoint),
    case("#UD", 6, false, undefined),
    case("#GP", 13, true, protection),
    case("#PF", 14, true, page),
    case("INT 0x81", SOFTWARE, false, software),
];

const INTERRUPTS: &[Case] = &[
    case("interrupt", EXTERNAL, false, external),
    case("interrupt, with exits", EXTERNAL, false, external_and_exit),
];

fn taken() -> u64 {
    // SAFETY: eight aligned bytes of this module's assembler.
    unsafe { &delivery_count }.load(Ordering::SeqCst)
}

fn stack_pointer() -> u64 {
    // SAFETY: as above.
    unsafe { &delivery_rsp }.load(Ordering::SeqCst)
}

/// Points all gates that the cases use at this module's stubs, with stack 1; `false` points them
/// back.
fn set_gates(ours: bool) {
    for vector in 0..=SOFTWARE {
        if ours {
            let stub = (&raw const delivery_stubs) as u64 + u64::from(vector) * 16;
            trap::set_gate(vector, stub, 1);
        } else {
            trap::reset_gate(vector);
        }
    }
}

/// The top of a stack in device memory. Each call takes another GiB, which nobody has touched.
fn untouched(number: u64) -> Option<u64> {
    let physical = (16 + number) << 30;
    let limit = 1u64 << cpu::physical_bits().min(48);
    (physical < limit).then(|| window::at(physical) + 0x1000)
}

fn call(action: extern "C" fn()) -> u64 {
    // SAFETY: the gates are this module's; the way back restores what the ABI wants kept.
    unsafe { delivery_call(action) }
}

fn try_case(t: &Test, case: &Case, top: u64, round: u64) {
    let name = case.name;
    trap::set_first_stack(top);
    set_gates(true);
    let before = taken();
    let vector = call(case.raise);
    let (times, frame) = (taken() - before, top.wrapping_sub(stack_pointer()));
    // Not acknowledged yet: only an event that is delivered twice could come.
    let again = call(settle);
    set_gates(false);
    if case.vector == EXTERNAL {
        apic::end_of_interrupt();
    }
    let after = trap::count(EXTERNAL);
    if case.vector == 2 {
        // SAFETY: returns to here.
        unsafe { delivery_unblock() };
    }
    settle();
    let late = trap::count(EXTERNAL) - after;
    let wanted = if case.has_code { 48 } else { 40 };
    expect!(
        t,
        vector == u64::from(case.vector),
        "{name}: vector {vector:#x}, round {round}"
    );
    expect!(t, times == 1, "{name}: {times} times, round {round}");
    expect!(t, frame == wanted, "{name}: {frame} bytes, round {round}");
    expect!(
        t,
        again == 0x100,
        "{name}: then vector {again:#x}, round {round}"
    );
    expect!(t, late == 0, "{name}: once more after EOI, round {round}");
}

/// INT1 is an exit to a debugger for some emulators.
const INT1: Case = case("INT1", 1, false, icebp);

pub(super) fn cut_off(t: &Test) {
    let has_int1 = trap::guarded((), |()| icebp()).map(|fault| fault.vector) == Some(1);
    let cases = CASES.iter().chain(has_int1.then_some(&INT1));
    try_all(t, cases, 0);
    // NMIs come in again.
    let before = trap::count(2);
    apic::command(apic::id(), NMI);
    let came = wait_for(ms(3000), || trap::count(2) == before + 1);
    expect!(t, came, "no NMI afterwards");
}

/// External interrupts, which the hypervisor or the processor offers again.
pub(super) fn cut_off_interrupt(t: &Test) {
    try_all(t, INTERRUPTS.iter(), 64);
}

fn try_all<'a>(t: &Test, cases: impl Iterator<Item = &'a Case> + Clone, first: u64) {
    let mut number = first;
    for round in 0..4 {
        for case in cases.clone() {
            let Some(top) = untouched(number) else {
                return expect!(t, round > 0, "no room for {}", case.name);
            };
            number += 1;
            try_case(t, case, top, round);
        }
    }
}

/// An exception that is cut off while an interrupt waits: neither takes the other's place.
pub(super) fn cut_off_with_interrupt(t: &Test) {
    for number in 120..124 {
        let Some(top) = untouched(number) else {
            return;
        };
        trap::set_first_stack(top);
        set_gates(true);
        let before = taken();
        let first = call(undefined_before_interrupt);
        let second = call(settle);
        apic::end_of_interrupt();
        let third = call(settle);
        set_gates(false);
        let (times, wanted) = (taken() - before, u64::from(EXTERNAL));
        expect!(
            t,
            (first, second) == (6, wanted),
            "{first:#x}, then {second:#x}"
        );
        expect!(
            t,
            third == 0x100 && times == 2,
            "then {third:#x}; {times} in all"
        );
    }
}

/// A page fault whose frame goes to untouched memory leaves the right address in CR2.
pub(super) fn cut_off_page_fault(t: &Test) {
    for number in 200..203 {
        let Some(top) = untouched(number) else {
            return;
        };
        trap::set_first_stack(top);
        cpu::write_cr2(0);
        set_gates(true);
        let vector = call(page);
        set_gates(false);
        expect!(t, vector == 14, "vector {vector:#x}");
        let address = cpu::read_cr2();
        expect!(t, address == NOWHERE, "CR2 {address:#x}");
    }
}
