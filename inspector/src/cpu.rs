//! Processors: the model with what it can do, and the tree of dies, cores and threads.

use std::collections::BTreeMap;

use acrn_config::xml::Element;

use crate::cpuid::Cpuid;
use crate::host::Host;
use crate::xml::{add, group, hex, hex_leaf, leaf, with};

const CPUS: &str = "/sys/devices/system/cpu";

/// A feature: ACRN's name of it, and leaf, subleaf, register and bit of CPUID.
const FEATURES: &[(&str, u32, u32, usize, u32)] = &[
    ("sse3", 1, 0, 2, 0),
    ("pclmulqdq", 1, 0, 2, 1),
    ("monitor", 1, 0, 2, 3),
    ("vmx", 1, 0, 2, 5),
    ("smx", 1, 0, 2, 6),
    ("est", 1, 0, 2, 7),
    ("ssse3", 1, 0, 2, 9),
    ("fma", 1, 0, 2, 12),
    ("cmpxchg16b", 1, 0, 2, 13),
    ("pcid", 1, 0, 2, 17),
    ("sse41", 1, 0, 2, 19),
    ("sse42", 1, 0, 2, 20),
    ("x2apic", 1, 0, 2, 21),
    ("movbe", 1, 0, 2, 22),
    ("popcnt", 1, 0, 2, 23),
    ("tsc_deadline", 1, 0, 2, 24),
    ("aesni", 1, 0, 2, 25),
    ("xsave", 1, 0, 2, 26),
    ("avx", 1, 0, 2, 28),
    ("rdrand", 1, 0, 2, 30),
    ("pae", 1, 0, 3, 6),
    ("mce", 1, 0, 3, 7),
    ("apic", 1, 0, 3, 9),
    ("mtrr", 1, 0, 3, 12),
    ("mca", 1, 0, 3, 14),
    ("pse36", 1, 0, 3, 17),
    ("htt", 1, 0, 3, 28),
    ("turbo_boost_available", 6, 0, 0, 1),
    ("arat", 6, 0, 0, 2),
    ("hwp_supported", 6, 0, 0, 7),
    ("hwp_notification", 6, 0, 0, 8),
    ("fsgsbase", 7, 0, 1, 0),
    ("avx2", 7, 0, 1, 5),
    ("smep", 7, 0, 1, 7),
    ("erms", 7, 0, 1, 9),
    ("invpcid", 7, 0, 1, 10),
    ("rdt_m", 7, 0, 1, 12),
    ("rdt_a", 7, 0, 1, 15),
    ("rdseed", 7, 0, 1, 18),
    ("smap", 7, 0, 1, 20),
    ("clflushopt", 7, 0, 1, 23),
    ("umip", 7, 0, 2, 2),
    ("svm", 0x8000_0001, 0, 2, 2),
    ("nx", 0x8000_0001, 0, 3, 20),
    ("gbyte_pages", 0x8000_0001, 0, 3, 26),
    ("lm", 0x8000_0001, 0, 3, 29),
    ("invariant_tsc", 0x8000_0007, 0, 3, 8),
    ("npt", 0x8000_000a, 0, 3, 0),
];

/// A logical CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Linux's number.
    pub id: u64,
    /// Number of the local APIC.
    pub apic_id: u64,
    /// Number of the die, over all packages.
    pub die: u64,
    /// Number of the core on it.
    pub core: u64,
    /// CPUs that change their frequency together.
    pub frequency_domain: Option<String>,
    /// `Core` or `Atom` of a hybrid processor.
    pub kind: Option<&'static str>,
    /// Levels of performance, if the processor chooses them by itself (HWP).
    pub levels: Option<Levels>,
}

/// Levels of performance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// What it can always keep.
    pub guaranteed: u64,
    /// The highest.
    pub highest: u64,
    /// The lowest.
    pub lowest: u64,
}

/// Whether the processor has a feature by ACRN's name.
pub fn has(cpuid: &Cpuid, name: &str) -> bool {
    FEATURES
        .iter()
        .find(|feature| feature.0 == name)
        .is_some_and(|&(_, leaf, sub, register, bit)| cpuid.has(leaf, sub, register, bit))
}

/// All CPUs that are on line.
pub fn threads(host: &Host) -> Vec<Thread> {
    let meaning = "the CPUs are counted from 0 and their APIC ids guessed; correct them by hand";
    let info = host
        .wanted_text("/proc/cpuinfo", meaning)
        .unwrap_or_default();
    let apic_ids = apic_ids(&info);
    let online = host.text(&format!("{CPUS}/online"));
    let mut ids = online.map_or_else(Vec::new, |text| crate::host::list(&text));
    if ids.is_empty() {
        ids = apic_ids.keys().copied().collect();
    }
    ids.iter().map(|&id| thread(host, id, &apic_ids)).collect()
}

fn thread(host: &Host, id: u64, apic_ids: &BTreeMap<u64, u64>) -> Thread {
    let directory = format!("{CPUS}/cpu{id}");
    let topology = |file: &str| host.number(&format!("{directory}/topology/{file}"));
    let (package, die) = (topology("physical_package_id"), topology("die_id"));
    let in_list = |path: &str| {
        let list = host.text(path).map(|text| crate::host::list(&text));
        list.is_some_and(|list| list.contains(&id))
    };
    let kind = if in_list("/sys/devices/cpu_atom/cpus") {
        Some("Atom")
    } else if in_list("/sys/devices/cpu_core/cpus") {
        Some("Core")
    } else {
        None
    };
    Thread {
        id,
        apic_id: apic_ids.get(&id).copied().unwrap_or(id),
        die: package
            .unwrap_or(0)
            .saturating_mul(256)
            .saturating_add(die.unwrap_or(0)),
        core: topology("core_id").unwrap_or(id),
        frequency_domain: host.text(&format!("{directory}/cpufreq/freqdomain_cpus")),
        kind,
        levels: levels(host, &directory),
    }
}

/// What ACPI tells of the processor's levels (CPPC), which are HWP's where there is HWP.
fn levels(host: &Host, directory: &str) -> Option<Levels> {
    if !has(&host.cpuid, "hwp_supported") {
        return None;
    }
    let read = |file: &str| host.number(&format!("{directory}/acpi_cppc/{file}"));
    Some(Levels {
        guaranteed: read("guaranteed_perf").or(read("nominal_perf"))?,
        highest: read("highest_perf")?,
        lowest: read("lowest_perf")?,
    })
}

/// Local APICs by CPU.
fn apic_ids(info: &str) -> BTreeMap<u64, u64> {
    let mut ids = BTreeMap::new();
    let mut cpu = None;
    for (key, value) in info.lines().filter_map(|line| line.split_once(':')) {
        let value = crate::host::number(value);
        match key.trim() {
            "processor" => cpu = value,
            "apicid" => ids.extend(cpu.zip(value)),
            _ => {}
        }
    }
    ids
}

/// The element `processors`.
pub fn processors(host: &Host, threads: &[Thread]) -> Element {
    let mut kinds: Vec<Option<&str>> = threads.iter().map(|thread| thread.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        kinds.push(None);
    }
    let models = kinds.into_iter().map(|kind| model(&host.cpuid, kind));
    let mut element = group("processors", models);
    let mut dies: BTreeMap<u64, BTreeMap<u64, Vec<&Thread>>> = BTreeMap::new();
    for thread in threads {
        let cores = dies.entry(thread.die).or_default();
        cores.entry(thread.core).or_default().push(thread);
    }
    for (die, cores) in dies {
        let mut node = with("die", &[("id", &hex(die))]);
        for (core, threads) in cores {
            let mut core = with("core", &[("id", &hex(core))]);
            add(
                &mut core,
                threads
                    .into_iter()
                    .map(|thread| thread_element(host, thread)),
            );
            node.add(core);
        }
        element.add(node);
    }
    element
}

fn model(cpuid: &Cpuid, kind: Option<&str>) -> Element {
    let (family, model, _) = cpuid.signature();
    let mut element = with("model", &[("description", &cpuid.brand())]);
    element.add(hex_leaf("family_id", family));
    element.add(hex_leaf("model_id", model));
    add(&mut element, kind.map(|kind| leaf("core_type", kind)));
    let names = FEATURES.iter().map(|feature| feature.0);
    let there = names.filter(|name| has(cpuid, name));
    add(
        &mut element,
        there.map(|name| with("capability", &[("id", name)])),
    );
    let mut bits = with("attribute", &[("id", "physical_address_bits")]);
    bits.set_text(&cpuid.physical_bits().to_string());
    element.add(bits);
    element
}

fn thread_element(host: &Host, thread: &Thread) -> Element {
    let (family, model, stepping) = host.cpuid.signature();
    let mut element = with("thread", &[("id", &hex(thread.apic_id))]);
    element.add(leaf("cpu_id", thread.id));
    element.add(hex_leaf("apic_id", thread.apic_id));
    element.add(hex_leaf("x2apic_id", thread.apic_id));
    element.add(hex_leaf("family_id", family));
    element.add(hex_leaf("model_id", model));
    element.add(hex_leaf("stepping_id", stepping));
    add(
        &mut element,
        thread.kind.map(|kind| leaf("core_type", kind)),
    );
    if let Some(levels) = thread.levels {
        element.add(leaf("guaranteed_performance_lvl", levels.guaranteed));
        element.add(leaf("highest_performance_lvl", levels.highest));
        element.add(leaf("lowest_performance_lvl", levels.lowest));
    }
    let domain = thread.frequency_domain.as_ref();
    add(
        &mut element,
        domain.map(|cpus| leaf("freqdomain_cpus", cpus)),
    );
    element
}
