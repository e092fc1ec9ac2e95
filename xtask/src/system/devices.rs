//! Cases about the Service VM's devices, which it owns by pass-through: every controller
//! moves known data, compared by checksum with the host's copy.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::support::{
    COMMAND, POWER_OFF, machine, md5_of, noise, noise_file, receiver, sender, service_vm,
};
use super::{Context, Outcome};
use crate::bochs;
use crate::demo::Options;
use crate::machine::{Disk, DiskBus, Emulator, NetModel};
use crate::session::Session;

const DISK_BYTES: usize = 16 << 20;
/// In Bochs a disk moves a few megabytes a second.
const SLOW_DISK_BYTES: usize = 4 << 20;
/// A busy computer may need long for them.
const DISK_TIME: Duration = Duration::from_secs(180);
const NET_BYTES: usize = 8 << 20;

pub(super) fn disk_virtio(context: &Context) -> Result<Outcome> {
    disk(context, DiskBus::Virtio, "vdb", "")
}

pub(super) fn disk_ahci(context: &Context) -> Result<Outcome> {
    disk(context, DiskBus::Ahci, "sdb", "")
}

pub(super) fn disk_nvme(context: &Context) -> Result<Outcome> {
    disk(context, DiskBus::Nvme, "nvme1n1", "")
}

pub(super) fn disk_piix(context: &Context) -> Result<Outcome> {
    disk(context, DiskBus::Piix, "sdb", "")
}

/// The kernel without MSI falls back to the wired interrupt.
pub(super) fn disk_intx(context: &Context) -> Result<Outcome> {
    disk(context, DiskBus::Virtio, "vdb", "pci=nomsi")
}

fn disk(context: &Context, bus: DiskBus, device: &str, kernel_args: &str) -> Result<Outcome> {
    let mut session = disk_moves_data(context, bus, device, kernel_args, &[])?;
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// A Service VM that has read and written a disk of its machine, which has further arguments.
pub(super) fn disk_moves_data(
    context: &Context,
    bus: DiskBus,
    device: &str,
    kernel_args: &str,
    extra: &[&str],
) -> Result<Session> {
    let bytes = match context.emulator {
        Emulator::Qemu => DISK_BYTES,
        Emulator::Bochs => SLOW_DISK_BYTES,
    };
    let image = noise_file(context, bytes)?;
    let expected = md5_of(&image)?;
    let options = Options {
        disk: Some(bus),
        kernel_args: kernel_args.to_owned(),
        ..Options::default()
    };
    let mut machine = machine(context, &options)?;
    machine.disks.push(Disk {
        image,
        bus,
        persistent: false,
    });
    machine
        .extra
        .extend(extra.iter().map(|&word| word.to_owned()));
    let mut session = service_vm(context, &machine, "disk")?;
    let read = session.check(&format!("md5sum </dev/{device}"), DISK_TIME)?;
    ensure!(
        read.starts_with(&expected),
        "reading /dev/{device} gave {read}, not {expected}"
    );

    // Back to front: what is written must be what a later read finds on the disk.
    let half = bytes / 2 / (1 << 20);
    session.check(
        &format!(
            "dd if=/dev/{device} of=/tmp/half bs=1M count={half} && \
             dd if=/tmp/half of=/dev/{device} bs=1M seek={half} conv=fsync && \
             echo 3 >/proc/sys/vm/drop_caches && \
             dd if=/dev/{device} bs=1M skip={half} 2>/dev/null | cmp - /tmp/half"
        ),
        DISK_TIME,
    )?;
    Ok(session)
}

pub(super) fn net_virtio(context: &Context) -> Result<Outcome> {
    net(context, NetModel::Virtio)
}

pub(super) fn net_e1000e(context: &Context) -> Result<Outcome> {
    net(context, NetModel::E1000e)
}

fn net(context: &Context, model: NetModel) -> Result<Outcome> {
    let file = noise_file(context, NET_BYTES)?;
    let expected = md5_of(&file)?;
    let machine = machine(
        context,
        &Options {
            net: Some(model),
            ..Options::default()
        },
    )?;
    let mut session = service_vm(context, &machine, "net")?;
    session.check("ping -c 2 10.0.2.2", COMMAND)?;

    let host = sender(noise(NET_BYTES), COMMAND)?;
    session.check(
        &format!("nc 10.0.2.2 {} </dev/null >/tmp/data", host.port),
        COMMAND,
    )?;
    host.join()?;
    let received = session.check("md5sum </tmp/data", COMMAND)?;
    ensure!(
        received.starts_with(&expected),
        "the guest received {received}, not {expected}"
    );

    let host = receiver(COMMAND)?;
    session.check(&format!("nc 10.0.2.2 {} </tmp/data", host.port), COMMAND)?;
    ensure!(
        host.join()? == noise(NET_BYTES),
        "the host did not receive what the guest sent"
    );
    session.power_off(POWER_OFF)?;
    Ok(Outcome::Passed)
}

/// Bochs plays a network of its own: a host that gives addresses, answers ping and has files.
pub(super) fn net_e1000(context: &Context) -> Result<Outcome> {
    // The older model has no virtual-interrupt delivery.
    for (cpus, model) in [(1, bochs::CPU_MODEL), (2, "corei7_sandy_bridge_2600k")] {
        let options = Options {
            cpus,
            ..Options::default()
        };
        let mut machine = machine(context, &options)?;
        machine.net = Some(NetModel::E1000);
        if !context.bare {
            model.clone_into(&mut machine.cpu_model);
        }
        let mut session = service_vm(context, &machine, &format!("net-{cpus}"))?;
        let online = session.check("nproc", COMMAND)?;
        ensure!(online == cpus.to_string(), "{online} of {cpus} CPUs");
        let address = session.check("ip -4 -o addr show dev eth0", COMMAND)?;
        ensure!(
            address.contains("192.168.10.15"),
            "eth0 has no address by DHCP: {address}"
        );
        session.check("ping -c 3 192.168.10.1", COMMAND)?;
        // The emulator's host serves the machine's directory.
        session.check(
            "cd /tmp && tftp -g -r bochsrc 192.168.10.1 && grep -q model= bochsrc; \
             status=$?; cd; (exit $status)",
            COMMAND,
        )?;
        session.power_off(POWER_OFF)?;
    }
    Ok(Outcome::Passed)
}
