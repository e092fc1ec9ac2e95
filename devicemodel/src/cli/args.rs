//! The options as the parser sees them. Their comments are what `--help` prints.
#![allow(rustdoc::broken_intra_doc_links)]

use std::path::PathBuf;

use clap::{ArgAction, Parser};

use super::CliError;

/// Creates a User VM and gives it virtual devices.
#[derive(Debug, Default, Parser)]
#[command(
    name = "acrn-dm",
    version,
    disable_version_flag = true,
    args_override_self = true,
    after_help = "Example:\n  acrn-dm -m 512M -s 0:0,hostbridge -s 1:0,lpc -l com1,stdio \\\n    \
                  -s 3,virtio-blk,/srv/vm1.img -s 4,virtio-net,tap=tap0 \\\n    \
                  -k /srv/bzImage -B \"console=ttyS0 root=/dev/vda rw\" vm1"
)]
pub struct Args {
    /// Memory: a number with unit k, M or G, a multiple of 2M [default: 256M]
    #[arg(short = 'm', long, value_name = "SIZE")]
    pub memsize: Option<String>,
    /// Linux kernel (bzImage) to start
    #[arg(short = 'k', long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for the kernel
    #[arg(short = 'r', long, value_name = "FILE")]
    pub ramdisk: Option<PathBuf>,
    /// Kernel command line
    #[arg(short = 'B', long, value_name = "TEXT", allow_hyphen_values = true)]
    pub bootargs: Option<String>,
    /// Static ELF program to start instead of a kernel
    #[arg(short = 'E', long = "elf_file", value_name = "FILE")]
    pub elf_file: Option<PathBuf>,
    /// PCI device: SLOT[:FUNCTION],DEVICE[,OPTIONS], such as 3,virtio-blk,/disk.img; repeatable
    #[arg(short = 's', long = "pci_slot", value_name = "DEVICE", action = ArgAction::Append)]
    pub pci_slot: Vec<String>,
    /// Serial port: com1 to com4, then its other end: stdio, pty, tcp:PORT, unix:PATH,
    /// file:PATH, hv (the hypervisor's vm_console) or a terminal's path; repeatable
    #[arg(short = 'l', long, value_name = "PORT", action = ArgAction::Append)]
    pub lpc: Vec<String>,
    /// CPUs of the VM, as local APIC ids with commas between
    #[arg(long = "cpu_affinity", value_name = "IDS")]
    pub cpu_affinity: Option<String>,
    /// Real-time VM: passes the local APICs through
    #[arg(long)]
    pub rtvm: bool,
    /// Passes the local APICs through (part of --rtvm)
    #[arg(long = "lapic_pt")]
    pub lapic_pt: bool,
    /// Log level, console,level=1 (errors) to 5 (debug)
    #[arg(long = "logger_setting", value_name = "SETTING")]
    pub logger_setting: Option<String>,
    /// Socket for a monitor that sends JSON commands
    #[arg(long = "cmd_monitor", value_name = "PATH")]
    pub cmd_monitor: Option<PathBuf>,
    /// A write to port 0xF4 ends the VM (for test programs)
    #[arg(long)]
    pub debugexit: bool,
    /// Reads settings from a TOML or JSON file; options on the command line win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Checks everything that can be checked without the hypervisor, and ends
    #[arg(long = "dry-run", visible_alias = "dry_run")]
    pub dry_run: bool,
    /// Keeps all privileges while the VM runs
    #[arg(long = "no-sandbox", visible_alias = "no_sandbox")]
    pub no_sandbox: bool,
    /// Prints the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    pub version: Option<bool>,

    // Accepted without effect.
    #[arg(short = 'A', long, hide = true)]
    acpi: bool,
    #[arg(short = 'Y', long, hide = true)]
    mptgen: bool,
    #[arg(short = 'G', long, hide = true)]
    gvtargs: Option<String>,
    #[arg(short = 'i', long = "ioc_node", hide = true)]
    ioc_node: Option<String>,
    #[arg(short = 'U', long, hide = true)]
    uuid: Option<String>,
    #[arg(long, hide = true)]
    vsbl: Option<String>,
    #[arg(long = "part_info", hide = true)]
    part_info: Option<String>,
    #[arg(long = "mac_seed", hide = true)]
    mac_seed: Option<String>,
    #[arg(long = "pm_by_vuart", hide = true)]
    pm_by_vuart: Option<String>,
    #[arg(long = "pm_notify_channel", hide = true)]
    pm_notify_channel: Option<String>,
    #[arg(long, hide = true)]
    iasl: Option<String>,
    #[arg(long = "virtio_poll", hide = true)]
    virtio_poll: Option<String>,
    #[arg(long = "virtio_msi", hide = true)]
    virtio_msi: bool,
    #[arg(long = "intr_monitor", hide = true)]
    intr_monitor: Option<String>,

    // Known and refused.
    #[arg(long, hide = true)]
    ovmf: Option<String>,
    #[arg(long = "enable_trusty", hide = true)]
    enable_trusty: bool,
    #[arg(long = "acpidev_pt", hide = true)]
    acpidev_pt: Option<String>,
    #[arg(long = "mmiodev_pt", hide = true)]
    mmiodev_pt: Option<String>,
    #[arg(long, hide = true)]
    vtpm2: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = false)]
    ssram: Option<Option<String>>,
    #[arg(long, hide = true)]
    windows: bool,

    /// Name of the VM, 1 to 15 characters
    #[arg(value_name = "VM_NAME")]
    pub name: Option<String>,
}

impl Args {
    /// One warning for each option that is accepted without effect.
    pub(super) fn obsolete(&self) -> Vec<String> {
        let no_longer = "has no effect any more: leave it out";
        [
            (
                "-A",
                self.acpi,
                "has no effect, ACPI tables are always made: leave it out",
            ),
            (
                "-Y",
                self.mptgen,
                "has no effect, ACPI tables are always made: leave it out",
            ),
            ("-G", self.gvtargs.is_some(), no_longer),
            ("-i", self.ioc_node.is_some(), no_longer),
            ("-U", self.uuid.is_some(), no_longer),
            ("--vsbl", self.vsbl.is_some(), no_longer),
            ("--part_info", self.part_info.is_some(), no_longer),
            (
                "--mac_seed",
                self.mac_seed.is_some(),
                "has no effect here: write mac_seed= or mac= behind virtio-net",
            ),
            ("--pm_by_vuart", self.pm_by_vuart.is_some(), no_longer),
            (
                "--pm_notify_channel",
                self.pm_notify_channel.is_some(),
                "has no effect, the power button always works: leave it out",
            ),
            (
                "--iasl",
                self.iasl.is_some(),
                "has no effect, no ACPI compiler is needed: leave it out",
            ),
            (
                "--virtio_poll",
                self.virtio_poll.is_some(),
                "has no effect, devices are woken by the kernel: leave it out",
            ),
            (
                "--virtio_msi",
                self.virtio_msi,
                "has no effect, MSI-X is used: leave it out",
            ),
            (
                "--intr_monitor",
                self.intr_monitor.is_some(),
                "has no effect yet: interrupt storms are not watched",
            ),
        ]
        .into_iter()
        .filter(|(_, given, _)| *given)
        .map(|(option, _, text)| format!("{option} {text}"))
        .collect()
    }

    /// Refuses options that change what the guest sees and are not there yet.
    pub(super) fn reject_unsupported(&self) -> Result<(), CliError> {
        let refused = [
            (
                "--ovmf",
                self.ovmf.is_some(),
                "UEFI firmware is not supported: start a Linux kernel with -k",
            ),
            (
                "--windows",
                self.windows,
                "Windows guests are not supported: leave it out",
            ),
            (
                "--enable_trusty",
                self.enable_trusty,
                "the secure world is not supported: leave it out",
            ),
            (
                "--acpidev_pt",
                self.acpidev_pt.is_some(),
                "passing ACPI devices through is not supported: leave it out",
            ),
            (
                "--mmiodev_pt",
                self.mmiodev_pt.is_some(),
                "passing MMIO devices through is not supported: leave it out",
            ),
            (
                "--vtpm2",
                self.vtpm2.is_some(),
                "a virtual TPM is not supported: leave it out",
            ),
            (
                "--ssram",
                self.ssram.is_some(),
                "software SRAM is not supported: leave it out",
            ),
        ];
        match refused.into_iter().find(|(_, given, _)| *given) {
            Some((option, _, text)) => Err(CliError::unsupported(format!("{option}: {text}"))),
            None => Ok(()),
        }
    }
}
