//! Caches, and how they can be divided.

use std::collections::BTreeMap;

use acrn_config::xml::Element;

use crate::cpu::Thread;
use crate::cpuid::Cpuid;
use crate::host::{Host, list};
use crate::xml::{add, group, hex, hex_leaf, leaf, with};

const CPUS: &str = "/sys/devices/system/cpu";

/// A cache of a level and kind is known by the CPUs that share it.
type Key = (u64, u64, Vec<u64>);

/// The element `caches`.
pub fn caches(host: &Host, threads: &[Thread]) -> Element {
    let mut found: BTreeMap<Key, String> = BTreeMap::new();
    for thread in threads {
        let directory = format!("{CPUS}/cpu{}/cache", thread.id);
        for index in host.names(&directory) {
            let path = format!("{directory}/{index}");
            if let Some(key) = key(host, &path, threads) {
                found.entry(key).or_insert(path);
            }
        }
    }
    if found.is_empty() {
        let meaning = "cache allocation cannot be configured";
        host.gap(
            "caches",
            "Linux names none, as often in a virtual machine",
            meaning,
        );
    }
    let mut numbers: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let all = found.into_iter().map(|(key, path)| {
        let number = numbers.entry((key.0, key.1)).or_insert(0);
        let element = cache(host, &key, &path, *number);
        *number += 1;
        element
    });
    group("caches", all)
}

fn key(host: &Host, path: &str, threads: &[Thread]) -> Option<Key> {
    let level = host.number(&format!("{path}/level"))?;
    let kind = match host.text(&format!("{path}/type"))?.as_str() {
        "Data" => 1,
        "Instruction" => 2,
        _ => 3,
    };
    let shared = list(&host.text(&format!("{path}/shared_cpu_list"))?);
    let sharing = threads.iter().filter(|thread| shared.contains(&thread.id));
    let apics: Vec<u64> = sharing.map(|thread| thread.apic_id).collect();
    Some((level, kind, apics))
}

fn cache(host: &Host, (level, kind, apics): &Key, path: &str, number: u64) -> Element {
    let read = |file: &str| host.number(&format!("{path}/{file}"));
    let (id, level_text, kind) = (hex(number), level.to_string(), kind.to_string());
    let mut element = with(
        "cache",
        &[("level", &level_text), ("id", &id), ("type", &kind)],
    );
    let size = host
        .text(&format!("{path}/size"))
        .and_then(|text| bytes(&text));
    let facts = [
        ("cache_size", size),
        ("line_size", read("coherency_line_size")),
        ("ways", read("ways_of_associativity")),
        ("sets", read("number_of_sets")),
        ("partitions", read("physical_line_partition")),
    ];
    add(
        &mut element,
        facts
            .into_iter()
            .filter_map(|(name, value)| Some(leaf(name, value?))),
    );
    let apics = apics.iter().map(|&apic| hex_leaf("processor", apic));
    element.add(group("processors", apics));
    add(&mut element, allocation(&host.cpuid, *level));
    element
}

/// A size such as `1024K`.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Cache allocation of a level, as CPUID says (leaf 0x10, Intel's manual volume 3, 18.19.4).
fn allocation(cpuid: &Cpuid, level: u64) -> Vec<Element> {
    let (bit, sub) = match level {
        3 => (1, 1),
        2 => (2, 2),
        _ => return Vec::new(),
    };
    if !cpuid.has(0x10, 0, 1, bit) {
        return Vec::new();
    }
    let [eax, _, ecx, edx] = cpuid.leaf(0x10, sub);
    let mut cat = with("capability", &[("id", "CAT")]);
    cat.add(hex_leaf("capacity_mask_length", (eax & 0x1f) + 1));
    cat.add(hex_leaf("clos_number", (edx & 0xffff) + 1));
    let mut all = vec![cat];
    if ecx >> 2 & 1 == 1 {
        all.push(with("capability", &[("id", "CDP")]));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("48K"), Some(49_152));
        assert_eq!(bytes("12M"), Some(12 << 20));
        assert_eq!(
            (bytes("12"), bytes("xK"), bytes("99999999999999999999M")),
            (None, None, None)
        );
    }

    #[test]
    fn allocation_is_what_cpuid_says_of_the_level() {
        let cpuid = Cpuid::recording("10 0 0 2 0 0\n10 1 b 0 4 f\n");
        let level3 = allocation(&cpuid, 3);
        assert_eq!(level3.len(), 2);
        assert_eq!(level3[0].child_text("capacity_mask_length").unwrap(), "0xc");
        assert_eq!(level3[0].child_text("clos_number").unwrap(), "0x10");
        assert!(allocation(&cpuid, 2).is_empty() && allocation(&cpuid, 1).is_empty());
    }
}
