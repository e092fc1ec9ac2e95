//! The definition for `acrnd`: the VM itself where `acrn-dm` needs nothing else, or its script.

use super::guest::Guest;
use acrn_config_blob::Restart;
use std::fmt::Write as _;

pub(super) fn definition(guest: &Guest, script: &str) -> String {
    let name = &guest.name;
    let restart = match guest.restart {
        Restart::Never => "never",
        Restart::OnCrash => "on-failure",
        Restart::Always => "always",
    };
    let mut text = format!(
        "# The VM {name}; acrn-config launch has written it. acrnctl add {name}.toml adds it.\n\
         restart = \"{restart}\"\n"
    );
    match own_keys(guest) {
        Some(keys) => text + &keys,
        None => {
            let _ = writeln!(text, "script = {}", string(script));
            text
        }
    }
}

/// The keys of `acrn-dm --config`; nothing where the Service VM has to be prepared, or where there are
/// options without a key.
fn own_keys(guest: &Guest) -> Option<String> {
    let prepared = guest.taps.is_empty()
        && guest.modules.is_empty()
        && guest.passed.is_empty()
        && !guest.owns_cpus;
    if !prepared || !guest.options.is_empty() {
        return None;
    }
    let mut text = format!("\n[vm]\nmemsize = {}\n", string(&guest.memory));
    let mut own = guest.more.iter();
    while let Some(option) = own.next() {
        let key = match option.as_str() {
            "-k" | "--kernel" => "kernel",
            "-r" | "--ramdisk" => "ramdisk",
            "-B" | "--bootargs" => "bootargs",
            "-E" | "--elf_file" => "elf_file",
            _ => return None,
        };
        let _ = writeln!(text, "{key} = {}", string(own.next()?));
    }
    if !guest.apic_ids.is_empty() {
        let _ = writeln!(text, "cpu_affinity = {}", string(&guest.affinity()));
    }
    for (key, values) in [("lpc", &guest.ports), ("pci_slot", &guest.pci)] {
        if !values.is_empty() {
            let values: Vec<String> = values.iter().map(|value| string(value)).collect();
            let _ = writeln!(text, "{key} = [\n    {},\n]", values.join(",\n    "));
        }
    }
    Some(text)
}

/// A TOML string.
fn string(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04X}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(string("a\"b\\c\n"), r#""a\"b\\c\u000A""#);
    }
}
