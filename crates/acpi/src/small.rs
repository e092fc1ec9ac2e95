//! Tables of which little is needed: MCFG and HPET.

use crate::error::Error;
use crate::table::{Signature, Table};
use acrn_abi::{Hpa, PhysicalMemory};
use arrayvec::ArrayVec;

/// Most windows of PCI configuration space.
pub const MAX_ECAMS: usize = 8;

/// A window of memory-mapped PCI configuration space (PCI Firmware Specification 3.2, 4.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Address of bus 0, whether or not that belongs to the window.
    pub base: Hpa,
    /// PCI segment group.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus, not below the first.
    pub last_bus: u8,
}

/// Reads the MCFG; `problem` is told of entries that are skipped.
pub fn mcfg(
    memory: &impl PhysicalMemory,
    table: Table,
    mut problem: impl FnMut(Error),
) -> Result<ArrayVec<Ecam, MAX_ECAMS>, Error> {
    table.check(memory)?;
    let mut windows = ArrayVec::new();
    let mut offset = 44;
    while offset + 16 <= table.length {
        let entry = (
            table.get(memory, offset).map(Hpa),
            table.get(memory, offset + 8),
            table.get::<[u8; 2]>(memory, offset + 10),
        );
        let bad = Error::BadEntry {
            table: Signature::MCFG,
            offset,
            length: 16,
        };
        offset += 16;
        let (Some(base), Some(segment), Some([first_bus, last_bus])) = entry else {
            return Err(bad);
        };
        let fits = base.checked_add(256 << 20).is_some();
        if first_bus > last_bus || base.0 == 0 || !base.is_aligned(1 << 20) || !fits {
            problem(bad);
            continue;
        }
        if windows
            .try_push(Ecam {
                base,
                segment,
                first_bus,
                last_bus,
            })
            .is_err()
        {
            problem(Error::TooMany {
                table: Signature::MCFG,
                what: "windows",
                max: MAX_ECAMS,
            });
            break;
        }
    }
    Ok(windows)
}

/// The high precision event timer (IA-PC HPET 1.0a, 3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hpet {
    /// Its registers.
    pub address: Hpa,
    /// Its number.
    pub number: u8,
    /// Fewest ticks between two interrupts in periodic mode.
    pub minimum_tick: u16,
}

/// Reads the HPET table.
pub fn hpet(memory: &impl PhysicalMemory, table: Table) -> Result<Hpet, Error> {
    table.check(memory)?;
    let read = || {
        Some(Hpet {
            // 40 is the address space id of a generic address; the address follows at 44.
            address: Hpa(table.get(memory, 44)?),
            number: table.get(memory, 52)?,
            minimum_tick: table.get(memory, 53)?,
        })
    };
    let hpet = read().ok_or(Error::BadLength {
        table: Signature::HPET,
        length: table.length,
    })?;
    let in_memory = table.get::<u8>(memory, 40) == Some(0) && hpet.address.0 != 0;
    if in_memory {
        Ok(hpet)
    } else {
        Err(Error::BadEntry {
            table: Signature::HPET,
            offset: 40,
            length: 12,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, table};

    fn load(signature: [u8; 4], body: &[u8]) -> (Ram, Table) {
        let mut ram = Ram::new(0x1000);
        ram.put(0x100, &table(signature, body));
        let table = Table::locate(&ram, Hpa(0x100)).unwrap();
        (ram, table)
    }

    fn window(base: u64, first: u8, last: u8) -> Vec<u8> {
        let mut entry = base.to_le_bytes().to_vec();
        entry.extend([0, 0, first, last, 0, 0, 0, 0]);
        entry
    }

    #[test]
    fn a_window_that_cannot_be_is_skipped() {
        let mut body = vec![0; 8];
        body.extend(window(0xE000_0000, 0, 0xFF));
        body.extend(window(0xE000_0000, 2, 1));
        body.extend(window(u64::MAX << 20, 0, 1));
        let (ram, table) = load(*b"MCFG", &body);
        let mut problems = 0;
        let windows = mcfg(&ram, table, |_| problems += 1).unwrap();
        let first = Ecam {
            base: Hpa(0xE000_0000),
            segment: 0,
            first_bus: 0,
            last_bus: 0xFF,
        };
        assert_eq!((&windows[..], problems), (&[first][..], 2));
    }

    #[test]
    fn a_timer_in_memory_is_found() {
        let mut body = vec![1, 2, 0x86, 0x80, 0, 64, 0, 0];
        body.extend(0xFED0_0000u64.to_le_bytes());
        body.extend([0, 0x80, 0, 0]);
        let (ram, table) = load(*b"HPET", &body);
        assert_eq!(hpet(&ram, table).unwrap().address, Hpa(0xFED0_0000));
        assert_eq!(hpet(&ram, table).unwrap().minimum_tick, 0x80);
        body[4] = 1;
        let (ram, table) = load(*b"HPET", &body);
        assert!(hpet(&ram, table).is_err(), "in I/O space");
    }
}
