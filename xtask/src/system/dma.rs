//! Cases about DMA on machines with an IOMMU, QEMU's `intel-iommu`.
//!
//! Its tables have three levels by default, and four with `aw-bits=48`.

use anyhow::{Result, ensure};

use super::micro::{LIMIT, SOON, machine, without_hypervisor};
use super::support::{COMMAND, POWER_OFF};
use super::{Context, Outcome, devices, sleep};
use crate::demo::{self, Stages};
use crate::machine::DiskBus;
use crate::session::Session;

/// Units for tables of three levels and of four, one of which remaps interrupts: how the shell calls them, and
/// what a device can do there about interrupts.
const UNITS: &[(&str, &str, &str)] = &[
    (
        "intel-iommu,intremap=on",
        "39 address bits, remaps interrupts",
        "dma_blocked_interrupts",
    ),
    (
        "intel-iommu,intremap=off,aw-bits=48",
        "48 address bits, passes interrupts",
        "dma_interrupts",
    ),
];

/// A device that copies what it is told to any address.
const EDU: &str = "edu,addr=0x10,dma_mask=0xffffffff";
/// How messages call it.
const EDU_NAME: &str = "PCI 00:10.0";

/// A device of the Service VM reaches its memory only; each refused access is told with device and
/// address. Where interrupts are remapped it raises none but its own.
pub(super) fn confined(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    for (unit, shown_as, interrupts) in UNITS {
        let devices = ["-device", unit, "-device", EDU];
        let tests = format!("dma,dma_units,{interrupts},wait");
        let mut session = boot(context, shown_as, &tests, &devices)?;
        let said = session.expect("waiting for a key", LIMIT)?;
        ensure!(said.contains("is confined to its"), "no IOMMU in:\n{said}");
        for test in ["dma", "dma_units", interrupts] {
            let line = format!("PASS {test}");
            ensure!(said.lines().any(|l| l == line), "no {line} in:\n{said}");
        }
        let refused: Vec<_> = said
            .lines()
            .filter_map(|line| line.strip_prefix("refused: "))
            .collect();
        ensure!(!refused.is_empty(), "nothing was tried:\n{said}");
        for address in &refused {
            for what in ["write", "read"] {
                let message = format!("{EDU_NAME} may not {what} {address}: not mapped for");
                ensure!(said.contains(&message), "no {message:?} in:\n{said}");
            }
        }
        session.to_hypervisor()?;
        let shown = session.hypervisor_command("iommu")?;
        for wanted in [*shown_as, "function 00:10.0", "domain of vm0", EDU_NAME] {
            ensure!(shown.contains(wanted), "no {wanted:?} in:\n{shown}");
        }
        ensure!(!shown.contains("faults: 0"), "no fault in:\n{shown}");
    }
    let mut session = boot(context, "none", "cpuid", &[])?;
    session.expect("this machine has no IOMMU", SOON)?;
    Ok(Outcome::Passed)
}

fn boot(context: &Context, name: &str, tests: &str, arguments: &[&str]) -> Result<Session> {
    let mut machine = machine(context, tests, 2)?;
    machine
        .extra
        .extend(arguments.iter().map(|&word| word.to_owned()));
    let log = context.log(&name.replace([' ', ','], "-"));
    Ok(Session::new(machine.start(context.layout, &log)?))
}

/// A disk that interrupts by MSI-X, and a network adapter that does so by a wire.
const INTERRUPTING: &[&str] = &[
    "-drive",
    "driver=null-co,read-zeroes=on,size=64M,if=none,id=zeros",
    "-device",
    "nvme,drive=zeros,serial=zeros",
    "-netdev",
    "user,id=wired",
    "-device",
    "e1000,netdev=wired",
];

/// Linux's disks work, also right into the memory of a User VM; none of their accesses and interrupts is
/// refused, and Linux does not see the IOMMU.
pub(super) fn disk(context: &Context) -> Result<Outcome> {
    let devices = [&["-device", UNITS[0].0], INTERRUPTING].concat();
    let mut session = devices::disk_moves_data(context, DiskBus::Ahci, "sdb", "", &devices)?;
    every_kind_of_interrupt(&mut session)?;
    if !context.bare {
        session.check(
            "! dmesg | grep -i dmar && ! test -e /sys/firmware/acpi/tables/DMAR",
            COMMAND,
        )?;
        disk_of_user_vm(&mut session)?;
        sleep::sleeps(&mut session)?;
        every_kind_of_interrupt(&mut session)?;
        session.to_hypervisor()?;
        let shown = session.hypervisor_command("iommu")?;
        ensure!(shown.contains(UNITS[0].1), "no IOMMU in:\n{shown}");
        ensure!(shown.contains("faults: 0"), "faults in:\n{shown}");
        session.to_service()?;
    }
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// MSI-X of the NVMe controller, and the I/O APIC's pin of the network adapter.
fn every_kind_of_interrupt(session: &mut Session) -> Result<()> {
    session.check(
        "dd if=/dev/nvme0n1 of=/dev/null bs=1M iflag=direct",
        COMMAND,
    )?;
    let wired = "$(ls /sys/bus/pci/drivers/e1000/*/net)";
    session.check(
        &format!("ip link set {wired} up && udhcpc -i {wired} -q -n -s /bin/true"),
        COMMAND,
    )?;
    for line in ["MSI.*nvme0q", "IO-APIC.*fasteoi.*eth"] {
        let counted = session.check(&format!("grep '{line}' /proc/interrupts"), COMMAND)?;
        let mut counts = counted.split_whitespace().map(str::parse::<u64>);
        ensure!(
            counts.any(|count| count.is_ok_and(|count| count > 0)),
            "no interrupt in:\n{counted}"
        );
    }
    Ok(())
}

/// Without the page cache between, the Service VM's controller writes to lent pages.
fn disk_of_user_vm(session: &mut Session) -> Result<()> {
    let expected = session.check("md5sum </dev/sdb", COMMAND)?;
    let script = "DM_OPTIONS='-s 6,virtio-blk,/dev/sdb,ro,nocache' launch_user_vm_id1.sh";
    demo::to_user_vm(session, &mut Stages::quiet(), script, 1)?;
    session.log_in(1)?;
    let read = session.check("md5sum </dev/vdb", COMMAND)?;
    ensure!(read == expected, "the User VM reads {read}, not {expected}");
    session.vm.console.send_line("poweroff")?;
    session.to_service()?;
    demo::wait_for_user_end(session, 1)?;
    Ok(())
}
