//! One run of an emulator that counts instructions.
//!
//! No disks and no network, the clock at a fixed date: a run executes the same instructions each
//! time, whatever else this computer does. A tick of the TSC is one instruction; while the machine
//! idles, time jumps to the next event. QEMU counts under `-icount`, Bochs always. With two CPUs it
//! is CPU 0 that is counted exactly: Bochs's time goes by its instructions, and QEMU, which runs all
//! CPUs in one thread, changes to another CPU seldom.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::console::Console;
use crate::grub::{BootSet, KERNEL_TAG, RAMDISK_TAG};
use crate::layout::Layout;
use crate::machine::{Boot, Emulator, Machine, Vm, tied_to_us};
use crate::progress::Step;

/// What every machine in QEMU has. The CPU model has SVM and no feature that KVM or we would need
/// but the emulator lacks.
const QEMU_MACHINE: &str = "-no-user-config -nodefaults -display none -monitor none -no-reboot \
    -machine q35 -cpu EPYC -m 2048M -accel tcg,thread=single -icount shift=0,sleep=off \
    -rtc base=2026-01-01,clock=vm";

/// The CPU in Bochs: the newest model on which Linux boots without the hypervisor too. It has all of
/// VMX that the hypervisor's own default has and we use.
const BOCHS_CPU: &str = "corei7_skylake_x";

/// What the machine starts from.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// The hypervisor's flat image and its command line; none for a kernel alone.
    pub hypervisor: Option<(&'a Path, &'a str)>,
    /// bzImage.
    pub kernel: &'a Path,
    /// Its command line.
    pub kernel_args: &'a str,
    /// RAM disk.
    pub initrd: Option<&'a Path>,
    /// Number of CPUs.
    pub cpus: u32,
}

impl Start<'_> {
    fn machine(&self, emulator: Emulator) -> Machine {
        let set = |(image, args): (&Path, &str)| BootSet {
            hypervisor: image.to_path_buf(),
            hypervisor_args: args.to_owned(),
            kernel: self.kernel.to_path_buf(),
            kernel_args: self.kernel_args.to_owned(),
            initrd: self.initrd.unwrap_or(Path::new("")).to_path_buf(),
            ..BootSet::default()
        };
        let boot = match self.hypervisor {
            Some(hypervisor) => Boot::Direct(set(hypervisor)),
            None => Boot::Bare(set((Path::new(""), ""))),
        };
        let mut machine = Machine::on(emulator, boot);
        machine.cpus = self.cpus;
        if emulator == Emulator::Bochs {
            BOCHS_CPU.clone_into(&mut machine.cpu_model);
        }
        machine
    }
}

/// A running machine; it is killed when dropped.
pub struct Run {
    process: Process,
    deadline: Instant,
    silence: Duration,
}

enum Process {
    Qemu(Qemu),
    Bochs(Vm),
}

impl Run {
    /// Starts the machine; its console goes to `log` as well. Waits end after `limit`.
    ///
    /// # Errors
    /// The emulator is not installed, or a file cannot be made.
    pub fn start(
        emulator: Emulator,
        layout: &Layout,
        start: &Start,
        log: &Path,
        limit: Duration,
    ) -> Result<Self> {
        let process = match emulator {
            Emulator::Qemu => Process::Qemu(Qemu::start(layout, start, log)?),
            Emulator::Bochs => Process::Bochs(start.machine(emulator).start(layout, log)?),
        };
        Ok(Self {
            process,
            deadline: Instant::now() + limit,
            silence: limit / 2,
        })
    }

    /// Its serial line.
    pub fn console(&mut self) -> &mut Console {
        match &mut self.process {
            Process::Qemu(qemu) => &mut qemu.console,
            Process::Bochs(vm) => &mut vm.console,
        }
    }

    /// Waits for a text and returns what came before it; the step shows how far it is.
    ///
    /// # Errors
    /// It does not come in time, or nothing at all comes for half of the time, or the
    /// machine ends.
    pub fn wait_for(&mut self, text: &str, step: &Step) -> Result<String> {
        let mut before = String::new();
        let mut heard = (0, Instant::now());
        loop {
            let length = self.console().transcript().len();
            if length != heard.0 {
                heard = (length, Instant::now());
            }
            let end = self.deadline.min(heard.1 + self.silence);
            let left = end.saturating_duration_since(Instant::now());
            let slice = left.min(Duration::from_secs(1));
            match self.console().wait_for(text, slice) {
                Ok(found) => {
                    before.push_str(&found);
                    return Ok(before);
                }
                Err(crate::console::ConsoleError::TimedOut { .. }) if left > slice => {
                    if let Some(Value::String(name)) = figures(&self.console().transcript())
                        .last()
                        .map(|v| v["bench"].clone())
                    {
                        step.detail(format!("past {name}"));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// QEMU and its serial line; it is killed when dropped.
struct Qemu {
    child: Child,
    directory: PathBuf,
    console: Console,
}

impl Qemu {
    fn start(layout: &Layout, start: &Start, log: &Path) -> Result<Self> {
        let directory = layout.runs().join(format!("bench-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let mut links = vec![(KERNEL_TAG, start.kernel)];
        links.extend(start.initrd.map(|initrd| (RAMDISK_TAG, initrd)));
        links.extend(start.hypervisor.map(|(image, _)| ("acrn.bin", image)));
        for (name, target) in links {
            let target = fs::canonicalize(target)
                .with_context(|| format!("{} is missing", target.display()))?;
            symlink(target, directory.join(name))?;
        }
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent)?;
        }
        let (ours, theirs) = UnixStream::pair()?;
        // QEMU inherits its end by number.
        nix::fcntl::fcntl(&theirs, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        let messages = File::create(directory.join("qemu.log"))?;
        let child = tied_to_us("qemu-system-x86_64")
            .args(QEMU_MACHINE.split_whitespace())
            .args(["-smp", &start.cpus.to_string()])
            .args(kernel_arguments(start))
            .arg("-chardev")
            .arg(format!("socket,id=serial0,fd={}", theirs.as_raw_fd()))
            .args(["-serial", "chardev:serial0"])
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(messages.try_clone()?)
            .stderr(messages)
            .spawn()
            .context("cannot start setpriv, which belongs to util-linux")?;
        drop(theirs);
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(Self {
            child,
            directory,
            console: Console::new(ours, Some(log))?,
        })
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn kernel_arguments(start: &Start) -> Vec<String> {
    let words = match &start.hypervisor {
        Some((_, args)) => {
            // Modules are separated by commas; one in a command line is doubled.
            let line = start.kernel_args.replace(',', ",,");
            let mut modules = format!("{KERNEL_TAG} {line}");
            if start.initrd.is_some() {
                modules += &format!(",{RAMDISK_TAG}");
            }
            return ["-kernel", "acrn.bin", "-append", args, "-initrd", &modules]
                .map(str::to_owned)
                .to_vec();
        }
        None => ["-kernel", KERNEL_TAG, "-append", start.kernel_args],
    };
    let initrd = start.initrd.map(|_| ["-initrd", RAMDISK_TAG]);
    let words = words.into_iter().chain(initrd.into_iter().flatten());
    words.map(str::to_owned).collect()
}

/// The lines of JSON that the benchmark's programs wrote among other output.
#[must_use]
pub fn figures(transcript: &str) -> Vec<Value> {
    transcript
        .lines()
        .filter_map(|line| line.get(line.find("{\"bench\":")?..))
        .filter_map(|text| serde_json::from_str(text.trim_end()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_among_other_output() {
        let text = "[ 0.1] kernel\r\nprompt>{\"bench\":\"a\",\"min\":1}\r\n{\"bench\":\"cut\r\n";
        let found = figures(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["min"], 1);
    }

    fn start() -> Start<'static> {
        Start {
            hypervisor: None,
            kernel: Path::new("/k"),
            kernel_args: "console=ttyS0,115200",
            initrd: None,
            cpus: 1,
        }
    }

    #[test]
    fn a_comma_in_a_module_string_is_doubled() {
        let mut start = start();
        let words = kernel_arguments(&start);
        assert_eq!(words[1..], ["Linux_bzImage", "-append", start.kernel_args]);
        start.hypervisor = Some((Path::new("/a"), "loglevel=4"));
        let line = "Linux_bzImage console=ttyS0,,115200";
        assert_eq!(kernel_arguments(&start)[5], line);
        start.initrd = Some(Path::new("/i"));
        let modules = format!("{line},Linux_ramdisk");
        assert_eq!(kernel_arguments(&start)[5], modules);
    }

    #[test]
    fn a_machine_in_bochs_has_the_same_parts() {
        let mut start = start();
        let machine = start.machine(Emulator::Bochs);
        assert_eq!((machine.cpus, machine.memory_mib), (1, 2048));
        assert!(matches!(machine.boot, Boot::Bare(_)));
        start.hypervisor = Some((Path::new("/a"), "loglevel=4"));
        start.cpus = 2;
        let machine = start.machine(Emulator::Bochs);
        assert_eq!((machine.cpus, &*machine.cpu_model), (2, BOCHS_CPU));
        assert!(matches!(
            machine.boot,
            Boot::Direct(set) if set.hypervisor_args == "loglevel=4" && set.initrd == Path::new("")
        ));
    }
}
