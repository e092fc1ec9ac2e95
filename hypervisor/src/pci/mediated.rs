//! Which pages of device memory the Service VM reaches only by emulation, and where the BARs of a
//! guest may lie.
//!
//! Locks are taken in the order functions, nested tables, and then this module's list, which is
//! held for no call to anywhere else.

use super::host;
use crate::arch::{apic, ioapic};
use crate::memory;
use crate::vcpu::Vcpu;
use crate::virt::NestedTable;
use crate::vm::Vm;
use crate::withheld::Withheld;
use acrn_abi::{Bdf, Gpa, Hpa, PAGE_SIZE};
use acrn_memory::{Access, MemType, Owner};
use arrayvec::ArrayVec;
use spin::Mutex;

/// Whole pages: first address and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    start: u64,
    end: u64,
}

impl Pages {
    /// The pages that `size` bytes at `start` touch; `None` beyond the address space.
    pub fn around(start: u64, size: u64) -> Option<Self> {
        let end = start
            .checked_add(size)?
            .checked_next_multiple_of(PAGE_SIZE)?;
        let start = start & !(PAGE_SIZE - 1);
        Some(Self { start, end })
    }

    /// The part of `start..end` that is in them; at its end when nothing is.
    pub fn within(&self, start: u64, end: u64) -> (u64, u64) {
        match self.overlaps(start, end) {
            true => (self.start.max(start), self.end.min(end)),
            false => (end, end),
        }
    }

    fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end
    }
}

/// What is hidden from all guests, without anything that answers for it.
static HIDDEN: Mutex<ArrayVec<Pages, 32>> = Mutex::new(ArrayVec::new_const());
/// MSI-X tables by function. While a BAR moves a function has two ranges.
static TABLES: Mutex<ArrayVec<(Bdf, Pages), { 2 * super::MAX_FUNCTIONS }>> =
    Mutex::new(ArrayVec::new_const());

/// BARs of virtual functions of the Service VM.
static VIRTUAL: Mutex<ArrayVec<(Bdf, Pages), { 3 * crate::virtual_pci::MAX_FUNCTIONS }>> =
    Mutex::new(ArrayVec::new_const());

/// Hides device memory of the hypervisor itself.
pub fn hide(pages: Pages) {
    if HIDDEN.lock().try_push(pages).is_err() {
        crate::warning!(
            "PCI: {:#x} cannot be hidden from the Service VM",
            pages.start
        );
    }
}

/// Whether an address is hidden.
pub fn is_hidden(gpa: Gpa) -> bool {
    HIDDEN.lock().iter().any(|pages| pages.contains(gpa.0))
}

/// Whether an address is on a page with an MSI-X table.
pub fn holds_table(gpa: Gpa) -> bool {
    TABLES.lock().iter().any(|(_, pages)| pages.contains(gpa.0))
}

/// The functions with a table on the page of an address; BARs below 4 KiB can share one.
pub fn functions_at(gpa: Gpa) -> ArrayVec<Bdf, 8> {
    let tables = TABLES.lock();
    let here = tables.iter().filter(|(_, pages)| pages.contains(gpa.0));
    here.map(|(bdf, _)| *bdf).take(8).collect()
}

/// Whether an address may not be mapped for the Service VM.
pub fn is_mediated(gpa: Gpa) -> bool {
    host::window_at(gpa).is_some() || holds_table(gpa) || is_hidden(gpa) || is_virtual(gpa)
}

fn is_virtual(gpa: Gpa) -> bool {
    VIRTUAL
        .lock()
        .iter()
        .any(|(_, pages)| pages.contains(gpa.0))
}

/// Takes what is mediated out of a range of a VM's memory. `freed` has to live until no CPU uses
/// the old translations any more. `false` when there is no memory for the tables that this takes.
pub fn exclude(table: &mut NestedTable, start: Gpa, size: u64, freed: &mut Withheld) -> bool {
    let end = start.0.saturating_add(size);
    let mut done = true;
    for_each(|from, to| {
        let (from, to) = (from.max(start.0), to.min(end));
        done &= from >= to || table.unmap_later(Gpa(from), to - from, freed).is_ok();
    });
    done
}

/// Shows every range that is mediated. The list of tables is held meanwhile.
fn for_each(mut show: impl FnMut(u64, u64)) {
    for window in host::windows() {
        let (from, size) = window.extent();
        show(from, from + size);
    }
    for pages in HIDDEN.lock().iter() {
        show(pages.start, pages.end);
    }
    for (_, pages) in TABLES.lock().iter().chain(VIRTUAL.lock().iter()) {
        show(pages.start, pages.end);
    }
}

/// Shows the parts of `start..end` that are not mediated. The caller holds the nested tables, so
/// that nothing becomes mediated meanwhile.
pub fn for_each_other(start: u64, end: u64, mut show: impl FnMut(u64, u64)) {
    let mut at = start;
    while at < end {
        // The first range that ends behind this place.
        let mut next = (end, end);
        for_each(|from, to| {
            if to > at && from < next.0 {
                next = (from, to);
            }
        });
        if at < next.0 {
            show(at, next.0);
        }
        at = next.1;
    }
}

/// A function's table is at `pages` while the VM is not running yet.
pub fn add_at_boot(bdf: Bdf, pages: Pages) {
    let _ = TABLES.lock().try_push((bdf, pages));
}

/// Whether a function's table is known to be at `pages`.
pub fn is_added(bdf: Bdf, pages: Pages) -> bool {
    TABLES.lock().contains(&(bdf, pages))
}

/// Takes `pages` from the VM, which is about to put a function's table there. No lock may be
/// held. `false` when that is impossible.
pub fn add(vm: &Vm, caller: &Vcpu, bdf: Bdf, pages: Pages) -> bool {
    let mut freed = Withheld::new();
    {
        let mut guard = vm.nested.lock();
        if TABLES.lock().try_push((bdf, pages)).is_err() {
            return false;
        }
        // Lazily mapped memory above the top may have no entry yet: there is nothing to take.
        let size = pages.end - pages.start;
        let done = guard
            .as_mut()
            .is_none_or(|table| exclude(table, Gpa(pages.start), size, &mut freed));
        if !done {
            TABLES.lock().retain(|entry| *entry != (bdf, pages));
            return false;
        }
    }
    vm.flush_translations(Some(caller));
    drop(freed);
    true
}

/// A function's table is at `pages` now and nowhere else: gives other pages back to the VM.
pub fn settle(vm: &Vm, bdf: Bdf, pages: Option<Pages>) {
    let mut guard = vm.nested.lock();
    let mut old: ArrayVec<Pages, 8> = ArrayVec::new();
    TABLES.lock().retain(|(owner, at)| {
        let leaves = *owner == bdf && Some(*at) != pages && old.try_push(*at).is_ok();
        !leaves
    });
    let Some(table) = guard.as_mut() else { return };
    old.into_iter().for_each(|range| give_back(table, range));
}

/// BARs of a virtual function are at `now` and nowhere else: takes their pages from the VM and gives
/// others back. The translations have to be flushed before `freed` is dropped.
pub fn move_virtual(vm: &Vm, bdf: Bdf, now: &[(u64, u64)], freed: &mut Withheld) {
    let mut guard = vm.nested.lock();
    let mut old: ArrayVec<Pages, 3> = ArrayVec::new();
    {
        let mut list = VIRTUAL.lock();
        list.retain(|(owner, at)| !(*owner == bdf && old.try_push(*at).is_ok()));
        let room = list.remaining_capacity();
        let pages = now
            .iter()
            .filter_map(|(at, size)| Pages::around(*at, *size));
        list.extend(pages.map(|pages| (bdf, pages)).take(room));
    }
    let Some(table) = guard.as_mut() else { return };
    old.into_iter().for_each(|range| give_back(table, range));
    for pages in now
        .iter()
        .filter_map(|(at, size)| Pages::around(*at, *size))
    {
        exclude(table, Gpa(pages.start), pages.end - pages.start, freed);
    }
}

/// Gives pages that are not mediated any more back to the VM.
fn give_back(table: &mut NestedTable, range: Pages) {
    for page in (range.start..range.end).step_by(PAGE_SIZE as usize) {
        // Above the top they are mapped again at their next use.
        if page < memory::top() && !is_mediated(Gpa(page)) && may_decode(page, PAGE_SIZE) {
            let (gpa, hpa) = (Gpa(page), Hpa(page));
            let _ = table.map(gpa, hpa, PAGE_SIZE, Access::RW, MemType::Uncacheable);
        }
    }
}

/// Whether a guest may let a function decode these addresses: neither memory nor the
/// hypervisor's devices nor the interrupt messages.
pub fn may_decode(start: u64, size: u64) -> bool {
    const MESSAGES: (u64, u64) = (apic::XAPIC_BASE, apic::XAPIC_BASE + (1 << 20));
    let Some(pages) = Pages::around(start, size) else {
        return false;
    };
    let windows = host::windows().iter().map(|w| w.extent());
    let controllers = ioapic::controllers().iter().map(|c| (c.base, PAGE_SIZE));
    let taken = pages.overlaps(MESSAGES.0, MESSAGES.1)
        || windows
            .chain(controllers)
            .any(|(at, size)| pages.overlaps(at, at + size))
        || HIDDEN.lock().iter().any(|h| pages.overlaps(h.start, h.end));
    if taken {
        return false;
    }
    let end = pages.end.min(memory::top());
    if pages.start >= end {
        return true;
    }
    memory::OWNERS.lock().as_ref().is_none_or(|owners| {
        let is_device = |owner| owner == Owner::Device;
        owners
            .check_range(Hpa(pages.start), end - pages.start, is_device)
            .is_ok()
    })
}
