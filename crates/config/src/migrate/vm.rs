//! VMs: load order, flags, CPUs, boot arguments.

use super::{Changes, drop_child, each_vm, set};
use crate::xml::Element;
use acrn_config_blob::MAX_NAME;

/// The type of a VM said when it is started, too.
pub(super) fn load_order(root: &mut Element, changes: &mut Changes) {
    each_vm(root, |path, vm| {
        let Some(old) = vm.child_text("vm_type") else {
            return;
        };
        let line = vm.child("vm_type").map_or(0, |element| element.line);
        let (order, kind) = match old.as_str() {
            "SERVICE_VM" | "SOS_VM" => ("SERVICE_VM", "STANDARD_VM"),
            "SAFETY_VM" | "PRE_STD_VM" => ("PRE_LAUNCHED_VM", "STANDARD_VM"),
            "PRE_RT_VM" => ("PRE_LAUNCHED_VM", "RTVM"),
            "POST_STD_VM" | "KATA_VM" => ("POST_LAUNCHED_VM", "STANDARD_VM"),
            "POST_RT_VM" => ("POST_LAUNCHED_VM", "RTVM"),
            _ => return,
        };
        if vm.child("load_order").is_none() {
            set(vm, "load_order", order);
        }
        set(vm, "vm_type", kind);
        changes.note(
            format!("{path}/vm_type"),
            line,
            format!("{old} is load_order {order} and vm_type {kind} now"),
        );
    });
}

/// Flags were words in a list.
const FLAGS: &[(&str, &str)] = &[
    ("GUEST_FLAG_LAPIC_PASSTHROUGH", "lapic_passthrough"),
    ("GUEST_FLAG_IO_COMPLETION_POLLING", "io_completion_polling"),
    ("GUEST_FLAG_NVMX_ENABLED", "nested_virtualization_support"),
    ("GUEST_FLAG_VCAT_ENABLED", "virtual_cat_support"),
    ("GUEST_FLAG_SECURE_WORLD_ENABLED", "secure_world_support"),
    ("GUEST_FLAG_HIDE_MTRR", "hide_mtrr_support"),
    ("GUEST_FLAG_SECURITY_VM", "security_vm"),
];

/// Makes an element of each flag.
pub(super) fn guest_flags(root: &mut Element, changes: &mut Changes) {
    each_vm(root, |path, vm| {
        while let Some(flags) = vm.remove("guest_flags", 0) {
            for flag in flags.named("guest_flag") {
                let text = flag.text();
                let new = FLAGS.iter().find(|(old, _)| *old == text);
                let what = match (new, text.as_str()) {
                    (Some((_, new)), _) => {
                        set(vm, new, "y");
                        format!("{text} is {new} now")
                    }
                    (None, "GUEST_FLAG_RT") => {
                        set(vm, "vm_type", "RTVM");
                        format!("{text} is vm_type RTVM now")
                    }
                    (None, "0" | "" | "0UL") => continue,
                    (None, _) => format!("{text} left out: it is not known"),
                };
                changes.note(format!("{path}/guest_flags/guest_flag"), flag.line, what);
            }
        }
    });
}

/// Names had any characters and lengths, and post-launched VMs had none. Nothing refers to them yet:
/// other elements named VMs by their ids.
pub(super) fn names(root: &mut Element, changes: &mut Changes) {
    let mut taken = Vec::new();
    each_vm(root, |path, vm| {
        let number = taken.len();
        let old = vm.child_text("name").unwrap_or_default();
        let line = vm.child("name").map_or(vm.line, |name| name.line);
        let new = name(&old, number, &taken);
        if new != old {
            set(vm, "name", &new);
            let what = match old.as_str() {
                "" => format!("it had none and is {new} now"),
                old => format!("“{old}” is {new} now"),
            };
            changes.note(format!("{path}/name"), line, what);
        }
        taken.push(new);
    });
}

/// A name that is allowed for VM number `number`. Cutting off an end must not make two VMs the same;
/// that they were the same before is for the user to mend.
fn name(old: &str, number: usize, taken: &[String]) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let letter = |c| if allowed(c) { c } else { '_' };
    let whole: String = old.chars().map(letter).collect();
    let cut = |length: usize| whole.chars().take(length).collect::<String>();
    let short = cut(MAX_NAME);
    match whole.len() {
        0 => format!("VM{number}"),
        length if length > MAX_NAME && taken.contains(&short) => {
            let end = format!("_{number}");
            cut(MAX_NAME - end.len()) + &end
        }
        _ => short,
    }
}

/// CPUs were plain numbers, and the Service VM's were said, too.
pub(super) fn cpu_affinity(root: &mut Element, changes: &mut Changes) {
    each_vm(root, |path, vm| {
        if vm.child_text("load_order").as_deref() == Some("SERVICE_VM") {
            let why = "the Service VM gets what is left";
            drop_child(vm, path, "cpu_affinity", why, changes);
        }
        let real_time = vm.child_text("vm_type").as_deref() == Some("RTVM");
        let Some(affinity) = vm.child_mut("cpu_affinity") else {
            return;
        };
        while let Some(old) = affinity.remove("pcpu_id", 0) {
            let cpu = old.text();
            if cpu.is_empty() {
                continue;
            }
            let mut pcpu = Element::new("pcpu");
            set(&mut pcpu, "pcpu_id", &cpu);
            if real_time {
                set(&mut pcpu, "real_time_vcpu", "y");
            }
            affinity.add(pcpu);
            changes.note(
                format!("{path}/cpu_affinity/pcpu_id"),
                old.line,
                format!("CPU {cpu} is in a pcpu now"),
            );
        }
    });
}

/// Boot arguments of the Service VM were in parts.
pub(super) fn boot_arguments(root: &mut Element, changes: &mut Changes) {
    each_vm(root, |path, vm| {
        let Some(private) = vm.remove("board_private", 0) else {
            return;
        };
        let rootfs = private.child_text("rootfs").filter(|text| !text.is_empty());
        let words = [
            rootfs.map(|rootfs| format!("root={rootfs}")),
            private.child_text("bootargs"),
        ];
        let args: Vec<String> = words
            .into_iter()
            .flatten()
            .map(|text| one_line(&text))
            .collect();
        set(vm, "os_config/bootargs", &args.join(" "));
        let what = format!("is in os_config/bootargs now: {}", args.join(" "));
        changes.note(format!("{path}/board_private"), private.line, what);
    });
    each_vm(root, |path, vm| {
        let Some(args) = vm.find_mut("os_config/bootargs") else {
            return;
        };
        let (old, line) = (args.text(), args.line);
        if old.contains(['\n', '\t']) {
            args.set_text(&one_line(&old));
            changes.note(
                format!("{path}/os_config/bootargs"),
                line,
                "is one line now",
            );
        }
        if old == "SERVICE_VM_OS_BOOTARGS" || old == "SOS_VM_BOOTARGS" {
            if let Some(config) = vm.child_mut("os_config") {
                drop_child(
                    config,
                    &format!("{path}/os_config"),
                    "bootargs",
                    "the name of a C macro; the default counts",
                    changes,
                );
            }
        }
    });
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Leaves out what has no use any more.
pub(super) fn dropped(root: &mut Element, changes: &mut Changes) {
    each_vm(root, |path, vm| {
        drop_child(
            vm,
            path,
            "clos",
            "CACHE_REGION says which vCPU may fill what",
            changes,
        );
        drop_child(vm, path, "uuid", "a VM is known by its name", changes);
        drop_child(
            vm,
            path,
            "severity",
            "it follows from the VM's type",
            changes,
        );
        let zero = |name| vm.child("epc_section").and_then(|epc| epc.child_text(name));
        if ["base", "size"]
            .iter()
            .all(|name| zero(name).is_some_and(|text| text == "0"))
        {
            drop_child(vm, path, "epc_section", "it was empty", changes);
        }
        if let Some(config) = vm.child_mut("os_config") {
            drop_child(
                config,
                &format!("{path}/os_config"),
                "name",
                "nothing used it",
                changes,
            );
        }
        if let Some(devices) = vm.child_mut("pci_devs") {
            let empty = |element: &Element| element.text().is_empty();
            while devices.remove_where("pci_dev", empty).is_some() {}
        }
    });
}
