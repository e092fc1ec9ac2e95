//! Counters that are always there: exits by reason with their time, the last exits of each CPU.

use crate::arch::cpu::rdtsc;
use crate::virt::Exit;
use acrn_abi::VmId;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Exits of one vCPU by reason.
pub struct ExitStats {
    count: [AtomicU64; Exit::REASONS],
    ticks: [AtomicU64; Exit::REASONS],
}

impl ExitStats {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            count: [const { AtomicU64::new(0) }; Exit::REASONS],
            ticks: [const { AtomicU64::new(0) }; Exit::REASONS],
        }
    }

    /// Counts one exit that took `ticks` of the TSC. Only the vCPU's CPU writes.
    #[inline]
    pub fn add(&self, reason: usize, ticks: u64) {
        // Not read-modify-write: one writer, and readers accept any of the two values.
        let bump = |cell: &AtomicU64, by: u64| {
            cell.store(
                cell.load(Ordering::Relaxed).wrapping_add(by),
                Ordering::Relaxed,
            );
        };
        if reason < Exit::REASONS {
            bump(&self.count[reason], 1);
            bump(&self.ticks[reason], ticks);
        }
    }

    /// Count and TSC ticks of a reason.
    pub fn get(&self, reason: usize) -> (u64, u64) {
        (
            self.count[reason].load(Ordering::Relaxed),
            self.ticks[reason].load(Ordering::Relaxed),
        )
    }

    /// Forgets everything, for a VM that starts anew.
    pub fn clear(&self) {
        for cell in self.count.iter().chain(&self.ticks) {
            cell.store(0, Ordering::Relaxed);
        }
    }
}

/// Exits kept for a crash dump.
const KEPT: usize = 16;

/// The last exits of a CPU: reason, VM, vCPU, guest RIP.
pub struct ExitRing {
    entries: [[AtomicU64; 2]; KEPT],
    next: AtomicUsize,
}

impl ExitRing {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            entries: [const { [AtomicU64::new(0), AtomicU64::new(0)] }; KEPT],
            next: AtomicUsize::new(0),
        }
    }

    /// What stands for a vCPU in the ring.
    pub const fn tag(vm: u16, vcpu: u16) -> u64 {
        1 << 63 | (vm as u64) << 16 | vcpu as u64
    }

    /// Keeps one exit of the vCPU with this tag.
    #[inline]
    pub fn push(&self, reason: usize, tag: u64, rip: u64) {
        let next = self.next.load(Ordering::Relaxed);
        let entry = &self.entries[next % KEPT];
        entry[0].store((reason as u64) << 32 | tag, Ordering::Relaxed);
        entry[1].store(rip, Ordering::Relaxed);
        self.next.store(next.wrapping_add(1), Ordering::Relaxed);
    }

    fn for_each(&self, mut show: impl FnMut(usize, u16, u16, u64)) {
        let next = self.next.load(Ordering::Relaxed);
        for i in 0..KEPT {
            let entry = &self.entries[next.wrapping_add(i) % KEPT];
            let packed = entry[0].load(Ordering::Relaxed);
            if packed >> 63 != 0 {
                let reason = (packed >> 32 & 0xff) as usize;
                show(
                    reason,
                    (packed >> 16) as u16,
                    packed as u16,
                    entry[1].load(Ordering::Relaxed),
                );
            }
        }
    }
}

/// Prints the last exits of all CPUs, of the VMs that are `wanted`.
pub fn dump_last_exits(out: &mut dyn Write, wanted: impl Fn(VmId) -> bool) {
    for cpu in crate::percpu::all() {
        cpu.exits.for_each(|reason, vm, vcpu, rip| {
            if !wanted(VmId(vm)) {
                return;
            }
            let name = Exit::NAMES.get(reason).copied().unwrap_or("?");
            let _ = write!(
                out,
                "cpu{} last exit: {name} vm{vm} vcpu{vcpu} rip {rip:#x}\r\n",
                cpu.id()
            );
        });
    }
}

/// TSC at the first entry into a guest, for the boot figures.
pub static FIRST_ENTRY: AtomicU64 = AtomicU64::new(0);

/// Remembers the first entry.
#[inline]
pub fn mark_first_entry() {
    if FIRST_ENTRY.load(Ordering::Relaxed) == 0 {
        FIRST_ENTRY.store(rdtsc(), Ordering::Relaxed);
    }
}
