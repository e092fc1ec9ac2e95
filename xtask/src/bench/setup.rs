//! The four set-ups: what each boots, and the runs that its figures come from.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::emulator::{Run, Start, figures};
use super::probe;
use crate::cpio::Archive;
use crate::layout::{Layout, display};
use crate::machine::Emulator;
use crate::progress::Step;
use crate::rootfs::write;
use crate::session::{ESCAPE, HYPERVISOR_PROMPT};
use crate::{image, kernel, stock};

/// A place where the benchmark runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Setup {
    /// The kernel on the emulated machine.
    Bare,
    /// The kernel as Service VM of the hypervisor.
    Service,
    /// The kernel in a User VM that `acrn-dm` started.
    User,
    /// The kernel as a guest of KVM, started by `kvm-boot` in a Debian host.
    Kvm,
}

impl Setup {
    /// All, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Bare, Self::Service, Self::User, Self::Kvm];

    /// Name in messages and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Service => "service",
            Self::User => "user",
            Self::Kvm => "kvm",
        }
    }
}

/// What the measured kernel is told, everywhere. The TSC is exact here although the
/// emulated processor does not promise it; one clock everywhere makes the paths alike.
const KERNEL_ARGS: &str = "console=ttyS0 quiet nokaslr tsc=reliable clocksource=tsc no_timer_check";
/// Keeps the program from ending the machine, which has to answer a question first. What
/// follows the two dashes goes to init.
const HOLD: &str = "-- bench-hold";
/// The host's kernel gets no software defences against its guests either: we have none.
const HOST_ARGS: &str = "console=ttyS0 quiet nokaslr mitigations=off";
/// Memory of a VM that a Device Model starts, in MiB.
const GUEST_MIB: u32 = 512;
/// What the emulator needs besides, in every kernel. Bochs's time does not jump during MWAIT, and its
/// CPUID names another rate of the TSC than the emulator's. It counts each iteration of a string
/// instruction, and Linux would use those in a VM alone: the bare machine does not say that they
/// are fast.
const fn emulator_args(emulator: Emulator) -> &'static str {
    match emulator {
        Emulator::Qemu => "",
        Emulator::Bochs => " idle=halt tsc_early_khz=50000 clearcpuid=rep_good,erms,fsrm",
    }
}

/// Modules of the Debian host.
const fn kvm_module(emulator: Emulator) -> &'static str {
    match emulator {
        Emulator::Qemu => "kvm_amd",
        Emulator::Bochs => "kvm_intel",
    }
}
const TRIES: u32 = 3;
/// The operation after which only sleeping is left.
const LAST_BEFORE_SLEEP: &str = "context_switch";

/// Figures of one set-up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Median ticks of each operation.
    pub operations: BTreeMap<String, u64>,
    /// Smallest ticks of each operation.
    pub smallest: BTreeMap<String, u64>,
    /// Ticks from the kernel's first instruction to init's.
    pub boot: Option<u64>,
    /// Ticks from the hypervisor's first instruction to the Service VM's.
    pub hypervisor_start: Option<u64>,
    /// What the hypervisor says of its memory.
    pub memory: Option<String>,
    /// The clock that the kernel chose.
    pub clock: Option<String>,
}

/// Files that the set-ups share.
pub struct Files {
    kernel: PathBuf,
    probe_kernel: PathBuf,
    initrd: PathBuf,
    bench_init: PathBuf,
}

impl Files {
    /// Builds the kernel, the benchmark program, and the RAM disk with it as init.
    ///
    /// # Errors
    /// A build fails.
    pub fn build(layout: &Layout) -> Result<Self> {
        let kernel = kernel::build(layout)?;
        let bench_init = image::bench_init(layout)?;
        let directory = layout.rootfs().join("bench");
        let probe_kernel = directory.join("probe");
        let bytes =
            fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
        write(&probe_kernel, &probe::patch(&bytes)?)?;
        let initrd = directory.join("bench.cpio");
        write(&initrd, &base_archive(&bench_init)?.finish()?)?;
        Ok(Self {
            kernel,
            probe_kernel,
            initrd,
            bench_init,
        })
    }
}

fn base_archive(init: &Path) -> Result<Archive> {
    let mut archive = Archive::new();
    for directory in ["dev", "proc", "sys", "run", "tmp", "var/run", "var/log"] {
        archive.directory(directory)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.copy("init", init)?;
    Ok(archive)
}

/// Builds and runs set-ups.
pub struct Runner<'a> {
    /// The checkout.
    pub layout: &'a Layout,
    /// Shared files.
    pub files: &'a Files,
    /// Where it all runs.
    pub emulator: Emulator,
    /// How often each measurement is made.
    pub runs: u32,
    /// Time that one run of the emulator may take.
    pub limit: Duration,
}

impl Runner<'_> {
    /// Runs a set-up.
    ///
    /// # Errors
    /// A build fails, or the machine stalls in each of several tries.
    pub fn run(&self, setup: Setup) -> Result<Figures> {
        match setup {
            Setup::Bare => self.bare(),
            Setup::Service => self.service(),
            Setup::User => self.user(),
            Setup::Kvm => self.kvm(),
        }
    }

    fn bare(&self) -> Result<Figures> {
        let arguments = self.kernel_args();
        let start = |kernel| Start {
            hypervisor: None,
            kernel,
            kernel_args: &arguments,
            initrd: Some(&self.files.initrd),
            cpus: 1,
        };
        let entry = self.probe("bare", &start(&self.files.probe_kernel))?;
        self.repeat("bare", &start(&self.files.kernel), |vm, step| {
            vm.wait_for(END, step)?;
            let lines = figures(&vm.console().transcript());
            let mut result = collect(&lines);
            result.boot = tick(&lines, "start").map(|init| init.saturating_sub(entry.entry));
            Ok(result)
        })
    }

    fn service(&self) -> Result<Figures> {
        let hypervisor = image::hypervisor(self.layout)?.flat;
        let arguments = format!("{} {HOLD}", self.kernel_args());
        let start = |kernel| Start {
            hypervisor: Some((&hypervisor, "loglevel=4")),
            kernel,
            kernel_args: &arguments,
            initrd: Some(&self.files.initrd),
            cpus: 1,
        };
        let entry = self.probe("service", &start(&self.files.probe_kernel))?;
        let mut result = self.repeat("service", &start(&self.files.kernel), |vm, step| {
            vm.wait_for(END, step)?;
            let text = vm.console().transcript();
            let lines = figures(&text);
            let mut result = collect(&lines);
            result.boot = tick(&lines, "start").map(|init| init.saturating_sub(entry.entry));
            result.memory = text
                .lines()
                .find(|line| line.contains("are the hypervisor's"))
                .and_then(|line| line.split_once("; "))
                .map(|(_, memory)| memory.trim().to_owned());
            step.detail("asking the hypervisor");
            vm.console().send(ESCAPE)?;
            vm.wait_for(HYPERVISOR_PROMPT, step)?;
            vm.console().send_line("version")?;
            let answer = vm.wait_for(HYPERVISOR_PROMPT, step)?;
            result.hypervisor_start = number_after(&answer, "first VM entry ");
            Ok(result)
        })?;
        // The micro-guest's figure stands beside the others.
        let between = self.between_cpus(&hypervisor)?;
        result.operations.extend(between.operations);
        result.smallest.extend(between.smallest);
        Ok(result)
    }

    /// What needs two CPUs, by a micro-guest: Linux does not start a second one under QEMU's counter.
    fn between_cpus(&self, hypervisor: &Path) -> Result<Figures> {
        let guest = image::micro_guest(self.layout)?.flat;
        let start = Start {
            hypervisor: Some((hypervisor, "loglevel=1")),
            kernel: &guest,
            kernel_args: "test=bench_ipi",
            initrd: None,
            cpus: 2,
        };
        self.repeat("two CPUs", &start, |vm, step| {
            let said = vm.wait_for("micro-guest: end", step)?;
            if let Some(failure) = said.lines().find(|line| line.starts_with("FAIL")) {
                bail!("{failure}");
            }
            Ok(collect(&figures(&said)))
        })
    }

    fn user(&self) -> Result<Figures> {
        let hypervisor = image::hypervisor(self.layout)?.flat;
        let device_model = image::device_model(self.layout)?;
        let guest_args = self.kernel_args();
        let arguments = [
            "/bench/acrn-dm",
            "-m",
            &format!("{GUEST_MIB}M"),
            "-k",
            "/bench/kernel",
            "-r",
            "/bench/initrd",
            "-B",
            &guest_args,
            "-s",
            "0:0,hostbridge",
            "-s",
            "1:0,lpc",
            "-l",
            "com1,stdio",
            "--cpu_affinity",
            "0",
            "bench",
        ];
        let archive = |kernel: &Path, name: &str| -> Result<PathBuf> {
            let mut archive = self.host_archive(kernel, &arguments)?;
            archive.copy("bench/acrn-dm", &device_model)?;
            self.finish(archive, name)
        };
        let probe_initrd = archive(&self.files.probe_kernel, "user-probe.cpio")?;
        let initrd = archive(&self.files.kernel, "user.cpio")?;
        let start = |initrd| Start {
            hypervisor: Some((&hypervisor, "loglevel=4")),
            kernel: &self.files.kernel,
            kernel_args: &guest_args,
            initrd: Some(initrd),
            cpus: 1,
        };
        let entry = self.probe("user", &start(&probe_initrd))?;
        // From the start of the Device Model to the guest's first instruction.
        let set_up = entry
            .entry
            .saturating_sub(entry.launch.unwrap_or(entry.entry));
        self.repeat("user", &start(&initrd), |vm, step| {
            vm.wait_for(END, step)?;
            let lines = figures(&vm.console().transcript());
            let mut result = collect(&lines);
            result.boot = tick(&lines, "start")
                .zip(tick(&lines, "launch"))
                .map(|(init, launch)| init.saturating_sub(launch).saturating_sub(set_up));
            Ok(result)
        })
    }

    fn kvm(&self) -> Result<Figures> {
        let monitor =
            image::static_program(self.layout, "VMM on KVM", "acrn-guest-bench", "kvm-boot")?;
        let debian = stock::standard_kernel(self.layout)?;
        let modules = debian.find_modules(&[kvm_module(self.emulator)])?;
        let memory = GUEST_MIB.to_string();
        // There is no power switch: the program resets its machine, by the keyboard
        // controller, and that ends the monitor.
        let guest_args = format!("{} reboot=k", self.kernel_args());
        let arguments = [
            "/bench/kvm-boot",
            "/bench/kernel",
            "/bench/initrd",
            &memory,
            &guest_args,
        ];
        let mut archive = self.host_archive(&self.files.kernel, &arguments)?;
        archive.copy("bench/kvm-boot", &monitor)?;
        let mut list = String::new();
        for (index, module) in modules.iter().enumerate() {
            let inside = format!("/bench/{index}.ko");
            archive.copy(&inside, module)?;
            list.push_str(&inside);
            list.push('\n');
        }
        archive.file("bench/modules", 0o644, list.as_bytes())?;
        let initrd = self.finish(archive, "kvm.cpio")?;
        let host_args = format!("{HOST_ARGS}{}", emulator_args(self.emulator));
        let start = Start {
            hypervisor: None,
            kernel: &debian.image(),
            kernel_args: &host_args,
            initrd: Some(&initrd),
            cpus: 1,
        };
        let stalls = Cell::new(0);
        self.repeat("kvm", &start, |vm, step| {
            let end = vm.wait_for(END, step);
            let lines = figures(&vm.console().transcript());
            let mut result = collect(&lines);
            // This set-up often stalls when it comes to sleeping, for a reason in the emulator.
            // It gets another chance; then what has been measured until there is good.
            stalls.set(stalls.get() + u32::from(end.is_err()));
            let is_short = !result.operations.contains_key(LAST_BEFORE_SLEEP);
            match end {
                Err(error) if is_short || stalls.get() < 2 => return Err(error),
                Err(error) => eprintln!("kvm: no figure for sleeping: {error:#}"),
                Ok(_) => {}
            }
            // Both are the guest's own TSC, which begins at 0.
            result.boot = tick(&lines, "start")
                .zip(tick(&lines, "entry"))
                .map(|(init, entry)| init.saturating_sub(entry));
            Ok(result)
        })
    }

    fn kernel_args(&self) -> String {
        format!("{KERNEL_ARGS}{}", emulator_args(self.emulator))
    }

    /// A RAM disk that starts a monitor with a kernel and the benchmark's RAM disk.
    fn host_archive(&self, kernel: &Path, arguments: &[&str]) -> Result<Archive> {
        let mut archive = base_archive(&self.files.bench_init)?;
        archive.copy("bench/kernel", kernel)?;
        archive.copy("bench/initrd", &self.files.initrd)?;
        archive.file(
            "bench/argv",
            0o644,
            (arguments.join("\n") + "\n").as_bytes(),
        )?;
        Ok(archive)
    }

    fn finish(&self, archive: Archive, name: &str) -> Result<PathBuf> {
        let path = self.layout.rootfs().join("bench").join(name);
        write(&path, &archive.finish()?)?;
        Ok(path)
    }

    fn probe(&self, name: &str, start: &Start) -> Result<Entry> {
        let place = self.emulator.name();
        let step = Step::begin(&format!("{place}, {name}: finding the kernel's entry"));
        let log = self.log(&format!("{name}-probe"));
        let entry = self.retry(&step, &log, start, |vm| {
            vm.wait_for(probe::MARK, &step)?;
            let digits = vm.wait_for("\n", &step)?;
            Ok(Entry {
                entry: probe::parse(&digits)?,
                launch: tick(&figures(&vm.console().transcript()), "launch"),
            })
        })?;
        step.done(&format!("at tick {}", entry.entry));
        Ok(entry)
    }

    fn repeat(
        &self,
        name: &str,
        start: &Start,
        read: impl Fn(&mut Run, &Step) -> Result<Figures>,
    ) -> Result<Figures> {
        let mut all = Vec::new();
        let place = self.emulator.name();
        for run in 1..=self.runs {
            let step = Step::begin(&format!(
                "{place}, {name}: measuring, run {run} of {}",
                self.runs
            ));
            let log = self.log(name);
            let figures = self.retry(&step, &log, start, |vm| read(vm, &step))?;
            step.done(&format!("{} figures", figures.operations.len()));
            all.push(figures);
        }
        Ok(middle(all))
    }

    /// Runs a machine until `read` has what it wants, again when it stalls.
    fn retry<T>(
        &self,
        step: &Step,
        log: &Path,
        start: &Start,
        read: impl Fn(&mut Run) -> Result<T>,
    ) -> Result<T> {
        let mut tries = 1;
        loop {
            let mut vm = Run::start(self.emulator, self.layout, start, log, self.limit)?;
            match read(&mut vm) {
                Ok(value) => return Ok(value),
                Err(error) if tries == TRIES || !stalled(&error) => {
                    bail!("{error:#}\nfull log: {}", display(log))
                }
                Err(_) => {
                    tries += 1;
                    step.detail(format!("it stalled; try {tries} of {TRIES}"));
                }
            }
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        let name = format!("{}-{name}.log", self.emulator.name()).replace(' ', "-");
        self.layout.logs().join("bench").join(name)
    }
}

/// A machine that ended by itself would end again.
fn stalled(error: &anyhow::Error) -> bool {
    use crate::console::ConsoleError;
    matches!(
        error.downcast_ref::<ConsoleError>(),
        Some(ConsoleError::TimedOut { .. })
    )
}

const END: &str = "{\"bench\":\"end\"}";

#[derive(Debug, Clone, Copy)]
struct Entry {
    entry: u64,
    launch: Option<u64>,
}

fn collect(lines: &[Value]) -> Figures {
    let mut result = Figures::default();
    for line in lines {
        let name = line["bench"].as_str().unwrap_or_default().to_owned();
        if name == "clock" {
            result.clock = line["name"].as_str().map(str::to_owned);
        }
        if let (Some(median), Some(min)) = (line["median"].as_u64(), line["min"].as_u64()) {
            result.smallest.insert(name.clone(), min);
            result.operations.insert(name, median);
        }
    }
    result
}

fn tick(lines: &[Value], name: &str) -> Option<u64> {
    lines.iter().find(|line| line["bench"] == name)?["tsc"].as_u64()
}

/// Of several runs, the middle one of each figure.
fn middle(all: Vec<Figures>) -> Figures {
    let mut result = all.first().cloned().unwrap_or_default();
    let of = |pick: &dyn Fn(&Figures) -> Option<u64>| {
        let mut values: Vec<u64> = all.iter().filter_map(pick).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    for (name, value) in &mut result.operations {
        *value = of(&|f| f.operations.get(name).copied()).unwrap_or(*value);
    }
    for (name, value) in &mut result.smallest {
        *value = of(&|f| f.smallest.get(name).copied()).unwrap_or(*value);
    }
    result.boot = of(&|f| f.boot);
    result.hypervisor_start = of(&|f| f.hypervisor_start);
    result
}

fn number_after(text: &str, words: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_behind_its_words() {
        let text = "x\r\nfirst VM entry 47123 ticks (47 us) after";
        assert_eq!(number_after(text, "first VM entry "), Some(47123));
        assert_eq!(
            number_after("no VM has been entered yet", "first VM entry "),
            None
        );
    }

    #[test]
    fn the_middle_run_counts() {
        let run = |value| Figures {
            operations: [("cpuid".to_owned(), value)].into(),
            boot: Some(value * 10),
            ..Figures::default()
        };
        let result = middle(vec![run(5), run(900), run(6)]);
        assert_eq!(result.operations["cpuid"], 6);
        assert_eq!(result.boot, Some(60));
    }

    #[test]
    fn lines_without_a_median_are_no_operations() {
        let lines = figures(
            "{\"bench\":\"start\",\"tsc\":9}\n{\"bench\":\"cpuid\",\"min\":1,\"median\":2,\"n\":3}",
        );
        let result = collect(&lines);
        assert_eq!(result.operations.len(), 1);
        assert_eq!(tick(&lines, "start"), Some(9));
    }
}
