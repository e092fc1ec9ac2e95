//! One run of the emulator under its instruction counter.
//!
//! One CPU, no disks and no network, the clock at a fixed date: a run executes the same
//! instructions each time, whatever else this computer does. A tick of the TSC is one
//! instruction; while the machine idles, time jumps to the next event.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::console::Console;
use crate::grub::{KERNEL_TAG, RAMDISK_TAG};
use crate::layout::Layout;
use crate::progress::Step;

/// What every machine has. The CPU model has SVM and no feature that KVM or we would need
/// but the emulator lacks.
const MACHINE: &str = "-no-user-config -nodefaults -display none -monitor none -no-reboot \
    -machine q35 -cpu EPYC -smp 1 -m 2048M -accel tcg,thread=single -icount shift=0,sleep=off \
    -rtc base=2026-01-01,clock=vm";

/// Files that the machine starts from.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// The hypervisor's flat image and its command line; none for a kernel alone.
    pub hypervisor: Option<(&'a Path, &'a str)>,
    /// bzImage.
    pub kernel: &'a Path,
    /// Its command line.
    pub kernel_args: &'a str,
    /// RAM disk.
    pub initrd: &'a Path,
}

/// A running emulator; it is killed when dropped.
pub struct Emulator {
    child: Child,
    directory: PathBuf,
    deadline: Instant,
    silence: Duration,
    /// Its serial line.
    pub console: Console,
}

impl Emulator {
    /// Starts the machine; its console goes to `log` as well. Waits end after `limit`.
    ///
    /// # Errors
    /// The emulator is not installed, or a file cannot be made.
    pub fn start(layout: &Layout, start: &Start, log: &Path, limit: Duration) -> Result<Self> {
        let directory = layout.runs().join(format!("bench-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let mut links = vec![(KERNEL_TAG, start.kernel), (RAMDISK_TAG, start.initrd)];
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
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(MACHINE.split_whitespace())
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
            deadline: Instant::now() + limit,
            silence: limit / 2,
            console: Console::new(ours, Some(log))?,
        })
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
            let length = self.console.transcript().len();
            if length != heard.0 {
                heard = (length, Instant::now());
            }
            let end = self.deadline.min(heard.1 + self.silence);
            let left = end.saturating_duration_since(Instant::now());
            let slice = left.min(Duration::from_secs(1));
            match self.console.wait_for(text, slice) {
                Ok(found) => {
                    before.push_str(&found);
                    return Ok(before);
                }
                Err(crate::console::ConsoleError::TimedOut { .. }) if left > slice => {
                    if let Some(Value::String(name)) = figures(&self.console.transcript())
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

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn kernel_arguments(start: &Start) -> Vec<String> {
    let words: [&str; 6] = match &start.hypervisor {
        Some((_, args)) => {
            // Modules are separated by commas; one in a command line is doubled.
            let line = start.kernel_args.replace(',', ",,");
            let modules = format!("{KERNEL_TAG} {line},{RAMDISK_TAG}");
            return ["-kernel", "acrn.bin", "-append", args, "-initrd", &modules]
                .map(str::to_owned)
                .to_vec();
        }
        None => [
            "-kernel",
            KERNEL_TAG,
            "-append",
            start.kernel_args,
            "-initrd",
            RAMDISK_TAG,
        ],
    };
    words.map(str::to_owned).to_vec()
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

    #[test]
    fn a_comma_in_a_module_string_is_doubled() {
        let start = Start {
            hypervisor: Some((Path::new("/a"), "loglevel=4")),
            kernel: Path::new("/k"),
            kernel_args: "console=ttyS0,115200",
            initrd: Path::new("/i"),
        };
        assert_eq!(
            kernel_arguments(&start)[5],
            "Linux_bzImage console=ttyS0,,115200,Linux_ramdisk"
        );
    }
}
