//! The DMAR: Intel's units for DMA remapping (VT-d specification 4.1, chapter 8).

use crate::error::Error;
use crate::table::{Signature, Table};
use acrn_abi::{Bdf, Hpa, PAGE_SIZE, PhysicalMemory};
use arrayvec::ArrayVec;
use core::fmt;

/// Most units.
pub const MAX_UNITS: usize = 16;
/// Most devices that units name, of all units together.
pub const MAX_SCOPES: usize = 64;
/// Most reserved regions.
pub const MAX_REGIONS: usize = 16;
/// Most bridges on the way to a device, the device included.
pub const MAX_HOPS: usize = 4;

/// The table's own flags.
const FLAGS: u32 = 37;
/// First entry of the table.
const ENTRIES: u32 = 48;
/// Bytes of a device scope before its path.
const SCOPE_HEAD: u32 = 6;

/// A remapping unit (DRHD).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its registers, whole pages.
    pub registers: Hpa,
    /// Bytes of registers.
    pub size: u64,
    /// PCI segment group.
    pub segment: u16,
    /// It serves all devices of the segment that no other unit names (INCLUDE_PCI_ALL).
    pub rest: bool,
}

/// What a [`Scope`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeKind(pub u8);

impl ScopeKind {
    /// One PCI function.
    pub const ENDPOINT: Self = Self(1);
    /// A bridge and what is behind it.
    pub const BRIDGE: Self = Self(2);
    /// An I/O APIC.
    pub const IOAPIC: Self = Self(3);
    /// An HPET.
    pub const HPET: Self = Self(4);
}

impl fmt::Display for ScopeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ENDPOINT => f.write_str("function"),
            Self::BRIDGE => f.write_str("bridge"),
            Self::IOAPIC => f.write_str("I/O APIC"),
            Self::HPET => f.write_str("HPET"),
            Self(other) => write!(f, "kind {other}"),
        }
    }
}

/// A device that a unit names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Index of the unit.
    pub unit: usize,
    /// What is named.
    pub kind: ScopeKind,
    /// Of an I/O APIC: its id. Of an HPET: its number.
    pub id: u8,
    /// Bus on which the path begins.
    pub bus: u8,
    /// Device and function, first that of the bridge on [`bus`](Self::bus).
    pub path: ArrayVec<(u8, u8), MAX_HOPS>,
}

/// Memory that firmware's devices use by DMA whatever runs (RMRR): whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: Hpa,
    /// Bytes.
    pub size: u64,
}

/// The table's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dmar {
    /// Where it is.
    pub table: Table,
    /// The firmware allows interrupts to be remapped (INTR_REMAP).
    pub interrupts: bool,
    /// Units, in the order of the table.
    pub units: ArrayVec<Unit, MAX_UNITS>,
    /// Devices that units name.
    pub scopes: ArrayVec<Scope, MAX_SCOPES>,
    /// Reserved regions.
    pub regions: ArrayVec<Region, MAX_REGIONS>,
}

impl Dmar {
    /// Reads the table; `problem` is told of entries that are skipped.
    ///
    /// # Errors
    /// A wrong checksum, or an entry whose length cannot be.
    pub fn parse(
        memory: &impl PhysicalMemory,
        table: Table,
        mut problem: impl FnMut(Error),
    ) -> Result<Self, Error> {
        table.check(memory)?;
        let flags: u8 = table.get(memory, FLAGS).ok_or(bad(FLAGS, 1))?;
        let mut dmar = Self {
            table,
            interrupts: flags & 1 != 0,
            units: ArrayVec::new(),
            scopes: ArrayVec::new(),
            regions: ArrayVec::new(),
        };
        let mut offset = ENTRIES;
        while offset + 4 <= table.length {
            let bad = |length| bad(offset, length);
            let kind: u16 = table.get(memory, offset).ok_or(bad(0))?;
            let length = table.get::<u16>(memory, offset + 2).ok_or(bad(0))?;
            let length = u32::from(length);
            if length < 4 || length > table.length - offset {
                return Err(bad(length));
            }
            let entry = Entry {
                memory,
                table,
                offset,
                end: offset + length,
            };
            match kind {
                0 => dmar.add_unit(&entry, &mut problem),
                1 => dmar.add_region(&entry, &mut problem),
                // Requesters of address translation, NUMA nodes, names of the DSDT.
                _ => {}
            }
            offset += length;
        }
        Ok(dmar)
    }

    /// The number under which an I/O APIC sends its interrupts; `None` when no unit names it, or one names
    /// it behind a bridge.
    pub fn ioapic(&self, id: u8) -> Option<Bdf> {
        let mut scopes = self.scopes.iter();
        let scope = scopes.find(|scope| scope.kind == ScopeKind::IOAPIC && scope.id == id)?;
        match scope.path[..] {
            [(device, function)] => Some(Bdf::new(scope.bus, device, function)),
            _ => None,
        }
    }

    /// What a unit names.
    pub fn scopes_of(&self, unit: usize) -> impl Iterator<Item = &Scope> {
        self.scopes.iter().filter(move |scope| scope.unit == unit)
    }

    fn add_unit<M: PhysicalMemory>(
        &mut self,
        entry: &Entry<'_, M>,
        problem: &mut impl FnMut(Error),
    ) {
        let Some(unit) = entry.unit() else {
            return problem(entry.bad());
        };
        let index = self.units.len();
        if self.units.try_push(unit).is_err() {
            return problem(too_many("units", MAX_UNITS));
        }
        let mut at = entry.offset + 16;
        while at + SCOPE_HEAD <= entry.end {
            let Some((scope, length)) = entry.scope(index, at) else {
                return problem(entry.bad());
            };
            if self.scopes.try_push(scope).is_err() {
                return problem(too_many("device scopes", MAX_SCOPES));
            }
            at += length;
        }
    }

    fn add_region<M: PhysicalMemory>(
        &mut self,
        entry: &Entry<'_, M>,
        problem: &mut impl FnMut(Error),
    ) {
        match entry.region() {
            None => problem(entry.bad()),
            Some(region) => {
                if self.regions.try_push(region).is_err() {
                    problem(too_many("reserved regions", MAX_REGIONS));
                }
            }
        }
    }
}

fn bad(offset: u32, length: u32) -> Error {
    Error::BadEntry {
        table: Signature::DMAR,
        offset,
        length,
    }
}

fn too_many(what: &'static str, max: usize) -> Error {
    Error::TooMany {
        table: Signature::DMAR,
        what,
        max,
    }
}

/// An entry whose length is right.
struct Entry<'a, M> {
    memory: &'a M,
    table: Table,
    offset: u32,
    end: u32,
}

impl<M: PhysicalMemory> Entry<'_, M> {
    fn bad(&self) -> Error {
        bad(self.offset, self.end - self.offset)
    }

    fn bytes<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let inside = at.checked_add(N as u32)? <= self.end;
        inside.then(|| self.table.get(self.memory, at)).flatten()
    }

    fn word(&self, at: u32) -> Option<u64> {
        self.bytes(self.offset + at).map(u64::from_le_bytes)
    }

    fn unit(&self) -> Option<Unit> {
        let [flags, pages, s0, s1]: [u8; 4] = self.bytes(self.offset + 4)?;
        let registers = Hpa(self.word(8)?);
        let size = PAGE_SIZE << (pages & 15);
        let sound = registers.0 != 0 && registers.is_aligned(PAGE_SIZE) && registers.0 >> 52 == 0;
        sound.then_some(Unit {
            registers,
            size,
            segment: u16::from_le_bytes([s0, s1]),
            rest: flags & 1 != 0,
        })
    }

    fn scope(&self, unit: usize, at: u32) -> Option<(Scope, u32)> {
        let [kind, length, _, _, id, bus]: [u8; 6] = self.bytes(at)?;
        let length = u32::from(length);
        let hops = length.checked_sub(SCOPE_HEAD)? / 2;
        if hops == 0 || hops as usize > MAX_HOPS || at + length > self.end {
            return None;
        }
        let mut path = ArrayVec::new();
        for hop in 0..hops {
            let [device, function] = self.bytes(at + SCOPE_HEAD + 2 * hop)?;
            path.try_push((device, function)).ok()?;
        }
        let kind = ScopeKind(kind);
        Some((
            Scope {
                unit,
                kind,
                id,
                bus,
                path,
            },
            length,
        ))
    }

    fn region(&self) -> Option<Region> {
        let start = self.word(8)?;
        let end = self.word(16)?.checked_add(1)?;
        let aligned = start % PAGE_SIZE == 0 && end % PAGE_SIZE == 0;
        (aligned && start < end).then(|| Region {
            start: Hpa(start),
            size: end - start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, table};

    fn unit(flags: u8, base: u64, scopes: &[u8]) -> Vec<u8> {
        let mut entry = vec![0, 0, 16 + scopes.len() as u8, 0, flags, 0, 0, 0];
        entry.extend(base.to_le_bytes());
        entry.extend(scopes);
        entry
    }

    fn region(start: u64, limit: u64) -> Vec<u8> {
        let mut entry = vec![1, 0, 24, 0, 0, 0, 0, 0];
        entry.extend(start.to_le_bytes());
        entry.extend(limit.to_le_bytes());
        entry
    }

    fn parse(entries: &[Vec<u8>]) -> (Result<Dmar, Error>, Vec<Error>) {
        let mut body = vec![38, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        body.extend(entries.concat());
        let mut ram = Ram::new(0x4000);
        ram.put(0x100, &table(*b"DMAR", &body));
        let mut problems = vec![];
        let table = Table::locate(&ram, Hpa(0x100)).unwrap();
        (Dmar::parse(&ram, table, |p| problems.push(p)), problems)
    }

    #[test]
    fn units_their_devices_and_regions_are_read() {
        let scopes = [1, 8, 0, 0, 0, 0, 2, 0, 2, 10, 0, 0, 0, 3, 0x1c, 1, 4, 0];
        let (dmar, problems) = parse(&[
            unit(0, 0xFED9_0000, &scopes),
            unit(1, 0xFED9_1000, &[]),
            region(0x7D00_0000, 0x7DFF_FFFF),
            vec![7, 0, 8, 0, 1, 2, 3, 4],
        ]);
        let dmar = dmar.unwrap();
        assert_eq!(problems, []);
        assert_eq!((dmar.units.len(), dmar.units[1].rest), (2, true));
        assert_eq!(
            (dmar.units[0].registers, dmar.units[0].size),
            (Hpa(0xFED9_0000), 4096)
        );
        let found: Vec<_> = dmar.scopes_of(0).collect();
        assert_eq!(found[0].path[..], [(2, 0)]);
        assert_eq!(
            (found[1].bus, &found[1].path[..]),
            (3, &[(0x1c, 1), (4, 0)][..])
        );
        assert_eq!(found[1].kind, ScopeKind::BRIDGE);
        assert_eq!(dmar.scopes_of(1).count(), 0);
        let expected = Region {
            start: Hpa(0x7D00_0000),
            size: 16 << 20,
        };
        assert_eq!(dmar.regions[..], [expected]);
    }

    #[test]
    fn an_io_apic_is_found_by_its_id() {
        let scopes = [
            3, 8, 0, 0, 2, 0xff, 0, 0, 4, 8, 0, 0, 3, 0, 0, 0, 3, 10, 0, 0, 4, 0, 0x1c, 0, 0, 0,
        ];
        let (dmar, _) = parse(&[unit(1, 0xFED9_0000, &scopes)]);
        let dmar = dmar.unwrap();
        assert!(dmar.interrupts);
        assert_eq!(dmar.ioapic(2), Some(Bdf::new(0xff, 0, 0)));
        assert_eq!(dmar.ioapic(3), None, "that is an HPET");
        assert_eq!(dmar.ioapic(4), None, "behind a bridge");
    }

    #[test]
    fn what_cannot_be_is_skipped_and_reported() {
        let (dmar, problems) = parse(&[
            unit(0, 0, &[]),
            unit(0, 0xFED9_0008, &[]),
            region(0x1000, 0xFFF),
            region(0x1000, 0x1800),
            region(0, u64::MAX),
            unit(0, 0xFED9_0000, &[1, 6, 0, 0, 0, 0]),
            unit(0, 0xFED9_1000, &[1, 8, 0, 0, 0, 0]),
        ]);
        let dmar = dmar.unwrap();
        assert_eq!((problems.len(), dmar.units.len()), (7, 2));
        assert_eq!((dmar.scopes.len(), dmar.regions.len()), (0, 0));
    }

    #[test]
    fn an_entry_without_length_ends_the_table() {
        for length in [0u8, 3, 200] {
            let (dmar, _) = parse(&[vec![0, 0, length, 0, 0, 0, 0, 0]]);
            let error = bad(48, length.into());
            assert_eq!(dmar, Err(error));
        }
    }

    #[test]
    fn more_units_than_there_is_room_for_are_reported() {
        let units: Vec<_> = (0..MAX_UNITS as u64 + 1)
            .map(|i| unit(0, 0xFED9_0000 + i * 4096, &[]))
            .collect();
        let (dmar, problems) = parse(&units);
        assert_eq!(dmar.unwrap().units.len(), MAX_UNITS);
        assert_eq!(problems, [too_many("units", MAX_UNITS)]);
    }
}
