//! All that the hypervisor wants to know, gathered.

use crate::dmar::Dmar;
use crate::error::Error;
use crate::fadt::Fadt;
use crate::madt::Madt;
use crate::rsdp::Rsdp;
use crate::sleep::{self, SleepType};
use crate::small::{self, Ecam, Hpet, MAX_ECAMS};
use crate::table::{self, MAX_TABLES, Signature, Table};
use acrn_abi::PhysicalMemory;
use arrayvec::ArrayVec;

/// Most problems that are kept.
pub const MAX_PROBLEMS: usize = 16;

/// The machine as its firmware describes it. About 8 KiB.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The root pointer.
    pub rsdp: Rsdp,
    /// All tables, in the order of the XSDT (the DSDT is in [`Fadt::dsdt`]).
    pub tables: ArrayVec<Table, MAX_TABLES>,
    /// CPUs and interrupt controllers.
    pub madt: Madt,
    /// Power management hardware.
    pub fadt: Option<Fadt>,
    /// Windows of PCI configuration space; none on a machine without PCI Express.
    pub ecam: ArrayVec<Ecam, MAX_ECAMS>,
    /// Timer.
    pub hpet: Option<Hpet>,
    /// Intel IOMMUs.
    pub dmar: Option<Dmar>,
    /// AMD IOMMUs: the table, with a right checksum.
    pub ivrs: Option<Table>,
    /// How to suspend to memory.
    pub s3: Option<SleepType>,
    /// How to switch off.
    pub s5: Option<SleepType>,
    /// What was skipped, and why; later ones are lost when it is full.
    pub problems: ArrayVec<Error, MAX_PROBLEMS>,
}

impl Platform {
    /// Reads the tables. `rsdp` are the bytes that the boot loader gave, empty for none: then, or
    /// when they are damaged, the BIOS areas are searched.
    pub fn discover(memory: &impl PhysicalMemory, rsdp: &[u8]) -> Result<Self, Error> {
        let mut problems = ArrayVec::new();
        // A full list has made its point.
        let mut report = |error| {
            let _ = problems.try_push(error);
        };
        let rsdp = match Rsdp::parse(rsdp) {
            Ok(rsdp) => rsdp,
            Err(error) => {
                if !rsdp.is_empty() {
                    report(error);
                }
                Rsdp::search(memory)?
            }
        };
        let tables = table::list(memory, &rsdp, &mut report)?;
        let first = |signature| {
            tables
                .iter()
                .find(|table| table.signature == signature)
                .copied()
        };

        let missing = Error::Missing {
            table: Signature::MADT,
        };
        let madt = Madt::parse(memory, first(Signature::MADT).ok_or(missing)?, &mut report)?;
        let fadt = optional(first(Signature::FADT), &mut report, |t, _| {
            Fadt::parse(memory, t)
        });
        let hpet = optional(first(Signature::HPET), &mut report, |t, _| {
            small::hpet(memory, t)
        });
        let ecam = optional(first(Signature::MCFG), &mut report, |t, r| {
            small::mcfg(memory, t, r)
        });
        let dmar = optional(first(Signature::DMAR), &mut report, |t, r| {
            Dmar::parse(memory, t, r)
        });
        let ivrs = optional(first(Signature::IVRS), &mut report, |t, _| {
            t.check(memory).map(|()| t)
        });

        let dsdt = fadt.filter(|fadt| fadt.dsdt.0 != 0).and_then(|fadt| {
            Table::open(memory, fadt.dsdt, Signature::DSDT)
                .map_err(&mut report)
                .ok()
        });
        let byte_code = || {
            let ssdts = tables
                .iter()
                .filter(|table| table.signature == Signature::SSDT);
            dsdt.iter().chain(ssdts)
        };
        let sleep_type = |digit| byte_code().find_map(|table| sleep::find(memory, table, digit));
        let (s3, s5) = (sleep_type(b'3'), sleep_type(b'5'));
        let ecam = ecam.unwrap_or_default();
        Ok(Self {
            rsdp,
            tables,
            madt,
            fadt,
            ecam,
            hpet,
            dmar,
            ivrs,
            s3,
            s5,
            problems,
        })
    }

    /// The first table of a name.
    pub fn table(&self, signature: Signature) -> Option<Table> {
        self.tables
            .iter()
            .find(|table| table.signature == signature)
            .copied()
    }
}

/// Reads a table that need not be there; if it is broken, that is reported.
fn optional<T, R: FnMut(Error)>(
    table: Option<Table>,
    report: &mut R,
    read: impl FnOnce(Table, &mut R) -> Result<T, Error>,
) -> Option<T> {
    read(table?, report).map_err(report).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, rsdp, table};
    use acrn_abi::Hpa;
    use proptest::prelude::*;

    /// A machine with one CPU, at the addresses of the list.
    fn machine() -> Ram {
        let mut ram = Ram::new(0x10_0000);
        let mut madt = vec![0, 0, 0xE0, 0xFE, 0, 0, 0, 0];
        madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        ram.put(0x1000, &table(*b"APIC", &madt));
        let mut fadt = vec![0; 240];
        fadt[4..8].copy_from_slice(&0x5000u32.to_le_bytes());
        ram.put(0x2000, &table(*b"FACP", &fadt));
        ram.put(0x3000, &table(*b"DMAR", &[39, 0, 0, 0]));
        ram.put(
            0x4000,
            &table(*b"SSDT", b"\x08_S3_\x12\x06\x04\x01\x01\x00\x00"),
        );
        ram.put(
            0x5000,
            &table(*b"DSDT", b"\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00"),
        );
        let list = [0x1000u64, 0x2000, 0x3000, 0x4000]
            .map(u64::to_le_bytes)
            .concat();
        ram.put(0x6000, &table(*b"XSDT", &list));
        ram.put(0xF_0000, &rsdp(0, 0x6000));
        ram
    }

    #[test]
    fn a_machine_is_understood_with_and_without_a_root_pointer_from_the_loader() {
        for given in [&[][..], &rsdp(0, 0x6000)] {
            let platform = Platform::discover(&machine(), given).unwrap();
            assert_eq!(platform.madt.cpus.len(), 1);
            assert_eq!(platform.dmar.unwrap().table.address, Hpa(0x3000));
            assert_eq!(platform.s5, Some(SleepType { a: 5, b: 0 }));
            assert_eq!(platform.s3, Some(SleepType { a: 1, b: 1 }));
            assert_eq!(
                (platform.ivrs, platform.hpet, platform.ecam.len()),
                (None, None, 0)
            );
            assert_eq!(platform.problems[..], []);
        }
    }

    #[test]
    fn a_damaged_root_pointer_from_the_loader_is_reported_and_replaced() {
        let platform = Platform::discover(&machine(), &[1; 36]).unwrap();
        assert_eq!(platform.problems[..], [Error::BadRsdp]);
    }

    #[test]
    fn a_broken_table_is_skipped_unless_it_is_the_madt() {
        let mut ram = machine();
        ram.put(0x3010, &[0xFF]);
        let platform = Platform::discover(&ram, &[]).unwrap();
        assert_eq!(platform.dmar, None);
        let [Error::BadChecksum { table, .. }] = platform.problems[..] else {
            panic!()
        };
        assert_eq!(table, Signature::DMAR);
        ram.put(0x1010, &[0xFF]);
        let error = Platform::discover(&ram, &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("APIC at 0x1000 has a wrong checksum"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn damage_never_makes_it_panic(
            damage in proptest::collection::vec((0usize..7, 0usize..0x120, any::<u8>()), 1..20),
            // Sums are made right again, so that what follows the checksum is reached.
            repair in any::<bool>(),
        ) {
            let mut ram = machine();
            for (table, offset, byte) in damage {
                ram.put(table * 0x1000 + offset, &[byte]);
            }
            for at in (0x1000..0x7000).step_by(0x1000).filter(|_| repair) {
                let length = u32::from_le_bytes(ram.0[at + 4..at + 8].try_into().unwrap());
                if (36..0x1000).contains(&length) {
                    crate::checksum::fix(&mut ram.0[at..at + length as usize]);
                }
            }
            let _ = Platform::discover(&ram, &[]);
        }
    }
}
