//! The emulated machine: a description, and the running process with its serial line.
//!
//! What the description means to an emulator is in [`crate::qemu`] and [`crate::bochs`]; the rest
//! is the same for both. Should this program die, the kernel kills the emulator
//! (`setpriv --pdeathsig`).

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::console::Console;
use crate::grub::{BootSet, CONFIG_TAG, KERNEL_TAG, RAMDISK_TAG};
use crate::layout::Layout;
use crate::progress::tail;
use crate::{bochs, qemu};

/// Programs that emulate a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Emulator {
    /// QEMU's TCG, whose CPUs are AMD's where they virtualize.
    Qemu,
    /// Bochs, whose CPUs are Intel's unless said otherwise.
    Bochs,
}

impl Emulator {
    /// The name on command lines and in lists.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
        }
    }
}

/// How the machine gets from power-on to the first program.
#[derive(Debug, Clone)]
pub enum Boot {
    /// QEMU loads the hypervisor and its modules itself, by multiboot1; Bochs, which cannot,
    /// gets an image with GRUB.
    Direct(BootSet),
    /// GRUB on BIOS or UEFI loads them from an image, by multiboot2.
    Grub {
        /// The image of [`crate::grub`].
        image: PathBuf,
        /// UEFI rather than BIOS.
        uefi: bool,
    },
    /// UEFI firmware boots the first disk, whatever is on it.
    Disk,
    /// No hypervisor: QEMU, or GRUB in Bochs, starts the kernel.
    Bare(BootSet),
}

impl Boot {
    /// Whether the firmware is UEFI.
    pub(crate) fn is_uefi(&self) -> bool {
        matches!(self, Self::Grub { uefi: true, .. } | Self::Disk)
    }
}

/// Disk controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiskBus {
    /// virtio-blk on PCI.
    Virtio,
    /// SATA on the chipset's AHCI controller.
    Ahci,
    /// NVMe on PCI.
    Nvme,
    /// IDE on the PIIX of an i440FX, which is what Bochs has.
    Piix,
}

/// Network adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetModel {
    /// virtio-net on PCI.
    Virtio,
    /// Intel 82574L.
    E1000e,
    /// Intel 82540EM, which Bochs has.
    E1000,
}

/// A disk of the machine.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Raw image.
    pub image: PathBuf,
    /// Controller.
    pub bus: DiskBus,
    /// Whether writes reach the image; otherwise they last as long as the machine.
    pub persistent: bool,
}

/// A machine to be started.
#[derive(Debug, Clone)]
pub struct Machine {
    /// What emulates it.
    pub emulator: Emulator,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The emulator's name of the CPU model; with QEMU, and its flags.
    pub cpu_model: String,
    /// How it boots.
    pub boot: Boot,
    /// Disks, in the order of their names in the guest.
    pub disks: Vec<Disk>,
    /// Adapter on the network that the emulator plays.
    pub net: Option<NetModel>,
    /// QEMU's device with the console's UART, in place of COM1.
    pub uart: Option<String>,
    /// Whether UEFI firmware lets only programs start that are signed with a key of Microsoft's (QEMU).
    pub secure_boot: bool,
    /// Whether all CPUs share one of this computer's (QEMU). That is slower, and its CPUs do not spoil each other's
    /// flags (see the book, "Limits").
    pub share_one_cpu: bool,
    /// Wait for a debugger on TCP port 1234 (QEMU).
    pub gdb: bool,
    /// Further arguments of QEMU.
    pub extra: Vec<String>,
}

impl Machine {
    /// A machine of common size without disks and network, in QEMU.
    #[must_use]
    pub fn new(boot: Boot) -> Self {
        Self::on(Emulator::Qemu, boot)
    }

    /// The same in either emulator.
    #[must_use]
    pub fn on(emulator: Emulator, boot: Boot) -> Self {
        let cpu_model = match emulator {
            Emulator::Qemu => qemu::CPU_MODEL,
            Emulator::Bochs => bochs::CPU_MODEL,
        };
        Self {
            emulator,
            cpus: 2,
            memory_mib: 2048,
            cpu_model: cpu_model.into(),
            boot,
            disks: Vec::new(),
            net: None,
            uart: None,
            secure_boot: false,
            share_one_cpu: false,
            gdb: false,
            extra: Vec::new(),
        }
    }

    /// Names in the machine's directory and the files that they stand for. QEMU's module
    /// syntax gives meaning to spaces and commas, which a path may contain.
    fn links(&self) -> Vec<(String, &Path)> {
        let mut links: Vec<(String, &Path)> = match &self.boot {
            Boot::Direct(set) | Boot::Bare(set) => {
                let main = [
                    ("acrn.bin", &set.hypervisor),
                    (KERNEL_TAG, &set.kernel),
                    (RAMDISK_TAG, &set.initrd),
                    (CONFIG_TAG, &set.config),
                ];
                let more = set.modules.iter().map(|(tag, path)| (*tag, path));
                let all = main.into_iter().chain(more);
                all.map(|(name, path)| (name.into(), path.as_path()))
                    .collect()
            }
            Boot::Grub { image, .. } => vec![("boot.iso".into(), image.as_path())],
            Boot::Disk => Vec::new(),
        };
        for (index, disk) in self.disks.iter().enumerate() {
            links.push((format!("disk{index}.img"), &disk.image));
        }
        links
    }

    /// Starts the machine; its serial output is also written to `log`.
    ///
    /// # Errors
    /// The emulator is missing or refuses the machine, or a file cannot be made.
    pub fn start(&self, layout: &Layout, log: &Path) -> Result<Vm> {
        ensure!(self.cpus > 0, "a machine needs at least one CPU");
        let directory = self.prepare_directory(layout)?;
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let messages = File::create(directory.join(MESSAGES))?;
        let (child, line) = match self.emulator {
            Emulator::Qemu => qemu::start(self, &directory, messages)?,
            Emulator::Bochs => bochs::start(self, layout, &directory, messages)?,
        };
        Ok(Vm {
            emulator: self.emulator,
            child,
            console: Console::new(line, Some(file))?,
            directory,
            log: log.to_path_buf(),
        })
    }

    fn prepare_directory(&self, layout: &Layout) -> Result<PathBuf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = layout
            .runs()
            .join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&directory)?;
        for (name, target) in self.links() {
            if !target.as_os_str().is_empty() {
                ensure!(target.exists(), "{} is missing", target.display());
                symlink(fs::canonicalize(target)?, directory.join(name))?;
            }
        }
        Ok(directory)
    }
}

/// What the emulator says, in the machine's directory.
pub(crate) const MESSAGES: &str = "emulator.log";

/// A command for an emulator that ends with this program, however that ends.
pub(crate) fn tied_to_us(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A running machine; it is killed when dropped.
pub struct Vm {
    emulator: Emulator,
    child: Child,
    /// Its serial line.
    pub console: Console,
    directory: PathBuf,
    log: PathBuf,
}

impl Vm {
    /// What emulates it.
    #[must_use]
    pub fn emulator(&self) -> Emulator {
        self.emulator
    }

    /// Where the serial output is kept.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the emulator has ended.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for the machine to switch itself off.
    ///
    /// # Errors
    /// It does not within `limit`, or the emulator failed.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait_for_exit(limit)?;
        let messages = self.messages();
        let off = match self.emulator {
            Emulator::Qemu => status.success(),
            Emulator::Bochs => bochs::switched_off(&messages),
        };
        ensure!(
            off,
            "{} ended ({status}) although the machine was not switched off:\n{messages}",
            self.emulator.name()
        );
        Ok(())
    }

    /// Waits for the emulator to end, with whatever status.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub fn wait_for_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("the machine did not end within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the emulator itself wrote, for error messages.
    #[must_use]
    pub fn messages(&self) -> String {
        tail(&self.directory.join(MESSAGES), 10)
    }

    /// Ends the machine as pulling the plug would.
    pub fn kill(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_before_the_emulator_starts() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let machine = Machine::new(Boot::Direct(BootSet {
            hypervisor: "/a/acrn.bin".into(),
            hypervisor_args: String::new(),
            kernel: "/a/bzImage".into(),
            kernel_args: String::new(),
            initrd: "/a/initrd".into(),
            config: PathBuf::new(),
            modules: Vec::new(),
        }));
        let error = machine
            .start(&layout, &dir.path().join("log"))
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("/a/acrn.bin is missing"),
            "{error}"
        );
    }
}
