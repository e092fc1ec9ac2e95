//! The memory of User VMs: pages that the Service VM lends.
//!
//! A page must be the Service VM's own, mapped there, and lent to nobody. It stays mapped in the
//! Service VM, whose Device Model works on it. Registers of devices are nobody's to lend: without
//! an IOMMU to confine the device they would give a User VM the whole machine.

use super::{Refusal, existing, read, slot};
use crate::memory::OWNERS;
use crate::user_vm;
use crate::vm::{self, Vm};
use crate::withheld::Withheld;
use acrn_abi::hypercall::{Errno, MemoryRegion, SetMemoryRegions};
use acrn_abi::{Gpa, Hpa, PAGE_SIZE, VmId};
use acrn_lifecycle::VmState;
use acrn_lifecycle::validate::{Change, MAX_REGIONS, Region};
use acrn_memory::{Access, MapError, MemType, Owner};
use arrayvec::ArrayVec;
use core::mem::size_of;
use core::sync::atomic::Ordering;
use zerocopy::IntoBytes;

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

/// VM_SET_MEMORY_REGIONS: all changes of the batch or, when one is refused, none of those that
/// add memory, because Linux then takes all pages of the batch back.
pub fn set_regions(block: Gpa) -> Result<u64, Refusal> {
    let batch: SetMemoryRegions = read(block)?;
    if batch.region_count > MAX_REGIONS {
        return Err(Refusal::new(Errno::EINVAL, "too many regions in one call"));
    }
    let vm = existing(VmId(batch.vmid))?;
    let state = vm.state.lock();
    if *state == VmState::PoweredOff {
        return Err(Refusal::NoVm(vm.id));
    }
    let mut applied = 0;
    let done = for_each_run(&batch, |run| {
        apply(vm, run)?;
        applied += 1;
        Ok(())
    });
    if done.is_err() {
        undo(vm, &batch, applied);
    }
    drop(state);
    done.map(|()| 0)
}

/// Shows the batch to `act`, neighbours joined: Linux sends a region for each 4 KiB page of
/// ordinary memory, and most of these continue the one before.
fn for_each_run(
    batch: &SetMemoryRegions,
    mut act: impl FnMut(&Region) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    const CHUNK: u32 = 64;
    let mut buffer = [MemoryRegion::default(); CHUNK as usize];
    let mut run: Option<Region> = None;
    for first in (0..batch.region_count).step_by(CHUNK as usize) {
        let count = CHUNK.min(batch.region_count - first) as usize;
        let array = Gpa(batch.regions_gpa);
        let offset = u64::from(first) * size_of::<MemoryRegion>() as u64;
        let at = array.checked_add(offset).ok_or(Refusal::Unmapped(array))?;
        let part = &mut buffer[..count];
        if !vm::service().read(at, part.as_mut_bytes()) {
            return Err(Refusal::Unmapped(at));
        }
        for block in part {
            let next = Region::new(block)?;
            if run.as_mut().is_some_and(|run| run.join(&next)) {
                continue;
            }
            if let Some(complete) = run.replace(next) {
                act(&complete)?;
            }
        }
    }
    run.as_ref().map_or(Ok(()), act)
}

fn apply(vm: &Vm, region: &Region) -> Result<(), Refusal> {
    match region.change {
        Change::Add {
            service,
            access,
            mem_type,
        } => add(vm, region, service, access, mem_type),
        Change::Delete => remove(vm, region.gpa, region.size),
    }
}

/// Takes the first `applied` runs of a batch back that added memory. The batch is read anew: if
/// the Service VM has changed it meanwhile, it has asked for other removals.
fn undo(vm: &Vm, batch: &SetMemoryRegions, mut applied: u32) {
    let _ = for_each_run(batch, |run| {
        if applied == 0 {
            return Err(Refusal::new(Errno::EINVAL, "all undone"));
        }
        applied -= 1;
        match run.change {
            Change::Add { .. } => remove(vm, run.gpa, run.size),
            Change::Delete => Ok(()),
        }
    });
}

fn add(
    vm: &Vm,
    region: &Region,
    from: Gpa,
    access: Access,
    mem_type: MemType,
) -> Result<(), Refusal> {
    let service = vm::service();
    let hpa = resolve(service, from, region.size, access)?;
    let mut guard = vm.nested.lock();
    let table = guard.as_mut().ok_or(Refusal::NoVm(vm.id))?;
    table.visit(region.gpa, region.size, |_| {
        Err(Refusal::new(
            Errno::EEXIST,
            "the User VM has memory there already",
        ))
    })?;
    let mut owners = OWNERS.lock();
    let owners = owners
        .as_mut()
        .ok_or(Refusal::new(Errno::ENOMEM, "no ownership map"))?;
    owners.lend(hpa, region.size, service.id, vm.id)?;
    let mapped = table.map(region.gpa, hpa, region.size, access, mem_type);
    if let Err(error) = mapped {
        let _ = owners.give_back(hpa, region.size, vm.id);
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

/// Unmaps what is mapped in a range and returns the pages: first no CPU can reach them any more,
/// then they are the Service VM's again.
fn remove(vm: &Vm, gpa: Gpa, size: u64) -> Result<(), Refusal> {
    let end = gpa.0 + size;
    let mut at = gpa.0;
    while at < end {
        let mut lent: ArrayVec<(Hpa, u64), 32> = ArrayVec::new();
        let mut stop = end;
        let mut freed = Withheld::new();
        {
            let mut guard = vm.nested.lock();
            let table = guard.as_mut().ok_or(Refusal::NoVm(vm.id))?;
            let seen = table.visit(Gpa(at), end - at, |piece| {
                if let Some((hpa, length)) = lent.last_mut() {
                    if hpa.0 + *length == piece.hpa.0 {
                        *length += piece.size;
                        return Ok(());
                    }
                }
                lent.try_push((piece.hpa, piece.size)).map_err(|_| {
                    stop = piece.gpa.0;
                    Stop::Enough
                })
            });
            if let Err(Stop::Failed(error)) = seen {
                return Err(error.into());
            }
            if lent.is_empty() {
                return Ok(());
            }
            table.unmap_later(Gpa(at), stop - at, &mut freed)?;
        }
        vm.flush_translations(None);
        drop(freed);
        if let Some(owners) = OWNERS.lock().as_mut() {
            for (hpa, length) in lent {
                owners.give_back(hpa, length, vm.id)?;
            }
        }
        at = stop;
    }
    Ok(())
}
