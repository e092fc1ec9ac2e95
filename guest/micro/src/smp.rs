//! Application processors: started by INIT and SIPI, then waiting for work.

use crate::start::{ApParameters, place_ap_code};
use crate::trap::MAX_CPUS;
use crate::{apic, cpu, params, trap};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

const STACK_SIZE: usize = 16384;
static mut STACKS: [[u128; STACK_SIZE / 16]; MAX_CPUS] = [[0; STACK_SIZE / 16]; MAX_CPUS];

/// How often each CPU came out of the start-up code.
static STARTS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// Work for each CPU: a `fn()`, 0 for none.
static WORK: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// CPUs of this VM by CPUID's topology leaf; APIC ids are 0 to n - 1 on the machines used.
pub fn count() -> usize {
    (cpu::cpuid(0xb, 1).ebx as usize).clamp(1, MAX_CPUS)
}

/// How often CPU `index` has been started.
pub fn starts(index: usize) -> u32 {
    STARTS[index].load(Ordering::SeqCst)
}

extern "C" fn ap_main(index: u64) -> ! {
    let index = index as usize;
    trap::load(index);
    apic::initialise();
    STARTS[index].fetch_add(1, Ordering::SeqCst);
    loop {
        let work = WORK[index].load(Ordering::SeqCst);
        if work != 0 {
            // SAFETY: `run_on` stored a `fn()`.
            let work: fn() = unsafe { core::mem::transmute(work) };
            work();
            WORK[index].store(0, Ordering::SeqCst);
        }
        // With interrupts off until the halt: the IPI that says "work" is not missed.
        cpu::sleep();
    }
}

/// IPI that says "work".
const WORK_VECTOR: u8 = 0x79;

/// Sends INIT and two SIPIs to CPU `index` and waits until it runs; says whether it does.
pub fn start(index: usize) -> bool {
    let Some(page) = params::low_page() else {
        return false;
    };
    let stack = (&raw const STACKS) as u64 + ((index + 1) * STACK_SIZE) as u64;
    let parameters = ApParameters {
        cr3: cpu::read_cr3(),
        stack,
        argument: index as u64,
        entry: ap_main as *const () as u64,
    };
    // SAFETY: a free page; CPUs are started one after the other.
    unsafe { place_ap_code(page, parameters) };
    let before = starts(index);
    WORK[index].store(0, Ordering::SeqCst);
    apic::command(index as u32, apic::INIT);
    cpu::wait_for(cpu::ms(2), || false);
    for _ in 0..2 {
        apic::command(index as u32, apic::STARTUP | (page >> 12) as u32);
        cpu::wait_for(cpu::ms(1), || false);
    }
    cpu::wait_for(cpu::ms(10_000), || starts(index) != before)
}

/// Starts all other CPUs that do not run yet; the number of running CPUs.
pub fn start_all() -> usize {
    (1..count()).filter(|i| starts(*i) > 0 || start(*i)).count() + 1
}

/// Has a running CPU call a function, without waiting for its end.
pub fn begin_on(index: usize, work: fn()) {
    WORK[index].store(work as *const () as usize, Ordering::SeqCst);
    apic::command(index as u32, WORK_VECTOR.into());
}

/// Whether the function of [`begin_on`] has ended.
pub fn is_idle(index: usize) -> bool {
    WORK[index].load(Ordering::SeqCst) == 0
}

/// Has a running CPU call a function; says whether it came to its end in time.
pub fn run_on(index: usize, work: fn()) -> bool {
    begin_on(index, work);
    cpu::wait_for(cpu::ms(10_000), || is_idle(index))
}
