//! Whether acrn-rs will run on a machine, before anything is installed: what is missing, where it is
//! switched on, and which kinds of VM there can be.

use serde::Serialize;

use crate::cpu::has;
use crate::cpuid::Cpuid;
use crate::host::Host;
use crate::tables::DIRECTORY;

/// How one check ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is there.
    Good,
    /// It is not, and some things will not work, or not as well.
    Warning,
    /// It is not, and nothing will work.
    Bad,
    /// It cannot be told.
    Unknown,
}

/// A check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Of what.
    pub name: &'static str,
    /// How it ends.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty where all is well.
    pub remedy: String,
}

/// A kind of VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Which.
    pub name: &'static str,
    /// Whether there can be one.
    pub possible: bool,
    /// What it lacks.
    pub lacks: Vec<String>,
}

/// All checks, and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Whether the hypervisor will run.
    pub runs: bool,
    /// The checks.
    pub checks: Vec<Check>,
    /// The kinds of VM.
    pub kinds: Vec<Kind>,
}

/// Least memory for the hypervisor and a Service VM, in KiB.
const LEAST_MEMORY: u64 = 512 << 10;
/// The hypervisor uses so many CPUs.
const MOST_CPUS: usize = 16;

/// Examines a machine.
pub fn examine(host: &Host) -> Diagnosis {
    let checks = vec![
        long_mode(&host.cpuid),
        virtualization(host),
        nested_paging(host),
        not_virtual(&host.cpuid),
        cpus(host),
        memory(host),
        acpi(host),
        secure_boot(host),
        boot_loader(host),
        apic(&host.cpuid),
        clock(&host.cpuid),
        iommu(host),
        console(host),
        large_pages(&host.cpuid),
        cache_allocation(&host.cpuid),
    ];
    let runs = checks.iter().all(|check| check.verdict != Verdict::Bad);
    let kinds = kinds(runs, &checks);
    Diagnosis {
        runs,
        checks,
        kinds,
    }
}

fn check(name: &'static str, verdict: Verdict, found: impl Into<String>, remedy: &str) -> Check {
    let remedy = if verdict == Verdict::Good { "" } else { remedy };
    Check {
        name,
        verdict,
        found: found.into(),
        remedy: remedy.to_owned(),
    }
}

fn judged(good: bool, otherwise: Verdict) -> Verdict {
    if good { Verdict::Good } else { otherwise }
}

fn long_mode(cpuid: &Cpuid) -> Check {
    let good = has(cpuid, "lm") && has(cpuid, "nx");
    let found = if good {
        "64-bit mode with NX"
    } else {
        "no 64-bit mode with NX"
    };
    let remedy = "switch “Execute Disable” or “NX Mode” on in the firmware's settings; without it \
                  this processor cannot run the hypervisor";
    check("processor", judged(good, Verdict::Bad), found, remedy)
}

/// CPUID's bit of AMD's processors stays when the firmware has locked SVM; Linux knows it then.
fn virtualization(host: &Host) -> Check {
    let cpuid = &host.cpuid;
    let amd = cpuid.vendor() == "AuthenticAMD";
    let (name, there, setting) = if amd {
        ("SVM", has(cpuid, "svm"), "“SVM Mode” or “AMD-V”")
    } else {
        (
            "VT-x",
            has(cpuid, "vmx"),
            "“Intel Virtualization Technology” or “VMX”",
        )
    };
    let info = host.text("/proc/cpuinfo").unwrap_or_default();
    let flag = if amd { "svm" } else { "vmx" };
    let flags = info.lines().find(|line| line.starts_with("flags"));
    let linux = flags.map(|flags| flags.split_whitespace().any(|word| word == flag));
    let good = there && linux != Some(false);
    let found = match (there, good) {
        (_, true) => format!("{name} is there"),
        (true, false) => format!("{name} is there, and the firmware has switched it off"),
        (false, _) => format!("no {name}"),
    };
    let remedy = format!(
        "switch {setting} on in the firmware's settings; in a virtual machine, have its host pass \
         nested virtualization on"
    );
    check("virtualization", judged(good, Verdict::Bad), found, &remedy)
}

fn nested_paging(host: &Host) -> Check {
    let cpuid = &host.cpuid;
    if cpuid.vendor() == "AuthenticAMD" {
        if !has(cpuid, "svm") {
            let found = "the processor does not tell without SVM";
            return check(
                "second-level paging",
                Verdict::Unknown,
                found,
                "switch SVM on to know",
            );
        }
        let good = has(cpuid, "npt");
        let found = if good {
            "nested paging"
        } else {
            "no nested paging"
        };
        return check(
            "second-level paging",
            judged(good, Verdict::Bad),
            found,
            "use a processor that has it",
        );
    }
    // Linux tells Intel's capabilities, which are in registers that ordinary programs cannot read.
    let info = host.text("/proc/cpuinfo").unwrap_or_default();
    let Some(flags) = info.lines().find_map(|line| line.strip_prefix("vmx flags")) else {
        let found = "Linux does not tell: it has no VT-x, or is older than 5.10";
        return check(
            "second-level paging",
            Verdict::Unknown,
            found,
            "boot a newer kernel to know",
        );
    };
    let has_word = |word: &str| flags.split_whitespace().any(|flag| flag == word);
    let missing: Vec<&str> = ["ept", "unrestricted_guest", "vnmi", "tsc_offset"]
        .into_iter()
        .filter(|word| !has_word(word))
        .collect();
    let (verdict, found, remedy) = match (missing.is_empty(), has_word("vpid")) {
        (true, true) => (Verdict::Good, "EPT, with VPID".to_owned(), ""),
        (true, false) => (
            Verdict::Warning,
            "EPT, without VPID".to_owned(),
            "each change between VM and hypervisor costs translations of addresses",
        ),
        (false, _) => (
            Verdict::Bad,
            format!("no {}", missing.join(", ")),
            "use a processor that has them",
        ),
    };
    check("second-level paging", verdict, found, remedy)
}

fn not_virtual(cpuid: &Cpuid) -> Check {
    let inside = cpuid.has(1, 0, 2, 31);
    let found = if inside {
        "this is a virtual machine"
    } else {
        "this is a real machine"
    };
    let remedy = "the hypervisor runs in a virtual machine with nested virtualization, for trying; times \
                  mean nothing there";
    check("machine", judged(!inside, Verdict::Warning), found, remedy)
}

fn cpus(host: &Host) -> Check {
    let count = crate::cpu::threads(host).len();
    let verdict = match count {
        0 => Verdict::Unknown,
        1 => Verdict::Warning,
        _ => judged(count <= MOST_CPUS, Verdict::Warning),
    };
    let remedy = if count > MOST_CPUS {
        "those beyond the 16th stay unused"
    } else {
        "with one CPU, VMs share it and there can be no real-time VM"
    };
    check("CPUs", verdict, format!("{count}"), remedy)
}

fn memory(host: &Host) -> Check {
    let info = host.text("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    match kib {
        Some(kib) => {
            let verdict = judged(kib >= LEAST_MEMORY, Verdict::Bad);
            check(
                "memory",
                verdict,
                format!("{} MiB", kib >> 10),
                "512 MiB are needed at least",
            )
        }
        None => check(
            "memory",
            Verdict::Unknown,
            "/proc/meminfo cannot be read",
            "run as root",
        ),
    }
}

fn acpi(host: &Host) -> Check {
    let wanted = ["APIC", "FACP"];
    let missing = wanted
        .into_iter()
        .filter(|table| !host.exists(&format!("{DIRECTORY}/{table}")));
    let missing: Vec<&str> = missing.collect();
    let found = if missing.is_empty() {
        "the tables that are needed".to_owned()
    } else {
        format!("no table {}", missing.join(", "))
    };
    let remedy = "switch ACPI on in the firmware's settings, and leave acpi=off out of the kernel's command line";
    check(
        "ACPI",
        judged(missing.is_empty(), Verdict::Bad),
        found,
        remedy,
    )
}

/// With Secure Boot on, GRUB loads what is signed, and nothing by multiboot.
fn secure_boot(host: &Host) -> Check {
    const FIRMWARE: &str = "/sys/firmware/efi";
    const VARIABLES: &str = "/sys/firmware/efi/efivars";
    let variable = format!("{VARIABLES}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    let (verdict, found) = if !host.exists(FIRMWARE) {
        (Verdict::Good, "none: the firmware is not UEFI")
    } else {
        // Four bytes of attributes come first.
        match host.bytes(&variable).as_deref() {
            Ok([_, _, _, _, 0]) => (Verdict::Good, "off"),
            Ok([_, _, _, _, 1]) => (Verdict::Bad, "on"),
            Ok(_) => (Verdict::Unknown, "the firmware's variable is no yes or no"),
            Err(_) if !host.names(VARIABLES).is_empty() => {
                (Verdict::Good, "none: the firmware does not know it")
            }
            Err(_) => (
                Verdict::Unknown,
                "Linux does not show the firmware's variables: mount efivarfs to know",
            ),
        }
    };
    let remedy = "switch “Secure Boot” off in the firmware's settings; GRUB loads no hypervisor while it is on";
    check("Secure Boot", verdict, found, remedy)
}

fn boot_loader(host: &Host) -> Check {
    let places = ["/boot/grub", "/boot/grub2"];
    let (verdict, found) = match places.into_iter().find(|place| host.exists(place)) {
        Some(place) => (Verdict::Good, format!("GRUB, {place}")),
        None if host.names("/boot").is_empty() => {
            (Verdict::Unknown, "nothing is seen in /boot".to_owned())
        }
        None => (Verdict::Warning, "no GRUB in /boot".to_owned()),
    };
    let remedy = "the packages put the hypervisor into GRUB's menu; another boot loader has to load it by \
                  multiboot 2";
    check("boot loader", verdict, found, remedy)
}

fn apic(cpuid: &Cpuid) -> Check {
    let good = has(cpuid, "x2apic");
    let found = if good { "x2APIC" } else { "xAPIC only" };
    let remedy = "switch “x2APIC” on in the firmware's settings, if it has that; real-time VMs with local \
                  APICs passed through need it";
    check("local APIC", judged(good, Verdict::Warning), found, remedy)
}

fn clock(cpuid: &Cpuid) -> Check {
    let invariant = has(cpuid, "invariant_tsc");
    let found = if invariant {
        "its rate is constant"
    } else {
        "its rate may change"
    };
    let remedy = "time in VMs will not be exact";
    check("TSC", judged(invariant, Verdict::Warning), found, remedy)
}

fn iommu(host: &Host) -> Check {
    let there = |table: &str| host.exists(&format!("{DIRECTORY}/{table}"));
    let (verdict, found) = match (there("DMAR"), there("IVRS")) {
        (true, _) => (Verdict::Good, "Intel VT-d"),
        (false, true) => (Verdict::Warning, "AMD-Vi, which is not used yet"),
        (false, false) => (Verdict::Warning, "none"),
    };
    let remedy = "switch “VT-d” or “IOMMU” on in the firmware's settings; without one that is used, the \
                  Service VM's devices can reach all memory, and no device can be passed to another VM";
    check("IOMMU", verdict, found, remedy)
}

fn console(host: &Host) -> Check {
    let ports = crate::classes::ttys(host);
    let port = ports.iter().find(|tty| tty.kind != 0);
    let found = port.map_or("none".to_owned(), |tty| tty.path.clone());
    let remedy = "switch a serial port on in the firmware's settings or plug a PCI serial card in; without one \
                  the hypervisor's messages and shell are not seen";
    check(
        "serial port",
        judged(port.is_some(), Verdict::Warning),
        found,
        remedy,
    )
}

fn large_pages(cpuid: &Cpuid) -> Check {
    let good = has(cpuid, "gbyte_pages");
    let found = if good { "of 1 GiB" } else { "of 2 MiB" };
    check(
        "large pages",
        judged(good, Verdict::Warning),
        found,
        "memory accesses of VMs are a little slower",
    )
}

fn cache_allocation(cpuid: &Cpuid) -> Check {
    let good = has(cpuid, "rdt_a");
    let found = if good { "there" } else { "none" };
    let remedy = "VMs disturb each other in the cache; real-time VMs are less exact";
    check(
        "cache allocation",
        judged(good, Verdict::Warning),
        found,
        remedy,
    )
}

fn kinds(runs: bool, checks: &[Check]) -> Vec<Kind> {
    let good = |name: &str| {
        let found = checks.iter().find(|check| check.name == name);
        found.is_some_and(|check| check.verdict == Verdict::Good)
    };
    let kind = |name: &'static str, needs: &[&str]| {
        let mut lacks: Vec<String> = needs
            .iter()
            .filter(|need| !good(need))
            .map(|&need| need.to_owned())
            .collect();
        if !runs {
            lacks.insert(0, "a machine on which the hypervisor runs".to_owned());
        }
        Kind {
            name,
            possible: lacks.is_empty(),
            lacks,
        }
    };
    vec![
        kind("Service VM", &[]),
        kind("post-launched standard VM", &[]),
        kind("post-launched real-time VM", &["CPUs", "local APIC", "TSC"]),
        kind("pre-launched VM", &["CPUs"]),
        kind("pre-launched VM with devices", &["CPUs", "IOMMU"]),
        kind(
            "pre-launched real-time VM",
            &["CPUs", "IOMMU", "local APIC", "TSC"],
        ),
    ]
}

impl Diagnosis {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let mark = match check.verdict {
                Verdict::Good => "good",
                Verdict::Warning => "note",
                Verdict::Bad => "BAD",
                Verdict::Unknown => "?",
            };
            text.push_str(&format!("{mark:<5} {}: {}\n", check.name, check.found));
            if !check.remedy.is_empty() {
                text.push_str(&format!("      {}\n", check.remedy));
            }
        }
        text.push('\n');
        for kind in &self.kinds {
            let answer = if kind.possible {
                "possible".to_owned()
            } else {
                format!("lacks {}", kind.lacks.join(", "))
            };
            text.push_str(&format!("{}: {answer}\n", kind.name));
        }
        let verdict = if self.runs {
            "will run"
        } else {
            "will not run"
        };
        text + &format!("\nThe hypervisor {verdict} on this machine.\n")
    }
}
