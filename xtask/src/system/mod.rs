//! System tests: named cases that boot machines. A case is a function in one of the
//! modules here and a line in [`CASES`].

mod boot;
mod devices;
mod micro;
mod shell;
mod support;
mod user;

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::build::Artefacts;
use crate::layout::{Layout, display};
use crate::progress::elapsed;

/// What a case gets.
pub struct Context<'a> {
    /// Paths.
    pub layout: &'a Layout,
    /// What has been built.
    pub artefacts: &'a Artefacts,
    /// Name of the running case.
    pub name: &'static str,
    /// Whether machines boot without the hypervisor.
    pub bare: bool,
}

impl Context<'_> {
    /// Where this case keeps the console log of one of its machines.
    #[must_use]
    pub fn log(&self, machine: &str) -> PathBuf {
        self.layout
            .logs()
            .join("system")
            .join(format!("{}-{machine}.log", self.name))
    }
}

/// How a case ended without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It cannot be tried here, for this reason.
    Skipped(String),
}

/// One system test.
pub struct Case {
    /// Name, unique.
    pub name: &'static str,
    /// What it would catch.
    pub catches: &'static str,
    /// The test.
    pub run: fn(&Context) -> Result<Outcome>,
}

/// All system tests, in the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        name: "demo_headless",
        catches: "anything that breaks the newcomer's first command, from boot to power-off",
        run: boot::demo_headless,
    },
    Case {
        name: "boot_grub_bios",
        catches: "multiboot2 entry, relocation and the memory map of a BIOS",
        run: boot::grub_bios,
    },
    Case {
        name: "boot_grub_uefi",
        catches: "multiboot2 entry with UEFI's memory map and ACPI tables",
        run: boot::grub_uefi,
    },
    Case {
        name: "smp_1_to_8",
        catches: "CPU start-up and routing of interrupts with 1, 2, 4 and 8 CPUs",
        run: boot::smp_1_to_8,
    },
    Case {
        name: "micro_instructions",
        catches: "CPUID, MSR, port and XCR0 policy; instructions that guests must not have",
        run: micro::instructions,
    },
    Case {
        name: "micro_virtualization",
        catches: "virtualization that a guest can see or use: instructions, MSRs, control bits",
        run: micro::virtualization,
    },
    Case {
        name: "micro_timers",
        catches: "local APIC timer in each mode, with and without x2APIC, and TSC_ADJUST",
        run: micro::timers,
    },
    Case {
        name: "micro_interrupts",
        catches: "IPIs, NMI, task priority, HLT, events cut off in their delivery, lines, the 8259 pair",
        run: micro::interrupts,
    },
    Case {
        name: "micro_smp",
        catches: "INIT and start-up IPIs, IPIs between CPUs, on 1, 2 and 4 CPUs",
        run: micro::processors,
    },
    Case {
        name: "micro_cpu_models",
        catches: "reliance on abilities of CPUs that older ones do not have",
        run: micro::models,
    },
    Case {
        name: "micro_devices",
        catches: "emulation of uncommon instructions and of string I/O",
        run: micro::devices,
    },
    Case {
        name: "micro_isolation",
        catches: "a Service VM that reads or writes the hypervisor's memory",
        run: micro::isolation,
    },
    Case {
        name: "micro_hypercalls",
        catches: "hypercalls with hostile numbers and arguments, and from ring 3",
        run: micro::hypercalls,
    },
    Case {
        name: "micro_chaos",
        catches: "accesses of any kind in any order, and a storm of start-up IPIs",
        run: micro::chaos,
    },
    Case {
        name: "micro_user_vms",
        catches: "life of User VMs by hypercalls; memory that must not be lent",
        run: micro::user_vms,
    },
    Case {
        name: "micro_vm_cycles",
        catches: "pages and table frames lost over 1000 User VMs",
        run: micro::cycles,
    },
    Case {
        name: "micro_device_memory",
        catches: "a Service VM that takes all table frames by touching many addresses",
        run: micro::device_memory,
    },
    Case {
        name: "micro_fatal",
        catches: "a Service VM that cannot go on and takes the hypervisor with it",
        run: micro::fatal,
    },
    Case {
        name: "shell",
        catches: "commands of the hypervisor's shell",
        run: shell::commands,
    },
    Case {
        name: "shell_guests",
        catches: "commands about User VMs in each state, and what their Device Model is asked",
        run: shell::guests,
    },
    Case {
        name: "shell_reboot",
        catches: "a `reboot` that does not reset the machine",
        run: shell::reboot,
    },
    Case {
        name: "shell_pci_card",
        catches: "a console that has no interrupt and is at unusual ports",
        run: shell::pci_card,
    },
    Case {
        name: "service_vm_disk_virtio",
        catches: "pass-through of a virtio-blk disk: MSI-X, DMA addresses",
        run: devices::disk_virtio,
    },
    Case {
        name: "service_vm_disk_ahci",
        catches: "pass-through of an AHCI disk: MSI, DMA addresses",
        run: devices::disk_ahci,
    },
    Case {
        name: "service_vm_disk_nvme",
        catches: "pass-through of an NVMe disk: MSI-X for each queue, DMA addresses",
        run: devices::disk_nvme,
    },
    Case {
        name: "service_vm_disk_intx",
        catches: "pass-through of a level-triggered interrupt through the I/O APIC",
        run: devices::disk_intx,
    },
    Case {
        name: "service_vm_net_virtio",
        catches: "pass-through of a virtio-net adapter, data in both directions",
        run: devices::net_virtio,
    },
    Case {
        name: "service_vm_net_e1000e",
        catches: "pass-through of an e1000e adapter, data in both directions",
        run: devices::net_e1000e,
    },
];

/// Numbers of tests by result.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Held.
    pub passed: usize,
    /// Did not hold.
    pub failed: usize,
    /// Not tried.
    pub skipped: usize,
}

impl Tally {
    /// Adds the numbers of another tally.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Prints names and purposes.
pub fn list() {
    let alone = CASES.iter().map(|case| (case.name, case.catches));
    let shared = user::CASES.iter().map(|case| (case.name, case.catches));
    for (name, catches) in alone.chain(shared) {
        println!("{name:<24} {catches}");
    }
}

/// Runs the cases whose names contain `filter`, one after the other.
///
/// # Errors
/// No case has such a name.
pub fn run(
    layout: &Layout,
    artefacts: &Artefacts,
    filter: Option<&str>,
    bare: bool,
) -> Result<Tally> {
    let wanted = |name: &str| filter.is_none_or(|text| name.contains(text));
    let alone: Vec<&Case> = CASES.iter().filter(|case| wanted(case.name)).collect();
    let shared: Vec<_> = user::CASES.iter().filter(|c| wanted(c.name)).collect();
    if let (0, Some(text)) = (alone.len() + shared.len(), filter) {
        anyhow::bail!("no system test has {text:?} in its name; --list shows them");
    }
    println!("\nsystem tests: {} cases", alone.len() + shared.len());
    let mut report = Report::default();
    let context = |name| Context {
        layout,
        artefacts,
        name,
        bare,
    };
    for case in alone {
        report.run(case.name, &mut || (case.run)(&context(case.name)));
    }
    let mut machine: Option<user::Machine> = None;
    for case in shared {
        report.run(case.name, &mut || {
            if bare {
                return Ok(Outcome::Skipped("User VMs need the hypervisor".into()));
            }
            let mut ready = match machine.take() {
                Some(machine) => machine,
                None => user::Machine::boot(&context(case.name))?,
            };
            (case.run)(&mut ready)
                .with_context(|| format!("console log {}", display(ready.log())))?;
            machine = Some(ready);
            Ok(Outcome::Passed)
        });
    }
    if let Some(machine) = machine {
        let mut machine = Some(machine);
        report.run("machine_ends", &mut || {
            if let Some(machine) = machine.take() {
                machine.end()?;
            }
            Ok(Outcome::Passed)
        });
    }
    Ok(report.finish(layout))
}

/// Cases that may be repeated in one run. QEMU's CPUs share a word of state without a lock (the
/// book's "Limits" tells which), which now and then costs a guest its life; a defect of ours that
/// came as seldom would show as a repetition, and one that comes more often fails the run.
const REPETITIONS: usize = 2;

/// What has been run so far.
#[derive(Default)]
struct Report {
    tally: Tally,
    failures: Vec<String>,
    repeated: Vec<String>,
}

impl Report {
    fn run(&mut self, name: &str, body: &mut dyn FnMut() -> Result<Outcome>) {
        let start = Instant::now();
        let mut result = body();
        if let Err(error) = &result
            && self.failures.is_empty()
            && self.repeated.len() < REPETITIONS
        {
            println!("system {name:<24} failed, is repeated: {error:#}");
            self.repeated.push(name.to_owned());
            result = body();
        }
        let time = elapsed(start.elapsed());
        match result {
            Ok(Outcome::Passed) => {
                self.tally.passed += 1;
                println!("system {name:<24} ok ({time})");
            }
            Ok(Outcome::Skipped(reason)) => {
                self.tally.skipped += 1;
                println!("system {name:<24} skipped: {reason}");
            }
            Err(error) => {
                self.tally.failed += 1;
                println!("system {name:<24} FAILED ({time})");
                self.failures.push(format!("{name}: {error:#}"));
            }
        }
    }

    fn finish(self, layout: &Layout) -> Tally {
        if !self.repeated.is_empty() {
            println!("\nrepeated once: {}", self.repeated.join(", "));
        }
        if !self.failures.is_empty() {
            println!(
                "\nfailures, console logs in {}:",
                display(&layout.logs().join("system"))
            );
            for failure in self.failures {
                println!("\n{failure}");
            }
        }
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_case_says_what_it_catches() {
        let alone = CASES.iter().map(|case| (case.name, case.catches));
        let all = alone.chain(user::CASES.iter().map(|case| (case.name, case.catches)));
        let mut names = std::collections::BTreeSet::new();
        for (name, catches) in all {
            assert!(names.insert(name), "{name} is there twice");
            assert!(!catches.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_case_is_repeated_once_and_only_a_few_cases_are() {
        let mut report = Report::default();
        let mut calls = 0;
        report.run("unlucky", &mut || {
            calls += 1;
            anyhow::ensure!(calls > 1, "bad luck");
            Ok(Outcome::Passed)
        });
        assert_eq!((calls, report.tally.passed, report.tally.failed), (2, 1, 0));
        let mut calls = 0;
        report.run("broken", &mut || {
            calls += 1;
            anyhow::bail!("broken")
        });
        assert_eq!((calls, report.tally.passed, report.tally.failed), (2, 1, 1));
        let mut calls = 0;
        report.run("third", &mut || {
            calls += 1;
            anyhow::bail!("broken")
        });
        assert_eq!((calls, report.tally.failed), (1, 2));
    }

    #[test]
    fn the_closing_line_has_its_three_numbers() {
        let tally = Tally {
            passed: 2,
            failed: 0,
            skipped: 1,
        };
        assert_eq!(tally.to_string(), "2 passed, 0 failed, 1 skipped");
    }
}
