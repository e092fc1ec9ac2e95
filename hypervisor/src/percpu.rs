//! Data of each physical CPU, found through the GS base.

use crate::arch::{cpu, segment::Segments};
use crate::run_queue::RunQueue;
use acrn_abi::PcpuId;
use bitflags::bitflags;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use spin::Mutex;

/// Most physical CPUs that are used; further ones stay off.
pub const MAX_CPUS: usize = 16;

/// A page for hardware.
#[repr(C, align(4096))]
pub struct Page([u8; 4096]);

impl Page {
    /// Zeros.
    pub const fn new() -> Self {
        Self([0; 4096])
    }

    /// The 32-bit word at a multiple of 4.
    #[inline]
    pub fn word(&self, offset: usize) -> u32 {
        let bytes = &self.0[offset..offset + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Sets the 32-bit word at a multiple of 4.
    #[inline]
    pub fn set_word(&mut self, offset: usize, value: u32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

bitflags! {
    /// What calls the run loop from its fast path. One byte, so that the loop looks once.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Calls: u8 {
        /// There is something else to do: wake, membership, timer.
        const ATTENTION = 1 << 0;
        /// Somebody reads the trace.
        const TRACE = 1 << 1;
    }
}

impl Calls {
    /// Nothing.
    pub const NONE: Self = Self::empty();
}

/// One physical CPU.
#[repr(C, align(4096))]
pub struct PerCpu {
    /// Own address, read through GS.
    this: AtomicU64,
    id: AtomicU32,
    /// Local APIC id.
    pub apic_id: AtomicU32,
    /// Set once it runs its loop.
    pub online: AtomicBool,
    /// Bit n: the vCPU in slot n of the run queue has something to do. Set by any CPU.
    pub wake: AtomicU32,
    /// What calls the run loop from its fast path: [`Calls`].
    calls: AtomicU8,
    /// Somebody reads its log lines.
    pub logged: AtomicBool,
    /// A guest has its local APIC ([`crate::lapic_passthrough`]): it is called by NMI.
    pub apic_given: AtomicBool,
    /// What comes as NMI is such a call.
    pub nmi_is_call: AtomicBool,
    /// Interrupt counters by vector.
    pub interrupts: [AtomicU64; 256],
    /// Last exits, for crash dumps.
    pub exits: crate::stats::ExitRing,
    segments: UnsafeCell<Segments>,
    /// Vendor's host state page (VMSAVE area, VMXON region).
    pub host_state: UnsafeCell<Page>,
    /// VM_HSAVE_PA area.
    pub host_save: UnsafeCell<Page>,
}

// SAFETY: the UnsafeCells are touched by the CPU that the entry belongs to alone; the rest is
// atomics and locks.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    const fn new() -> Self {
        Self {
            this: AtomicU64::new(0),
            id: AtomicU32::new(0),
            apic_id: AtomicU32::new(0),
            online: AtomicBool::new(false),
            wake: AtomicU32::new(0),
            calls: AtomicU8::new(0),
            logged: AtomicBool::new(false),
            apic_given: AtomicBool::new(false),
            nmi_is_call: AtomicBool::new(false),
            interrupts: [const { AtomicU64::new(0) }; 256],
            exits: crate::stats::ExitRing::new(),
            segments: UnsafeCell::new(Segments::new()),
            host_state: UnsafeCell::new(Page::new()),
            host_save: UnsafeCell::new(Page::new()),
        }
    }

    /// vCPUs of this CPU.
    pub fn queue(&self) -> &'static Mutex<RunQueue> {
        &QUEUES[self.id().index()]
    }

    /// Whether somebody reads its trace.
    #[inline(always)]
    pub fn is_traced(&self) -> bool {
        self.calls().contains(Calls::TRACE)
    }

    /// What calls the run loop from its fast path.
    #[inline(always)]
    pub fn calls(&self) -> Calls {
        Calls::from_bits_retain(self.calls.load(Ordering::SeqCst))
    }

    /// Calls the run loop from its fast path.
    pub fn call(&self, why: Calls) {
        self.calls.fetch_or(why.bits(), Ordering::SeqCst);
    }

    /// Ends a call.
    pub fn end_call(&self, why: Calls) {
        self.calls.fetch_and(!why.bits(), Ordering::SeqCst);
    }

    /// Whether a guest has its local APIC.
    #[inline(always)]
    pub fn is_apic_given(&self) -> bool {
        self.apic_given.load(Ordering::SeqCst)
    }

    /// Number of the CPU.
    pub fn id(&self) -> PcpuId {
        PcpuId(self.id.load(Ordering::Relaxed) as u16)
    }
}

/// Apart from the rest, whose initial value is zero and so takes no room in the image.
static QUEUES: [Mutex<RunQueue>; MAX_CPUS] = [const { Mutex::new(RunQueue::new()) }; MAX_CPUS];

static CPUS: [PerCpu; MAX_CPUS] = [const { PerCpu::new() }; MAX_CPUS];
static COUNT: AtomicU32 = AtomicU32::new(1);

/// Makes the calling CPU number `id`: tables, GS base.
pub fn install(id: PcpuId) {
    let entry = &CPUS[id.index()];
    entry
        .this
        .store(&raw const *entry as u64, Ordering::Relaxed);
    entry.id.store(id.0.into(), Ordering::Relaxed);
    // SAFETY: each CPU calls this once with a number of its own, so it alone uses the segments;
    // nothing used GS before.
    unsafe {
        (*entry.segments.get()).load();
        cpu::wrmsr(cpu::msr::GS_BASE, &raw const *entry as u64);
    }
    crate::arch::exception::load_table();
}

/// The calling CPU.
#[inline(always)]
pub fn current() -> &'static PerCpu {
    let address: u64;
    // SAFETY: `install` has run: GS points at an entry of CPUS, whose first field is its address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) address, options(nostack, readonly, preserves_flags));
        &*(address as *const PerCpu)
    }
}

/// Number of the calling CPU.
#[inline(always)]
pub fn current_id() -> PcpuId {
    current().id()
}

/// A CPU by number.
pub fn get(id: PcpuId) -> &'static PerCpu {
    &CPUS[id.index()]
}

/// All CPUs that were found.
pub fn all() -> &'static [PerCpu] {
    &CPUS[..COUNT.load(Ordering::Relaxed) as usize]
}

/// Sets the number of CPUs, once, at boot.
pub fn set_count(count: usize) {
    COUNT.store(count.min(MAX_CPUS) as u32, Ordering::Relaxed);
}
