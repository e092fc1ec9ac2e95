//! Rules about memory.

use super::{Context, Hits, Rule, error, vm_path, warning};
use crate::board::Ram;
use crate::scenario::{HpaRegion, Vm};
use acrn_config_blob::{LoadOrder, MAX_MEMORY_REGIONS};

/// Memory is given in pieces of 2 MiB.
const PIECE: u64 = 2 << 20;

pub(super) const RULES: &[Rule] = &[
    warning(
        "memory-sum",
        "all VMs together have no more memory than the board",
        "give some VMs less",
        memory_sum,
    ),
    error(
        "memory-size",
        "the memory of a VM is some multiple of 2 MiB",
        "write an even number of MiB",
        memory_size,
    ),
    error(
        "memory-region",
        "a piece of host memory begins at a multiple of 2 MiB and is a multiple of 2 MiB",
        "round start_hpa and size_hpa",
        memory_region,
    ),
    error(
        "memory-region-ram",
        "a piece of host memory is RAM of the board",
        "choose a range within the board file's memory ranges",
        region_ram,
    ),
    error(
        "memory-region-once",
        "a piece of host memory belongs to one VM",
        "move one of the two",
        region_once,
    ),
    error(
        "memory-region-count",
        "a VM has at most 16 pieces of host memory",
        "join pieces",
        region_count,
    ),
    error(
        "epc-pages",
        "the enclave page cache is whole pages",
        "write multiples of 0x1000",
        epc_pages,
    ),
];

/// The size of a VM's memory, in MiB. Where pieces of host memory are given, they are the memory.
pub fn megabytes(vm: &Vm) -> i64 {
    match vm.memory.regions.as_slice() {
        [] => vm.memory.size,
        regions => regions
            .iter()
            .fold(0, |sum, region| sum.saturating_add(region.size)),
    }
}

/// A piece of host memory in bytes; `None` when it goes beyond the address space.
pub(crate) fn range(region: &HpaRegion) -> Option<Ram> {
    let size = u64::try_from(region.size).ok()?.checked_mul(1 << 20)?;
    region.start.0.checked_add(size)?;
    Some(Ram {
        start: region.start.0,
        size,
    })
}

fn each_region<'c>(c: &'c Context<'_>) -> impl Iterator<Item = (String, &'c Vm, &'c HpaRegion)> {
    c.scenario
        .vms_of(LoadOrder::PreLaunched)
        .flat_map(|(index, vm)| {
            let regions = vm.memory.regions.iter().enumerate();
            regions.map(move |(place, region)| {
                (
                    format!("{}/memory/hpa_region[{}]", vm_path(index), place + 1),
                    vm,
                    region,
                )
            })
        })
}

fn memory_sum(c: &Context<'_>, hits: &mut Hits) {
    let users = c
        .scenario
        .vms
        .iter()
        .filter(|vm| vm.load_order != LoadOrder::Service);
    let sum = users.map(megabytes).fold(0i64, i64::saturating_add);
    let board = c.board.memory_size() >> 20;
    if sum.max(0) as u64 > board {
        hits.add(
            "vm",
            format!("all VMs together have {sum} MiB, the board has {board} MiB"),
        );
    }
}

fn memory_size(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        let size = megabytes(vm);
        if vm.load_order != LoadOrder::Service && (size <= 0 || size % 2 != 0) {
            hits.add(
                vm_path(index) + "/memory/size",
                format!("VM {} has {size} MiB", vm.name),
            );
        }
    }
}

fn memory_region(c: &Context<'_>, hits: &mut Hits) {
    for (path, vm, region) in each_region(c) {
        let right = range(region).is_some_and(|r| r.size > 0 && (r.start | r.size) % PIECE == 0);
        if !right {
            let message = format!(
                "VM {} has {} MiB at {:#x}",
                vm.name, region.size, region.start.0
            );
            hits.add(path, message);
        }
    }
}

fn region_ram(c: &Context<'_>, hits: &mut Hits) {
    let ram = c.board.ram();
    for (path, vm, region) in each_region(c) {
        let Some(range) = range(region) else { continue };
        let there = ram
            .iter()
            .any(|ram| ram.start <= range.start && range.end() <= ram.end());
        if !there {
            let message = format!(
                "{:#x} to {:#x} for VM {} is not RAM",
                range.start,
                range.end(),
                vm.name
            );
            hits.add(path, message);
        }
    }
}

fn region_once(c: &Context<'_>, hits: &mut Hits) {
    let regions: Vec<_> = each_region(c).collect();
    for (place, (path, vm, region)) in regions.iter().enumerate() {
        let overlaps = |other: &HpaRegion| match (range(region), range(other)) {
            (Some(a), Some(b)) => a.start < b.end() && b.start < a.end(),
            _ => false,
        };
        if let Some((_, other, _)) = regions[..place].iter().find(|(.., other)| overlaps(other)) {
            let message = format!(
                "memory at {:#x} of VM {} is VM {}'s too",
                region.start.0, vm.name, other.name
            );
            hits.add(path.clone(), message);
        }
    }
}

fn region_count(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms_of(LoadOrder::PreLaunched) {
        let count = vm.memory.regions.len();
        if count > MAX_MEMORY_REGIONS {
            hits.add(
                vm_path(index) + "/memory",
                format!("VM {} has {count} pieces", vm.name),
            );
        }
    }
}

fn epc_pages(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        let (base, size) = (vm.epc.base.0, vm.epc.size.0);
        if (base | size) % 0x1000 != 0 || base.checked_add(size).is_none() {
            let message = format!("VM {} has {size:#x} bytes at {base:#x}", vm.name);
            hits.add(vm_path(index) + "/epc_section", message);
        }
    }
}
