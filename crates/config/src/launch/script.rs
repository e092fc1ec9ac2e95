//! The launch script: settings of the VM, then steps that are the same for all.

use super::guest::Guest;
use super::quote::quoted;
use std::fmt::Write as _;

const STEPS: &str = include_str!("launch.sh");

pub(super) fn script(guest: &Guest) -> String {
    let name = &guest.name;
    let mut text = format!(
        "#!/bin/bash\n\
         # Starts the VM {name} and stays until it has ended; acrn-config launch has written it.\n\
         #\n\
         # Whatever it changes in the Service VM is put back on every way out. Exit status: 1 for a\n\
         # precondition that is not met, otherwise that of acrn-dm.\n\
         set -euo pipefail\n\n"
    );
    let ids: Vec<String> = guest.apic_ids.iter().map(u32::to_string).collect();
    let own = if guest.owns_cpus { &ids[..] } else { &[] };
    let modules: Vec<String> = guest.modules.iter().map(|&name| name.to_owned()).collect();
    let passed: Vec<String> = guest
        .passed
        .iter()
        .map(|bdf| format!("0000:{bdf}"))
        .collect();
    array(
        &mut text,
        "Files that must be there.",
        "files",
        &guest.files,
    );
    array(&mut text, "Local APICs of its CPUs.", "apic_ids", &ids);
    array(
        &mut text,
        "Those that Linux must leave.",
        "own_apic_ids",
        own,
    );
    let for_good = if guest.lapic_passthrough { "yes" } else { "no" };
    let _ = writeln!(text, "cpus_for_good={for_good}");
    array(
        &mut text,
        "PCI devices that it is given.",
        "pci_devices",
        &passed,
    );
    array(&mut text, "Network interfaces.", "taps", &guest.taps);
    array(&mut text, "Kernel modules.", "modules", &modules);
    text.push_str("# shellcheck disable=SC2054 # the commas belong to the options\ndm_params=(\n");
    for line in lines(&guest.words()) {
        let _ = writeln!(text, "    {line}");
    }
    text.push_str(")\n\n");
    text + STEPS
}

fn array(text: &mut String, comment: &str, name: &str, values: &[String]) {
    let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    let _ = writeln!(text, "# {comment}\n{name}=({})", values.join(" "));
}

/// One option with its value a line.
fn lines(words: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut option = false;
    for word in words {
        let value = option && !word.starts_with('-');
        match lines.last_mut().filter(|_| value) {
            Some(line) => {
                line.push(' ');
                line.push_str(&quoted(word));
            }
            None => lines.push(quoted(word)),
        }
        // These have no value: what follows is a word of its own.
        let lonely = ["--rtvm", "--lapic_pt", "--windows", "--enable_trusty"];
        option = word.starts_with('-') && !lonely.contains(&word.as_str());
    }
    lines
}
