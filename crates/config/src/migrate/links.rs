//! Consoles, serial lines and shared memory, which VMs described each for itself.

use super::{Changes, each_vm, set};
use crate::xml::Element;
use std::collections::BTreeMap;

/// `legacy_vuart` 0 and `console_vuart` become one word.
pub(super) fn consoles(root: &mut Element, changes: &mut Changes) {
    each_vm(root, |path, vm| {
        let numbered_zero = |element: &Element| element.attribute("id") == Some("0");
        let legacy = vm.remove_where("legacy_vuart", numbered_zero);
        let structured = vm
            .child("console_vuart")
            .is_some_and(|e| e.child("base").is_some());
        let pci = structured.then(|| vm.remove("console_vuart", 0)).flatten();
        let line = legacy
            .as_ref()
            .or(pci.as_ref())
            .map_or(0, |element| element.line);
        if legacy.is_none() && pci.is_none() || vm.child("console_vuart").is_some() {
            return;
        }
        let base = legacy
            .and_then(|element| element.child_text("base"))
            .unwrap_or_default();
        let on_pci = pci
            .and_then(|e| e.child_text("base"))
            .is_some_and(|base| base == "PCI_VUART");
        let word = match com_port(&base) {
            Some((number, _)) => format!("COM Port {number}"),
            None if on_pci => "PCI".to_owned(),
            None => "None".to_owned(),
        };
        set(vm, "console_vuart", &word);
        changes.note(
            format!("{path}/legacy_vuart[@id='0']"),
            line,
            format!("is console_vuart {word} now"),
        );
    });
}

/// Number and I/O port of a name such as `SERVICE_VM_COM1_BASE`.
fn com_port(base: &str) -> Option<(u8, &'static str)> {
    let ports = [(1, "0x3F8"), (2, "0x2F8"), (3, "0x3E8"), (4, "0x2E8")];
    ports
        .into_iter()
        .find(|(number, _)| base.ends_with(&format!("COM{number}_BASE")))
}

/// One end of a serial line, as VMs described it.
struct End {
    vm: String,
    line: usize,
    legacy: bool,
    base: String,
    /// Id of the other VM, and number of the port there.
    target: (String, String),
}

/// Ends that name each other become a line.
pub(super) fn serial_lines(root: &mut Element, changes: &mut Changes) {
    let mut ends = BTreeMap::new();
    each_vm(root, |_, vm| take_ends(vm, &mut ends));
    let mut number = root
        .find_mut("hv/vuart_connections")
        .map_or(0, |e| e.elements().count());
    while let Some((key, one)) = ends.pop_first() {
        let path = format!("vm[@id='{}']/vuart[@id='{}']", key.0, key.1);
        let Some(two) = ends.remove(&one.target).filter(|two| two.target == key) else {
            changes.note(path, one.line, "left out: nothing is connected to it");
            continue;
        };
        number += 1;
        let name = format!("vUART connection {number}");
        changes.note(
            path,
            one.line,
            format!("is hv/vuart_connections “{name}” with {} now", two.vm),
        );
        root.make("hv/vuart_connections")
            .add(connection(&name, &one, &two));
    }
}

fn take_ends(vm: &mut Element, ends: &mut BTreeMap<(String, String), End>) {
    let name = vm.child_text("name").unwrap_or_default();
    let id = vm.attribute("id").unwrap_or_default().to_owned();
    for (kind, legacy, unused) in [
        ("legacy_vuart", true, "INVALID_COM_BASE"),
        ("communication_vuart", false, "INVALID_PCI_BASE"),
    ] {
        while let Some(old) = vm.remove(kind, 0) {
            let text = |name| old.child_text(name).unwrap_or_default();
            let number = old.attribute("id").unwrap_or_default().to_owned();
            let target = (text("target_vm_id"), text("target_uart_id"));
            if text("base") != unused && !target.0.is_empty() {
                let end = End {
                    vm: name.clone(),
                    line: old.line,
                    legacy,
                    base: text("base"),
                    target,
                };
                ends.insert((id.clone(), number), end);
            }
        }
    }
}

fn connection(name: &str, one: &End, two: &End) -> Element {
    let mut line = Element::new("vuart_connection");
    set(&mut line, "name", name);
    set(&mut line, "type", if one.legacy { "legacy" } else { "pci" });
    for end in [one, two] {
        let mut endpoint = Element::new("endpoint");
        set(&mut endpoint, "vm_name", &end.vm);
        // Another port is chosen when there is none, as a place on PCI is.
        if let Some((_, port)) = com_port(&end.base).filter(|_| end.legacy) {
            set(&mut endpoint, "io_port", port);
        }
        line.add(endpoint);
    }
    line
}

/// Regions were texts such as `hv:/name, 2, 0:2`.
pub(super) fn shared_memory(root: &mut Element, changes: &mut Changes) {
    let names: BTreeMap<String, String> = root
        .named("vm")
        .filter_map(|vm| Some((vm.attribute("id")?.to_owned(), vm.child_text("name")?)))
        .collect();
    let Some(ivshmem) = root.find_mut("hv/FEATURES/IVSHMEM") else {
        return;
    };
    let path = "hv/FEATURES/IVSHMEM/IVSHMEM_REGION";
    let is_text = |element: &Element| element.elements().next().is_none();
    while let Some(old) = ivshmem.remove_where("IVSHMEM_REGION", is_text) {
        let text = old.text();
        match region(&text, &names) {
            Some(region) => {
                ivshmem.add(region);
                changes.note(
                    path,
                    old.line,
                    format!("“{text}” has elements of its own now"),
                );
            }
            None if text.is_empty() => changes.note(path, old.line, "left out: it was empty"),
            None => changes.note(
                path,
                old.line,
                format!("“{text}” left out: it is not “hv:/name, size, id:id”"),
            ),
        }
    }
    for region in ivshmem
        .elements_mut()
        .filter(|element| element.name == "IVSHMEM_REGION")
    {
        if let Some(name) = region.attribute("name").map(str::to_owned) {
            set(region, "NAME", &name);
            region.remove_attribute("name");
            changes.note(path, region.line, "attribute name is element NAME now");
        }
    }
}

fn region(text: &str, names: &BTreeMap<String, String>) -> Option<Element> {
    let (provider, rest) = text.split_once(":/")?;
    let mut parts = rest.split(',').map(str::trim);
    let (name, size, vms) = (
        parts.next()?,
        parts.next()?,
        parts.next().unwrap_or_default(),
    );
    let mut region = Element::new("IVSHMEM_REGION");
    set(&mut region, "NAME", name);
    set(
        &mut region,
        "PROVIDED_BY",
        if provider == "dm" {
            "Device Model"
        } else {
            "Hypervisor"
        },
    );
    set(&mut region, "IVSHMEM_SIZE", size);
    for id in vms.split(':').filter(|id| !id.is_empty()) {
        let mut member = Element::new("IVSHMEM_VM");
        set(&mut member, "VM_NAME", names.get(id)?);
        region.make("IVSHMEM_VMS").add(member);
    }
    Some(region)
}
