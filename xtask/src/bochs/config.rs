//! Bochs's configuration file for a machine.

use std::fmt::Write as _;

use crate::machine::Machine;

/// Instructions in a second of the machine's time. The firmware's delays count instructions, so a
/// higher value makes it slower.
const INSTRUCTIONS_PER_SECOND: u32 = 50_000_000;
/// The date at power-on, always the same: then two runs are equal to the last tick.
const POWER_ON: u32 = 946_684_800;

/// Values of MSRs at reset which Bochs does not know: address, type, reset value, reserved and
/// ignored bits. `IA32_MISC_ENABLE` says that string instructions are fast, as on any such CPU.
pub(super) const MSRS: &str = "\
0x1a0 0 0x00000000 0x00000001 0x00000000 0x00000000 0x00000000 0x00000000
";

/// Where the disks and the CD-ROM drive are, in this order: the drive is the last.
const PLACES: [&str; 4] = ["ata0-master", "ata0-slave", "ata1-slave", "ata1-master"];

/// The text, for a current directory that has the machine's links, with the serial port connected
/// to this TCP port of the local host.
pub(super) fn bochsrc(machine: &Machine, port: u16) -> String {
    let (cpus, memory) = (machine.cpus, machine.memory_mib);
    let mut text = format!(
        "display_library: nogui\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
         cpu: model={model}, count={sockets}, ips={INSTRUCTIONS_PER_SECOND}, \
         reset_on_triple_fault=0, ignore_bad_msrs=1, msrs=msrs\n\
         memory: guest={memory}, host={memory}\n\
         clock: sync=none, time0={POWER_ON}\n\
         com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15\n\
         boot: cdrom\n\
         info: action=ignore\n\
         debug: action=ignore\n\
         error: action=ignore\n\
         panic: action=fatal\n",
        model = machine.cpu_model,
        sockets = format_args!("1:{cpus}:1"),
    );
    for (index, disk) in machine.disks.iter().enumerate() {
        let place = PLACES[index.min(PLACES.len() - 2)];
        // What is written goes to a file of its own that the machine's directory takes along.
        let mode = if disk.persistent { "flat" } else { "volatile" };
        let _ = writeln!(
            text,
            "{place}: type=disk, mode={mode}, path=disk{index}.img, journal=disk{index}.redolog"
        );
    }
    let _ = writeln!(
        text,
        "{}: type=cdrom, path=boot.iso, status=inserted",
        PLACES[PLACES.len() - 1]
    );
    if machine.net.is_some() {
        text.push_str(
            "pci: enabled=1, chipset=i440fx, slot1=e1000\n\
             e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=vnet, ethdev=.\n",
        );
    } else {
        text.push_str("pci: enabled=1, chipset=i440fx\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Boot, Disk, DiskBus, Emulator, NetModel};

    fn machine() -> Machine {
        let image = Boot::Grub {
            image: "boot.iso".into(),
            uefi: false,
        };
        Machine::on(Emulator::Bochs, image)
    }

    #[test]
    fn cpus_memory_and_port_are_in_the_text() {
        let mut machine = machine();
        machine.cpus = 4;
        machine.memory_mib = 512;
        let text = bochsrc(&machine, 4711);
        for part in [
            "cpu: model=tigerlake, count=1:4:1, ips=50000000,",
            "memory: guest=512, host=512\n",
            "com1: enabled=1, mode=socket-client, dev=127.0.0.1:4711\n",
            "ata1-master: type=cdrom, path=boot.iso, status=inserted\n",
            "pci: enabled=1, chipset=i440fx\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("e1000"), "{text}");
    }

    #[test]
    fn disks_keep_their_order_and_are_thrown_away_unless_persistent() {
        let mut machine = machine();
        machine.net = Some(NetModel::E1000);
        for persistent in [false, true] {
            machine.disks.push(Disk {
                image: "x".into(),
                bus: DiskBus::Piix,
                persistent,
            });
        }
        let text = bochsrc(&machine, 1);
        assert!(text.contains("ata0-master: type=disk, mode=volatile, path=disk0.img,"));
        assert!(text.contains("ata0-slave: type=disk, mode=flat, path=disk1.img,"));
        assert!(text.contains("slot1=e1000"), "{text}");
    }
}
