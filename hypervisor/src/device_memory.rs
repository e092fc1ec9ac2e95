//! Device memory above all RAM, such as 64-bit BARs: the Service VM gets it at its first use.
//!
//! Nobody knows beforehand which of these addresses a device will answer to, and the address space
//! is too large to map all of it. What is mapped here may take a limited number of table frames:
//! a VM that touches more addresses loses the older mappings, which come back at their next use.
//! The frames of other VMs are out of its reach.

use crate::arch::cpu;
use crate::vcpu::Vcpu;
use crate::virt::NestedFault;
use crate::withheld::Withheld;
use crate::{memory, pci, virt};
use acrn_abi::{Gpa, Hpa};
use acrn_memory::{Access, MemType};
use core::sync::atomic::{AtomicU64, Ordering};

/// Most table frames for these mappings. In 2 MiB pages they reach over 120 GiB of BARs.
const MOST_FRAMES: u64 = 128;

/// Frames of the Service VM's table without these mappings.
static OTHER_FRAMES: AtomicU64 = AtomicU64::new(0);

/// Takes note of the frames that the Service VM's table has before the VM runs.
pub fn begin(frames: u64) {
    OTHER_FRAMES.store(frames, Ordering::Relaxed);
}

/// Maps the surroundings of an address that the Service VM has touched; `false` when that is not
/// device memory, or not the VM's.
#[inline]
pub fn map(vcpu: &Vcpu, fault: &NestedFault) -> bool {
    fault.gpa.0 >= memory::top() && map_around(vcpu, fault)
}

#[cold]
fn map_around(vcpu: &Vcpu, fault: &NestedFault) -> bool {
    let limit = 1u64 << cpu::physical_address_bits().min(48);
    let gpa = fault.gpa;
    if gpa.0 >= limit || fault.fetch || pci::is_mediated(gpa) {
        return false;
    }
    let vm = vcpu.vm();
    let crowded = {
        let guard = vm.nested.lock();
        let Some(table) = guard.as_ref() else {
            return false;
        };
        // Another CPU was faster.
        if table.translate(gpa).is_some() {
            return true;
        }
        let others = OTHER_FRAMES.load(Ordering::Relaxed);
        table.frames().saturating_sub(others) >= MOST_FRAMES
    };
    if crowded && !unmap_all(vcpu, limit) {
        return false;
    }
    let size: u64 = if virt::has_gib_pages() {
        1 << 30
    } else {
        2 << 20
    };
    let start = gpa.align_down(size).0;
    let end = (start + size).min(limit);
    let start = start.max(memory::top());
    let mut guard = vm.nested.lock();
    let Some(table) = guard.as_mut() else {
        return false;
    };
    pci::for_each_unmediated(start, end, |from, to| {
        let (gpa, hpa) = (Gpa(from), Hpa(from));
        let _ = table.map(gpa, hpa, to - from, Access::RW, MemType::Uncacheable);
    });
    // Without a frame for its table the address stays unmapped.
    table.translate(gpa).is_some()
}

/// Takes all device memory above RAM from the VM and its frames with it.
fn unmap_all(vcpu: &Vcpu, limit: u64) -> bool {
    let vm = vcpu.vm();
    let mut freed = Withheld::new();
    let top = memory::top();
    let done = {
        let mut guard = vm.nested.lock();
        let table = guard.as_mut();
        table.is_some_and(|table| table.unmap_later(Gpa(top), limit - top, &mut freed).is_ok())
    };
    vm.flush_translations(Some(vcpu));
    drop(freed);
    done
}
