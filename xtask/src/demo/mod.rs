//! `cargo xtask demo`: from nothing to a person at the console of a User VM.

mod script;
mod stages;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::build::Artefacts;
use crate::elf::multiboot1_load_address;
use crate::layout::{Layout, display};
use crate::machine::{Boot, Disk, DiskBus, Emulator, Machine, NetModel};
use crate::session::{ESCAPE_KEYS, Session};
use crate::{bochs, bridge, grub, scenario, setup, stock};

pub use script::{guest_session, launch_log, process, runs, to_user_vm, wait_for_user_end};
pub use stages::Stages;

/// What the machine's firmware is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// None to speak of: QEMU loads the hypervisor (multiboot1), which is the fastest. Bochs
    /// has a BIOS and GRUB all the same.
    Direct,
    /// SeaBIOS and GRUB (multiboot2).
    Bios,
    /// OVMF and GRUB (multiboot2).
    Uefi,
}

/// Options of `cargo xtask demo`.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// What emulates the machine: QEMU an AMD one, Bochs an Intel one.
    #[arg(long, value_enum, default_value = "qemu")]
    pub emulator: Emulator,
    /// CPUs of the machine.
    #[arg(long, visible_alias = "smp", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=16))]
    pub cpus: u32,
    /// Memory of the machine, such as 2G or 3072M.
    #[arg(long, short, default_value = "2G", value_parser = parse_memory)]
    pub memory: u32,
    /// Boot with a preset of acrn-config on the machine of its board, 4 CPUs and 4 GiB: shared,
    /// partitioned, hybrid or hybrid_rt.
    #[arg(long, value_name = "NAME", value_parser = scenario::names(),
          conflicts_with_all = ["cpus", "memory", "disk", "net", "debian_guest", "bare"])]
    pub scenario: Option<String>,
    /// How the machine boots.
    #[arg(long, value_enum, default_value = "direct")]
    pub firmware: Firmware,
    /// Controller of the Service VM's disk [default: virtio, in Bochs piix].
    #[arg(long, value_enum)]
    pub disk: Option<DiskBus>,
    /// Network adapter of the Service VM [default: virtio, in Bochs e1000].
    #[arg(long, value_enum)]
    pub net: Option<NetModel>,
    /// Run a scripted session instead of handing over the terminal.
    #[arg(long)]
    pub headless: bool,
    /// Stop before the first instruction, wait for gdb and print the line to type.
    #[arg(long, conflicts_with = "headless")]
    pub gdb: bool,
    /// Keep what the guests write to their disks for the next run.
    #[arg(long)]
    pub persist: bool,
    /// Run a User VM with a stock Debian kernel instead of ours.
    #[arg(long)]
    pub debian_guest: bool,
    /// Boot the Service VM's Linux without the hypervisor (to find out who is to blame).
    #[arg(long, conflicts_with_all = ["firmware", "debian_guest"])]
    pub bare: bool,
    /// Further words for the hypervisor's command line, such as loglevel=5.
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub hypervisor_args: String,
    /// Further words for the Service VM's kernel command line.
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub kernel_args: String,
    /// Where the full console log is kept.
    #[arg(long, value_name = "FILE")]
    pub log: Option<std::path::PathBuf>,
    /// Install missing Debian packages without asking.
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// Builds what is missing, boots, and hands over or runs the script.
///
/// # Errors
/// A build or a stage that failed.
pub fn run(layout: &Layout, options: &Options) -> Result<ExitCode> {
    setup::run(&setup::Options { yes: options.yes })?;
    if options.emulator == Emulator::Bochs {
        bochs::build::build(layout)?;
    }
    let artefacts = if options.bare {
        Artefacts::bare(layout)?
    } else {
        Artefacts::build(layout)?
    };
    let machine = machine(layout, options, &artefacts)?;
    let log = options.log.clone().unwrap_or_else(|| {
        layout.logs().join(if options.headless {
            "demo-headless.log"
        } else {
            "demo.log"
        })
    });
    if options.gdb {
        print_gdb_line(&artefacts)?;
    }
    let mut session = Session::new(machine.start(layout, &log)?);
    if options.headless {
        let mut stages = Stages::new();
        let result = script::whole(&mut session, &mut stages, options);
        stages.print();
        return result
            .with_context(|| format!("the full console log is {}", display(&log)))
            .map(|()| ExitCode::SUCCESS);
    }
    println!("{}", keys());
    session.vm.console.echo(true);
    if !options.gdb && !options.bare {
        let mut stages = Stages::quiet();
        if let Err(error) = script::up_to_user_login(&mut session, &mut stages, options) {
            eprintln!("\r\n{error:#}\r\nThe console is yours to look around.\r\n");
        }
    }
    bridge::run(&mut session.vm)?;
    println!("\r\nThe console's log is {}.", display(&log));
    Ok(ExitCode::SUCCESS)
}

/// Boot arguments of the Service VM. `no_timer_check`, as in ACRN's scenarios: the kernel's check
/// counts PIT interrupts in a few milliseconds, which an emulator on a busy host does not deliver.
/// `tsc=reliable`: the emulated processor does not say that its TSC is invariant, and the kernel
/// would read the HPET instead.
const SERVICE_VM_ARGS: &str = "console=ttyS0 no_timer_check tsc=reliable";
/// In Bochs time jumps while all CPUs are halted, and not while they wait by MWAIT.
const SERVICE_VM_ARGS_IN_BOCHS: &str = "idle=halt";

/// The machine that the options describe.
///
/// # Errors
/// The boot image or the stock kernel cannot be made.
pub fn machine(layout: &Layout, options: &Options, artefacts: &Artefacts) -> Result<Machine> {
    let (further, disk_bus, net) = match options.emulator {
        Emulator::Qemu => ("", DiskBus::Virtio, NetModel::Virtio),
        Emulator::Bochs => (SERVICE_VM_ARGS_IN_BOCHS, DiskBus::Piix, NetModel::E1000),
    };
    let words = [SERVICE_VM_ARGS, further, options.kernel_args.trim()];
    let kernel_args = words.join(" ");
    let mut set = artefacts.boot_set(options.hypervisor_args.trim(), kernel_args.trim());
    if let Some(name) = &options.scenario {
        set.config = scenario::of_preset(layout, options.emulator, name)?;
        scenario::add_modules(layout, options.emulator, name, &mut set)?;
    }
    let boot = match options.firmware {
        _ if options.bare => Boot::Bare(set),
        Firmware::Direct => Boot::Direct(set),
        firmware => Boot::Grub {
            image: grub::image(layout, &set)?,
            uefi: firmware == Firmware::Uefi,
        },
    };
    let mut machine = Machine::on(options.emulator, boot);
    if options.bare && options.emulator == Emulator::Bochs {
        bochs::CPU_MODEL_WITHOUT_HYPERVISOR.clone_into(&mut machine.cpu_model);
    }
    machine.cpus = options.cpus;
    machine.memory_mib = options.memory;
    machine.net = Some(options.net.unwrap_or(net));
    machine.gdb = options.gdb;
    let disk = |image| Disk {
        image,
        bus: options.disk.unwrap_or(disk_bus),
        persistent: options.persist,
    };
    machine.disks.push(disk(artefacts.data_disk.clone()));
    if options.debian_guest {
        machine.disks.push(disk(stock::disk(layout)?));
    }
    if options.scenario.is_some() {
        scenario::fit(&mut machine)?;
    }
    Ok(machine)
}

impl Default for Options {
    /// What `cargo xtask demo` without options means.
    fn default() -> Self {
        Self {
            emulator: Emulator::Qemu,
            cpus: 2,
            memory: 2048,
            scenario: None,
            firmware: Firmware::Direct,
            disk: None,
            net: None,
            headless: false,
            gdb: false,
            persist: false,
            debian_guest: false,
            bare: false,
            hypervisor_args: String::new(),
            kernel_args: String::new(),
            log: None,
            yes: false,
        }
    }
}

fn keys() -> String {
    format!(
        "\nThree consoles share this terminal:\n\
         \x20 {ESCAPE_KEYS:<20} leaves a VM's console for the hypervisor's shell\n\
         \x20 vm_console 0          there: shows the Service VM\n\
         \x20 vm_console 1          there: shows the User VM (log in as root, password acrn)\n\
         \x20 Ctrl-A, then x        ends the machine (or type poweroff in the Service VM)\n"
    )
}

fn print_gdb_line(artefacts: &Artefacts) -> Result<()> {
    println!("The machine waits for a debugger. In another terminal, type:\n");
    if artefacts.hypervisor.elf.as_os_str().is_empty() {
        println!("  gdb -ex 'target remote localhost:1234'\n");
        return Ok(());
    }
    let flat = fs::read(&artefacts.hypervisor.flat)?;
    let linked = artefacts.hypervisor.base;
    let loaded = multiboot1_load_address(&flat).map_or(linked, u64::from);
    println!(
        "  gdb -ex 'add-symbol-file {} -o {:#x}' -ex 'target remote localhost:1234'\n",
        artefacts.hypervisor.elf.display(),
        loaded.wrapping_sub(linked)
    );
    Ok(())
}

/// Reads a size such as `2G`, `512M` or `2048` (MiB).
fn parse_memory(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.strip_suffix(['g', 'G']) {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix(['m', 'M']).unwrap_or(text), 1),
    };
    let mib = digits
        .parse::<u32>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    match mib {
        Some(mib @ 512..=65_536) => Ok(mib),
        Some(mib) => Err(format!("{mib} MiB is not between 512M and 64G")),
        None => Err(format!("{text:?} is no size such as 2G or 3072M")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(parse_memory("2G"), Ok(2048));
        assert_eq!(parse_memory("768m"), Ok(768));
        assert_eq!(parse_memory("1024"), Ok(1024));
        assert!(parse_memory("100M").unwrap_err().contains("512M"));
        assert!(parse_memory("4194304G").is_err());
        assert!(parse_memory("lots").is_err());
    }
}
