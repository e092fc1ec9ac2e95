//! The emulated machine: a description, the emulator's arguments for it, and the running
//! process with its serial line.
//!
//! Serial line and emulator are connected by a socket pair made before the start, so that
//! no output is lost and no name in the file system is needed. Should this program
//! die, the kernel kills the emulator (`setpriv --pdeathsig`).

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::console::Console;
use crate::grub::{self, BootSet, KERNEL_TAG, RAMDISK_TAG};
use crate::layout::Layout;
use crate::progress::tail;

/// How the machine gets from power-on to the first program.
#[derive(Debug, Clone)]
pub enum Boot {
    /// QEMU loads the hypervisor and its modules itself, by multiboot1.
    Direct(BootSet),
    /// GRUB on BIOS or UEFI loads them from an image, by multiboot2.
    Grub {
        /// The image of [`grub::image`].
        image: PathBuf,
        /// UEFI rather than BIOS.
        uefi: bool,
    },
    /// No hypervisor: QEMU starts the kernel.
    Bare(BootSet),
    /// A flat multiboot1 image without modules (micro-guests).
    Image {
        /// The image.
        image: PathBuf,
        /// Its command line.
        args: String,
    },
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
}

/// Network adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetModel {
    /// virtio-net on PCI.
    Virtio,
    /// Intel 82574L.
    E1000e,
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
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// QEMU's name of the CPU model with its flags.
    pub cpu_model: String,
    /// How it boots.
    pub boot: Boot,
    /// Disks, in the order of their names in the guest.
    pub disks: Vec<Disk>,
    /// Adapter on QEMU's user network.
    pub net: Option<NetModel>,
    /// Device with the console's UART, in place of COM1.
    pub uart: Option<String>,
    /// Wait for a debugger on TCP port 1234.
    pub gdb: bool,
    /// Further arguments.
    pub extra: Vec<String>,
}

impl Machine {
    /// A machine of common size without disks and network.
    #[must_use]
    pub fn new(boot: Boot) -> Self {
        Self {
            cpus: 2,
            memory_mib: 2048,
            cpu_model: "EPYC".into(),
            boot,
            disks: Vec::new(),
            net: None,
            uart: None,
            gdb: false,
            extra: Vec::new(),
        }
    }

    /// The emulator's arguments, for a current directory that has the [`links`].
    fn arguments(&self) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| list.extend(words.iter().map(|&word| word.to_owned()));
        add(&[
            "-no-user-config",
            "-nodefaults",
            "-display",
            "none",
            "-monitor",
            "none",
        ]);
        add(&[
            "-no-reboot",
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
        ]);
        add(&["-cpu", &self.cpu_model, "-smp", &self.cpus.to_string()]);
        add(&["-m", &format!("{}M", self.memory_mib)]);
        match &self.boot {
            Boot::Direct(set) => {
                add(&["-kernel", "acrn.bin", "-append", &set.hypervisor_args]);
                // QEMU passes a module's file name as the first word of its string, where
                // the hypervisor expects the tag: so the files are named by their tags.
                // Modules are separated by commas; one in a command line is doubled.
                let args = set.kernel_args.replace(',', ",,");
                let mut modules = format!("{KERNEL_TAG} {args}");
                if !set.initrd.as_os_str().is_empty() {
                    modules += &format!(",{RAMDISK_TAG}");
                }
                add(&["-initrd", &modules]);
            }
            Boot::Bare(set) => {
                add(&["-kernel", KERNEL_TAG, "-initrd", RAMDISK_TAG]);
                add(&["-append", &set.kernel_args]);
            }
            Boot::Image { args, .. } => add(&["-kernel", "image.bin", "-append", args]),
            Boot::Grub { uefi, .. } => {
                if *uefi {
                    let code = grub::ovmf().0.display();
                    add(&[
                        "-drive",
                        &format!("if=pflash,format=raw,readonly=on,file={code}"),
                    ]);
                    add(&["-drive", "if=pflash,format=raw,file=vars.fd"]);
                }
                add(&[
                    "-drive",
                    "if=none,id=boot,format=raw,readonly=on,file=boot.iso",
                ]);
                // The last of the chipset's ports: disks begin at the first.
                add(&["-device", "ide-cd,drive=boot,bus=ide.5,bootindex=0"]);
            }
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let snapshot = if disk.persistent { "off" } else { "on" };
            add(&[
                "-drive",
                &format!(
                    "if=none,id=disk{index},format=raw,snapshot={snapshot},file=disk{index}.img"
                ),
            ]);
            add(&[
                "-device",
                &match disk.bus {
                    DiskBus::Virtio => format!("virtio-blk-pci,drive=disk{index}"),
                    DiskBus::Ahci => format!("ide-hd,drive=disk{index},bus=ide.{index}"),
                    DiskBus::Nvme => format!("nvme,drive=disk{index},serial=acrn{index}"),
                },
            ]);
        }
        if let Some(model) = self.net {
            let device = match model {
                NetModel::Virtio => "virtio-net-pci",
                NetModel::E1000e => "e1000e",
            };
            add(&[
                "-netdev",
                "user,id=net0",
                "-device",
                &format!("{device},netdev=net0"),
            ]);
        }
        if self.gdb {
            add(&["-S", "-gdb", "tcp::1234"]);
        }
        list.extend(self.extra.iter().cloned());
        list
    }

    /// Names in the machine's directory and the files that they stand for. QEMU's module
    /// syntax gives meaning to spaces and commas, which a path may contain.
    fn links(&self) -> Vec<(String, &Path)> {
        let mut links: Vec<(String, &Path)> = match &self.boot {
            Boot::Direct(set) | Boot::Bare(set) => vec![
                ("acrn.bin".into(), set.hypervisor.as_path()),
                (KERNEL_TAG.into(), set.kernel.as_path()),
                (RAMDISK_TAG.into(), set.initrd.as_path()),
            ],
            Boot::Image { image, .. } => vec![("image.bin".into(), image.as_path())],
            Boot::Grub { image, .. } => vec![("boot.iso".into(), image.as_path())],
        };
        for (index, disk) in self.disks.iter().enumerate() {
            links.push((format!("disk{index}.img"), &disk.image));
        }
        links
    }

    /// Starts the machine; its serial output is also written to `log`.
    ///
    /// # Errors
    /// QEMU is missing or refuses the arguments, or a file cannot be made.
    pub fn start(&self, layout: &Layout, log: &Path) -> Result<Vm> {
        ensure!(self.cpus > 0, "a machine needs at least one CPU");
        let directory = self.prepare_directory(layout)?;
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let (ours, theirs) = UnixStream::pair()?;
        // QEMU inherits its end by number.
        nix::fcntl::fcntl(&theirs, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        let messages = File::create(directory.join("qemu.log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(self.arguments())
            .arg("-chardev")
            .arg(format!("socket,id=serial0,fd={}", theirs.as_raw_fd()))
            .args(self.uart.as_ref().map_or_else(
                || ["-serial".to_owned(), "chardev:serial0".to_owned()],
                |device| ["-device".to_owned(), format!("{device},chardev=serial0")],
            ))
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(messages.try_clone()?)
            .stderr(messages)
            .spawn()
            .context("cannot start setpriv, which belongs to util-linux")?;
        drop(theirs);
        let console = Console::new(ours, Some(file))?;
        Ok(Vm {
            child,
            console,
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
        if let Boot::Grub { uefi: true, .. } = self.boot {
            let template = grub::ovmf().1;
            fs::copy(template, directory.join("vars.fd"))
                .with_context(|| format!("{} is missing: install ovmf", template.display()))?;
        }
        Ok(directory)
    }
}

/// A running machine; it is killed when dropped.
pub struct Vm {
    child: Child,
    /// Its serial line.
    pub console: Console,
    directory: PathBuf,
    log: PathBuf,
}

impl Vm {
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
    /// It does not within `limit`, or QEMU failed.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("QEMU failed ({status}):\n{}", self.messages());
                }
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("the machine did not switch itself off within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
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
                bail!("the emulator did not end within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the emulator itself wrote, for error messages.
    #[must_use]
    pub fn messages(&self) -> String {
        tail(&self.directory.join("qemu.log"), 10)
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

    fn set() -> BootSet {
        BootSet {
            hypervisor: "/a/acrn.bin".into(),
            hypervisor_args: "loglevel=5".into(),
            kernel: "/a/bzImage".into(),
            kernel_args: "console=ttyS0,115200 quiet".into(),
            initrd: "/a/initrd".into(),
        }
    }

    fn after<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = arguments.windows(2);
        pairs
            .filter(|w| w[0] == option)
            .map(|w| w[1].as_str())
            .collect()
    }

    #[test]
    fn a_comma_in_a_module_string_is_doubled() {
        let arguments = Machine::new(Boot::Direct(set())).arguments();
        assert_eq!(
            after(&arguments, "-initrd"),
            ["Linux_bzImage console=ttyS0,,115200 quiet,Linux_ramdisk"]
        );
        assert_eq!(after(&arguments, "-append"), ["loglevel=5"]);
    }

    #[test]
    fn a_bare_machine_gets_the_kernels_command_line_unchanged() {
        let arguments = Machine::new(Boot::Bare(set())).arguments();
        assert_eq!(after(&arguments, "-append"), ["console=ttyS0,115200 quiet"]);
        assert_eq!(after(&arguments, "-kernel"), ["Linux_bzImage"]);
    }

    #[test]
    fn disks_keep_their_order_and_are_thrown_away_unless_persistent() {
        let mut machine = Machine::new(Boot::Bare(set()));
        for persistent in [false, true] {
            machine.disks.push(Disk {
                image: "x".into(),
                bus: DiskBus::Nvme,
                persistent,
            });
        }
        let drives = after(&machine.arguments(), "-drive").join(" ");
        assert!(
            drives.contains("id=disk0,format=raw,snapshot=on"),
            "{drives}"
        );
        assert!(
            drives.contains("id=disk1,format=raw,snapshot=off"),
            "{drives}"
        );
        let arguments = machine.arguments();
        assert!(after(&arguments, "-device").contains(&"nvme,drive=disk1,serial=acrn1"));
    }

    #[test]
    fn a_debugger_stops_the_machine_at_its_start() {
        let mut machine = Machine::new(Boot::Bare(set()));
        machine.gdb = true;
        assert!(machine.arguments().contains(&"-S".to_owned()));
    }

    #[test]
    fn a_missing_file_is_named_before_the_emulator_starts() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let machine = Machine::new(Boot::Direct(set()));
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
