//! Rules about what connects VMs: shared memory and serial lines.

use super::{Context, Hits, Rule, error, vm_path};
use crate::scenario::{ConsoleVuart, IvshmemRegion, VuartConnection, VuartEndpoint};
use acrn_config_blob::{MAX_SHARED_REGIONS, MAX_VUARTS, VuartKind};

pub(super) const RULES: &[Rule] = &[
    error(
        "ivshmem-name",
        "a region of shared memory has a name of its own",
        "give the region another name",
        ivshmem_name,
    ),
    error(
        "ivshmem-vm-once",
        "a VM shares a region once",
        "remove one of the two",
        ivshmem_vm_once,
    ),
    error(
        "ivshmem-vm-exists",
        "regions are shared by VMs of the scenario",
        "correct the name, or remove the VM from the region",
        ivshmem_vm_exists,
    ),
    error(
        "ivshmem-size",
        "the size of a region is a power of two",
        "write 2, 4, 8 … 512",
        ivshmem_size,
    ),
    error(
        "ivshmem-count",
        "there are at most 8 regions",
        "join regions",
        ivshmem_count,
    ),
    error(
        "vuart-ends",
        "a serial line has two ends",
        "add or remove an endpoint",
        vuart_ends,
    ),
    error(
        "vuart-vm-exists",
        "a serial line connects VMs of the scenario",
        "choose a VM for the endpoint",
        vuart_vm_exists,
    ),
    error(
        "vuart-not-to-itself",
        "a serial line connects two VMs",
        "choose another VM for one endpoint",
        vuart_not_to_itself,
    ),
    error(
        "vuart-port-once",
        "serial ports of a VM, its console among them, are at different I/O ports",
        "choose another I/O port for one of them",
        vuart_port_once,
    ),
    error(
        "vuart-port",
        "an I/O port of a serial line is in range",
        "write a port up to 0xfff8",
        vuart_port,
    ),
    error(
        "vuart-count",
        "a VM has at most 24 serial ports, its console and those for shutdown among them",
        "remove a serial line of the VM",
        vuart_count,
    ),
];

fn each_region<'c>(c: &'c Context<'_>) -> impl Iterator<Item = (String, &'c IvshmemRegion)> {
    let regions = c.scenario.hv.features.ivshmem.regions.iter().enumerate();
    regions.map(|(place, region)| {
        (
            format!("hv/FEATURES/IVSHMEM/IVSHMEM_REGION[{}]", place + 1),
            region,
        )
    })
}

fn ivshmem_name(c: &Context<'_>, hits: &mut Hits) {
    let mut seen = Vec::new();
    for (path, region) in each_region(c) {
        if region.name.is_empty() {
            hits.add(path + "/NAME", "a region of shared memory has no name");
        } else if seen.contains(&&region.name) {
            hits.add(
                path + "/NAME",
                format!("two regions are called {}", region.name),
            );
        }
        seen.push(&region.name);
    }
}

fn members(path: &str, region: &IvshmemRegion) -> impl Iterator<Item = (String, String)> {
    let members = region.members.list.iter().enumerate();
    members.map(move |(place, member)| {
        (
            format!("{path}/IVSHMEM_VMS/IVSHMEM_VM[{}]", place + 1),
            member.vm_name.clone(),
        )
    })
}

fn ivshmem_vm_once(c: &Context<'_>, hits: &mut Hits) {
    for (path, region) in each_region(c) {
        let mut seen = Vec::new();
        for (path, vm) in members(&path, region) {
            if seen.contains(&vm) {
                hits.add(path, format!("VM {vm} shares region {} twice", region.name));
            }
            seen.push(vm);
        }
    }
}

fn ivshmem_vm_exists(c: &Context<'_>, hits: &mut Hits) {
    for (path, region) in each_region(c) {
        for (path, vm) in members(&path, region).filter(|(_, vm)| c.scenario.vm(vm).is_none()) {
            hits.add(
                path + "/VM_NAME",
                format!("region {} is shared by “{vm}”, which is no VM", region.name),
            );
        }
    }
}

fn ivshmem_size(c: &Context<'_>, hits: &mut Hits) {
    for (path, region) in each_region(c) {
        if !u64::try_from(region.size).is_ok_and(u64::is_power_of_two) {
            hits.add(
                path + "/IVSHMEM_SIZE",
                format!("region {} has {} MiB", region.name, region.size),
            );
        }
    }
}

fn ivshmem_count(c: &Context<'_>, hits: &mut Hits) {
    for (path, region) in each_region(c).skip(MAX_SHARED_REGIONS) {
        hits.add(path, format!("region {} is one too many", region.name));
    }
}

fn each_line<'c>(c: &'c Context<'_>) -> impl Iterator<Item = (String, &'c VuartConnection)> {
    let lines = c.scenario.hv.vuart_connections.list.iter().enumerate();
    lines.map(|(place, line)| {
        (
            format!("hv/vuart_connections/vuart_connection[{}]", place + 1),
            line,
        )
    })
}

fn each_end<'c>(
    c: &'c Context<'_>,
) -> impl Iterator<Item = (String, &'c VuartConnection, &'c VuartEndpoint)> {
    each_line(c).flat_map(|(path, line)| {
        let ends = line.endpoints.iter().enumerate();
        ends.map(move |(place, end)| (format!("{path}/endpoint[{}]", place + 1), line, end))
    })
}

fn vuart_ends(c: &Context<'_>, hits: &mut Hits) {
    for (path, line) in each_line(c).filter(|(_, line)| line.endpoints.len() != 2) {
        hits.add(
            path,
            format!("line “{}” has {} ends", line.name, line.endpoints.len()),
        );
    }
}

fn vuart_vm_exists(c: &Context<'_>, hits: &mut Hits) {
    for (path, line, end) in each_end(c).filter(|(.., end)| c.scenario.vm(&end.vm_name).is_none()) {
        let message = format!(
            "line “{}” ends at “{}”, which is no VM",
            line.name, end.vm_name
        );
        hits.add(path + "/vm_name", message);
    }
}

fn vuart_not_to_itself(c: &Context<'_>, hits: &mut Hits) {
    for (path, line) in each_line(c) {
        if let [one, two] = line.endpoints.as_slice() {
            if one.vm_name == two.vm_name {
                hits.add(
                    path,
                    format!("line “{}” connects VM {} to itself", line.name, one.vm_name),
                );
            }
        }
    }
}

/// The I/O port of a VM's console.
pub(crate) fn console_port(console: ConsoleVuart) -> Option<u64> {
    match console {
        ConsoleVuart::Com1 => Some(0x3f8),
        ConsoleVuart::Com2 => Some(0x2f8),
        ConsoleVuart::Com3 => Some(0x3e8),
        ConsoleVuart::Com4 => Some(0x2e8),
        ConsoleVuart::None | ConsoleVuart::Pci => None,
    }
}

fn vuart_port_once(c: &Context<'_>, hits: &mut Hits) {
    let consoles = c.scenario.vms.iter();
    let mut taken: Vec<(&str, u64)> = consoles
        .filter_map(|vm| Some((vm.name.as_str(), console_port(vm.console_vuart)?)))
        .collect();
    for (path, line, end) in each_end(c).filter(|(_, line, _)| line.kind == VuartKind::Legacy) {
        let Some(port) = end.io_port else { continue };
        // A port has eight registers.
        let near = |&(vm, other): &(&str, u64)| vm == end.vm_name && other.abs_diff(port.0) < 8;
        if taken.iter().any(near) {
            let message = format!(
                "port {:#x} of line “{}” is taken in VM {}",
                port.0, line.name, end.vm_name
            );
            hits.add(path + "/io_port", message);
        }
        taken.push((&end.vm_name, port.0));
    }
}

fn vuart_port(c: &Context<'_>, hits: &mut Hits) {
    for (path, line, end) in each_end(c) {
        if let Some(port) = end.io_port.filter(|port| port.0 == 0 || port.0 > 0xfff8) {
            hits.add(
                path + "/io_port",
                format!("line “{}” has port {:#x}", line.name, port.0),
            );
        }
    }
}

fn vuart_count(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        let count = crate::allocate::vuart_count(c.scenario, index);
        if count > MAX_VUARTS {
            hits.add(
                vm_path(index),
                format!("VM {} has {count} serial ports", vm.name),
            );
        }
    }
}
