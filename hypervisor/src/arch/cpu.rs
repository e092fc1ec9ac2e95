//! Single instructions as functions, and the features that the hypervisor needs.
//!
//! All of these run in ring 0 of the host; the ones that can fault on a bad operand have a
//! `try_` form that goes through the exception fixup table.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// Model-specific registers by their names in the AMD APM and Intel SDM.
pub mod msr {
    #![allow(missing_docs)]
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const UCODE_LOAD: u32 = 0x79;
    pub const UCODE_REV: u32 = 0x8b;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const MTRR_FIX_64K: u32 = 0x250;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC_BASE: u32 = 0x800;
    pub const X2APIC_TPR: u32 = 0x808;
    pub const X2APIC_EOI: u32 = 0x80b;
    pub const X2APIC_ICR: u32 = 0x830;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const SYSCFG: u32 = 0xc001_0010;
    pub const HWCR: u32 = 0xc001_0015;
    pub const VM_CR: u32 = 0xc001_0114;
    pub const VM_HSAVE_PA: u32 = 0xc001_0117;
}

/// Bits of EFER.
pub mod efer {
    #![allow(missing_docs)]
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const SVME: u64 = 1 << 12;
}

/// Bits of CR0.
pub mod cr0 {
    #![allow(missing_docs)]
    pub const PE: u64 = 1 << 0;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4.
pub mod cr4 {
    #![allow(missing_docs)]
    pub const PAE: u64 = 1 << 5;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// Executes CPUID.
#[inline(always)]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Reads an MSR that is known to exist.
#[inline(always)]
pub fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading an MSR changes no memory. Callers name registers that the detected
    // processor has; one that does not exist raises #GP, which stops with a dump.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
/// The value must keep the hypervisor's own execution environment intact: no other code may
/// rely on the old value.
#[inline(always)]
pub unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: the caller's duty.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// The processor refused an instruction with #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faulted;

/// Reads any MSR; `Err` when the processor has none of that number.
pub fn try_rdmsr(index: u32) -> Result<u64, Faulted> {
    let (low, high, failed): (u32, u32, u32);
    // SAFETY: reading an MSR changes no memory; a #GP at label 2 continues at label 3 through
    // the fixup table, with the failure flag still set.
    unsafe {
        asm!(
            "mov {failed:e}, 1",
            "2: rdmsr",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .fixup, \"a\"",
            ".long 2b - ., 3b - .",
            ".popsection",
            failed = out(reg) failed,
            in("ecx") index, out("eax") low, out("edx") high,
            options(nomem, nostack));
    }
    if failed != 0 {
        Err(Faulted)
    } else {
        Ok(u64::from(high) << 32 | u64::from(low))
    }
}

/// Writes any MSR; `Err` when the processor refuses it.
///
/// # Safety
/// As for [`wrmsr`]. The one exception is the shell's `wrmsr` command, with which the operator
/// takes that responsibility.
pub unsafe fn try_wrmsr(index: u32, value: u64) -> Result<(), Faulted> {
    let failed: u32;
    // SAFETY: a #GP at label 2 continues at label 3 through the fixup table; the rest is the
    // caller's duty.
    unsafe {
        asm!(
            "mov {failed:e}, 1",
            "2: wrmsr",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .fixup, \"a\"",
            ".long 2b - ., 3b - .",
            ".popsection",
            failed = out(reg) failed,
            in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack));
    }
    if failed != 0 { Err(Faulted) } else { Ok(()) }
}

/// Sets an extended control register; `Err` when the processor refuses the value.
pub fn try_xsetbv(index: u32, value: u64) -> Result<(), Faulted> {
    let failed: u32;
    // SAFETY: XCR0 selects which state XSAVE and VEX instructions touch; the hypervisor uses
    // SSE only, which no legal value turns off. A #GP goes through the fixup table.
    unsafe {
        asm!(
            "mov {failed:e}, 1",
            "2: xsetbv",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .fixup, \"a\"",
            ".long 2b - ., 3b - .",
            ".popsection",
            failed = out(reg) failed,
            in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack));
    }
    if failed != 0 { Err(Faulted) } else { Ok(()) }
}

/// Reads XCR0. CR4.OSXSAVE must be set.
pub fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; called only after CR4.OSXSAVE was set.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Reads DR0 to DR3.
pub fn read_breakpoints() -> [u64; 4] {
    let (a, b, c, d);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b,
            out(reg) c, out(reg) d, options(nomem, nostack, preserves_flags));
    }
    [a, b, c, d]
}

/// Writes DR0 to DR3. They do nothing to the hypervisor: its DR7 is off, by each exit of a guest.
pub fn write_breakpoints(values: &[u64; 4]) {
    let [a, b, c, d] = *values;
    // SAFETY: addresses of breakpoints that are not enabled here.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b,
            in(reg) c, in(reg) d, options(nomem, nostack, preserves_flags));
    }
}

/// Reads DR6.
#[inline(always)]
pub fn read_dr6() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes DR6, which only says what happened.
#[inline(always)]
pub fn write_dr6(value: u64) {
    let value = value & 0xffff_ffff;
    // SAFETY: the upper half is 0; other reserved bits are ignored.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Writes CR2, which only says what happened.
#[inline(always)]
pub fn write_cr2(value: u64) {
    // SAFETY: only a page fault's handler reads it.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline(always)]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reads a register.
            unsafe {
                asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack));
            }
            value
        }
        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The new value must keep the running code mapped and its features on.
        #[inline(always)]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's duty.
            unsafe {
                asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack));
            }
        }
    };
}
control_register!(read_cr0, write_cr0, "cr0");
/// Reads CR2.
#[inline(always)]
pub fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) };
    value
}

control_register!(read_cr3, write_cr3, "cr3");
control_register!(read_cr4, write_cr4, "cr4");

/// Time stamp counter.
#[inline(always)]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

macro_rules! port {
    ($read:ident, $write:ident, $ty:ty, $reg:tt) => {
        #[doc = concat!("Reads a ", stringify!($ty), " from an I/O port.")]
        ///
        /// # Safety
        /// The read must have no side effect that other code relies on not happening.
        #[inline(always)]
        pub unsafe fn $read(port: u16) -> $ty {
            let value: $ty;
            // SAFETY: the caller's duty.
            unsafe {
                asm!(concat!("in ", $reg, ", dx"), in("dx") port, out($reg) value,
                    options(nostack, preserves_flags));
            }
            value
        }
        #[doc = concat!("Writes a ", stringify!($ty), " to an I/O port.")]
        ///
        /// # Safety
        /// The device behind the port must not be made to touch the hypervisor's memory.
        #[inline(always)]
        pub unsafe fn $write(port: u16, value: $ty) {
            // SAFETY: the caller's duty.
            unsafe {
                asm!(concat!("out dx, ", $reg), in("dx") port, in($reg) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}
port!(inb, outb, u8, "al");
port!(inw, outw, u16, "ax");
port!(inl, outl, u32, "eax");

/// Stops until the next interrupt, with interrupts on for just that time.
#[inline(always)]
pub fn wait_for_interrupt() {
    // SAFETY: the handlers run to completion on stacks of their own and return here; no lock is
    // held by the callers (the idle loop).
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Lets pending host interrupts in, at this one point.
#[inline(always)]
pub fn accept_interrupts() {
    // SAFETY: as for `wait_for_interrupt`; called by the run loop with no lock held.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) }
}

/// Stops this CPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: interrupts off, then halt: nothing runs here any more.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Writes back and invalidates all caches.
pub fn wbinvd() {
    // SAFETY: changes no visible memory.
    unsafe { asm!("wbinvd", options(nostack)) }
}

/// Writes a line of the caches back to memory, for devices that do not look into caches.
pub fn write_back(address: acrn_abi::Hpa) {
    // SAFETY: changes no visible memory; the hypervisor has all memory mapped at its address.
    unsafe { asm!("clflush [{}]", "mfence", in(reg) address.get(), options(nostack)) }
}

/// Width of physical addresses, in bits.
pub fn physical_address_bits() -> u32 {
    let max = cpuid(0x8000_0000, 0).eax;
    if max >= 0x8000_0008 {
        (cpuid(0x8000_0008, 0).eax & 0xff).clamp(32, 52)
    } else {
        36
    }
}

/// A processor feature by the words in which its absence is reported.
pub struct Feature {
    /// Name in the manuals.
    pub name: &'static str,
    /// Whether this processor has it.
    pub present: bool,
}

/// What the hypervisor needs of any processor; the vendor's virtualization comes on top.
pub fn required_features() -> [Feature; 7] {
    let one = cpuid(1, 0);
    let extended = cpuid(0x8000_0001, 0);
    let bit = |word: u32, n: u32| word >> n & 1 != 0;
    [
        Feature {
            name: "NX (execute disable)",
            present: bit(extended.edx, 20),
        },
        Feature {
            name: "APIC",
            present: bit(one.edx, 9),
        },
        Feature {
            name: "TSC",
            present: bit(one.edx, 4),
        },
        Feature {
            name: "MSR",
            present: bit(one.edx, 5),
        },
        Feature {
            name: "PAT",
            present: bit(one.edx, 16),
        },
        Feature {
            name: "FXSR",
            present: bit(one.edx, 24),
        },
        Feature {
            name: "SSE2",
            present: bit(one.edx, 26),
        },
    ]
}

/// Whether page tables may use 1 GiB pages.
pub fn has_gib_pages() -> bool {
    cpuid(0x8000_0001, 0).edx >> 26 & 1 != 0
}

/// Whether the processor has SMEP (execution prevention of user pages).
pub fn has_smep() -> bool {
    cpuid(0, 0).eax >= 7 && cpuid(7, 0).ebx >> 7 & 1 != 0
}

/// Whether the processor has SMAP (access prevention of user pages).
pub fn has_smap() -> bool {
    cpuid(0, 0).eax >= 7 && cpuid(7, 0).ebx >> 20 & 1 != 0
}

/// Whether the processor has XSAVE.
pub fn has_xsave() -> bool {
    cpuid(1, 0).ecx >> 26 & 1 != 0
}

/// Whether the local APIC can work in x2APIC mode.
pub fn has_x2apic() -> bool {
    cpuid(1, 0).ecx >> 21 & 1 != 0
}

/// Whether the local APIC's timer can be set by a value of the TSC.
pub fn has_tsc_deadline() -> bool {
    cpuid(1, 0).ecx >> 24 & 1 != 0
}
