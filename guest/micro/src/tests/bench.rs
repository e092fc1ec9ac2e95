//! What an interrupt between CPUs costs its sender, for `cargo xtask bench`.
//!
//! CPU 1 runs in guest mode all the time with interrupts on; CPU 0 sends it a thousand interrupts, each
//! when the one before has been handled, and reads the TSC before and after the write of the command
//! register. In the emulators a tick is one instruction of CPU 0.

use crate::apic::{self, reg};
use crate::cpu::{self, ms, wait_for};
use crate::report::Test;
use crate::smp;
use crate::trap::count_on;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

const VECTOR: u8 = 0x75;
const COUNT: usize = 1000;

static READY: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// CPU 1: takes interrupts, without leaving guest mode for that.
fn receive() {
    apic::enter_x2apic();
    cpu::enable_interrupts();
    READY.store(true, Ordering::SeqCst);
    while !STOP.load(Ordering::SeqCst) {
        cpu::relax();
    }
    cpu::disable_interrupts();
    apic::leave_x2apic();
}

/// Ticks of one instruction that gets an MSR's number and a value, and of what stands around it.
macro_rules! ticks {
    ($instruction:literal, $value:expr) => {{
        let value: u64 = $value;
        let ticks: u64;
        // SAFETY: an interrupt to the other CPU, which has a handler for it, or nothing.
        unsafe {
            asm!(
                "rdtsc", "shl rdx, 32", "lea {ticks}, [rax + rdx]",
                "mov eax, {low:e}", "mov edx, {high:e}", $instruction,
                "rdtsc", "shl rdx, 32", "or rax, rdx",
                "sub rax, {ticks}", "mov {ticks}, rax",
                ticks = out(reg) ticks,
                low = in(reg) value as u32,
                high = in(reg) (value >> 32) as u32,
                in("ecx") 0x800 + reg::ICR,
                out("rax") _, out("rdx") _,
                options(nostack),
            );
        }
        ticks
    }};
}

/// Times the write of the command register and prints a line for the benchmark.
pub(super) fn ipi(t: &Test) {
    if smp::start_all() < 2 {
        t.expect(false, format_args!("one CPU cannot send to another"));
        return;
    }
    READY.store(false, Ordering::SeqCst);
    STOP.store(false, Ordering::SeqCst);
    smp::begin_on(1, receive);
    let ready = wait_for(ms(5000), || READY.load(Ordering::SeqCst));
    expect!(t, ready, "CPU 1 does not begin");
    apic::enter_x2apic();
    let base = (0..COUNT).map(|_| ticks!("nop", 0)).min().unwrap_or(0);
    let mut series = [0; COUNT];
    for (index, figure) in series.iter_mut().enumerate() {
        let before = count_on(1, VECTOR);
        *figure = ticks!("wrmsr", 1 << 32 | u64::from(VECTOR)).saturating_sub(base);
        if !wait_for(ms(5000), || count_on(1, VECTOR) != before) {
            expect!(t, false, "interrupt {index} is lost");
            break;
        }
    }
    apic::leave_x2apic();
    STOP.store(true, Ordering::SeqCst);
    let ended = wait_for(ms(5000), || smp::is_idle(1));
    expect!(t, ended, "CPU 1 does not stop");
    series.sort_unstable();
    print!(
        "{{\"bench\":\"ipi\",\"min\":{},\"median\":{},\"n\":{COUNT}}}\n",
        series[0],
        series[COUNT / 2]
    );
}
