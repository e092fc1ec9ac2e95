//! When a pending interrupt comes: behind STI's next instruction, at once behind POPF and IRET, with
//! instructions in between that exit; and NMIs, which only an IRET lets in again.

use crate::apic::{self, NMI, TO_SELF};
use crate::cpu::{self, ms, wait_for};
use crate::report::Test;
use crate::smp;
use crate::trap::{UD, count, guarded, hook};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

const VECTOR: u8 = 0x71;

macro_rules! sequence {
    ($($text:literal),+) => {
        || {
            // SAFETY: changes IF, which is off before and behind it, and the named registers.
            unsafe {
                asm!($($text),+, out("rax") _, out("rcx") _, out("rdx") _, out("r8") _);
            }
        }
    };
}

pub(super) fn interrupts(t: &Test) {
    let cases: &[(&str, u64, fn())] = &[
        ("STI; CLI", 0, sequence!("sti", "cli")),
        ("STI; NOP; CLI", 1, sequence!("sti", "nop", "cli")),
        (
            "STI; CPUID; CLI",
            1,
            sequence!(
                "mov r8, rbx",
                "xor eax, eax",
                "sti",
                "cpuid",
                "cli",
                "mov rbx, r8"
            ),
        ),
        (
            "STI; RDMSR; CLI",
            1,
            sequence!("mov ecx, 0x1b", "sti", "rdmsr", "cli"),
        ),
        (
            "STI; IN; CLI",
            1,
            sequence!("mov edx, 0x21", "sti", "in al, dx", "cli"),
        ),
        (
            "STI; an access to the I/O APIC; CLI",
            1,
            sequence!("mov eax, 0xfec00010", "sti", "mov eax, [rax]", "cli"),
        ),
        (
            "POPF; CLI",
            1,
            sequence!("pushfq", "or qword ptr [rsp], 0x200", "popfq", "cli"),
        ),
        (
            "IRET; CLI",
            1,
            sequence!(
                "mov rax, rsp",
                "push 16",
                "push rax",
                "push 0x202",
                "push 8",
                "lea rcx, [rip + 2f]",
                "push rcx",
                "iretq",
                "2: cli"
            ),
        ),
        (
            "MOV SS; CPUID; CLI",
            0,
            sequence!(
                "mov r8, rbx",
                "xor eax, eax",
                "mov cx, ss",
                "mov ss, cx",
                "cpuid",
                "cli",
                "mov rbx, r8"
            ),
        ),
    ];
    for round in 0..20 {
        for (name, wanted, run) in cases {
            cpu::disable_interrupts();
            let before = count(VECTOR);
            apic::command(0, TO_SELF | u32::from(VECTOR));
            run();
            let came = count(VECTOR) - before;
            expect!(t, came == *wanted, "{name}: {came} times, round {round}");
            cpu::enable_interrupts();
            let all = wait_for(ms(3000), || count(VECTOR) == before + 1);
            expect!(t, all, "{name}: lost, round {round}");
            cpu::disable_interrupts();
        }
    }
}

const HIGHER: u8 = 0x91;

/// Interrupts that the task priority holds back come when CR8 falls, one class after the other. Not
/// for QEMU 7 and 8, which fail an assertion of theirs when CR8 is lowered while one waits.
pub(super) fn task_priority(t: &Test) {
    for round in 0..50 {
        for by_register in [false, true] {
            let before = (count(VECTOR), count(HIGHER));
            let came = || (count(VECTOR) - before.0, count(HIGHER) - before.1);
            cpu::write_cr8(9);
            cpu::enable_interrupts();
            apic::command(0, TO_SELF | u32::from(VECTOR));
            apic::command(0, TO_SELF | u32::from(HIGHER));
            core::hint::black_box(cpu::cpuid(0, 0));
            let steps: [(u64, (u64, u64)); 4] =
                [(9, (0, 0)), (8, (0, 1)), (7, (0, 1)), (6, (1, 1))];
            for (class, wanted) in steps {
                if by_register {
                    apic::write(apic::reg::TPR, (class as u32) << 4);
                } else {
                    cpu::write_cr8(class);
                }
                // A processor has taken it by now; an emulated IPI may be on its way.
                wait_for(ms(20), || came() == wanted);
                expect!(
                    t,
                    came() == wanted,
                    "CR8 {class}: {:?}, round {round}",
                    came()
                );
                let (cr8, tpr) = (cpu::read_cr8(), apic::read(apic::reg::TPR));
                let fits = cr8 == class && u64::from(tpr) == class << 4;
                expect!(t, fits, "CR8 {cr8}, TPR {tpr:#x}, not {class}");
            }
            // Lowered with interrupts off: they come with STI.
            cpu::write_cr8(15);
            apic::command(0, TO_SELF | u32::from(VECTOR));
            cpu::disable_interrupts();
            cpu::write_cr8(0);
            core::hint::black_box(cpu::cpuid(0, 0));
            expect!(t, came() == (1, 1), "with IF 0: {:?}", came());
            cpu::enable_interrupts();
            wait_for(ms(3000), || came() == (2, 1));
            expect!(
                t,
                came() == (2, 1),
                "after STI: {:?}, round {round}",
                came()
            );
            cpu::disable_interrupts();
        }
    }
}

static DEPTH: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Sends another NMI, and comes back from an exception by IRET before its own end.
fn nested_hook() {
    let depth = DEPTH.fetch_add(1, Ordering::SeqCst) + 1;
    DEEPEST.fetch_max(depth, Ordering::SeqCst);
    if LEFT.swap(0, Ordering::SeqCst) != 0 {
        apic::command(apic::id(), NMI);
        wait_for(ms(2), || false);
        let early = DEEPEST.load(Ordering::SeqCst);
        // SAFETY: has to fault.
        let fault = guarded((), |()| unsafe { asm!("ud2") });
        let come = wait_for(ms(3000), || DEEPEST.load(Ordering::SeqCst) == 2);
        if early != 1 || fault != UD || !come {
            DEEPEST.store(100 + early, Ordering::SeqCst);
        }
    }
    DEPTH.fetch_sub(1, Ordering::SeqCst);
}

/// Any IRET ends the blocking, also one that is not the handler's own.
pub(super) fn nested_nmi(t: &Test) {
    for round in 0..5 {
        LEFT.store(1, Ordering::SeqCst);
        DEEPEST.store(0, Ordering::SeqCst);
        hook(2, Some(nested_hook));
        let before = count(2);
        apic::command(apic::id(), NMI);
        let came = wait_for(ms(3000), || count(2) == before + 2);
        hook(2, None);
        let deepest = DEEPEST.load(Ordering::SeqCst);
        expect!(t, came, "{} NMIs of 2, round {round}", count(2) - before);
        expect!(t, deepest == 2, "depth {deepest}, round {round}");
    }
}

static HALTED: AtomicU64 = AtomicU64::new(0);

/// An NMI ends a halt with interrupts off.
pub(super) fn nmi_wakes(t: &Test) {
    /// Another one, should this CPU not have got to its HLT in time for the last.
    fn send() {
        while HALTED.load(Ordering::SeqCst) != 0 {
            wait_for(ms(5), || false);
            apic::command(0, NMI);
        }
    }
    if smp::start_all() < 2 {
        return;
    }
    cpu::disable_interrupts();
    for round in 0..20 {
        let before = count(2);
        HALTED.store(1, Ordering::SeqCst);
        smp::begin_on(1, send);
        // SAFETY: the other CPU's NMI ends it.
        unsafe { asm!("hlt", options(nostack)) };
        let came = count(2) - before;
        HALTED.store(0, Ordering::SeqCst);
        expect!(t, came >= 1, "HLT ended without an NMI, round {round}");
        let done = wait_for(ms(3000), || smp::is_idle(1));
        expect!(t, done, "CPU 1 does not end, round {round}");
    }
}
