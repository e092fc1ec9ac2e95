//! AMD's IOMMUs, from the table IVRS (AMD I/O Virtualization Technology Specification, chapter 5).
//!
//! Firmware describes each unit up to three times, by blocks for older and newer systems; the newest that is there
//! counts.

use std::collections::BTreeMap;

use crate::tables::{u16_at, u64_at};

/// Length of the table's own header.
const HEADER: usize = 48;
/// Types of blocks that describe a unit, and where their entries begin.
const UNITS: [(u8, usize); 3] = [(0x10, 24), (0x11, 40), (0x40, 40)];
/// Type of the entry for something that has no PCI function.
const SPECIAL: u8 = 72;
/// Type of the entry whose length is in it.
const NAMED: u8 = 240;

/// An IOMMU of AMD's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// PCI segment.
    pub segment: u16,
    /// The PCI function that it is: bus, device and function in one number.
    pub function: u16,
    /// Address of its registers.
    pub base: u64,
    /// What is behind it and no PCI function.
    pub specials: Vec<Special>,
}

/// An I/O APIC or HPET behind a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// 1 I/O APIC, 2 HPET.
    pub kind: u8,
    /// Its number among those.
    pub id: u8,
    /// The function that its requests seem to come from.
    pub source: u16,
}

/// The units in an IVRS.
pub fn units(ivrs: &[u8]) -> Vec<Unit> {
    let mut newest: BTreeMap<(u16, u16), (u8, Unit)> = BTreeMap::new();
    let mut rest = ivrs.get(HEADER..).unwrap_or_default();
    while let Some(length) = u16_at(rest, 2)
        .map(usize::from)
        .filter(|&length| length >= 4)
    {
        let Some((block, behind)) = rest.split_at_checked(length) else {
            break;
        };
        rest = behind;
        let Some((kind, unit)) = unit(block) else {
            continue;
        };
        let known = newest.entry((unit.segment, unit.function));
        let known = known.or_insert_with(|| (kind, unit.clone()));
        if kind > known.0 {
            *known = (kind, unit);
        }
    }
    newest.into_values().map(|(_, unit)| unit).collect()
}

/// The unit that a block describes, and the block's type.
fn unit(block: &[u8]) -> Option<(u8, Unit)> {
    let (kind, entries) = UNITS
        .into_iter()
        .find(|(kind, _)| block.first() == Some(kind))?;
    let unit = Unit {
        segment: u16_at(block, 16)?,
        function: u16_at(block, 4)?,
        base: u64_at(block, 8)?,
        specials: specials(block.get(entries..)?),
    };
    Some((kind, unit))
}

fn specials(mut entries: &[u8]) -> Vec<Special> {
    let mut all = Vec::new();
    while let Some(length) = entry_length(entries) {
        let Some((entry, behind)) = entries.split_at_checked(length) else {
            break;
        };
        entries = behind;
        if let [SPECIAL, _, _, _, id, low, high, kind] = *entry {
            let source = u16::from_le_bytes([low, high]);
            all.push(Special { kind, id, source });
        }
    }
    all
}

/// The length of the first entry, by its type.
fn entry_length(entries: &[u8]) -> Option<usize> {
    let kind = *entries.first()?;
    Some(match kind {
        NAMED => 22 + usize::from(*entries.get(21)?),
        _ => 4 << (kind >> 6),
    })
}

/// The text `IVRS_INFO`.
pub fn lines(units: &[Unit]) -> Vec<String> {
    let mut all = Vec::new();
    for unit in units {
        let Unit { segment, base, .. } = unit;
        let place = place(unit.function);
        all.push(format!("iommu:{place} segment:{segment:#x} base:{base:#X}"));
        for special in &unit.specials {
            let kind = match special.kind {
                1 => "ioapic",
                2 => "hpet",
                _ => "other",
            };
            let source = self::place(special.source);
            all.push(format!(
                "{kind}:{} iommu:{place} source:{source}",
                special.id
            ));
        }
    }
    all
}

fn place(function: u16) -> String {
    let (bus, device) = (function >> 8, function >> 3 & 0x1f);
    format!("{bus:02x}:{device:02x}.{}", function & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block: its type, the unit's function, its address, and entries.
    fn block(kind: u8, function: u16, base: u64, entries: &[&[u8]]) -> Vec<u8> {
        let fixed = if kind == 0x10 { 24 } else { 40 };
        let entries = entries.concat();
        let mut block = vec![0; fixed];
        block[0] = kind;
        block[2..4].copy_from_slice(&u16::try_from(fixed + entries.len()).unwrap().to_le_bytes());
        block[4..6].copy_from_slice(&function.to_le_bytes());
        block[8..16].copy_from_slice(&base.to_le_bytes());
        [block, entries].concat()
    }

    fn table(blocks: &[Vec<u8>]) -> Vec<u8> {
        [vec![0; HEADER], blocks.concat()].concat()
    }

    const RANGE: [&[u8]; 2] = [&[3, 0x08, 0, 0], &[4, 0xff, 0xff, 0]];
    const IO_APIC: &[u8] = &[72, 0, 0, 0xd7, 33, 0xa0, 0, 1];

    #[test]
    fn units_are_known_by_their_newest_block_with_io_apics_and_hpets() {
        let hpet: &[u8] = &[72, 0, 0, 0, 0, 0xa0, 0, 2];
        let mut named = vec![NAMED; 22];
        named[21] = 3;
        named.extend(b"uid");
        let blocks = [
            block(0x10, 2, 0xfeb8_0000, &RANGE),
            // Memory that a device needs: no unit.
            block(0x21, 0, 0, &[]),
            block(
                0x40,
                2,
                0xfeb8_0000,
                &[RANGE[0], RANGE[1], &named, IO_APIC, hpet],
            ),
            block(0x11, 2, 0xfeb8_0000, &RANGE),
            block(0x11, 0x2002, 0xfec8_0000, &RANGE),
        ];
        let found = units(&table(&blocks));
        assert_eq!(
            lines(&found),
            [
                "iommu:00:00.2 segment:0x0 base:0xFEB80000",
                "ioapic:33 iommu:00:00.2 source:00:14.0",
                "hpet:0 iommu:00:00.2 source:00:14.0",
                "iommu:20:00.2 segment:0x0 base:0xFEC80000",
            ]
        );
    }

    #[test]
    fn a_table_that_is_cut_short_has_what_is_whole() {
        let whole = table(&[block(0x11, 2, 1 << 32, &[IO_APIC])]);
        assert_eq!(units(&whole)[0].specials.len(), 1);
        for length in 0..whole.len() {
            assert_eq!(units(&whole[..length]), [], "{length}");
        }
        // An entry that is longer than its block, and a block without length.
        let cut = table(&[block(0x11, 2, 0, &[&IO_APIC[..7]]), vec![0x11, 0, 0, 0]]);
        assert_eq!(units(&cut)[0].specials, []);
    }
}
