//! Memory: sizes were in bytes, and the place in the machine was always said.

use super::{Changes, each_vm, set};
use crate::parse::hex;
use crate::xml::Element;

const MIB: u64 = 1 << 20;

/// Numbers that were hexadecimal bytes become decimal MiB.
pub(super) fn sizes(root: &mut Element, changes: &mut Changes) {
    each_vm(root, |path, vm| {
        let Some(memory) = vm.child_mut("memory") else {
            return;
        };
        for name in ["size", "whole", "size_hpa", "size_hpa2"] {
            to_mib(memory, &format!("{path}/memory"), name, changes);
        }
        for region in memory
            .elements_mut()
            .filter(|element| element.name == "hpa_region")
        {
            to_mib(
                region,
                &format!("{path}/memory/hpa_region"),
                "size_hpa",
                changes,
            );
        }
        if let Some(whole) = memory.remove("whole", 0) {
            set(memory, "size", &whole.text());
            changes.note(format!("{path}/memory/whole"), whole.line, "is size now");
        }
    });
}

fn to_mib(parent: &mut Element, path: &str, name: &str, changes: &mut Changes) {
    let Some(element) = parent.child_mut(name) else {
        return;
    };
    let text = element.text();
    let bytes = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .and_then(hex);
    if let Some(bytes) = bytes {
        let mib = (bytes / MIB).to_string();
        element.set_text(&mib);
        changes.note(
            format!("{path}/{name}"),
            element.line,
            format!("{text} bytes are {mib} MiB"),
        );
    }
}

/// A start and a size beside each other become a region; without a start there is a size only.
pub(super) fn regions(root: &mut Element, changes: &mut Changes) {
    each_vm(root, |path, vm| {
        let service = vm.child_text("load_order").as_deref() == Some("SERVICE_VM");
        let Some(memory) = vm.child_mut("memory") else {
            return;
        };
        if service {
            if let Some(old) = vm.remove("memory", 0) {
                let what = "left out: the Service VM gets what is left";
                changes.note(format!("{path}/memory"), old.line, what);
            }
            return;
        }
        for (start, size) in [("start_hpa", "size"), ("start_hpa2", "size_hpa2")] {
            region(memory, path, start, size, changes);
        }
    });
}

fn region(memory: &mut Element, path: &str, start: &str, size: &str, changes: &mut Changes) {
    let Some(old) = memory.remove(start, 0) else {
        return;
    };
    let address = hex(&old.text()).unwrap_or(0);
    let length = memory.child_text(size).unwrap_or_default();
    if address == 0 || length.is_empty() || length == "0" {
        if size != "size" {
            memory.remove(size, 0);
        }
        changes.note(
            format!("{path}/memory/{start}"),
            old.line,
            "left out: it said nothing",
        );
        return;
    }
    memory.remove(size, 0);
    let mut region = Element::new("hpa_region");
    set(&mut region, "start_hpa", &format!("{address:#x}"));
    set(&mut region, "size_hpa", &length);
    memory.add(region);
    let what = format!("{length} MiB at {address:#x} are an hpa_region now");
    changes.note(format!("{path}/memory/{start}"), old.line, what);
}
