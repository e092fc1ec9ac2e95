//! Devices by class: input devices, serial ports, USB devices, disks.

use std::collections::BTreeMap;

use acrn_config::xml::Element;

use crate::host::Host;
use crate::xml::{group, leaf, with};

const TTYS: &str = "/sys/class/tty";
const USB: &str = "/sys/bus/usb/devices";

/// A serial port that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tty {
    /// Its device file.
    pub path: String,
    /// Linux's number of its type; 0 where there is nothing behind the file.
    pub kind: u64,
    /// First I/O port, or 0.
    pub port: u64,
    /// Address of its registers, or 0.
    pub memory: u64,
    /// Its interrupt.
    pub irq: u64,
    /// The PCI function that it is.
    pub pci: Option<String>,
}

/// The serial ports behind `/dev/ttyS*`.
pub fn ttys(host: &Host) -> Vec<Tty> {
    let names = host
        .names(TTYS)
        .into_iter()
        .filter(|name| name.starts_with("ttyS"));
    names.filter_map(|name| tty(host, &name)).collect()
}

fn tty(host: &Host, name: &str) -> Option<Tty> {
    let read = |file: &str| host.number(&format!("{TTYS}/{name}/{file}"));
    let pci = host.link(&format!("{TTYS}/{name}/device"));
    Some(Tty {
        path: format!("/dev/{name}"),
        kind: read("type")?,
        port: hex_number(host, &format!("{TTYS}/{name}/port")),
        memory: hex_number(host, &format!("{TTYS}/{name}/iomem_base")),
        irq: read("irq").unwrap_or(0),
        pci: pci.and_then(|name| Some(name.strip_prefix("0000:")?.to_owned())),
    })
}

/// Linux writes these with 0x and without.
fn hex_number(host: &Host, path: &str) -> u64 {
    let text = host.text(path).unwrap_or_default();
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// The element `device-classes`.
pub fn device_classes(host: &Host, ttys: &[Tty]) -> Element {
    let serial = |tty: &Tty| {
        group(
            "serial",
            [leaf("dev_path", &tty.path), leaf("type", tty.kind)],
        )
    };
    let ttys = group("ttys", ttys.iter().map(serial));
    group("device-classes", [inputs(host), ttys])
}

fn inputs(host: &Host) -> Element {
    let list = host.text("/proc/bus/input/devices").unwrap_or_default();
    let input = |block: &str| {
        let field = |key: &str| block.lines().find_map(|line| line.strip_prefix(key));
        let name = field("N: Name=")?.trim_matches('"').to_owned();
        let phys = field("P: Phys=").unwrap_or_default().to_owned();
        Some(group("input", [leaf("name", name), leaf("phys", phys)]))
    };
    group("inputs", list.split("\n\n").filter_map(input))
}

/// USB devices by the PCI function of their controller.
pub fn usb_by_controller(host: &Host) -> BTreeMap<String, Vec<Element>> {
    let mut all: BTreeMap<String, Vec<Element>> = BTreeMap::new();
    for name in host.names(USB) {
        // Ports such as 1-2 and 1-2.3; not the controllers, usb1, nor interfaces, 1-2:1.0.
        let is_port = name.starts_with(|c: char| c.is_ascii_digit()) && !name.contains(':');
        let bus = name.split('-').next().unwrap_or_default();
        if let Some(controller) = controller(host, bus).filter(|_| is_port) {
            all.entry(controller)
                .or_default()
                .push(usb_device(host, &name));
        }
    }
    all
}

/// The PCI function that the root hub of a bus is a child of.
fn controller(host: &Host, bus: &str) -> Option<String> {
    let link = std::fs::read_link(host.path(&format!("{USB}/usb{bus}"))).ok()?;
    Some(link.parent()?.file_name()?.to_str()?.to_owned())
}

fn usb_device(host: &Host, name: &str) -> Element {
    let read = |file: &str| host.text(&format!("{USB}/{name}/{file}"));
    let words = [read("manufacturer"), read("product")];
    let words: Vec<String> = words.into_iter().flatten().collect();
    let numbers = || {
        let id = |file| read(file).unwrap_or_default();
        format!("{}:{}", id("idVendor"), id("idProduct"))
    };
    let what = if words.is_empty() {
        numbers()
    } else {
        words.join(" ")
    };
    with(
        "usb_device",
        &[
            ("location", name),
            ("description", &format!("{name} {what}")),
        ],
    )
}

/// Partitions and disks with what is on them, for the text `BLOCK_DEVICE_INFO`.
pub fn disks(host: &Host) -> Vec<String> {
    let disks = host.names("/sys/block").into_iter();
    let real = disks.filter(|name| {
        !["loop", "ram", "zram"]
            .iter()
            .any(|kind| name.starts_with(kind))
    });
    let mounts = host.text("/proc/self/mounts").unwrap_or_default();
    let mut all = Vec::new();
    for disk in real {
        let below = host.names(&format!("/sys/block/{disk}"));
        let partitions: Vec<String> = below
            .into_iter()
            .filter(|name| name.starts_with(&disk))
            .collect();
        let names = if partitions.is_empty() {
            vec![disk]
        } else {
            partitions
        };
        all.extend(
            names
                .iter()
                .map(|name| format!("/dev/{name}: {}", kind(&mounts, name))),
        );
    }
    all
}

/// Names of disk images end so.
const IMAGES: [&str; 6] = ["img", "iso", "qcow2", "raw", "vhdx", "vmdk"];

/// The disk images in some folders, in the form of [`disks`].
pub fn images(host: &Host, folders: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for folder in folders {
        if !host.exists(folder) {
            let meaning = "its disk images are not in the board file; correct --images";
            host.gap(folder, "there is no such directory", meaning);
        }
        for name in host.names(folder) {
            let kind = name.rsplit_once('.').map(|(_, kind)| kind);
            let kind = IMAGES.into_iter().find(|known| kind == Some(known));
            let folder = folder.trim_end_matches('/');
            all.extend(kind.map(|kind| format!("{folder}/{name}: TYPE=\"{kind}\"")));
        }
    }
    all
}

/// The file system of a partition, where it is mounted.
fn kind(mounts: &str, name: &str) -> String {
    let device = format!("/dev/{name}");
    let mut lines = mounts.lines().map(|line| line.split_whitespace());
    let kind = lines.find_map(|mut words| {
        let found = words.next()? == device;
        words.nth(1).filter(|_| found)
    });
    format!("TYPE=\"{}\"", kind.unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_those_of_the_mounts() {
        let mounts = "/dev/sda2 / ext4 rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(kind(mounts, "sda2"), "TYPE=\"ext4\"");
        assert_eq!(kind(mounts, "sda1"), "TYPE=\"unknown\"");
    }
}
