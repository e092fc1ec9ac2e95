//! Launch files: once, what the Device Model needs to know was in a file of its own. Its `user_vm` number
//! n is the VM whose id is n more than the Service VM's.

use super::{Changes, set};
use crate::xml::Element;

/// What a launch file's element becomes: its name there, its path in the VM, and its words.
struct Moved(&'static str, &'static str, fn(&str) -> String);

const MOVED: &[Moved] = &[
    Moved("mem_size", "memory/size", str::to_owned),
    Moved("vbootloader", "vbootloader", yes),
    Moved("vuart0", "vuart0", yes),
    Moved("enable_ptm", "PTM", str::to_owned),
    Moved("user_vm_type", "os_type", os_type),
    Moved("uos_type", "os_type", os_type),
];

fn yes(word: &str) -> String {
    let on = matches!(word, "y" | "Enable" | "ovmf");
    if on { "y" } else { "n" }.to_owned()
}

fn os_type(word: &str) -> String {
    if word == "WINDOWS" {
        "Windows OS"
    } else {
        "Non-Windows OS"
    }
    .to_owned()
}

/// Moves what a launch file says into the scenario.
pub(super) fn merge(root: &mut Element, launch: &Element, changes: &mut Changes) {
    let is_service = |vm: &Element| {
        let texts = ["load_order", "vm_type"].map(|name| vm.child_text(name).unwrap_or_default());
        texts
            .iter()
            .any(|text| text == "SERVICE_VM" || text == "SOS_VM")
    };
    let number = |element: &Element| {
        element
            .attribute("id")
            .and_then(|id| id.parse::<i64>().ok())
    };
    let service = root
        .named("vm")
        .find(|vm| is_service(vm))
        .and_then(number)
        .unwrap_or(0);
    let users = launch
        .elements()
        .filter(|element| element.name == "user_vm" || element.name == "uos");
    for user in users {
        let path = format!(
            "launch/user_vm[@id='{}']",
            user.attribute("id").unwrap_or_default()
        );
        let wanted = number(user).map(|id| id + service);
        let is_it = |vm: &&mut Element| vm.name == "vm" && wanted.is_some() && number(vm) == wanted;
        let vm = root.elements_mut().find(is_it);
        match vm {
            Some(vm) => merge_vm(vm, user, &path, changes),
            None => changes.note(path, 0, "left out: the scenario has no such VM"),
        }
        shared_memory(root, user, &wanted.unwrap_or(0).to_string(), changes);
    }
}

fn merge_vm(vm: &mut Element, user: &Element, path: &str, changes: &mut Changes) {
    for Moved(old, new, word) in MOVED {
        let Some(text) = user.child_text(old).filter(|text| !text.is_empty()) else {
            continue;
        };
        let value = word(&text);
        set(vm, new, &value);
        changes.note(
            format!("{path}/{old}"),
            0,
            format!("“{text}” is {new} {value} now"),
        );
    }
    name(vm, user, path, changes);
    real_time(vm, user, path, changes);
    cpus(vm, user, path, changes);
    devices(vm, user, path, changes);
    virtio(vm, user, path, changes);
}

/// The name that the Device Model was told counts if the scenario has none.
fn name(vm: &mut Element, user: &Element, path: &str, changes: &mut Changes) {
    let Some(told) = user.child_text("vm_name").filter(|name| !name.is_empty()) else {
        return;
    };
    let has = vm.child_text("name").unwrap_or_default();
    let what = match has.as_str() {
        same if same == told => return,
        "" => {
            set(vm, "name", &told);
            format!("“{told}” is name now")
        }
        other => format!("“{told}” left out: the VM is {other}"),
    };
    changes.note(format!("{path}/vm_name"), 0, what);
}

fn real_time(vm: &mut Element, user: &Element, path: &str, changes: &mut Changes) {
    let kind = user.child_text("rtos_type").unwrap_or_default();
    if kind == "Soft RT" || kind == "Hard RT" {
        if vm.child("load_order").is_none() {
            set(vm, "load_order", "POST_LAUNCHED_VM");
        }
        set(vm, "vm_type", "RTVM");
        if kind == "Hard RT" {
            set(vm, "lapic_passthrough", "y");
        }
        changes.note(
            format!("{path}/rtos_type"),
            0,
            format!("“{kind}” is vm_type RTVM now"),
        );
    }
}

/// The launch file's CPUs count, if it names some.
fn cpus(vm: &mut Element, user: &Element, path: &str, changes: &mut Changes) {
    let Some(affinity) = user.child("cpu_affinity") else {
        return;
    };
    let cpus: Vec<_> = affinity
        .named("pcpu_id")
        .map(Element::text)
        .filter(|text| !text.is_empty())
        .collect();
    if !cpus.is_empty() {
        vm.remove("cpu_affinity", 0);
        for cpu in &cpus {
            vm.make("cpu_affinity")
                .add(Element::with_text("pcpu_id", cpu));
        }
        changes.note(
            format!("{path}/cpu_affinity"),
            0,
            format!("CPUs {} are the VM's now", cpus.join(", ")),
        );
    }
}

fn devices(vm: &mut Element, user: &Element, path: &str, changes: &mut Changes) {
    for group in ["passthrough_devices", "sriov"] {
        for device in user.child(group).into_iter().flat_map(Element::elements) {
            let text = device.text();
            if !text.is_empty() {
                vm.make("pci_devs")
                    .add(Element::with_text("pci_dev", &text));
                changes.note(
                    format!("{path}/{group}/{}", device.name),
                    0,
                    format!("“{text}” is a pci_dev now"),
                );
            }
        }
    }
    let usb = user.child_text("usb_xhci").filter(|text| !text.is_empty());
    for port in usb.iter().flat_map(|text| text.split(':')) {
        vm.make("usb_xhci").add(Element::with_text("usb_dev", port));
        changes.note(
            format!("{path}/usb_xhci"),
            0,
            format!("{port} is a usb_dev now"),
        );
    }
}

fn virtio(vm: &mut Element, user: &Element, path: &str, changes: &mut Changes) {
    let Some(old) = user.child("virtio_devices") else {
        return;
    };
    for device in old.elements().filter(|element| !element.text().is_empty()) {
        let text = device.text();
        vm.make("virtio_devices")
            .add(Element::with_text(&device.name, &text));
        changes.note(
            format!("{path}/virtio_devices/{}", device.name),
            0,
            format!("“{text}” is the VM's now"),
        );
    }
}

/// A region of a launch file is `hv:/name, size`; its VM joins the region of that name.
fn shared_memory(root: &mut Element, user: &Element, id: &str, changes: &mut Changes) {
    let regions = user
        .child("shm_regions")
        .into_iter()
        .flat_map(|regions| regions.named("shm_region"));
    for text in regions.map(Element::text).filter(|text| !text.is_empty()) {
        let ivshmem = root.make("hv/FEATURES/IVSHMEM");
        let is_it = |region: &&mut Element| region.text().starts_with(&text);
        let known = ivshmem.elements_mut().find(is_it).map(|region| {
            let joined = format!("{}:{id}", region.text());
            region.set_text(&joined);
            joined
        });
        let joined = known.unwrap_or_else(|| {
            let first = format!("{text}, {id}");
            ivshmem.add(Element::with_text("IVSHMEM_REGION", &first));
            first
        });
        changes.note(
            "launch/shm_region",
            0,
            format!("“{text}” is IVSHMEM_REGION “{joined}” now"),
        );
    }
}
