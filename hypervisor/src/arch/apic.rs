//! The host's local APIC, in x2APIC mode where the CPU has it, by memory otherwise.

use super::cpu::{self, msr};
use crate::percpu;
use acrn_vdev::lapic::handover::Handover;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Vector of the hypervisor's own timer.
pub const TIMER_VECTOR: u8 = 0xf0;
/// Vector that makes another CPU look at its requests.
pub const KICK_VECTOR: u8 = 0xf1;
/// Vector of the hypervisor's UART.
pub const UART_VECTOR: u8 = 0xf2;
/// Vector at which a processor in a guest takes what was posted for it.
pub const NOTIFY_VECTOR: u8 = 0xf3;
/// Vector of the IOMMUs' faults.
pub const IOMMU_VECTOR: u8 = 0xf4;
/// Spurious interrupt vector.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Physical address of the registers in xAPIC mode.
pub const XAPIC_BASE: u64 = 0xfee0_0000;

static X2APIC: AtomicBool = AtomicBool::new(false);
/// LAPIC timer ticks per 2^32 TSC ticks.
static TIMER_RATIO: AtomicU64 = AtomicU64::new(0);

mod register {
    pub const ID: u32 = 0x02;
    pub const TPR: u32 = 0x08;
    pub const EOI: u32 = 0x0b;
    pub const SVR: u32 = 0x0f;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_LINT0: u32 = 0x35;
    pub const LVT_LINT1: u32 = 0x36;
    pub const LVT_ERROR: u32 = 0x37;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
}

/// Whether the host's local APICs run in x2APIC mode.
pub fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

fn read(register: u32) -> u32 {
    if is_x2apic() {
        cpu::rdmsr(msr::X2APIC_BASE + register) as u32
    } else {
        let address = (XAPIC_BASE + u64::from(register) * 16) as *const u32;
        // SAFETY: the local APIC page is mapped uncached and belongs to the hypervisor.
        unsafe { address.read_volatile() }
    }
}

fn write(register: u32, value: u32) {
    if is_x2apic() {
        // SAFETY: local APIC registers do not touch memory.
        unsafe { cpu::wrmsr(msr::X2APIC_BASE + register, value.into()) };
    } else {
        let address = (XAPIC_BASE + u64::from(register) * 16) as *mut u32;
        // SAFETY: the local APIC page is mapped uncached and belongs to the hypervisor.
        unsafe { address.write_volatile(value) }
    }
}

const ENABLE: u64 = 1 << 11;
const X2APIC_ENABLE: u64 = 1 << 10;

/// Lets a guest go on with this CPU's local APIC, which is in x2APIC mode, where its virtual one has
/// stopped. NMIs that come by LINT1 are other CPUs' business from now on.
pub fn give(handover: &Handover, tsc_deadline: u64) {
    write(register::LVT_LINT1, 1 << 16);
    for (index, value) in handover.registers {
        set_for_guest(index, value);
    }
    write_deadline(tsc_deadline);
}

/// Takes this CPU's local APIC back from a guest: whatever it has left there is gone.
pub fn take_back() {
    let base = cpu::rdmsr(msr::APIC_BASE) & !(ENABLE | X2APIC_ENABLE);
    // SAFETY: off for a moment, which is the one way to forget what is requested and in service. The
    // hypervisor waits for nothing from it now.
    unsafe { cpu::wrmsr(msr::APIC_BASE, base) };
    initialise();
}

/// Writes the software-enable register of a local APIC that a guest has.
pub fn write_svr(value: u32) {
    set_for_guest(msr::X2APIC_BASE + register::SVR, value);
}

/// Values are the guest's, and processors differ in what they refuse.
fn set_for_guest(index: u32, value: u32) {
    // SAFETY: registers of the local APIC that the guest has.
    let _ = unsafe { cpu::try_wrmsr(index, value.into()) };
}

/// Host TSC at which the timer of a local APIC that a guest has is due; 0 for off.
pub fn deadline() -> u64 {
    cpu::rdmsr(msr::TSC_DEADLINE)
}

/// Sets [`deadline`].
pub fn write_deadline(value: u64) {
    // SAFETY: sets a timer. The processor has the register, or it has no x2APIC either.
    unsafe { cpu::wrmsr(msr::TSC_DEADLINE, value) };
}

/// Turns the local APIC of this CPU on, all local vectors masked.
pub fn initialise() {
    let mut wanted = cpu::rdmsr(msr::APIC_BASE) & 0xfff | XAPIC_BASE | ENABLE;
    // SAFETY: turns on the APIC that the hypervisor owns, at its architectural address. From
    // disabled to x2APIC mode there is no way but by xAPIC mode.
    unsafe { cpu::wrmsr(msr::APIC_BASE, wanted) };
    if cpu::has_x2apic() {
        wanted |= X2APIC_ENABLE;
        // SAFETY: as above.
        unsafe { cpu::wrmsr(msr::APIC_BASE, wanted) };
    }
    if wanted & X2APIC_ENABLE != 0 {
        X2APIC.store(true, Ordering::Relaxed);
    }
    write(register::SVR, 0x100 | u32::from(SPURIOUS_VECTOR));
    write(register::TPR, 0);
    write(register::LVT_TIMER, 1 << 16 | u32::from(TIMER_VECTOR));
    write(register::LVT_LINT0, 1 << 16);
    // NMI on LINT1, as the firmware of a PC wires it.
    write(register::LVT_LINT1, 0x400);
    write(register::LVT_ERROR, 1 << 16);
    write(register::DIVIDE, 0b1011);
    write(register::INITIAL_COUNT, 0);
    write(register::EOI, 0);
    percpu::current().apic_id.store(id(), Ordering::Relaxed);
}

/// Id of this CPU's local APIC.
pub fn id() -> u32 {
    let raw = read(register::ID);
    if is_x2apic() { raw } else { raw >> 24 }
}

/// Ends the interrupt in service.
#[inline]
pub fn end_of_interrupt() {
    write(register::EOI, 0);
}

fn send(destination: u32, low: u32) {
    if is_x2apic() {
        let value = u64::from(destination) << 32 | u64::from(low);
        // SAFETY: sends an interrupt; vectors and destinations are the hypervisor's own choice.
        // What was written to memory for the receiver must be there before: writing this
        // register waits for nothing, where registers in memory do.
        unsafe {
            asm!("mfence", "lfence", options(nostack, preserves_flags));
            cpu::wrmsr(msr::X2APIC_BASE + register::ICR, value);
        }
        return;
    }
    // No xAPIC has such an id.
    let Ok(destination) = u8::try_from(destination) else {
        return;
    };
    while read(register::ICR) & 1 << 12 != 0 {
        core::hint::spin_loop();
    }
    write(register::ICR_HIGH, u32::from(destination) << 24);
    write(register::ICR, low);
}

/// Sends a fixed interrupt to the CPU with this APIC id.
pub fn send_fixed(destination: u32, vector: u8) {
    send(destination, 0x4000 | u32::from(vector));
}

/// Sends an NMI.
pub fn send_nmi(destination: u32) {
    send(destination, 0x4400);
}

/// Sends INIT.
pub fn send_init(destination: u32) {
    send(destination, 0x4500);
}

/// Sends a start-up IPI for code at `page` * 4096.
pub fn send_startup(destination: u32, page: u8) {
    send(destination, 0x4600 | u32::from(page));
}

/// Stops all other CPUs by NMI; they see that the hypervisor is crashing.
pub fn stop_other_cpus() {
    if percpu::all().len() > 1 {
        send(0, 0xc_4400);
    }
}

/// Starts to measure the timer against the TSC; returns the TSC.
pub fn begin_calibration() -> u64 {
    write(register::LVT_TIMER, 1 << 16 | u32::from(TIMER_VECTOR));
    let start = cpu::rdtsc();
    write(register::INITIAL_COUNT, u32::MAX);
    start
}

/// Ends a measurement that began at `start` of the TSC, `least` ticks later or more.
pub fn end_calibration(start: u64, least: u64) {
    while cpu::rdtsc().wrapping_sub(start) < least {}
    let elapsed = cpu::rdtsc().wrapping_sub(start).max(1);
    let left = read(register::CURRENT_COUNT);
    write(register::INITIAL_COUNT, 0);
    let counted = u64::from(u32::MAX - left).max(1);
    TIMER_RATIO.store(
        (u128::from(counted << 32) / u128::from(elapsed)) as u64,
        Ordering::Relaxed,
    );
}

/// Lets the timer raise [`TIMER_VECTOR`] once, `tsc_ticks` from now; `None` stops it.
pub fn set_timer(tsc_ticks: Option<u64>) {
    let Some(ticks) = tsc_ticks else {
        write(register::INITIAL_COUNT, 0);
        return;
    };
    let ratio = TIMER_RATIO.load(Ordering::Relaxed);
    let count = ((u128::from(ticks) * u128::from(ratio)) >> 32) as u64 + 1;
    write(register::LVT_TIMER, u32::from(TIMER_VECTOR));
    write(register::INITIAL_COUNT, count.min(u32::MAX.into()) as u32);
}
