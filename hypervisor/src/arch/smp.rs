//! Starting processors from real mode: the others, and the first one after the machine's sleep.

use super::{apic, boot, cpu, paging, tsc};
use crate::percpu::{self, MAX_CPUS};
use acrn_abi::{Hpa, PcpuId};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Number of times that [`enter_application_processor`] was reached.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// The page of the trampoline; 0 when there is none.
static PAGE: AtomicU64 = AtomicU64::new(0);
/// Top of the stack of each CPU but the first, once it has one.
static STACKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Where a CPU goes on behind the trampoline.
type Entry = extern "C" fn(u64) -> !;

/// Gives the trampoline its page, which is below 640 KiB, mapped, and nobody else's for ever.
pub fn set_page(page: Hpa) {
    PAGE.store(page.get(), Ordering::Relaxed);
}

/// The trampoline's page; `None` when there was no room for it.
pub fn page() -> Option<Hpa> {
    Some(PAGE.load(Ordering::Relaxed))
        .filter(|page| *page != 0)
        .map(Hpa)
}

/// Opens the page for execution, and closes it again.
pub fn open(open: bool) {
    if let Some(page) = page() {
        // The page's own table is there since the first time.
        let _ = paging::set_trampoline(page, open);
    }
}

/// Lays the trampoline out so that it leads the next CPU to `entry`; its page is open.
pub fn lay(page: Hpa, stack: u64, entry: Entry, argument: u64) {
    let (code, params) = boot::trampoline();
    // SAFETY: the promise to `set_page`; only one CPU is being started at a time, and the CPU that used
    // the page before has left it.
    unsafe {
        core::ptr::copy_nonoverlapping(code.as_ptr(), page.get() as *mut u8, code.len());
        ((page.get() + params as u64) as *mut boot::TrampolineParams).write_volatile(
            boot::TrampolineParams {
                cr3: cpu::read_cr3(),
                stack,
                argument,
                entry: entry as *const () as u64,
            },
        );
    }
}

/// The stack of a CPU, which it keeps.
fn stack_of(id: PcpuId) -> Option<u64> {
    let known = &STACKS[id.index()];
    if known.load(Ordering::Relaxed) == 0 {
        let stack = crate::memory::allocate_boot(boot::STACK_SIZE as u64, 4096)?;
        known.store(stack.get() + boot::STACK_SIZE as u64, Ordering::Relaxed);
    }
    Some(known.load(Ordering::Relaxed))
}

/// Starts CPU `id` with local APIC `apic_id`. Returns whether it came up within 200 ms. The trampoline's page
/// is open.
pub fn start(id: PcpuId, apic_id: u32) -> bool {
    let (Some(page), Some(stack)) = (page(), stack_of(id)) else {
        return false;
    };
    lay(page, stack, enter_application_processor, id.0.into());
    let before = STARTED.load(Ordering::SeqCst);
    apic::send_init(apic_id);
    tsc::delay_us(200);
    for _ in 0..2 {
        apic::send_startup(apic_id, (page.get() >> 12) as u8);
        let begin = cpu::rdtsc();
        while cpu::rdtsc() - begin < tsc::from_ms(100) {
            if STARTED.load(Ordering::SeqCst) != before {
                return true;
            }
            core::hint::spin_loop();
        }
    }
    false
}

extern "C" fn enter_application_processor(id: u64) -> ! {
    tsc::follow();
    percpu::install(PcpuId(id as u16));
    paging::protect_this_cpu();
    apic::initialise();
    STARTED.fetch_add(1, Ordering::SeqCst);
    crate::run::enter(PcpuId(id as u16))
}
