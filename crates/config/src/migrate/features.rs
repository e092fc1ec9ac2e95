//! Options of the hypervisor that had other names, places or meanings.

use super::{Changes, drop_child, set};
use crate::xml::Element;

const DEBUG: &str = "hv/DEBUG_OPTIONS";
const FEATURES: &str = "hv/FEATURES";

/// `RELEASE` was y or n; `BUILD_TYPE` was among the debug options.
pub(super) fn build_type(root: &mut Element, changes: &mut Changes) {
    let Some(hv) = root.child_mut("hv") else {
        return;
    };
    let Some(debug) = hv.child_mut("DEBUG_OPTIONS") else {
        return;
    };
    let (name, old) = match (debug.remove("RELEASE", 0), debug.remove("BUILD_TYPE", 0)) {
        (Some(old), _) => ("RELEASE", old),
        (None, Some(old)) => ("BUILD_TYPE", old),
        (None, None) => return,
    };
    let value = match old.text().as_str() {
        "y" => "release".to_owned(),
        "n" => "debug".to_owned(),
        other => other.to_owned(),
    };
    if hv.child("BUILD_TYPE").is_none() {
        set(hv, "BUILD_TYPE", &value);
    }
    changes.note(
        format!("{DEBUG}/{name}"),
        old.line,
        format!("is hv/BUILD_TYPE {value} now"),
    );
}

/// Moves the value of an old feature to a new one.
fn rename(root: &mut Element, old: &str, new: &str, invert: bool, changes: &mut Changes) {
    let Some(features) = root.find_mut(FEATURES) else {
        return;
    };
    let Some(element) = features.remove(old, 0) else {
        return;
    };
    let value = match (element.text().as_str(), invert) {
        ("y", true) => "n".to_owned(),
        ("n", true) => "y".to_owned(),
        (text, _) => text.to_owned(),
    };
    if features.child(new).is_none() && !value.is_empty() {
        set(features, new, &value);
    }
    changes.note(
        format!("{FEATURES}/{old}"),
        element.line,
        format!("is {new} {value} now"),
    );
}

/// Features with other names.
pub(super) fn renamed(root: &mut Element, changes: &mut Changes) {
    for (old, new) in [
        ("RELOC", "RELOC_ENABLED"),
        ("MULTIBOOT2", "MULTIBOOT2_ENABLED"),
    ] {
        rename(root, old, new, false, changes);
    }
}

/// Features whose old names said the opposite.
pub(super) fn inverted(root: &mut Element, changes: &mut Changes) {
    let names = [
        ("MCE_ON_PSC_DISABLED", "MCE_ON_PSC_ENABLED"),
        ("ENFORCE_TURNOFF_AC", "SPLIT_LOCK_DETECTION_ENABLED"),
        ("ENFORCE_TURNOFF_GP", "UC_LOCK_DETECTION_ENABLED"),
    ];
    for (old, new) in names {
        rename(root, old, new, true, changes);
    }
}

/// What is found out at run time now, or has no use any more.
const DROPPED: &[(&str, &str, &str)] = &[
    (DEBUG, "LOG_BUF_SIZE", "the hypervisor decides"),
    (
        DEBUG,
        "LOG_DESTINATION",
        "each destination has a level of its own",
    ),
    (
        FEATURES,
        "NVMX_ENABLED",
        "nested_virtualization_support of the Service VM decides",
    ),
    (
        "hv/FEATURES/IVSHMEM",
        "IVSHMEM_ENABLED",
        "regions are there if they are listed",
    ),
    (
        "hv/FEATURES/RDT",
        "CLOS_MASK",
        "CACHE_REGION says which vCPU may fill what",
    ),
    (
        "hv/FEATURES/RDT",
        "MBA_DELAY",
        "memory bandwidth is not allocated",
    ),
    ("hv/MEMORY", "PLATFORM_RAM_SIZE", "the board file says it"),
    (
        "hv/MEMORY",
        "LOW_RAM_SIZE",
        "the hypervisor finds its memory at boot",
    ),
    ("hv/MEMORY", "HV_RAM_SIZE", "it is computed"),
    (
        "hv/MEMORY",
        "SOS_RAM_SIZE",
        "the Service VM gets what is left",
    ),
    ("hv/MEMORY", "UOS_RAM_SIZE", "each VM says its memory"),
    (
        "hv/CAPACITIES",
        "IOMMU_BUS_NUM",
        "the hypervisor finds the buses at boot",
    ),
    (
        "hv/CAPACITIES",
        "MAX_EFI_MMAP_ENTRIES",
        "the hypervisor finds its memory at boot",
    ),
    (
        "hv/CAPACITIES",
        "MAX_IR_ENTRIES",
        "the hypervisor finds it at boot",
    ),
    (
        "hv/MISC_CFG",
        "UEFI_OS_LOADER_NAME",
        "the boot loader's configuration says it",
    ),
];

/// Leaves out what has no use any more.
pub(super) fn dropped(root: &mut Element, changes: &mut Changes) {
    for (parent, name, why) in DROPPED {
        let nested = *name == "NVMX_ENABLED"
            && root
                .find_mut(FEATURES)
                .and_then(|f| f.child_text(name))
                .as_deref()
                == Some("y");
        if let Some(element) = root.find_mut(parent) {
            drop_child(element, parent, name, why, changes);
        }
        if nested {
            service_vm_nests(root, changes);
        }
    }
    // Its absence means the same as nothing in it.
    if let Some(capacities) = root.find_mut("hv/CAPACITIES") {
        if capacities
            .child("MAX_MSIX_TABLE_NUM")
            .is_some_and(|e| e.text().is_empty())
        {
            drop_child(
                capacities,
                "hv/CAPACITIES",
                "MAX_MSIX_TABLE_NUM",
                "it was empty",
                changes,
            );
        }
    }
}

fn service_vm_nests(root: &mut Element, changes: &mut Changes) {
    super::each_vm(root, |path, vm| {
        let texts = ["load_order", "vm_type"].map(|name| vm.child_text(name).unwrap_or_default());
        if texts
            .iter()
            .any(|text| text == "SERVICE_VM" || text == "SOS_VM")
        {
            set(vm, "nested_virtualization_support", "y");
            changes.note(
                format!("{path}/nested_virtualization_support"),
                0,
                "set to y, as NVMX_ENABLED was",
            );
        }
    });
}
