//! Instructions.

use core::arch::{asm, x86_64};

pub use x86_64::CpuidResult;

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    x86_64::__cpuid_count(leaf, subleaf)
}

/// Whether the processor says that it is Intel's.
pub fn is_intel() -> bool {
    cpuid(0, 0).ebx == u32::from_le_bytes(*b"Genu")
}

/// Whether there are pages of 1 GiB, and with them 512 GiB mapped one to one, not 4 GiB.
pub fn has_gib_pages() -> bool {
    cpuid(0x8000_0001, 0).edx >> 26 & 1 != 0
}

/// Width of physical addresses in bits.
pub fn physical_bits() -> u32 {
    cpuid(0x8000_0008, 0).eax & 0xff
}

/// RDTSC.
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { x86_64::_rdtsc() }
}

/// RDMSR; an MSR that is not there is an exception (see [`crate::trap::guarded`]).
pub fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect on memory.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR. Tests write only what they can undo.
pub fn wrmsr(index: u32, value: u64) {
    // SAFETY: the tests own the machine and know what they write.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack));
    }
}

macro_rules! port {
    ($read:ident $($write:ident)?, $ty:ty, $register:tt) => {
        /// IN.
        pub fn $read(port: u16) -> $ty {
            let value: $ty;
            // SAFETY: the test owns the machine.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                    options(nostack));
            }
            value
        }
        $(/// OUT.
        pub fn $write(port: u16, value: $ty) {
            // SAFETY: the test owns the machine.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                    options(nostack));
            }
        })?
    };
}
port!(inb outb, u8, "al");
port!(inw outw, u16, "ax");
port!(inl outl, u32, "eax");

/// Reading and writing a control or debug register.
macro_rules! register {
    ($read:ident, $write:ident, $name:literal) => {
        /// Reads the register.
        pub fn $read() -> u64 {
            let value;
            // SAFETY: reads a register.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack)) };
            value
        }
        /// Writes the register.
        pub fn $write(value: u64) {
            // SAFETY: the tests keep their own code and stack mapped.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) };
        }
    };
}
register!(read_cr0, write_cr0, "cr0");
register!(read_cr2, write_cr2, "cr2");
register!(read_cr3, write_cr3, "cr3");
register!(read_cr4, write_cr4, "cr4");
register!(read_cr8, write_cr8, "cr8");
register!(read_dr0, write_dr0, "dr0");
register!(read_dr1, write_dr1, "dr1");
register!(read_dr2, write_dr2, "dr2");
register!(read_dr3, write_dr3, "dr3");
register!(read_dr6, write_dr6, "dr6");
register!(read_dr7, write_dr7, "dr7");

/// XSETBV.
pub fn xsetbv(index: u32, value: u64) {
    // SAFETY: may fault, which the tests expect.
    unsafe {
        asm!("xsetbv", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack));
    }
}

/// XGETBV of XCR0.
pub fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// CLI.
pub fn disable_interrupts() {
    // SAFETY: only defers interrupts.
    unsafe { asm!("cli", options(nostack)) };
}

/// STI and an instruction for its shadow to end.
pub fn enable_interrupts() {
    // SAFETY: the table of handlers is complete.
    unsafe { asm!("sti", "nop", options(nostack)) };
}

/// STI; HLT; CLI: sleeps until an interrupt was handled.
pub fn sleep() {
    // SAFETY: the table of handlers is complete.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// PAUSE.
pub fn relax() {
    core::hint::spin_loop();
}

/// Rate of the TSC as the hypervisor tells it, in kHz.
pub fn tsc_khz() -> u64 {
    u64::from(cpuid(0x4000_0010, 0).eax).max(1)
}

/// Milliseconds in TSC ticks.
pub fn ms(count: u64) -> u64 {
    count * tsc_khz()
}

/// Waits with interrupts as they are until `done` or `limit` TSC ticks have passed; says which.
pub fn wait_for(limit: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = rdtsc();
    loop {
        if done() {
            return true;
        }
        if rdtsc().wrapping_sub(start) > limit {
            return false;
        }
        relax();
    }
}
