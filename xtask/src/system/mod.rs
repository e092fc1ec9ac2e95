//! System tests: named cases that boot machines. A case is a function in one of the
//! modules here and a line in [`CASES`].

mod between;
mod boot;
mod devices;
mod dma;
mod images;
mod inspector;
mod journey;
mod launch;
mod life;
mod micro;
mod prelaunched;
mod random;
mod real_time;
mod report;
mod scenario;
mod secure_boot;
mod shell;
mod sleep;
mod support;
pub mod table;
mod user;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};

pub use report::{Report, Tally};

use crate::build::Artefacts;
use crate::layout::{Layout, display};
use crate::machine::Emulator;

/// What a case gets.
pub struct Context<'a> {
    /// Paths.
    pub layout: &'a Layout,
    /// What has been built.
    pub artefacts: &'a Artefacts,
    /// Name of the running case.
    pub name: &'static str,
    /// What emulates its machines.
    pub emulator: Emulator,
    /// Whether machines boot without the hypervisor.
    pub bare: bool,
    /// Whether cases run in their long form, if they have one.
    pub full: bool,
}

/// How cases run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// Without the hypervisor.
    pub bare: bool,
    /// In their long form.
    pub full: bool,
}

impl Context<'_> {
    /// Where this case keeps the console log of one of its machines.
    #[must_use]
    pub fn log(&self, machine: &str) -> PathBuf {
        self.layout.logs().join("system").join(format!(
            "{}-{}-{machine}.log",
            self.emulator.name(),
            self.name
        ))
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
    /// Where it runs.
    pub on: Emulators,
    /// What it would catch.
    pub catches: &'static str,
    /// The test.
    pub run: fn(&Context) -> Result<Outcome>,
}

/// All system tests, in the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        name: "demo_headless",
        on: QEMU,
        catches: "anything that breaks the newcomer's first command, from boot to power-off",
        run: boot::demo_headless,
    },
    Case {
        name: "boot_grub_bios",
        on: QEMU,
        catches: "multiboot2 entry, relocation and the memory map of a BIOS",
        run: boot::grub_bios,
    },
    Case {
        name: "boot_grub_uefi",
        on: QEMU,
        catches: "multiboot2 entry with UEFI's memory map and ACPI tables",
        run: boot::grub_uefi,
    },
    Case {
        name: "smp_1_to_16",
        on: QEMU,
        catches: "CPU start-up and routing of interrupts with 1, 2, 4, 8 and 16 CPUs; a pool of memory that has grown",
        run: boot::smp_1_to_16,
    },
    Case {
        name: "inspector_board",
        on: QEMU,
        catches: "a board file of the inspector that lacks something, or fits no scenario",
        run: inspector::board,
    },
    Case {
        name: "secure_boot",
        on: QEMU,
        catches: "an inspector that a locked kernel stops, and packages that keep a PC with Secure Boot from booting",
        run: secure_boot::secure_boot,
    },
    Case {
        name: "launch_generated",
        on: QEMU,
        catches: "a launch script of acrn-config that starts no VM, or leaves something behind",
        run: launch::generated_script,
    },
    Case {
        name: "journey",
        on: QEMU,
        catches: "a package that does not install, boot, start a User VM, or go away without a trace",
        run: journey::journey,
    },
    Case {
        name: "image_commands",
        on: QEMU,
        catches: "a command of the book's chapter on disk images that does not do what it says",
        run: images::chapter,
    },
    Case {
        name: "life_mngr_guest_asks",
        on: BOTH,
        catches: "a User VM's request to switch all off that does not arrive, or ends less",
        run: life::requested_by_guest,
    },
    Case {
        name: "life_mngr_guests_first",
        on: BOTH,
        catches: "poweroff of the Service VM that does not ask the life-cycle managers first",
        run: life::guests_first,
    },
    Case {
        name: "life_mngr_vuart",
        on: QEMU,
        catches: "life-cycle managers that do not hear each other on a serial line of the hypervisor's",
        run: life::by_vuart,
    },
    Case {
        name: "micro_instructions",
        on: BOTH,
        catches: "CPUID, MSR, port and XCR0 policy; instructions that guests must not have",
        run: micro::instructions,
    },
    Case {
        name: "micro_virtualization",
        on: BOTH,
        catches: "virtualization that a guest can see or use: instructions, MSRs, control bits",
        run: micro::virtualization,
    },
    Case {
        name: "micro_timers",
        on: BOTH,
        catches: "local APIC timer in each mode, with and without x2APIC, and TSC_ADJUST",
        run: micro::timers,
    },
    Case {
        name: "micro_interrupts",
        on: BOTH,
        catches: "IPIs, NMI, task priority, HLT, events cut off in their delivery, lines, the 8259 pair",
        run: micro::interrupts,
    },
    Case {
        name: "micro_modes",
        on: BOTH,
        catches: "a change of mode that loses something: real, virtual-8086, PAE, long mode, tasks",
        run: micro::modes,
    },
    Case {
        name: "micro_smp",
        on: BOTH,
        catches: "INIT and start-up IPIs, IPIs between CPUs, on 1, 2 and 4 CPUs",
        run: micro::processors,
    },
    Case {
        name: "micro_cpu_models",
        on: BOTH,
        catches: "reliance on abilities of CPUs that older ones do not have",
        run: micro::models,
    },
    Case {
        name: "micro_devices",
        on: BOTH,
        catches: "emulation of uncommon instructions and of string I/O",
        run: micro::devices,
    },
    Case {
        name: "micro_isolation",
        on: BOTH,
        catches: "a Service VM that reads or writes the hypervisor's memory",
        run: micro::isolation,
    },
    Case {
        name: "micro_hypercalls",
        on: BOTH,
        catches: "hypercalls with hostile numbers and arguments, and from ring 3",
        run: micro::hypercalls,
    },
    Case {
        name: "micro_offline_cpu",
        on: BOTH,
        catches: "a CPU that the Service VM has given away and that goes on, comes back, or is lost",
        run: micro::offline,
    },
    Case {
        name: "micro_rings",
        on: BOTH,
        catches: "a trace or log that is wrong, or a ring by which the hypervisor is led astray",
        run: micro::rings,
    },
    Case {
        name: "micro_chaos",
        on: BOTH,
        catches: "accesses of any kind in any order, and a storm of start-up IPIs",
        run: micro::chaos,
    },
    Case {
        name: "micro_user_vms",
        on: BOTH,
        catches: "life of User VMs by hypercalls; memory that must not be lent",
        run: micro::user_vms,
    },
    Case {
        name: "micro_vm_cycles",
        on: BOTH,
        catches: "pages and table frames lost over 10,000 User VMs",
        run: micro::cycles,
    },
    Case {
        name: "micro_no_frames",
        on: BOTH,
        catches: "a creation that fails half-way and keeps something of what it took",
        run: micro::no_frames,
    },
    Case {
        name: "micro_device_memory",
        on: BOTH,
        catches: "a Service VM that takes all table frames by touching many addresses",
        run: micro::device_memory,
    },
    Case {
        name: "micro_dma",
        on: QEMU,
        catches: "a device that reaches the hypervisor's memory or raises others' interrupts, or refused DMA without a message",
        run: dma::confined,
    },
    Case {
        name: "micro_fatal",
        on: BOTH,
        catches: "a Service VM that cannot go on and takes the hypervisor with it",
        run: micro::fatal,
    },
    Case {
        name: "shell",
        on: QEMU,
        catches: "commands of the hypervisor's shell",
        run: shell::commands,
    },
    Case {
        name: "shell_guests",
        on: QEMU,
        catches: "commands about User VMs in each state, and what their Device Model is asked",
        run: shell::guests,
    },
    Case {
        name: "shell_reboot",
        on: QEMU,
        catches: "a `reboot` that does not reset the machine",
        run: shell::reboot,
    },
    Case {
        name: "shell_pci_card",
        on: QEMU,
        catches: "a console that has no interrupt and is at unusual ports",
        run: shell::pci_card,
    },
    Case {
        name: "config_in_force",
        on: QEMU,
        catches: "a configuration that has no effect, or whose change needs another hypervisor",
        run: scenario::in_force,
    },
    Case {
        name: "config_refused",
        on: QEMU,
        catches: "a configuration that is absent, damaged or for another board, and is used or not named",
        run: scenario::refused,
    },
    Case {
        name: "config_random",
        on: QEMU,
        catches: "a scenario that the Configurator saves as valid, and the hypervisor refuses or dies of",
        run: random::valid_ones,
    },
    Case {
        name: "config_shares",
        on: QEMU,
        catches: "VMs that do not get the share of a CPU that the scenario gives them",
        run: scenario::shares,
    },
    Case {
        name: "micro_between_vms",
        on: BOTH,
        catches: "serial lines, shared memory and doorbells between VMs; who must not have them",
        run: between::micro_guests,
    },
    Case {
        name: "linux_between_vms",
        on: BOTH,
        catches: "Linux's drivers on serial lines and shared memory between VMs; bytes lost; memory of the Service VM",
        run: between::linux,
    },
    Case {
        name: "prelaunched_between_vms",
        on: QEMU,
        catches: "devices between a pre-launched VM and a Service VM that resets and ends",
        run: between::prelaunched,
    },
    Case {
        name: "prelaunched_partitioned",
        on: QEMU,
        catches: "VMs without a Service VM that do not start, or whose reset or end reaches another VM",
        run: prelaunched::partitioned,
    },
    Case {
        name: "prelaunched_hybrid",
        on: QEMU,
        catches: "a Service VM whose crash, reset or end another VM notices, or that cannot start again",
        run: prelaunched::hybrid,
    },
    Case {
        name: "prelaunched_device",
        on: QEMU,
        catches: "a passed-through device that the Service VM finds, or that does not work",
        run: prelaunched::device,
    },
    Case {
        name: "prelaunched_programs",
        on: QEMU,
        catches: "ELF and raw programs of pre-launched VMs that are not loaded or entered as they should",
        run: prelaunched::programs,
    },
    Case {
        name: "prelaunched_memory",
        on: QEMU,
        catches: "shared memory in the memory of a pre-launched VM that has all above 4 GiB",
        run: prelaunched::memory,
    },
    Case {
        name: "prelaunched_shell",
        on: QEMU,
        catches: "commands of the shell that do what cannot be done to a VM",
        run: prelaunched::refused,
    },
    Case {
        name: "machine_sleeps",
        on: BOTH,
        catches: "S3 of the machine that is not woken, or loses a CPU, device, interrupt or User VM",
        run: sleep::with_user_vm,
    },
    Case {
        name: "machine_sleeps_uefi",
        on: QEMU,
        catches: "S3 of the machine with UEFI's way to wake it",
        run: sleep::uefi,
    },
    Case {
        name: "prelaunched_real_time",
        on: BOCHS,
        catches: "exits of a real-time VM that has its local APICs; a VM with them that cannot be paused or reset",
        run: real_time::passed_through,
    },
    Case {
        name: "service_vm_disk_virtio",
        on: QEMU,
        catches: "pass-through of a virtio-blk disk: MSI-X, DMA addresses",
        run: devices::disk_virtio,
    },
    Case {
        name: "service_vm_disk_ahci",
        on: QEMU,
        catches: "pass-through of an AHCI disk: MSI, DMA addresses",
        run: devices::disk_ahci,
    },
    Case {
        name: "service_vm_disk_iommu",
        on: QEMU,
        catches: "an IOMMU that keeps a disk from the Service VM or lent pages, or an interrupt, or that Linux finds",
        run: dma::disk,
    },
    Case {
        name: "service_vm_disk_nvme",
        on: QEMU,
        catches: "pass-through of an NVMe disk: MSI-X for each queue, DMA addresses",
        run: devices::disk_nvme,
    },
    Case {
        name: "service_vm_disk_intx",
        on: QEMU,
        catches: "pass-through of a level-triggered interrupt through the I/O APIC",
        run: devices::disk_intx,
    },
    Case {
        name: "service_vm_net_virtio",
        on: QEMU,
        catches: "pass-through of a virtio-net adapter, data in both directions",
        run: devices::net_virtio,
    },
    Case {
        name: "service_vm_net_e1000e",
        on: QEMU,
        catches: "pass-through of an e1000e adapter, data in both directions",
        run: devices::net_e1000e,
    },
    Case {
        name: "service_vm_disk_piix",
        on: BOCHS,
        catches: "pass-through of an IDE disk: wired interrupts of the 8259's numbers, DMA addresses",
        run: devices::disk_piix,
    },
    Case {
        name: "service_vm_net_e1000",
        on: BOCHS,
        catches: "a Service VM with one CPU and with two; an e1000 adapter on a wired interrupt",
        run: devices::net_e1000,
    },
];

/// Where a case runs.
pub type Emulators = &'static [Emulator];
const QEMU: Emulators = &[Emulator::Qemu];
const BOCHS: Emulators = &[Emulator::Bochs];
const BOTH: Emulators = &[Emulator::Qemu, Emulator::Bochs];

/// Name, places and purpose of every case.
pub fn all() -> impl Iterator<Item = (&'static str, Emulators, &'static str)> {
    let alone = CASES.iter().map(|c| (c.name, c.on, c.catches));
    alone.chain(user::CASES.iter().map(|c| (c.name, c.on, c.catches)))
}

/// Which cases are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// On these emulators.
    pub emulators: &'a [Emulator],
    /// With this in their name, which begins with the emulator's: `bochs/micro_smp`.
    pub filter: Option<&'a str>,
}

impl Selection<'_> {
    fn has(&self, emulator: Emulator, on: Emulators, name: &str) -> bool {
        self.emulators.contains(&emulator)
            && on.contains(&emulator)
            && self
                .filter
                .is_none_or(|text| full_name(emulator, name).contains(text))
    }

    /// Whether some case runs on this emulator.
    #[must_use]
    pub fn needs(&self, emulator: Emulator) -> bool {
        all().any(|(name, on, _)| self.has(emulator, on, name))
    }

    /// Number of cases, each counted on each emulator.
    fn count(&self) -> usize {
        let of = |emulator| all().filter(move |(name, on, _)| self.has(emulator, on, name));
        BOTH.iter().map(|&emulator| of(emulator).count()).sum()
    }
}

/// A case on an emulator.
fn full_name(emulator: Emulator, name: &str) -> String {
    format!("{}/{name}", emulator.name())
}

/// Prints names, places and purposes of the selected cases.
pub fn list(selection: &Selection) {
    for (name, on, catches) in all() {
        let places: Vec<_> = on
            .iter()
            .filter(|&&emulator| selection.has(emulator, on, name))
            .map(|emulator| emulator.name())
            .collect();
        if !places.is_empty() {
            println!("{name:<24} {:<11} {catches}", places.join(" "));
        }
    }
}

/// Runs the selected cases, first those on QEMU.
///
/// # Errors
/// No case is selected.
pub fn run(
    layout: &Layout,
    artefacts: &Artefacts,
    selection: &Selection,
    manner: Manner,
) -> Result<Report> {
    let count = selection.count();
    anyhow::ensure!(
        count > 0,
        "no system test has {:?} in its name there; --list shows them",
        selection.filter.unwrap_or_default()
    );
    println!("\nsystem tests: {count} cases");
    let mut report = Report::default();
    for &emulator in BOTH {
        let context = |name| Context {
            layout,
            artefacts,
            name,
            emulator,
            bare: manner.bare,
            full: manner.full,
        };
        run_on(&context, selection, &mut report);
    }
    report.print(layout);
    Ok(report)
}

/// Runs cases that have machines of their own, on the emulator of the contexts. Bochs has one thread
/// for all CPUs of a machine, and its time does not depend on the load: there are two at a time.
fn run_alone<'a>(
    context: &(dyn Fn(&'static str) -> Context<'a> + Sync),
    cases: Vec<&Case>,
    report: &mut Report,
) {
    let emulator = context("").emulator;
    if emulator == Emulator::Qemu {
        for case in cases {
            let context = context(case.name);
            report.run(emulator, case.name, &mut || (case.run)(&context));
        }
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(2));
    let cases = Mutex::new(cases.into_iter());
    let report = Mutex::new(report);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = cases.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(case) = next else { break };
                    let start = Instant::now();
                    let result = (case.run)(&context(case.name));
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.note(emulator, case.name, result, start.elapsed());
                }
            });
        }
    });
}

/// Runs the cases on the emulator of the contexts.
fn run_on<'a>(
    context: &(dyn Fn(&'static str) -> Context<'a> + Sync),
    selection: &Selection,
    report: &mut Report,
) {
    let emulator = context("").emulator;
    let alone = CASES.iter();
    let alone = alone.filter(|case| selection.has(emulator, case.on, case.name));
    run_alone(context, alone.collect(), report);
    let mut machine: Option<user::Machine> = None;
    for case in user::CASES {
        let context = context(case.name);
        if !selection.has(context.emulator, case.on, case.name) {
            continue;
        }
        report.run(context.emulator, case.name, &mut || {
            if context.bare {
                return Ok(Outcome::Skipped("User VMs need the hypervisor".into()));
            }
            let mut ready = match machine.take() {
                Some(machine) => machine,
                None => user::Machine::boot(&context)?,
            };
            (case.run)(&mut ready)
                .with_context(|| format!("console log {}", display(ready.log())))?;
            machine = Some(ready);
            Ok(Outcome::Passed)
        });
    }
    if let Some(machine) = machine {
        let mut machine = Some(machine);
        report.run(emulator, "machine_ends", &mut || {
            if let Some(machine) = machine.take() {
                machine.end()?;
            }
            Ok(Outcome::Passed)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_case_says_what_it_catches() {
        let mut names = std::collections::BTreeSet::new();
        for (name, on, catches) in all() {
            assert!(names.insert(name), "{name} is there twice");
            assert!(!on.is_empty(), "{name} runs nowhere");
            assert!(!catches.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_selection_is_by_emulator_and_by_the_full_name() {
        let select = |filter, emulators| Selection { emulators, filter };
        let smp = select(Some("bochs/micro_smp"), BOTH);
        assert!(smp.needs(Emulator::Bochs) && !smp.needs(Emulator::Qemu));
        assert_eq!(smp.count(), 1);
        assert_eq!(select(Some("micro_smp"), BOTH).count(), 2);
        assert_eq!(select(Some("demo_headless"), BOCHS).count(), 0);
    }
}
