//! Whether what was read hangs together: each check is a function over the whole configuration.
//!
//! A field is in its range when these run. What is checked here concerns more than one field, and is
//! what the hypervisor would otherwise have to ask at each use.

use crate::config::vm_field;
use crate::error::{Error, Path, Problem};
use crate::{Config, DeviceKind, LoadOrder, Vm};
use acrn_abi::VmId;

type Check = fn(&Config<'_>) -> Result<(), Error>;

const CHECKS: &[Check] = &[
    numbers,
    names,
    order,
    one_service_vm,
    cpus,
    cpu_lists,
    companions,
    scheduling,
    memory,
    no_shared_memory,
    vuarts,
    pci_slots,
    pci_devices,
    shared_regions,
    mmio,
    pins,
    cpu_options,
];

pub(crate) fn all(config: &Config<'_>) -> Result<(), Error> {
    CHECKS.iter().try_for_each(|check| check(config))
}

fn wrong(path: Path, problem: Problem) -> Result<(), Error> {
    Err(Error::Field { path, problem })
}

/// Calls `judge` for each VM; its error is that of entry `entry` of field `name`.
fn each(
    config: &Config<'_>,
    name: &'static str,
    judge: impl Fn(usize, &Vm<'_>) -> Option<(Option<usize>, Problem)>,
) -> Result<(), Error> {
    for (index, vm) in config.vms.iter().enumerate() {
        if let Some((entry, problem)) = judge(index, &vm) {
            return wrong(vm_field(index, name, entry), problem);
        }
    }
    Ok(())
}

fn numbers(config: &Config<'_>) -> Result<(), Error> {
    each(config, "id", |index, vm| {
        (vm.id.index() != index).then_some((None, Problem::VmNumber(vm.id.0)))
    })
}

fn names(config: &Config<'_>) -> Result<(), Error> {
    each(config, "name", |index, vm| {
        let twice = config
            .vms
            .iter()
            .take(index)
            .any(|other| other.name == vm.name);
        twice.then_some((None, Problem::NameTwice))
    })
}

fn order(config: &Config<'_>) -> Result<(), Error> {
    each(config, "load_order", |index, vm| {
        let later = config
            .vms
            .iter()
            .take(index)
            .any(|other| other.load_order > vm.load_order);
        later.then_some((None, Problem::Order))
    })
}

fn one_service_vm(config: &Config<'_>) -> Result<(), Error> {
    each(config, "load_order", |index, vm| {
        let service = |vm: &Vm<'_>| vm.load_order == LoadOrder::Service;
        let second = service(vm) && config.vms.iter().take(index).any(|vm| service(&vm));
        second.then_some((None, Problem::SecondServiceVm))
    })
}

fn cpus(config: &Config<'_>) -> Result<(), Error> {
    each(config, "vcpus", |_, vm| {
        vm.vcpus.iter().enumerate().find_map(|(entry, vcpu)| {
            let there = vcpu.pcpu.index() < config.board.cpus.len();
            (!there).then_some((Some(entry), Problem::NoCpu(vcpu.pcpu.0)))
        })
    })
}

fn cpu_lists(config: &Config<'_>) -> Result<(), Error> {
    each(config, "vcpus", |_, vm| {
        if vm.vcpus.is_empty() {
            return Some((None, Problem::NoVcpus));
        }
        let mut seen = 0u64;
        vm.vcpus.iter().enumerate().find_map(|(entry, vcpu)| {
            let bit = 1u64.checked_shl(vcpu.pcpu.0.into()).unwrap_or(0);
            let twice = seen & bit != 0;
            seen |= bit;
            twice.then_some((Some(entry), Problem::CpuTwice(vcpu.pcpu.0)))
        })
    })
}

fn companions(config: &Config<'_>) -> Result<(), Error> {
    each(config, "companion", |_, vm| {
        let id = vm.companion?;
        config
            .vm(id)
            .is_none()
            .then_some((None, Problem::NoVm(id.0)))
    })
}

fn scheduling(config: &Config<'_>) -> Result<(), Error> {
    each(config, "scheduling", |_, vm| {
        let (weight, warp) = (vm.scheduling.weight, vm.scheduling.warp_value);
        if !(1..=128).contains(&weight) {
            return Some((None, Problem::Weight(weight)));
        }
        (!(-8192..=8192).contains(&warp)).then_some((None, Problem::Warp(warp)))
    })
}

fn memory(config: &Config<'_>) -> Result<(), Error> {
    each(config, "memory", |_, vm| {
        if vm.load_order != LoadOrder::PreLaunched && !vm.memory.is_empty() {
            return Some((None, Problem::OnlyPreLaunched));
        }
        vm.memory.iter().enumerate().find_map(|(entry, region)| {
            let (start, size) = (region.start.get(), region.size);
            (!whole_pages(start, size)).then_some((Some(entry), Problem::BadRange { start, size }))
        })
    })
}

fn whole_pages(start: u64, size: u64) -> bool {
    let aligned = (start | size) % acrn_abi::PAGE_SIZE == 0;
    aligned && size > 0 && start.checked_add(size).is_some()
}

/// Each region against all before it, of this VM and of others.
fn no_shared_memory(config: &Config<'_>) -> Result<(), Error> {
    each(config, "memory", |index, vm| {
        vm.memory.iter().enumerate().find_map(|(entry, region)| {
            let with = owner_before(config, (index, entry), region.start.get(), region.size)?;
            Some((
                Some(entry),
                Problem::Shared {
                    with: with as u16,
                    start: region.start.get(),
                },
            ))
        })
    })
}

/// The VM with a region before `place` (VM, region) that overlaps `size` bytes at `start`.
fn owner_before(
    config: &Config<'_>,
    place: (usize, usize),
    start: u64,
    size: u64,
) -> Option<usize> {
    let end = start.saturating_add(size);
    let overlaps = |region: &crate::MemoryRegion| {
        region.start.get() < end && start < region.start.get().saturating_add(region.size)
    };
    config
        .vms
        .iter()
        .enumerate()
        .take(place.0 + 1)
        .find_map(|(number, vm)| {
            let before = if number == place.0 {
                place.1
            } else {
                usize::MAX
            };
            vm.memory
                .iter()
                .take(before)
                .any(|region| overlaps(&region))
                .then_some(number)
        })
}

/// A connection has two ends that name each other.
fn vuarts(config: &Config<'_>) -> Result<(), Error> {
    each(config, "vuarts", |index, vm| {
        vm.vuarts.iter().enumerate().find_map(|(entry, vuart)| {
            let target = vuart.target?;
            let Some(other) = config.vm(target.vm) else {
                return Some((Some(entry), Problem::NoVm(target.vm.0)));
            };
            let back = other.vuart(target.vuart).and_then(|other| other.target);
            let leads_back = back
                .is_some_and(|back| back.vm == VmId(index as u16) && back.vuart == vuart.number);
            (!leads_back).then_some((Some(entry), Problem::NoVuart(target.vuart)))
        })
    })
}

fn pci_slots(config: &Config<'_>) -> Result<(), Error> {
    each(config, "pci_devices", |_, vm| {
        vm.pci_devices
            .iter()
            .enumerate()
            .find_map(|(entry, device)| {
                let taken = vm
                    .pci_devices
                    .iter()
                    .take(entry)
                    .any(|other| other.vbdf == device.vbdf);
                taken.then_some((Some(entry), Problem::SlotTwice(device.vbdf.0)))
            })
    })
}

/// A physical device has one owner. Post-launched VMs are given theirs at run time, one after the
/// other if need be, so they are not compared with each other.
fn pci_devices(config: &Config<'_>) -> Result<(), Error> {
    let fixed = |vm: &Vm<'_>| vm.load_order == LoadOrder::PreLaunched;
    each(config, "pci_devices", |index, vm| {
        vm.pci_devices
            .iter()
            .enumerate()
            .find_map(|(entry, device)| {
                let physical = device.kind == DeviceKind::PassThrough;
                let owned = config
                    .vms
                    .iter()
                    .take(index)
                    .filter(|other| fixed(other))
                    .any(|other| {
                        other
                            .pci_devices
                            .iter()
                            .any(|d| d.kind == DeviceKind::PassThrough && d.pbdf == device.pbdf)
                    });
                (physical && owned).then_some((Some(entry), Problem::DeviceTwice(device.pbdf.0)))
            })
    })
}

fn shared_regions(config: &Config<'_>) -> Result<(), Error> {
    for (index, region) in config.options.shared_regions.iter().enumerate() {
        if !region.size.is_power_of_two() || region.size < acrn_abi::PAGE_SIZE {
            let path = Path::of(&[("options", None), ("shared_regions", Some(index))]);
            let problem = Problem::BadRange {
                start: 0,
                size: region.size,
            };
            return wrong(path, problem);
        }
    }
    each(config, "pci_devices", |_, vm| {
        vm.pci_devices
            .iter()
            .enumerate()
            .find_map(|(entry, device)| {
                let there = usize::from(device.number) < config.options.shared_regions.len();
                let lost = device.kind == DeviceKind::SharedMemory && !there;
                lost.then_some((Some(entry), Problem::NoRegion(device.number)))
            })
    })
}

fn mmio(config: &Config<'_>) -> Result<(), Error> {
    each(config, "mmio_devices", |_, vm| {
        let fixed = vm.load_order == LoadOrder::PreLaunched;
        vm.mmio_devices
            .iter()
            .enumerate()
            .find_map(|(entry, device)| {
                let (start, size) = (device.hpa.get(), device.size);
                if !fixed {
                    return Some((Some(entry), Problem::OnlyPreLaunched));
                }
                (!whole_pages(start, size))
                    .then_some((Some(entry), Problem::BadRange { start, size }))
            })
    })
}

fn pins(config: &Config<'_>) -> Result<(), Error> {
    each(config, "intx_pins", |_, vm| {
        let fixed = vm.load_order == LoadOrder::PreLaunched;
        (!fixed && !vm.intx_pins.is_empty()).then_some((None, Problem::OnlyPreLaunched))
    })
}

fn cpu_options(config: &Config<'_>) -> Result<(), Error> {
    let options = &config.options;
    let field = |name| Path::of(&[("options", None), (name, None)]);
    let cpus = config.board.cpus.len();
    let timer = options.vuart_timer_cpu;
    if cpus == 0 {
        return wrong(
            Path::of(&[("board", None), ("cpus", None)]),
            Problem::NoVcpus,
        );
    }
    if timer.index() >= cpus {
        return wrong(field("vuart_timer_cpu"), Problem::NoCpu(timer.0));
    }
    let choices = options.cpu_schedulers.len();
    if choices > cpus {
        return wrong(
            field("cpu_schedulers"),
            Problem::TooMany {
                count: choices,
                max: cpus,
            },
        );
    }
    let vm = options.console_vm;
    if vm != crate::NO_VM && config.vm(VmId(vm)).is_none() {
        return wrong(field("console_vm"), Problem::NoVm(vm));
    }
    Ok(())
}
