//! VM_SET_MEMORY_REGIONS: up to [`MAX_REGIONS`] changes of a User VM's memory in one call.
//!
//! So many take longer than a CPU may be away from its interrupts and its other vCPUs. The call is
//! done in steps: when a step has not come to the end, the caller's instruction pointer stays on
//! the hypercall, interrupts come in, and the instruction is executed again, as a repeated string
//! instruction would be. Linux may go on with it on another CPU, so what has been done is kept
//! with the VM that is changed, not with the caller.
//!
//! Either all changes of a call are made or none that adds memory, because Linux then takes all
//! pages of the batch back. The list of regions is read anew in each step: when the Service VM
//! changes it meanwhile, it has asked for other changes.

use super::memory::{add, remove};
use super::{Outcome, Refusal, may_reach, read, slot};
use crate::arch::{cpu, tsc};
use crate::vm::{self, Vm};
use acrn_abi::hypercall::{Errno, MemoryRegion, SetMemoryRegions};
use acrn_abi::{Gpa, VmId};
use acrn_lifecycle::VmState;
use acrn_lifecycle::validate::{Change, MAX_REGIONS, Region};
use core::mem::size_of;
use zerocopy::IntoBytes;

/// Cost of a step at most, in regions looked at; some 100 microseconds.
const STEP: u64 = 2048;
/// Cost of carrying one change out.
const ACT: u64 = 32;
/// A batch without a step for so long is forgotten when another one comes, in milliseconds.
const PATIENCE_MS: u64 = 1000;
const MIB: u64 = 1 << 20;

/// A call that has not come to its end.
pub struct Batch {
    block: Gpa,
    header: SetMemoryRegions,
    /// First region that is not done.
    next: u32,
    /// Bytes done of the run that begins there.
    offset: u64,
    /// Why what was added is being taken back, and how many regions that concerns.
    failed: Option<(Refusal, u32)>,
    /// TSC after the last step.
    seen: u64,
}

/// VM_SET_MEMORY_REGIONS, or its next step.
pub fn set_regions(block: Gpa) -> Result<Outcome, Refusal> {
    let header: SetMemoryRegions = read(block)?;
    if header.region_count > MAX_REGIONS {
        return Err(Refusal::new(Errno::EINVAL, "too many regions in one call"));
    }
    let vm = slot(VmId(header.vmid))?;
    let state = vm.state.lock();
    if *state == VmState::PoweredOff {
        return Err(Refusal::NoVm(vm.id));
    }
    if *state == VmState::Running {
        may_reach(vm)?;
    }
    let mut kept = vm.batch.lock();
    let mut batch = match kept.take() {
        Some(batch) if batch.block == block && batch.header.as_bytes() == header.as_bytes() => {
            batch
        }
        // One after the other. The caller's interrupts let the other one go on.
        Some(batch) if cpu::rdtsc().wrapping_sub(batch.seen) < tsc::from_ms(PATIENCE_MS) => {
            *kept = Some(batch);
            return Ok(Outcome::Again);
        }
        _ => Batch::new(block, header),
    };
    let complete = batch.step(vm)?;
    if complete {
        return Ok(Outcome::Done(0));
    }
    batch.seen = cpu::rdtsc();
    *kept = Some(batch);
    Ok(Outcome::Again)
}

impl Batch {
    const fn new(block: Gpa, header: SetMemoryRegions) -> Self {
        Self {
            block,
            header,
            next: 0,
            offset: 0,
            failed: None,
            seen: 0,
        }
    }

    /// Does a bounded part of the work; `true` when all of it is done.
    fn step(&mut self, vm: &Vm) -> Result<bool, Refusal> {
        if self.failed.is_none() {
            match self.forward(vm) {
                Ok(complete) => return Ok(complete),
                Err(refusal) => {
                    let partly = u32::from(self.offset != 0);
                    self.failed = Some((refusal, self.next.saturating_add(partly)));
                    (self.next, self.offset) = (0, 0);
                }
            }
        }
        match self.failed {
            Some((refusal, end)) => self
                .backward(vm, end)
                .and_then(|done| if done { Err(refusal) } else { Ok(false) }),
            None => Ok(true),
        }
    }

    fn forward(&mut self, vm: &Vm) -> Result<bool, Refusal> {
        let mut list = List::new(&self.header);
        let mut spent = 0;
        while self.next < self.header.region_count {
            if spent >= STEP {
                return Ok(false);
            }
            let (run, end) = self.run(&mut list, &mut spent)?;
            if self.offset < run.size {
                self.offset += act(vm, &run, self.offset, &mut spent)?;
            }
            if self.offset >= run.size {
                (self.next, self.offset) = (end, 0);
            }
        }
        Ok(true)
    }

    /// The next region with its neighbours joined, and the number of the one behind: Linux sends
    /// a region for each 4 KiB page of ordinary memory, and most of these continue the one before.
    fn run(&self, list: &mut List, spent: &mut u64) -> Result<(Region, u32), Refusal> {
        let mut run = list.get(self.next)?;
        let mut end = self.next + 1;
        *spent += 1;
        while end < self.header.region_count && *spent < STEP {
            if !run.join(&list.get(end)?) {
                break;
            }
            end += 1;
            *spent += 1;
        }
        Ok((run, end))
    }

    /// Takes the regions before `limit` back that add memory.
    fn backward(&mut self, vm: &Vm, limit: u32) -> Result<bool, Refusal> {
        let mut list = List::new(&self.header);
        let mut spent = 0;
        while self.next < limit.min(self.header.region_count) {
            if spent >= STEP {
                return Ok(false);
            }
            spent += 1;
            let region = list.get(self.next)?;
            let added = matches!(region.change, Change::Add { .. });
            if added && self.offset < region.size {
                let at = Gpa(region.gpa.0 + self.offset);
                self.offset += remove(vm, at, region.size - self.offset, &mut spent)?;
            }
            if !added || self.offset >= region.size {
                (self.next, self.offset) = (self.next + 1, 0);
            }
        }
        Ok(true)
    }
}

/// Carries a part of a change out, from `offset` on; the bytes that are done then.
fn act(vm: &Vm, run: &Region, offset: u64, spent: &mut u64) -> Result<u64, Refusal> {
    *spent += ACT;
    let (gpa, left) = (Gpa(run.gpa.0 + offset), run.size - offset);
    match run.change {
        Change::Add {
            service,
            access,
            mem_type,
        } => {
            let from = Gpa(service.0 + offset);
            // Small pages cost more than large ones.
            let large = (gpa.0 ^ from.0) % (2 * MIB) == 0;
            let most = if large { 1024 * MIB } else { 64 * MIB };
            let size = left.min(most - gpa.0 % most);
            *spent += size / if large { 2 * MIB } else { MIB / 32 };
            add(vm, gpa, size, from, access, mem_type)?;
            Ok(size)
        }
        Change::Delete => remove(vm, gpa, left, spent),
    }
}

/// The list of regions in the Service VM's memory, read in parts.
struct List {
    array: Gpa,
    part: [MemoryRegion; Self::PART as usize],
    /// First and number of those in `part`.
    first: u32,
    count: u32,
    total: u32,
}

impl List {
    const PART: u32 = 64;

    fn new(header: &SetMemoryRegions) -> Self {
        Self {
            array: Gpa(header.regions_gpa),
            part: [MemoryRegion::default(); Self::PART as usize],
            first: 0,
            count: 0,
            total: header.region_count,
        }
    }

    fn get(&mut self, index: u32) -> Result<Region, Refusal> {
        let known = self.first..self.first + self.count;
        if !known.contains(&index) {
            self.load(index)?;
        }
        let block = self.part.get((index - self.first) as usize);
        let block = block.ok_or(Refusal::Unmapped(self.array))?;
        Ok(Region::new(block)?)
    }

    fn load(&mut self, first: u32) -> Result<(), Refusal> {
        (self.first, self.count) = (first, 0);
        let count = Self::PART.min(self.total - first);
        let offset = u64::from(first) * size_of::<MemoryRegion>() as u64;
        let at = self.array.checked_add(offset);
        let at = at.ok_or(Refusal::Unmapped(self.array))?;
        let part = self.part[..count as usize].as_mut_bytes();
        if !vm::service().read(at, part) {
            return Err(Refusal::Unmapped(at));
        }
        self.count = count;
        Ok(())
    }
}
