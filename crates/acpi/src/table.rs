//! Tables: the common header (5.2.6) and the lists that lead to them (5.2.7, 5.2.8).

use crate::error::Error;
use crate::rsdp::Rsdp;
use acrn_abi::{Hpa, PhysicalMemory};
use arrayvec::ArrayVec;
use core::fmt;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of the header that each table has.
pub const HEADER_SIZE: u32 = 36;
/// Offset of the checksum in it.
pub const CHECKSUM_OFFSET: usize = 9;
/// A longer table is taken for damage.
pub const MAX_LENGTH: u32 = 4 << 20;
/// Most tables that are kept.
pub const MAX_TABLES: usize = 64;

/// Four letters that name a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Signature(pub [u8; 4]);

impl Signature {
    #![expect(missing_docs, reason = "the names are those of the tables")]
    pub const RSDT: Self = Self(*b"RSDT");
    pub const XSDT: Self = Self(*b"XSDT");
    pub const MADT: Self = Self(*b"APIC");
    pub const FADT: Self = Self(*b"FACP");
    pub const DSDT: Self = Self(*b"DSDT");
    pub const SSDT: Self = Self(*b"SSDT");
    pub const MCFG: Self = Self(*b"MCFG");
    pub const HPET: Self = Self(*b"HPET");
    pub const DMAR: Self = Self(*b"DMAR");
    pub const IVRS: Self = Self(*b"IVRS");
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A table that was found: where it is and how long. Its checksum is checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Name.
    pub signature: Signature,
    /// First byte.
    pub address: Hpa,
    /// Bytes, header included; at least the header, and within the address space.
    pub length: u32,
}

impl Table {
    /// Reads the header at `address`, without the checksum.
    pub fn locate(memory: &impl PhysicalMemory, address: Hpa) -> Result<Self, Error> {
        let unknown = Error::Unreadable {
            table: Signature(*b"????"),
            address,
        };
        let head: [u8; 8] = memory.read_as(address).ok_or(unknown)?;
        let [s0, s1, s2, s3, l0, l1, l2, l3] = head;
        let signature = Signature([s0, s1, s2, s3]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let wraps = address.checked_add(length.into()).is_none();
        if !(HEADER_SIZE..=MAX_LENGTH).contains(&length) || wraps {
            return Err(Error::BadLength {
                table: signature,
                length,
            });
        }
        Ok(Self {
            signature,
            address,
            length,
        })
    }

    /// Checks the name and the checksum, after which [`get`](Self::get) is worthwhile.
    pub fn open(
        memory: &impl PhysicalMemory,
        address: Hpa,
        signature: Signature,
    ) -> Result<Self, Error> {
        let table = Self::locate(memory, address)?;
        if table.signature != signature {
            let found = table.signature;
            return Err(Error::WrongSignature {
                table: signature,
                found,
                address,
            });
        }
        table.check(memory)?;
        Ok(table)
    }

    /// Checks the checksum.
    pub fn check(&self, memory: &impl PhysicalMemory) -> Result<(), Error> {
        let mut sum = 0u8;
        let done = self.for_each_chunk(memory, 0, |bytes| {
            sum = bytes.iter().fold(sum, |sum, &byte| sum.wrapping_add(byte));
        });
        if !done {
            return Err(Error::Unreadable {
                table: self.signature,
                address: self.address,
            });
        }
        match sum {
            0 => Ok(()),
            sum => Err(Error::BadChecksum {
                table: self.signature,
                address: self.address,
                sum,
            }),
        }
    }

    /// Reads a value; `None` when it is not within the table.
    pub fn get<T: FromBytes + IntoBytes>(
        &self,
        memory: &impl PhysicalMemory,
        offset: u32,
    ) -> Option<T> {
        let end = u64::from(offset) + size_of::<T>() as u64;
        if end > self.length.into() {
            return None;
        }
        memory.read_as(self.address.checked_add(offset.into())?)
    }

    /// Passes the bytes from `offset` on in pieces of up to 256. `false` when some cannot be read.
    pub(crate) fn for_each_chunk(
        &self,
        memory: &impl PhysicalMemory,
        offset: u32,
        mut each: impl FnMut(&[u8]),
    ) -> bool {
        let mut buffer = [0; 256];
        let mut offset = offset;
        while offset < self.length {
            let size = (self.length - offset).min(buffer.len() as u32);
            let Some(chunk) = buffer.get_mut(..size as usize) else {
                return false;
            };
            let at = Hpa(self.address.0.saturating_add(offset.into()));
            if !memory.read(at, chunk) {
                return false;
            }
            each(chunk);
            offset += size;
        }
        true
    }
}

/// The tables that the root pointer leads to, in order. What cannot be located is passed to
/// `problem`.
pub fn list(
    memory: &impl PhysicalMemory,
    rsdp: &Rsdp,
    mut problem: impl FnMut(Error),
) -> Result<ArrayVec<Table, MAX_TABLES>, Error> {
    let (root, wide) = open_root(memory, rsdp, &mut problem)?;
    let step = if wide { 8 } else { 4 };
    let mut tables = ArrayVec::new();
    let mut offset = HEADER_SIZE;
    while offset + step <= root.length {
        let address = if wide {
            root.get::<u64>(memory, offset)
        } else {
            root.get::<u32>(memory, offset).map(u64::from)
        };
        offset += step;
        // Firmware leaves holes.
        let Some(address) = address.filter(|&address| address != 0) else {
            continue;
        };
        match Table::locate(memory, Hpa(address)) {
            Ok(table) => {
                if tables.try_push(table).is_err() {
                    let (table, max) = (root.signature, MAX_TABLES);
                    problem(Error::TooMany {
                        table,
                        what: "tables",
                        max,
                    });
                    break;
                }
            }
            Err(error) => problem(error),
        }
    }
    Ok(tables)
}

/// The XSDT, or the RSDT where that is not sound; and whether its pointers have 64 bits.
fn open_root(
    memory: &impl PhysicalMemory,
    rsdp: &Rsdp,
    problem: &mut impl FnMut(Error),
) -> Result<(Table, bool), Error> {
    if rsdp.xsdt.0 != 0 {
        match Table::open(memory, rsdp.xsdt, Signature::XSDT) {
            Ok(table) => return Ok((table, true)),
            Err(error) if rsdp.rsdt.0 == 0 => return Err(error),
            Err(error) => problem(error),
        }
    }
    Table::open(memory, rsdp.rsdt, Signature::RSDT).map(|table| (table, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, table};

    fn rsdp(rsdt: u64, xsdt: u64) -> Rsdp {
        Rsdp {
            rsdt: Hpa(rsdt),
            xsdt: Hpa(xsdt),
        }
    }

    fn sample() -> Ram {
        let mut ram = Ram::new(0x4000);
        ram.put(0x1000, &table(*b"HPET", &[0; 20]));
        ram.put(0x1100, &table(*b"MCFG", &[0; 8]));
        let pointers = [0x1000u64, 0, 0x1100, 0x9999_9999];
        ram.put(
            0x2000,
            &table(*b"XSDT", &pointers.map(u64::to_le_bytes).concat()),
        );
        let pointers = [0x1100u32];
        ram.put(
            0x3000,
            &table(*b"RSDT", &pointers.map(u32::to_le_bytes).concat()),
        );
        ram
    }

    fn names(ram: &Ram, rsdp: Rsdp) -> (Vec<String>, Vec<Error>) {
        let mut problems = vec![];
        let tables = list(ram, &rsdp, |problem| problems.push(problem)).unwrap();
        (
            tables
                .iter()
                .map(|table| table.signature.to_string())
                .collect(),
            problems,
        )
    }

    #[test]
    fn holes_are_skipped_and_what_is_unreadable_is_reported() {
        let (found, problems) = names(&sample(), rsdp(0x3000, 0x2000));
        assert_eq!(found, ["HPET", "MCFG"]);
        assert!(matches!(
            problems[..],
            [Error::Unreadable {
                address: Hpa(0x9999_9999),
                ..
            }]
        ));
    }

    #[test]
    fn a_broken_xsdt_makes_place_for_the_rsdt() {
        let mut ram = sample();
        ram.put(0x2010, &[0xFF]);
        let (found, problems) = names(&ram, rsdp(0x3000, 0x2000));
        assert_eq!(found, ["MCFG"]);
        assert!(matches!(
            problems[..],
            [Error::BadChecksum {
                table: Signature::XSDT,
                ..
            }]
        ));
        assert!(list(&ram, &rsdp(0, 0x2000), |_| ()).is_err());
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        let mut ram = sample();
        for length in [0u32, 35, MAX_LENGTH + 1, u32::MAX] {
            ram.put(0x1004, &length.to_le_bytes());
            let expected = Error::BadLength {
                table: Signature::HPET,
                length,
            };
            assert_eq!(Table::locate(&ram, Hpa(0x1000)), Err(expected));
        }
    }

    #[test]
    fn the_signature_of_garbage_can_be_printed() {
        assert_eq!(
            Signature([0, b'A', 0xFF, b'\n']).to_string(),
            "\\x00A\\xff\\n"
        );
    }
}
