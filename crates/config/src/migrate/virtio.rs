//! Virtio devices, which were parts of `acrn-dm`'s command line.

use super::{Changes, each_vm, set};
use crate::xml::Element;

/// Replaces the devices of that name that are texts, and takes the empty ones away.
fn each_text(
    root: &mut Element,
    name: &str,
    changes: &mut Changes,
    new: fn(&str) -> Option<Element>,
) {
    each_vm(root, |path, vm| {
        let Some(devices) = vm.child_mut("virtio_devices") else {
            return;
        };
        let is_text = |element: &Element| element.elements().next().is_none();
        let mut made = Vec::new();
        while let Some(old) = devices.remove_where(name, is_text) {
            let text = old.text();
            if text.is_empty() {
                continue;
            }
            let what = match new(&text) {
                Some(element) => {
                    made.push(element);
                    format!("“{text}” has elements of its own now")
                }
                None => format!("“{text}” left out: it is not understood"),
            };
            changes.note(format!("{path}/virtio_devices/{name}"), old.line, what);
        }
        for element in made {
            devices.add(element);
        }
    });
}

/// `tap_name[,vhost][,mac=…]`.
pub(super) fn networks(root: &mut Element, changes: &mut Changes) {
    each_text(root, "network", changes, |text| {
        let mut words = text.split(',').map(str::trim);
        let interface = words.next().filter(|name| !name.is_empty())?;
        let kernel = words.any(|word| word == "vhost");
        let framework = if kernel {
            "Kernel based (Virtual Host)"
        } else {
            "User space based (VBSU)"
        };
        let mut network = Element::new("network");
        set(&mut network, "virtio_framework", framework);
        set(
            &mut network,
            "interface_name",
            interface.trim_start_matches("tap_"),
        );
        Some(network)
    });
}

/// `[@]stdio|tty|pty|sock:name[=path]`; with `@` it is a console.
pub(super) fn consoles(root: &mut Element, changes: &mut Changes) {
    each_text(root, "console", changes, |text| {
        let (kind, rest) = text.trim_start_matches('@').split_once(':')?;
        let path = rest
            .split_once('=')
            .map(|(_, path)| path.split(':').next().unwrap_or(path));
        let (backend, place) = match kind {
            "stdio" | "pty" => (kind, None),
            "tty" => ("tty", Some("tty_device_path")),
            "file" => ("file", Some("output_file_path")),
            "sock" | "socket" => {
                let client = rest.ends_with(":client");
                (
                    if client { "sock client" } else { "sock server" },
                    Some("sock_file_path"),
                )
            }
            _ => return None,
        };
        let mut console = Element::new("console");
        let console_use = if text.starts_with('@') {
            "Virtio console"
        } else {
            "Virtio serial port"
        };
        set(&mut console, "use_type", console_use);
        set(&mut console, "backend_type", backend);
        if let (Some(place), Some(path)) = (place, path) {
            set(&mut console, place, path);
        }
        Some(console)
    });
}

/// `/dev/input/eventN[,id]`.
pub(super) fn inputs(root: &mut Element, changes: &mut Changes) {
    each_text(root, "input", changes, |text| {
        let (device, id) = text
            .split_once(',')
            .map_or((text, None), |(device, id)| (device, Some(id)));
        let mut input = Element::new("input");
        set(&mut input, "backend_device_file", device.trim());
        if let Some(id) = id {
            set(&mut input, "id", id.trim());
        }
        Some(input)
    });
}
