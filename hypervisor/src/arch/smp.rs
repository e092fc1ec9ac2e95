//! Starting the application processors.

use super::{apic, boot, cpu, paging, tsc};
use crate::percpu;
use acrn_abi::PcpuId;
use core::sync::atomic::{AtomicU32, Ordering};

/// Number of CPUs that reached [`enter_application_processor`].
static STARTED: AtomicU32 = AtomicU32::new(1);

/// Starts CPU `id` with local APIC `apic_id`. The trampoline page at physical `page` * 4096 is
/// used for one CPU after the other. Returns whether it came up within 200 ms.
pub fn start(id: PcpuId, apic_id: u32, page: u8) -> bool {
    let Some(stack) = crate::memory::allocate_boot(boot::STACK_SIZE as u64, 4096) else {
        return false;
    };
    let (code, params) = boot::trampoline();
    let target = u64::from(page) << 12;
    // SAFETY: the page was reserved for the trampoline in the memory map and is mapped; only one
    // CPU is being started at a time, and the CPU that used it before has left it.
    unsafe {
        core::ptr::copy_nonoverlapping(code.as_ptr(), target as *mut u8, code.len());
        ((target + params as u64) as *mut boot::TrampolineParams).write_volatile(
            boot::TrampolineParams {
                cr3: cpu::read_cr3(),
                stack: stack.get() + boot::STACK_SIZE as u64,
                argument: id.0.into(),
                entry: enter_application_processor as *const () as u64,
            },
        );
    }
    let before = STARTED.load(Ordering::SeqCst);
    apic::send_init(apic_id);
    tsc::delay_us(200);
    for _ in 0..2 {
        apic::send_startup(apic_id, page);
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
    percpu::install(PcpuId(id as u16));
    paging::protect_this_cpu();
    apic::initialise();
    STARTED.fetch_add(1, Ordering::SeqCst);
    crate::run::enter(PcpuId(id as u16))
}
