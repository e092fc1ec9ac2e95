//! What people call PCI devices: the list `pci.ids`, where the machine has it.

use std::collections::BTreeMap;

use crate::host::Host;

const LISTS: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// Names by vendor and device, and of classes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    vendors: BTreeMap<u16, String>,
    devices: BTreeMap<(u16, u16), String>,
}

impl Names {
    /// The list, if there is one; names are for people only, so it is no gap.
    pub fn load(host: &Host) -> Self {
        let texts = LISTS.iter().filter_map(|path| host.text(path));
        texts
            .take(1)
            .map(|text| Self::parse(&text))
            .next()
            .unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut names = Self::default();
        let mut vendor = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with("C ") {
                break;
            }
            let Some((id, name)) = line.trim_start_matches('\t').split_once("  ") else {
                continue;
            };
            let Ok(id) = u16::from_str_radix(id, 16) else {
                continue;
            };
            match (
                line.bytes().take_while(|byte| *byte == b'\t').count(),
                vendor,
            ) {
                (0, _) => {
                    vendor = Some(id);
                    names.vendors.insert(id, name.to_owned());
                }
                (1, Some(vendor)) => {
                    names.devices.insert((vendor, id), name.to_owned());
                }
                _ => {}
            }
        }
        names
    }

    /// The name of a device, with its vendor's.
    pub fn device(&self, (vendor, device): (u16, u16)) -> String {
        let name = self.vendors.get(&vendor).cloned();
        let vendor_name = name.unwrap_or_else(|| format!("Vendor {vendor:04x}"));
        match self.devices.get(&(vendor, device)) {
            Some(name) => format!("{vendor_name} {name}"),
            None => format!("{vendor_name} Device {device:04x}"),
        }
    }

    /// The name of a class.
    pub fn class(&self, class: u32) -> String {
        let name = match class >> 8 {
            0x0100 => "SCSI storage controller",
            0x0101 => "IDE interface",
            0x0104 => "RAID bus controller",
            0x0106 => "SATA controller",
            0x0107 => "Serial Attached SCSI controller",
            0x0108 => "Non-Volatile memory controller",
            0x0200 => "Ethernet controller",
            0x0280 => "Network controller",
            0x0300 => "VGA compatible controller",
            0x0380 => "Display controller",
            0x0401 => "Multimedia audio controller",
            0x0403 => "Audio device",
            0x0500 => "RAM memory",
            0x0600 => "Host bridge",
            0x0601 => "ISA bridge",
            0x0604 => "PCI bridge",
            0x0680 => "Bridge",
            0x0700 => "Serial controller",
            0x0780 => "Communication controller",
            0x0805 => "SD Host controller",
            0x0880 => "System peripheral",
            0x0c03 => "USB controller",
            0x0c05 => "SMBus",
            0x0c80 => "Serial bus controller",
            0x1180 => "Signal processing controller",
            other => return format!("Class {other:04x}"),
        };
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_list_and_numbers_serve_without_it() {
        let list = "# comment\n8086  Intel Corporation\n\t10d3  82574L\n\t\t8086 0001  Board\nC 01  Mass storage\n\t00  SCSI\n";
        let names = Names::parse(list);
        assert_eq!(names.device((0x8086, 0x10d3)), "Intel Corporation 82574L");
        assert_eq!(names.device((0x8086, 1)), "Intel Corporation Device 0001");
        assert_eq!(
            Names::default().device((0x1af4, 0x1000)),
            "Vendor 1af4 Device 1000"
        );
        assert_eq!(names.class(0x02_0000), "Ethernet controller");
        assert_eq!(names.class(0xff_0000), "Class ff00");
    }
}
