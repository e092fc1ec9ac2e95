//! Host memory of pre-launched VMs, huge pages for post-launched ones, memory of the hypervisor.

use super::{AllocError, HYPERVISOR, Notes, Window, region};
use crate::Scenario;
use crate::board::Ram;
use crate::scenario::Vm;
use crate::validate::{megabytes, range};
use acrn_config_blob::{LoadOrder, MAX_MEMORY_REGIONS, MemoryRegion};

const MIB: u64 = 1 << 20;
/// Memory is given in pieces of 2 MiB, so that it can be mapped in large pages.
const PIECE: u64 = 2 * MIB;
/// Below, firmware, boot modules and the hypervisor have their places.
const LOWEST: u64 = 4096 * MIB;
/// What the Service VM keeps of the memory above 4 GiB for itself.
const SERVICE_SHARE: u64 = 5120 * MIB;
/// Memory of the Service VM for a virtual graphics card.
const GPU_SHARE: u64 = 300 * MIB;

/// Huge pages that the Service VM's kernel reserves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Of 1 GiB.
    pub of_1g: u32,
    /// Of 2 MiB.
    pub of_2m: u32,
}

/// Host memory of each VM, empty for those that are not pre-launched. What the scenario names comes
/// first; the rest is cut from RAM above 4 GiB, in order.
pub fn place_memory(
    ram: &[Ram],
    scenario: &Scenario,
    notes: &mut Notes,
) -> Result<Vec<Vec<MemoryRegion>>, AllocError> {
    let mut windows: Vec<_> = ram
        .iter()
        .map(|ram| Window::new(ram.start, ram.end()))
        .collect();
    let mut memory = vec![Vec::new(); scenario.vms.len()];
    for (index, vm) in scenario.vms_of(LoadOrder::PreLaunched) {
        memory[index] = named(vm, &mut windows, notes)?;
    }
    let mut high: Vec<_> = windows.into_iter().map(above).collect();
    for (index, vm) in scenario.vms_of(LoadOrder::PreLaunched) {
        if memory[index].is_empty() {
            memory[index] = chosen(vm, &mut high, notes)?;
        }
    }
    Ok(memory)
}

fn named(
    vm: &Vm,
    windows: &mut [Window],
    notes: &mut Notes,
) -> Result<Vec<MemoryRegion>, AllocError> {
    let mut regions = Vec::new();
    for wanted in &vm.memory.regions {
        let (start, size) = range(wanted).map_or((wanted.start.0, u64::MAX), |r| (r.start, r.size));
        let error = AllocError::MemoryRegion {
            vm: vm.name.clone(),
            start,
            size,
        };
        let window = windows
            .iter_mut()
            .find(|window| window.is_free(start, size))
            .ok_or(error)?;
        window.reserve(start, size);
        notes.add(
            &vm.name,
            "memory",
            format!("{size:#x} at {start:#x}"),
            "the scenario says so",
        );
        regions.push(region(start, size));
    }
    Ok(regions)
}

/// The window without what is below 4 GiB.
fn above(mut window: Window) -> Window {
    window.reserve(0, LOWEST);
    window
}

fn chosen(
    vm: &Vm,
    windows: &mut [Window],
    notes: &mut Notes,
) -> Result<Vec<MemoryRegion>, AllocError> {
    let mut missing = u64::try_from(megabytes(vm))
        .unwrap_or(0)
        .saturating_mul(MIB);
    let mut regions = Vec::new();
    for window in windows {
        for free in window.free() {
            let Some(start) = free.start.checked_next_multiple_of(PIECE) else {
                continue;
            };
            let size = (free.end().saturating_sub(start) & !(PIECE - 1)).min(missing);
            if size > 0 {
                window.reserve(start, size);
                missing -= size;
                let why = "first free RAM above 4 GiB, in whole pieces of 2 MiB";
                notes.add(&vm.name, "memory", format!("{size:#x} at {start:#x}"), why);
                regions.push(region(start, size));
            }
        }
    }
    match missing {
        0 if regions.len() <= MAX_MEMORY_REGIONS => Ok(regions),
        0 => Err(AllocError::Pieces {
            vm: vm.name.clone(),
        }),
        missing => Err(AllocError::Memory {
            vm: vm.name.clone(),
            missing,
        }),
    }
}

/// Huge pages for post-launched VMs: of 1 GiB as long as the Service VM keeps enough memory above
/// 4 GiB for itself, then of 2 MiB.
pub fn huge_pages(
    ram: &[Ram],
    scenario: &Scenario,
    notes: &mut Notes,
) -> Result<HugePages, AllocError> {
    let Some(service) = scenario.service_vm() else {
        return Ok(HugePages::default());
    };
    let sum = |order| {
        let sizes = scenario
            .vms_of(order)
            .map(|(_, vm)| u64::try_from(megabytes(vm)).unwrap_or(0));
        sizes.fold(0u64, u64::saturating_add)
    };
    let wanted = sum(LoadOrder::PostLaunched);
    if wanted == 0 {
        return Ok(HugePages::default());
    }
    let fixed = sum(LoadOrder::PreLaunched).saturating_mul(MIB);
    let all: u64 = ram.iter().map(|ram| ram.size).fold(0, u64::saturating_add);
    let available = all.saturating_sub(fixed) / MIB;
    if wanted > available {
        return Err(AllocError::HugePages { wanted, available });
    }
    let pages = divide(spare(ram, scenario, fixed), scenario);
    let value = format!("{} of 1 GiB, {} of 2 MiB", pages.of_1g, pages.of_2m);
    let why = format!("post-launched VMs have {wanted} MiB together");
    notes.add(&service.name, "huge pages", value, why);
    Ok(pages)
}

/// Memory above 4 GiB that the Service VM can spare, in bytes.
fn spare(ram: &[Ram], scenario: &Scenario, fixed: u64) -> u64 {
    let high = ram
        .iter()
        .map(|ram| ram.end().saturating_sub(ram.start.max(LOWEST)));
    let high = high.fold(0u64, u64::saturating_add);
    let gpus = scenario
        .vms
        .iter()
        .filter(|vm| vm.virtio_devices.gpu.is_some())
        .count() as u64;
    let kept = fixed
        .saturating_add(SERVICE_SHARE)
        .saturating_add(gpus.saturating_mul(GPU_SHARE));
    (high / 100).saturating_mul(98).saturating_sub(kept)
}

fn divide(spare: u64, scenario: &Scenario) -> HugePages {
    let mut left = spare >> 30;
    let mut pages = HugePages::default();
    for (_, vm) in scenario.vms_of(LoadOrder::PostLaunched) {
        let size = u64::try_from(megabytes(vm)).unwrap_or(0);
        let large = (size >> 10).min(left);
        left -= large;
        pages.of_1g = pages.of_1g.saturating_add(large as u32);
        let small = (size - (large << 10)).div_ceil(2);
        pages.of_2m = pages
            .of_2m
            .saturating_add(u32::try_from(small).unwrap_or(u32::MAX));
    }
    pages
}

/// Memory that the hypervisor is expected to need: 20 MiB, 4 MiB for each VM that is possible, and 16 MiB
/// for each secure world.
pub fn hypervisor_ram(scenario: &Scenario, notes: &mut Notes) -> u64 {
    let vms = u64::try_from(scenario.hv.capacities.max_vms).unwrap_or(0);
    let secure = scenario.vms.iter().filter(|vm| vm.secure_world).count() as u64;
    let size = (20 + 4 * vms + 16 * secure).min(1024) * MIB;
    let why =
        format!("20 MiB, 4 MiB for each of {vms} VMs, 16 MiB for each of {secure} secure worlds");
    notes.add(HYPERVISOR, "memory", format!("{size:#x}"), why);
    size
}
