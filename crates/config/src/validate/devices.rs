//! Rules about devices that VMs are given, and where VMs see them.

use super::{Context, Hits, Rule, error, vm_path, warning};
use crate::scenario::{Provider, Vm};
use acrn_abi::Bdf;
use acrn_config_blob::{LoadOrder, MAX_HIDDEN, MAX_INTX_PINS, VuartKind};

pub(super) const RULES: &[Rule] = &[
    warning(
        "board-devices",
        "the board file lists the machine's PCI devices as a tree",
        "make the board file anew with acrn-board-inspector: an older one's has no such list",
        board_devices,
    ),
    error(
        "pci-device-exists",
        "the PCI devices of a VM are devices of the board",
        "choose a device from the board file",
        pci_exists,
    ),
    error(
        "pci-device-once",
        "a PCI device belongs to one VM",
        "remove it from one of the VMs",
        pci_once,
    ),
    warning(
        "hidden-device",
        "a hidden PCI device belongs to no VM",
        "remove it from HIDDEN_PDEV_REGION or from the VM",
        hidden_device,
    ),
    error(
        "hidden-device-count",
        "there are at most 32 hidden devices",
        "remove some",
        hidden_count,
    ),
    error(
        "tpm2-or-p2sb",
        "a VM gets the TPM or the P2SB bridge, not both",
        "set TPM2 or p2sb to n",
        tpm2_or_p2sb,
    ),
    error(
        "mmio-device-once",
        "the TPM and the P2SB bridge belong to one VM",
        "set it to n in one of the VMs",
        mmio_once,
    ),
    error(
        "mmio-device-exists",
        "the board has the TPM or P2SB bridge that a VM is given",
        "set it to n, or inspect the board again",
        mmio_exists,
    ),
    error(
        "vbdf-once",
        "virtual devices of a VM are at different places",
        "choose another place, or leave it out to have one chosen",
        vbdf_once,
    ),
    error(
        "vbdf-not-native",
        "a virtual device of the Service VM is not at the place of a device of the board",
        "choose a place that is free on the board",
        vbdf_not_native,
    ),
    error(
        "vbdf-p2sb",
        "no virtual device of the Service VM is at 00:1f.1, the hidden P2SB bridge",
        "choose another place",
        vbdf_p2sb,
    ),
    error(
        "vbdf-post-launched",
        "virtual devices of a post-launched VM are on bus 0 from 00:03 to 00:1e",
        "choose a place between 00:03.0 and 00:1e.7: the Device Model uses the others",
        vbdf_post,
    ),
    error(
        "pt-intx-form",
        "pt_intx is pairs of numbers",
        "write pairs such as (16, 1) (17, 2)",
        intx_form,
    ),
    error(
        "pt-intx-once",
        "a physical interrupt pin belongs to one VM, and a virtual pin to one physical pin",
        "choose another pin",
        intx_once,
    ),
];

/// Each device that a VM is given.
fn each_pci<'c>(c: &'c Context<'_>) -> impl Iterator<Item = (String, &'c Vm, Bdf)> {
    let users = c
        .scenario
        .vms
        .iter()
        .enumerate()
        .filter(|(_, vm)| vm.load_order != LoadOrder::Service);
    users.flat_map(|(index, vm)| {
        let devices = vm
            .pci_devs
            .list
            .iter()
            .enumerate()
            .filter(|(_, device)| !device.text.is_empty());
        devices.map(move |(place, device)| {
            (
                format!("{}/pci_devs/pci_dev[{}]", vm_path(index), place + 1),
                vm,
                device.bdf,
            )
        })
    })
}

fn board_devices(c: &Context<'_>, hits: &mut Hits) {
    if c.functions.is_empty() && !c.board.pci_device.trim().is_empty() {
        let message = "the board file names its PCI devices in PCI_DEVICE only; no VM can have one";
        hits.add("@board", message);
    }
}

fn pci_exists(c: &Context<'_>, hits: &mut Hits) {
    for (path, vm, bdf) in each_pci(c) {
        if !c.functions.iter().any(|function| function.bdf == bdf) {
            hits.add(
                path,
                format!("VM {} gets {bdf}, which the board does not have", vm.name),
            );
        }
    }
}

fn pci_once(c: &Context<'_>, hits: &mut Hits) {
    let devices: Vec<_> = each_pci(c).collect();
    for (place, (path, vm, bdf)) in devices.iter().enumerate() {
        if let Some((_, other, _)) = devices[..place].iter().find(|(.., other)| other == bdf) {
            hits.add(
                path.clone(),
                format!("VM {} gets {bdf}, which VM {} has", vm.name, other.name),
            );
        }
    }
}

fn hidden_device(c: &Context<'_>, hits: &mut Hits) {
    let hidden = &c.scenario.hv.hidden_devices.devices;
    for (path, vm, bdf) in each_pci(c).filter(|(.., bdf)| hidden.contains(bdf)) {
        hits.add(path, format!("VM {} gets {bdf}, which is hidden", vm.name));
    }
}

fn hidden_count(c: &Context<'_>, hits: &mut Hits) {
    let count = c.scenario.hv.hidden_devices.devices.len();
    if count > MAX_HIDDEN {
        hits.add(
            "hv/HIDDEN_PDEV_REGION",
            format!("{count} devices are hidden"),
        );
    }
}

fn tpm2_or_p2sb(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms_of(LoadOrder::PreLaunched) {
        if vm.mmio_resources.tpm2 && vm.mmio_resources.p2sb {
            hits.add(
                vm_path(index) + "/mmio_resources",
                format!("VM {} gets both", vm.name),
            );
        }
    }
}

/// A device's element, and whether a VM gets it.
type Resource = (&'static str, fn(&Vm) -> bool);

fn mmio_once(c: &Context<'_>, hits: &mut Hits) {
    let kinds: [Resource; 2] = [
        ("TPM2", |vm| vm.mmio_resources.tpm2),
        ("p2sb", |vm| vm.mmio_resources.p2sb),
    ];
    for (name, has) in kinds {
        for (index, vm) in c
            .scenario
            .vms_of(LoadOrder::PreLaunched)
            .filter(|(_, vm)| has(vm))
            .skip(1)
        {
            let path = format!("{}/mmio_resources/{name}", vm_path(index));
            hits.add(path, format!("VM {} gets {name} too", vm.name));
        }
    }
}

fn mmio_exists(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms_of(LoadOrder::PreLaunched) {
        let path = vm_path(index) + "/mmio_resources";
        if vm.mmio_resources.tpm2 && crate::allocate::tpm2_window(c.board).is_none() {
            hits.add(
                path.clone() + "/TPM2",
                format!("VM {} gets a TPM, the board has none", vm.name),
            );
        }
        if vm.mmio_resources.p2sb && crate::allocate::p2sb_window(c.board).is_none() {
            hits.add(
                path + "/p2sb",
                format!("VM {} gets a P2SB bridge, the board has none", vm.name),
            );
        }
    }
}

/// Each virtual device with a place: path, VM's index, place.
fn each_vbdf<'c>(c: &'c Context<'_>) -> Vec<(String, usize, &'c Vm, Bdf)> {
    let mut found = Vec::new();
    let hv = &c.scenario.hv;
    for (number, line) in hv.vuart_connections.list.iter().enumerate() {
        for (place, end) in line
            .endpoints
            .iter()
            .enumerate()
            .filter(|_| line.kind == VuartKind::Pci)
        {
            if let (Some((index, vm)), Some(bdf)) = (c.scenario.vm(&end.vm_name), end.vbdf) {
                let line = format!("hv/vuart_connections/vuart_connection[{}]", number + 1);
                found.push((
                    format!("{line}/endpoint[{}]/vbdf", place + 1),
                    index,
                    vm,
                    bdf,
                ));
            }
        }
    }
    for (number, region) in hv.features.ivshmem.regions.iter().enumerate() {
        for (place, member) in region.members.list.iter().enumerate() {
            let emulated_here = region.provider == Provider::Hypervisor;
            if let (Some((index, vm)), Some(bdf), true) =
                (c.scenario.vm(&member.vm_name), member.vbdf, emulated_here)
            {
                let region = format!("hv/FEATURES/IVSHMEM/IVSHMEM_REGION[{}]", number + 1);
                found.push((
                    format!("{region}/IVSHMEM_VMS/IVSHMEM_VM[{}]/VBDF", place + 1),
                    index,
                    vm,
                    bdf,
                ));
            }
        }
    }
    found
}

fn vbdf_once(c: &Context<'_>, hits: &mut Hits) {
    let all = each_vbdf(c);
    for (place, (path, index, vm, bdf)) in all.iter().enumerate() {
        if all[..place]
            .iter()
            .any(|(_, other, _, taken)| other == index && taken == bdf)
        {
            hits.add(
                path.clone(),
                format!("VM {} has two virtual devices at {bdf}", vm.name),
            );
        }
    }
}

fn vbdf_not_native(c: &Context<'_>, hits: &mut Hits) {
    for (path, _, vm, bdf) in each_vbdf(c) {
        let native = c.functions.iter().any(|function| function.bdf == bdf);
        if vm.load_order == LoadOrder::Service && native {
            hits.add(path, format!("the board has a device at {bdf}"));
        }
    }
}

fn vbdf_p2sb(c: &Context<'_>, hits: &mut Hits) {
    for (path, _, vm, bdf) in each_vbdf(c) {
        if vm.load_order == LoadOrder::Service && bdf == Bdf::new(0, 0x1f, 1) {
            hits.add(path, format!("{bdf} is the P2SB bridge's"));
        }
    }
}

fn vbdf_post(c: &Context<'_>, hits: &mut Hits) {
    for (path, _, vm, bdf) in each_vbdf(c) {
        let free = bdf.bus() == 0 && (3..=0x1e).contains(&bdf.device());
        if vm.load_order == LoadOrder::PostLaunched && !free {
            hits.add(
                path,
                format!("{bdf} in VM {} is the Device Model's", vm.name),
            );
        }
    }
}

/// The pairs of a `pt_intx`; `None` when it is something else.
pub(crate) fn pins(text: &str) -> Option<Vec<(u32, u32)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (pair, behind) = rest.strip_prefix('(')?.split_once(')')?;
        let (physical, guest) = pair.split_once(',')?;
        let pin = |text: &str| crate::parse::number(text.trim()).filter(|&pin| pin < 4096);
        pairs.push((pin(physical)? as u32, pin(guest)? as u32));
        rest = behind.trim_start_matches([',', ' ', '\n', '\t']);
    }
    Some(pairs).filter(|pairs| pairs.len() <= MAX_INTX_PINS)
}

fn intx_form(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms_of(LoadOrder::PreLaunched) {
        if pins(&vm.pt_intx).is_none() {
            hits.add(
                vm_path(index) + "/pt_intx",
                format!("VM {} has “{}”", vm.name, vm.pt_intx),
            );
        }
    }
}

fn intx_once(c: &Context<'_>, hits: &mut Hits) {
    let mut physical = Vec::new();
    for (index, vm) in c.scenario.vms_of(LoadOrder::PreLaunched) {
        let mut guest = Vec::new();
        for (host_pin, guest_pin) in pins(&vm.pt_intx).unwrap_or_default() {
            if physical.contains(&host_pin) || guest.contains(&guest_pin) {
                let message = format!(
                    "pin pair ({host_pin}, {guest_pin}) of VM {} is taken",
                    vm.name
                );
                hits.add(vm_path(index) + "/pt_intx", message);
            }
            physical.push(host_pin);
            guest.push(guest_pin);
        }
    }
}
