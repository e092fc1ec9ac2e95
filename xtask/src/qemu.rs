//! QEMU: what its command line says of a machine, and its start.
//!
//! Serial line and emulator are connected by a socket pair made before the start, so that
//! no output is lost and no name in the file system is needed.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use crate::grub::{self, CONFIG_TAG, KERNEL_TAG, RAMDISK_TAG};
use crate::machine::{Boot, DiskBus, Machine, NetModel, tied_to_us};

/// The CPU model of a machine that does not say another.
pub const CPU_MODEL: &str = "EPYC";

/// Starts QEMU in a directory that has the machine's links; returns it with our end of the
/// serial line.
pub(crate) fn start(
    machine: &Machine,
    directory: &Path,
    messages: File,
) -> Result<(Child, OwnedFd)> {
    ensure!(
        machine.disks.iter().all(|disk| disk.bus != DiskBus::Piix),
        "the emulated chipset has no PIIX; --disk ahci is the nearest"
    );
    if machine.boot.is_uefi() {
        let template = firmware(machine).1;
        fs::copy(template, directory.join("vars.fd"))
            .with_context(|| format!("{} is missing: install ovmf", template.display()))?;
    }
    let (ours, theirs) = UnixStream::pair()?;
    // QEMU inherits its end by number.
    nix::fcntl::fcntl(&theirs, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    const PROGRAM: &str = "qemu-system-x86_64";
    let mut command = if machine.share_one_cpu {
        let mut taskset = tied_to_us("taskset");
        taskset.args(["--cpu-list", &last_cpu()?.to_string(), PROGRAM]);
        taskset
    } else {
        tied_to_us(PROGRAM)
    };
    let child = command
        .args(arguments(machine))
        .arg("-chardev")
        .arg(format!("socket,id=serial0,fd={}", theirs.as_raw_fd()))
        .args(machine.uart.as_ref().map_or_else(
            || ["-serial".to_owned(), "chardev:serial0".to_owned()],
            |device| ["-device".to_owned(), format!("{device},chardev=serial0")],
        ))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(messages.try_clone()?)
        .stderr(messages)
        .spawn()
        .context("cannot start setpriv, which belongs to util-linux")?;
    Ok((child, ours.into()))
}

/// Code and variables of the UEFI firmware.
fn firmware(machine: &Machine) -> (&'static Path, &'static Path) {
    match machine.secure_boot {
        true => grub::secure_ovmf(),
        false => grub::ovmf(),
    }
}

/// Number of a CPU of this computer that this program may use.
fn last_cpu() -> Result<usize> {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::this())?;
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu) == Ok(true);
    let mut cpus = (0..nix::sched::CpuSet::count()).rev();
    cpus.find(is_allowed).context("this program may use no CPU")
}

/// The arguments, for a current directory that has the machine's links.
fn arguments(machine: &Machine) -> Vec<String> {
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
        if machine.secure_boot {
            "q35,smm=on"
        } else {
            "q35"
        },
        "-accel",
        "tcg,thread=multi",
    ]);
    add(&[
        "-cpu",
        &machine.cpu_model,
        "-smp",
        &machine.cpus.to_string(),
    ]);
    add(&["-m", &format!("{}M", machine.memory_mib)]);
    if machine.boot.is_uefi() {
        let code = firmware(machine).0.display();
        if machine.secure_boot {
            // Only the firmware itself may change its variables.
            add(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        add(&[
            "-drive",
            &format!("if=pflash,format=raw,readonly=on,file={code}"),
        ]);
        add(&["-drive", "if=pflash,format=raw,file=vars.fd"]);
    }
    match &machine.boot {
        Boot::Disk => {}
        Boot::Direct(set) => {
            add(&["-kernel", "acrn.bin", "-append", &set.hypervisor_args]);
            // QEMU passes a module's file name as the first word of its string, where
            // the hypervisor expects the tag: so the files are named by their tags.
            // Modules are separated by commas; one in a command line is doubled.
            let args = set.kernel_args.replace(',', ",,");
            let mut modules = format!("{KERNEL_TAG} {args}");
            for (file, tag) in [(&set.initrd, RAMDISK_TAG), (&set.config, CONFIG_TAG)] {
                if grub::is_there(file) {
                    modules += &format!(",{tag}");
                }
            }
            for (tag, _) in &set.modules {
                modules += &format!(",{tag}");
            }
            add(&["-initrd", &modules]);
        }
        Boot::Bare(set) => {
            add(&["-kernel", KERNEL_TAG, "-initrd", RAMDISK_TAG]);
            add(&["-append", &set.kernel_args]);
        }
        Boot::Grub { .. } => {
            add(&[
                "-drive",
                "if=none,id=boot,format=raw,readonly=on,file=boot.iso",
            ]);
            // The last of the chipset's ports: disks begin at the first.
            add(&["-device", "ide-cd,drive=boot,bus=ide.5,bootindex=0"]);
        }
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        let snapshot = if disk.persistent { "off" } else { "on" };
        add(&[
            "-drive",
            &format!("if=none,id=disk{index},format=raw,snapshot={snapshot},file=disk{index}.img"),
        ]);
        add(&[
            "-device",
            &match disk.bus {
                DiskBus::Virtio => format!("virtio-blk-pci,drive=disk{index}"),
                DiskBus::Ahci => format!("ide-hd,drive=disk{index},bus=ide.{index}"),
                DiskBus::Nvme => format!("nvme,drive=disk{index},serial=acrn{index}"),
                DiskBus::Piix => format!("ide-hd,drive=disk{index}"),
            },
        ]);
    }
    if let Some(model) = machine.net {
        let device = match model {
            NetModel::Virtio => "virtio-net-pci",
            NetModel::E1000e => "e1000e",
            NetModel::E1000 => "e1000",
        };
        add(&[
            "-netdev",
            "user,id=net0",
            "-device",
            &format!("{device},netdev=net0"),
        ]);
    }
    if machine.gdb {
        add(&["-S", "-gdb", "tcp::1234"]);
    }
    list.extend(machine.extra.iter().cloned());
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grub::BootSet;
    use crate::machine::Disk;

    fn set() -> BootSet {
        BootSet {
            hypervisor: "/a/acrn.bin".into(),
            hypervisor_args: "loglevel=5".into(),
            kernel: "/a/bzImage".into(),
            kernel_args: "console=ttyS0,115200 quiet".into(),
            initrd: "/a/initrd".into(),
            config: "/a/shared.cfg".into(),
            modules: vec![("Guest_ramdisk", "/a/guest.cpio".into())],
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
        let arguments = arguments(&Machine::new(Boot::Direct(set())));
        assert_eq!(
            after(&arguments, "-initrd"),
            ["Linux_bzImage console=ttyS0,,115200 quiet,Linux_ramdisk,acrn_config,Guest_ramdisk"]
        );
        assert_eq!(after(&arguments, "-append"), ["loglevel=5"]);
    }

    #[test]
    fn a_bare_machine_gets_the_kernels_command_line_unchanged() {
        let arguments = arguments(&Machine::new(Boot::Bare(set())));
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
        let drives = after(&arguments(&machine), "-drive").join(" ");
        assert!(
            drives.contains("id=disk0,format=raw,snapshot=on"),
            "{drives}"
        );
        assert!(
            drives.contains("id=disk1,format=raw,snapshot=off"),
            "{drives}"
        );
        let arguments = arguments(&machine);
        assert!(after(&arguments, "-device").contains(&"nvme,drive=disk1,serial=acrn1"));
    }

    #[test]
    fn a_debugger_stops_the_machine_at_its_start() {
        let mut machine = Machine::new(Boot::Bare(set()));
        machine.gdb = true;
        assert!(arguments(&machine).contains(&"-S".to_owned()));
    }
}
