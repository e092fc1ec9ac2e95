//! The memory of User VMs: pages that the Service VM lends. [`super::batch`] has the call that
//! lends and takes them.
//!
//! A page must be the Service VM's own, mapped there, and lent to nobody. It stays mapped in the
//! Service VM, whose Device Model works on it. Memory without the right to execute is data that Device
//! Models may share between their VMs: it can be lent so to several of them, and to none in another
//! way. Registers of devices are nobody's to lend: by DMA they would give a User VM all that their
//! device reaches.

use super::{Refusal, read, slot};
use crate::memory::{self, OWNERS};
use crate::vm::{self, Vm};
use crate::withheld::Withheld;
use crate::{rings, user_vm, virtual_pci};
use acrn_abi::hypercall::Errno;
use acrn_abi::{Gpa, Hpa, PAGE_SIZE, VmId};
use acrn_lifecycle::VmState;
use acrn_memory::{Access, MapError, MemType, Owner};
use arrayvec::ArrayVec;
use core::sync::atomic::Ordering;

/// SET_IOREQ_BUFFER.
pub fn set_request_page(id: VmId, block: Gpa) -> Result<u64, Refusal> {
    let page = Gpa(read(block)?);
    let vm = slot(id)?;
    let state = vm.state.lock();
    if *state != VmState::Created {
        let reason = "the request page is set before the VM starts";
        return Err(Refusal::new(Errno::EINVAL, reason));
    }
    if !page.is_aligned(PAGE_SIZE) {
        return Err(Refusal::new(Errno::EINVAL, "the request page is no page"));
    }
    let service = vm::service();
    let hpa = service.translate(page).ok_or(Refusal::Unmapped(page))?;
    let owner = OWNERS.lock().as_ref().and_then(|owners| owners.owner(hpa));
    if owner != Some(Owner::Vm(service.id)) {
        let reason = "the request page is not the Service VM's own memory";
        return Err(Refusal::new(Errno::EACCES, reason));
    }
    user_vm::free_request_slots(hpa);
    vm.ioreq_page.store(hpa.0, Ordering::Release);
    drop(state);
    Ok(0)
}

/// Lends memory of the Service VM to a User VM, all of the range or nothing.
pub fn add(
    vm: &Vm,
    gpa: Gpa,
    size: u64,
    from: Gpa,
    access: Access,
    mem_type: MemType,
) -> Result<(), Refusal> {
    let service = vm::service();
    let hpa = resolve(service, from, size, access)?;
    let mut guard = vm.nested.lock();
    let table = guard.as_mut().ok_or(Refusal::NoVm(vm.id))?;
    table.visit(gpa, size, |_| {
        Err(Refusal::new(
            Errno::EEXIST,
            "the User VM has memory there already",
        ))
    })?;
    let mut owners = OWNERS.lock();
    let owners = owners
        .as_mut()
        .ok_or(Refusal::new(Errno::ENOMEM, "no ownership map"))?;
    match access.contains(Access::EXECUTE) {
        true => owners.lend(hpa, size, service.id, vm.id)?,
        false => owners.lend_jointly(hpa, size, service.id, vm.id)?,
    }
    let mapped = table.map(gpa, hpa, size, access, mem_type);
    if let Err(error) = mapped {
        let _ = owners.give_back(hpa, size, vm.id);
        return Err(error.into());
    }
    Ok(())
}

/// Host address of a range that the Service VM has mapped, all of it, with the rights that it
/// wants to pass on. It is mapped one to one, so that its ranges are ranges of the host too.
fn resolve(service: &Vm, gpa: Gpa, size: u64, access: Access) -> Result<Hpa, Refusal> {
    let guard = service.nested.lock();
    let table = guard.as_ref().ok_or(Refusal::Unmapped(gpa))?;
    let mut start = Hpa(0);
    let mut covered = 0;
    table.visit(gpa, size, |piece| {
        if covered == 0 {
            start = piece.hpa;
        }
        let follows = gpa.checked_add(covered) == Some(piece.gpa)
            && start.checked_add(covered) == Some(piece.hpa);
        if !follows || !piece.access.contains(access & Access::RW) {
            return Err(Refusal::Unmapped(piece.gpa));
        }
        covered += piece.size;
        Ok(())
    })?;
    if covered == size {
        Ok(start)
    } else {
        Err(Refusal::Unmapped(Gpa(gpa.0 + covered)))
    }
}

/// Ends a visit that has found enough, or failed.
enum Stop {
    Enough,
    Failed(MapError),
}

impl From<MapError> for Stop {
    fn from(error: MapError) -> Self {
        Self::Failed(error)
    }
}

/// Most pieces of memory that [`remove`] takes at a time, and most pages.
const PIECES: usize = 128;
const PAGES: u64 = 4096;

/// Unmaps what is mapped in a range and returns the pages: first no CPU can reach them any more,
/// then they are the Service VM's again. Memory that VMs share is nobody's to return: it is passed over. Comes to the end of a bounded number of pages and tells
/// how many bytes of the range are done.
pub fn remove(vm: &Vm, gpa: Gpa, size: u64, spent: &mut u64) -> Result<u64, Refusal> {
    if vm.is_observer() {
        rings::withdraw_all(vm.id);
    }
    let mut lent: ArrayVec<(Hpa, u64), PIECES> = ArrayVec::new();
    let mut done = size;
    let mut seen = 0;
    let mut freed = Withheld::new();
    let shares = virtual_pci::any(vm);
    {
        let mut guard = vm.nested.lock();
        let table = guard.as_mut().ok_or(Refusal::NoVm(vm.id))?;
        let visited = table.visit(gpa, size, |piece| {
            if seen == PAGES {
                done = piece.gpa.0 - gpa.0;
                return Err(Stop::Enough);
            }
            seen += 1;
            if shares && memory::is_shared(piece.hpa) {
                return Ok(());
            }
            if let Some((hpa, length)) = lent.last_mut() {
                if hpa.0 + *length == piece.hpa.0 {
                    *length += piece.size;
                    return Ok(());
                }
            }
            lent.try_push((piece.hpa, piece.size)).map_err(|_| {
                done = piece.gpa.0 - gpa.0;
                Stop::Enough
            })
        });
        if let Err(Stop::Failed(error)) = visited {
            return Err(error.into());
        }
        if lent.is_empty() {
            return Ok(size);
        }
        table.unmap_later(gpa, done, &mut freed)?;
    }
    vm.flush_translations(None);
    drop(freed);
    *spent += 64 + seen / 8;
    if let Some(owners) = OWNERS.lock().as_mut() {
        for (hpa, length) in lent {
            *spent += length >> 21;
            owners.give_back(hpa, length, vm.id)?;
        }
    }
    Ok(done)
}
