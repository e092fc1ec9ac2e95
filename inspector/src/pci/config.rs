//! A function's configuration space (PCI Local Bus 3.0, 6.7; PCI Express 5.0, 7.6).
//!
//! The bytes are a device's: lists of capabilities may lead anywhere, and end after a while.

/// Bit in the status register: there are capabilities.
const HAS_LIST: u16 = 1 << 4;
const MSIX: u8 = 0x11;
/// More cannot fit.
const MOST: usize = 48;

/// What a function can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// ACRN's names.
    pub names: Vec<String>,
    /// Vectors of MSI-X.
    pub msix_entries: Option<u16>,
}

/// Reads both lists of capabilities.
pub fn capabilities(config: &[u8]) -> Capabilities {
    let mut found = Capabilities::default();
    let status = u16_at(config, 6).unwrap_or(0);
    let mut next = config
        .get(0x34)
        .copied()
        .filter(|_| status & HAS_LIST != 0)
        .unwrap_or(0);
    for _ in 0..MOST {
        let at = usize::from(next & !3);
        let (true, Some([id, following])) = (at >= 0x40, pair(config, at)) else {
            break;
        };
        if id == MSIX {
            found.msix_entries = u16_at(config, at + 2).map(|control| (control & 0x7ff) + 1);
        }
        found.add(name(id));
        next = following;
    }
    extended(config, &mut found);
    found
}

/// The list of PCI Express, which begins at 0x100.
fn extended(config: &[u8], found: &mut Capabilities) {
    let mut at = 0x100;
    for _ in 0..MOST {
        let header = u16_at(config, at).zip(u16_at(config, at + 2));
        let Some((id, rest)) = header.filter(|&(id, _)| id != 0 && id != 0xffff) else {
            break;
        };
        found.add(extended_name(id));
        at = usize::from(rest >> 4);
        if at < 0x100 {
            break;
        }
    }
}

impl Capabilities {
    fn add(&mut self, name: Option<&str>) {
        if let Some(name) = name.filter(|name| !self.names.iter().any(|other| other == name)) {
            self.names.push(name.to_owned());
        }
    }
}

fn pair(bytes: &[u8], at: usize) -> Option<[u8; 2]> {
    bytes.get(at..at + 2)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    pair(bytes, at).map(u16::from_le_bytes)
}

fn name(id: u8) -> Option<&'static str> {
    Some(match id {
        0x01 => "Power Management",
        0x03 => "Vital Product Data",
        0x05 => "MSI",
        0x09 => "Vendor-Specific",
        0x0d => "PCI Bridge Subsystem Vendor ID",
        0x10 => "PCI Express",
        MSIX => "MSI-X",
        0x12 => "SATA Data/Index Conf.",
        0x13 => "Advanced Features",
        _ => return None,
    })
}

fn extended_name(id: u16) -> Option<&'static str> {
    Some(match id {
        0x01 => "Advanced Error Reporting",
        0x02 => "Virtual Channel",
        0x03 => "Device Serial Number",
        0x0d => "ACS",
        0x0e => "ARI",
        0x0f => "ATS",
        0x10 => "SR-IOV",
        0x13 => "PRI",
        0x18 => "LTR",
        0x1b => "PASID",
        0x1e => "L1 PM Substates",
        0x1f => "PTM",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_lists() -> Vec<u8> {
        let mut config = vec![0; 0x200];
        config[6] = HAS_LIST as u8;
        config[0x34] = 0x40;
        config[0x40..0x44].copy_from_slice(&[0x05, 0x50, 0, 0]);
        config[0x50..0x54].copy_from_slice(&[MSIX, 0x60, 4, 0x80]);
        config[0x60..0x62].copy_from_slice(&[0x10, 0]);
        config[0x100..0x104].copy_from_slice(&[0x1f, 0, 0x01, 0x15]);
        config[0x150..0x154].copy_from_slice(&[0x10, 0, 0x01, 0]);
        config
    }

    #[test]
    fn both_lists_are_read() {
        let found = capabilities(&with_lists());
        assert_eq!(
            found.names,
            ["MSI", "MSI-X", "PCI Express", "PTM", "SR-IOV"]
        );
        assert_eq!(found.msix_entries, Some(5));
    }

    #[test]
    fn lists_that_go_in_circles_or_are_cut_off_end() {
        let mut config = with_lists();
        config[0x51] = 0x40;
        assert_eq!(capabilities(&config).names[..2], ["MSI", "MSI-X"]);
        // What ordinary users see of it.
        assert_eq!(capabilities(&config[..64]), Capabilities::default());
        assert_eq!(capabilities(&[]), Capabilities::default());
        assert_eq!(capabilities(&[0xff; 4096]).msix_entries, None);
    }
}
