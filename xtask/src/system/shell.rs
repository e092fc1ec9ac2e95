//! Cases of the hypervisor's console and shell.

use anyhow::{Result, bail, ensure};

use super::micro::{SOON, machine, start, without_hypervisor};
use super::support::POWER_OFF;
use super::{Context, Outcome};
use crate::machine::Boot;
use crate::session::{HYPERVISOR_PROMPT, Session};

/// Commands of the shell, and what their answers have to contain.
const COMMANDS: &[(&str, &[&str])] = &[
    ("help", &["vcpu_dumpreg", "poweroff", "rdmsr"]),
    ("help exits", &["exits [VM]"]),
    (
        "version",
        &["acrn-rs", "AMD SVM", "2 CPUs", "first VM entry"],
    ),
    ("vm_list", &["Service_VM", "running", "service"]),
    ("vcpu_list", &["primary", "secondary", "start-up IPI"]),
    ("vcpu_dumpreg 0 0", &["rip 0000000001", "cr3", "stack from"]),
    ("vcpu_dumpreg 0 1", &["waits for start-up IPI"]),
    ("vcpu_dumpreg 0 9", &["vm0 has no vCPU 9"]),
    ("vcpu_dumpreg 3 0", &["there is no VM 3"]),
    ("int", &["kick", "console", "CPU0", "CPU1"]),
    ("pt", &[]),
    ("iommu", &["no IOMMU in use"]),
    ("vioapic 0", &["DESTINATION", "high"]),
    ("exits 0", &["vm0 vcpu0", "cpuid", "AVERAGE"]),
    ("config", &["in force: the safe default", "CPU 1: "]),
    ("dump_ioapic", &["DESTINATION", "Fixed", "23   0x"]),
    (
        "mem",
        &[
            "nested-table frames",
            "vm0 keeps",
            "OWNER",
            "  hypervisor\n",
            "  devices",
            "  vm0\n",
        ],
    ),
    ("cpuid 0", &["eax", "68747541"]),
    ("rdmsr 1b", &["CPU 0 MSR 0x1b: 0x00000000fee00"]),
    ("rdmsr -p1 1b", &["CPU 1 MSR 0x1b: 0x00000000fee00"]),
    ("rdmsr -p9 1b", &["CPU 9 is not running"]),
    ("wrmsr -p1 174 0", &["CPU 1 MSR 0x174 <-"]),
    (
        "wrmsr c0000080 0",
        &["MSR 0xc0000080 is the hypervisor's own"],
    ),
    ("wrmsr -p1 1b 0", &["MSR 0x1b is the hypervisor's own"]),
    ("wrmsr 1b", &["VALUE is missing"]),
    ("wrmsr xyz 1", &["`xyz` is no MSR"]),
    ("rdmsr ffffffffffffffff", &["`ffffffffffffffff` is no MSR"]),
    ("cpuid", &["LEAF is missing"]),
    ("cpuid 7 0 0", &["`0` is too much"]),
    ("exits 9", &["there is no VM 9"]),
    ("loglevel 9", &["`9` is no LEVEL"]),
    ("vcpu_dumpreg 0", &["VCPU is missing"]),
    ("vm_console x", &["`x` is no VM"]),
    ("help nonsense", &["nonsense"]),
    ("version 1", &["`1` is too much"]),
    ("dump 0 1000000 20", &["0000000001000010 "]),
    (
        "dump 0 ffffffffffffffff",
        &["has no memory at 0xffffffffffffffff"],
    ),
    ("dump 0 1000000 1025", &["`1025` is no LENGTH"]),
    // The micro-guest maps its memory one to one.
    ("dump_guest_mem 0 1000000 32", &["0000000001000010 "]),
    (
        "dump_guest_mem 0 7fffffffffff0000",
        &["has no memory at 0x7ff"],
    ),
    ("dump_guest_mem 5 0", &["there is no VM 5"]),
    // The same bytes: the Service VM's memory is at its own addresses.
    ("dump_host_mem 1000000 0x20", &["0000000001000010 "]),
    ("dump_host_mem fee00020", &["the host has no memory"]),
    (
        "dump_host_mem ffffffffffffffff",
        &["the host has no memory"],
    ),
    ("dump_host_mem", &["HPA is missing"]),
    ("loglevel", &["4"]),
    ("log", &["acrn-rs", "Service VM"]),
    ("trace 0", &["last exit: cpuid vm0 vcpu0"]),
    ("vm_pause 0", &["is the Service VM"]),
    ("vm_resume 7", &["there is no VM 7"]),
    ("vm_console 5", &["there is no VM 5"]),
    ("format c:", &["unknown command `format`"]),
    ("rdmsr", &["MSR is missing"]),
];

/// Keys, and what the command that they make says.
const EDITED: &[(&str, &str)] = &[
    ("verx\x08sion", "AMD SVM"),
    ("rubbish\x15version", "AMD SVM"),
    ("rubbish\x03version", "AMD SVM"),
    // The line before the last, once more.
    ("\x1b[A", "AMD SVM"),
    ("\x07\x0c\x1b[5~\x7fversion", "AMD SVM"),
    ("vers\t", "AMD SVM"),
    ("vm_list version\x01\x1b[C\x17\x17version \x0b", "AMD SVM"),
];

pub(super) fn commands(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let mut session = start(context, "loop", 2, false)?;
    session.expect("looping", SOON)?;
    session.to_hypervisor()?;
    for (command, wanted) in COMMANDS {
        answers(&mut session, command, wanted)?;
    }
    // Keys that edit: what is typed is not what is echoed.
    for (keys, wanted) in EDITED {
        session.vm.console.send_line(keys)?;
        session.expect(wanted, SOON)?;
        session.expect(HYPERVISOR_PROMPT, SOON)?;
    }
    // A line that is too long is cut with a bell, and is no command.
    session.vm.console.send_line(&"x".repeat(300))?;
    session.expect("unknown command `xxx", SOON)?;
    session.expect(HYPERVISOR_PROMPT, SOON)?;
    // To the VM and back.
    ensure!(session.show(0)?, "vm0 has no console");
    session.to_hypervisor()?;
    session.vm.console.send_line("poweroff")?;
    session.vm.wait_for_end(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// Commands about User VMs: one that runs, and one that was only made.
const GUESTS: &[(&str, &[&str])] = &[
    (
        "vm_list",
        &["runner", "running", "bare", "created", "Service_VM"],
    ),
    (
        "vcpu_list",
        &["1      1        0        primary    running"],
    ),
    ("vcpu_dumpreg 1 0", &["rip 0000000000001", "waits for -"]),
    ("vcpu_dumpreg 2 0", &["rip 0000", "cr0 "]),
    ("vcpu_dumpreg 1 1", &["vm1 has no vCPU 1"]),
    ("vm_console 1", &["vm1 has no console UART; `acrn-dm"]),
    ("vm_console 2", &["vm2 has no console UART; its Device"]),
    ("exits 1", &["vm1 vcpu0"]),
    ("exits", &["vm0 vcpu0", "vm1 vcpu0"]),
    ("vioapic 1", &["DESTINATION"]),
    ("dump 1 1000 8", &["ff 05 00 20 00 00 eb f8"]),
    ("dump 2 1000", &["bare has no memory"]),
    ("dump_guest_mem 1 1000 8", &["ff 05 00 20 00 00 eb f8"]),
    (
        "mem",
        &["vm1 keeps 0 KiB", "borrows 32 KiB", "vm0, lent to vm1"],
    ),
    ("vm_resume 1", &["vm1: "]),
    ("vm_pause 1", &["vm1 is paused"]),
    ("vm_list", &["paused"]),
    ("vm_pause 1", &["vm1 is paused"]),
    ("vcpu_dumpreg 1 0", &["rip 0000000000001"]),
    ("vm_shutdown 1", &["vm1 is paused; only a running VM"]),
    ("vm_resume 1", &["vm1 is running"]),
    ("vm_shutdown 2", &["vm2 is created; only a running VM"]),
    ("vm_pause 2", &["vm2"]),
    (
        "vm_shutdown 1",
        &["vm1's Device Model is asked to switch it off"],
    ),
];

/// The same commands whatever state a VM is in. What the Device Model is asked is shown by the
/// micro-guest that plays it.
pub(super) fn guests(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let mut session = start(context, "vm_shell", 2, true)?;
    session.expect("waiting for a key", SOON)?;
    session.to_hypervisor()?;
    for (command, wanted) in GUESTS {
        answers(&mut session, command, wanted)?;
    }
    ensure!(session.show(0)?, "vm0 has no console");
    // SLP_TYP 5 and SLP_EN to the control register.
    session.expect("asked 0x404 <- 0x3400", SOON)?;
    session.to_hypervisor()?;
    answers(&mut session, "vm_reset 1", &["asked to reset it"])?;
    ensure!(session.show(0)?, "vm0 has no console");
    session.expect("asked 0xcf9 <- 0xe", SOON)?;
    session.vm.console.send(b"x")?;
    session.expect("PASS vm_shell", SOON)?;
    Ok(Outcome::Passed)
}

fn answers(session: &mut Session, command: &str, wanted: &[&str]) -> Result<()> {
    let answer = session.hypervisor_command(command)?;
    for text in wanted {
        if !answer.contains(text) {
            bail!("`{command}` does not say {text:?} but:\n{answer}");
        }
    }
    Ok(())
}

/// `reboot` resets the machine, which the emulator was told to take for its end.
pub(super) fn reboot(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let mut session = start(context, "loop", 2, false)?;
    session.expect("looping", SOON)?;
    session.to_hypervisor()?;
    session.vm.console.send_line("reboot")?;
    session.vm.wait_for_end(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// The console on a PCI card: without interrupt, and at ports that no PC has a UART at. The Service
/// VM's is where it always is, and the card is not the Service VM's.
pub(super) fn pci_card(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let tests = "ports,string_io,loop";
    let mut machine = machine(context, tests, 2)?;
    machine.uart = Some("pci-serial,addr=3".into());
    if let Boot::Direct(set) = &mut machine.boot {
        "uart=bdf@00:03.0 loglevel=1".clone_into(&mut set.hypervisor_args);
    }
    let mut session = Session::new(machine.start(context.layout, &context.log("card"))?);
    let said = session.expect("looping", SOON)?;
    ensure!(!said.contains("FAIL"), "{said}");
    session.to_hypervisor()?;
    let version = session.hypervisor_command("version")?;
    ensure!(version.contains("AMD SVM"), "{version}");
    session.vm.console.send_line("poweroff")?;
    session.vm.wait_for_end(POWER_OFF)?;
    Ok(Outcome::Passed)
}
