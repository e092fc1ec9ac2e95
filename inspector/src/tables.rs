//! ACPI's tables of fixed layout (ACPI 6.5, chapter 5), as far as a board file has them.
//!
//! The bytes are the firmware's: everything is read with checks, and what is cut short is absent.

use acrn_config::xml::Element;

use crate::host::Host;
use crate::xml::{group, hex, hex_leaf, with};

/// Where Linux shows them, to root.
pub const DIRECTORY: &str = "/sys/firmware/acpi/tables";
/// Pins of an I/O APIC behind which no other one's begin: Linux offers no way to ask.
const CUSTOMARY_PINS: u64 = 24;
/// Length of a table's header.
const HEADER: usize = 36;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its number.
    pub id: u8,
    /// Address of its registers.
    pub address: u32,
    /// Its first global interrupt.
    pub gsi_base: u32,
}

/// A register by ACPI's generic address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Register {
    /// 0 memory, 1 ports, 2 PCI configuration.
    pub space: u8,
    /// Bits.
    pub width: u8,
    /// First bit.
    pub offset: u8,
    /// Size of an access: 1 a byte, 2 a word, 3 a double word.
    pub access: u8,
    /// Where.
    pub address: u64,
}

/// What the FADT says of power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// PM1 event blocks, a and b.
    pub events: [Register; 2],
    /// PM1 control blocks, a and b.
    pub controls: [Register; 2],
    /// The reset register, and what resets.
    pub reset: Option<(Register, u8)>,
    /// Address of the FACS; the waking vectors are in it.
    pub facs: u64,
}

/// A device behind an IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// 1 device, 2 bridge, 3 I/O APIC, 4 HPET.
    pub kind: u8,
    /// Its number among those.
    pub id: u8,
    /// Where its path begins.
    pub bus: u8,
    /// Devices and functions on the way.
    pub path: Vec<(u8, u8)>,
}

/// An IOMMU of Intel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drhd {
    /// Its flags; bit 0: all devices that no other unit has.
    pub flags: u8,
    /// PCI segment.
    pub segment: u16,
    /// Address of its registers.
    pub base: u64,
    /// What is behind it.
    pub scopes: Vec<Scope>,
}

fn at<const N: usize>(table: &[u8], offset: usize) -> Option<[u8; N]> {
    table.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u16_at(table: &[u8], offset: usize) -> Option<u16> {
    at(table, offset).map(u16::from_le_bytes)
}

fn u32_at(table: &[u8], offset: usize) -> Option<u32> {
    at(table, offset).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(table: &[u8], offset: usize) -> Option<u64> {
    at(table, offset).map(u64::from_le_bytes)
}

/// Entries of a table, each with its kind and length in front.
fn entries(table: &[u8], mut offset: usize) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [kind, length] = at(table, offset)?;
        let entry = table.get(offset..offset + usize::from(length.max(2)))?;
        offset += entry.len();
        Some((kind, entry))
    })
}

/// The I/O APICs in a MADT.
pub fn io_apics(madt: &[u8]) -> Vec<IoApic> {
    let io_apics = entries(madt, HEADER + 8).filter(|(kind, _)| *kind == 1);
    let read = |(_, entry): (u8, &[u8])| {
        Some(IoApic {
            id: *entry.get(2)?,
            address: u32_at(entry, 4)?,
            gsi_base: u32_at(entry, 8)?,
        })
    };
    io_apics.filter_map(read).collect()
}

/// The element `ioapics`.
pub fn io_apics_element(host: &Host) -> Element {
    let meaning = "I/O APICs and IOMMUs are not known; run as root";
    let madt = host
        .wanted(&format!("{DIRECTORY}/APIC"), meaning)
        .unwrap_or_default();
    let all = io_apics(&madt);
    if !all.is_empty() {
        let text = format!("the last I/O APIC is taken to have {CUSTOMARY_PINS} pins");
        host.gap(
            "pins of I/O APICs",
            "Linux does not show their registers",
            &text,
        );
    }
    let element = |io_apic: &IoApic| {
        let next = all.iter().map(|other| other.gsi_base);
        let next = next.filter(|&base| base > io_apic.gsi_base).min();
        let pins = next.map_or(CUSTOMARY_PINS, |next| u64::from(next - io_apic.gsi_base));
        let mut element = with("ioapic", &[("id", &hex(io_apic.id))]);
        element.add(hex_leaf("address", io_apic.address));
        element.add(hex_leaf("gsi_base", io_apic.gsi_base));
        element.add(hex_leaf("gsi_number", pins));
        element
    };
    group("ioapics", all.iter().map(element))
}

/// What a FADT says of power.
pub fn power(fadt: &[u8]) -> Power {
    let lengths: [u8; 2] = at(fadt, 88).unwrap_or_default();
    // The later, wider addresses count where there are any.
    let block = |old: usize, new: usize, length: u8| {
        let new = register(fadt, new).filter(|register| register.address != 0);
        new.unwrap_or_else(|| {
            let address = u32_at(fadt, old).unwrap_or(0).into();
            let width = length.saturating_mul(8);
            Register {
                space: 1,
                width,
                offset: 0,
                access: 0,
                address,
            }
        })
    };
    let reset_is_there = u32_at(fadt, 112).is_some_and(|flags| flags >> 10 & 1 == 1);
    let reset = register(fadt, 116).zip(fadt.get(128).copied());
    let facs = u64_at(fadt, 132).filter(|&address| address != 0);
    Power {
        events: [block(56, 148, lengths[0]), block(60, 160, lengths[0])],
        controls: [block(64, 172, lengths[1]), block(68, 184, lengths[1])],
        reset: reset.filter(|_| reset_is_there),
        facs: facs.unwrap_or_else(|| u32_at(fadt, 36).unwrap_or(0).into()),
    }
}

fn register(table: &[u8], offset: usize) -> Option<Register> {
    let [space, width, first, access] = at(table, offset)?;
    let address = u64_at(table, offset + 4)?;
    Some(Register {
        space,
        width,
        offset: first,
        access,
        address,
    })
}

/// The address of the first PCI configuration window in an MCFG.
pub fn mmcfg_base(mcfg: &[u8]) -> Option<u64> {
    u64_at(mcfg, HEADER + 8)
}

/// The IOMMUs in a DMAR.
pub fn iommus(dmar: &[u8]) -> Vec<Drhd> {
    let mut all = Vec::new();
    let mut offset = HEADER + 12;
    while let Some(length) = u16_at(dmar, offset + 2).filter(|&length| length >= 4) {
        let Some(entry) = dmar.get(offset..offset + usize::from(length)) else {
            break;
        };
        if u16_at(entry, 0) == Some(0) {
            all.extend(drhd(entry));
        }
        offset += entry.len();
    }
    all
}

fn drhd(entry: &[u8]) -> Option<Drhd> {
    let scope = |(kind, entry): (u8, &[u8])| {
        let steps = entry.get(6..)?.chunks_exact(2);
        let step = |step: &[u8]| Some((*step.first()?, *step.get(1)?));
        Some(Scope {
            kind,
            id: *entry.get(4)?,
            bus: *entry.get(5)?,
            path: steps.filter_map(step).collect(),
        })
    };
    Some(Drhd {
        flags: *entry.get(4)?,
        segment: u16_at(entry, 6)?,
        base: u64_at(entry, 8)?,
        scopes: entries(entry, 16).filter_map(scope).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(body: &[&[u8]]) -> Vec<u8> {
        [&[0; HEADER][..], &body.concat()].concat()
    }

    #[test]
    fn io_apics_are_found_among_other_entries() {
        let cpu = [0, 8, 0, 0, 1, 0, 0, 0];
        let io_apic = [1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 24, 0, 0, 0];
        let madt = table(&[&[0; 8], &cpu, &io_apic]);
        let expected = IoApic {
            id: 2,
            address: 0xfec0_0000,
            gsi_base: 24,
        };
        assert_eq!(io_apics(&madt), [expected]);
        assert_eq!(io_apics(&madt[..madt.len() - 1]), []);
        assert_eq!(io_apics(&table(&[&[0; 8], &[1, 0]])), []);
    }

    #[test]
    fn later_addresses_of_the_fadt_count_and_old_ones_serve() {
        let mut fadt = vec![0; 244];
        fadt[64..68].copy_from_slice(&0x1804_u32.to_le_bytes());
        fadt[89] = 2;
        let old = power(&fadt).controls[0];
        assert_eq!((old.address, old.space, old.width), (0x1804, 1, 16));
        fadt[172..184].copy_from_slice(&[1, 16, 0, 2, 4, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(power(&fadt).controls[0].address, 0x404);
        assert_eq!(power(&fadt).reset, None);
        fadt[113] = 4;
        fadt[116..128].copy_from_slice(&[1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0]);
        fadt[128] = 6;
        let (register, value) = power(&fadt).reset.unwrap();
        assert_eq!((register.address, value), (0xcf9, 6));
        assert_eq!(
            power(&[]),
            Power {
                events: [Register {
                    space: 1,
                    ..Register::default()
                }; 2],
                controls: [Register {
                    space: 1,
                    ..Register::default()
                }; 2],
                ..Power::default()
            }
        );
    }

    #[test]
    fn iommus_have_their_scopes() {
        let scope = [3, 8, 0, 0, 2, 0xf0, 0x1f, 0];
        let mut unit = vec![0, 0, 24, 0, 1, 0, 0, 0];
        unit.extend(0xfed9_0000_u64.to_le_bytes());
        unit.extend(scope);
        let region = [1, 0, 4, 0];
        let dmar = table(&[&[0; 12], &region, &unit]);
        let units = iommus(&dmar);
        assert_eq!(
            (units.len(), units[0].base, units[0].flags),
            (1, 0xfed9_0000, 1)
        );
        assert_eq!(units[0].scopes[0].path, [(0x1f, 0)]);
        assert!(iommus(&dmar[..dmar.len() - 1]).is_empty());
        assert_eq!(
            mmcfg_base(&table(&[&[0; 8], &0xe000_0000_u64.to_le_bytes()])),
            Some(0xe000_0000)
        );
    }
}
