//! The MADT: CPUs and interrupt controllers (5.2.12).

use crate::error::Error;
use crate::table::{Signature, Table};
use acrn_abi::{Gsi, Hpa, PhysicalMemory};
use arrayvec::ArrayVec;

/// Most CPUs.
pub const MAX_CPUS: usize = 64;
/// Most I/O APICs.
pub const MAX_IOAPICS: usize = 10;
/// Most interrupt source overrides.
pub const MAX_OVERRIDES: usize = 32;
/// Most lines that are NMIs.
pub const MAX_NMIS: usize = 16;

/// A CPU that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Local APIC id; above 254 only in x2APIC mode.
    pub apic_id: u32,
    /// Number by which the DSDT knows it.
    pub acpi_uid: u32,
    /// It is there now; otherwise it may be plugged in later.
    pub enabled: bool,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its id.
    pub id: u8,
    /// Its register page.
    pub address: Hpa,
    /// The line of its first pin.
    pub gsi_base: Gsi,
}

/// An ISA interrupt that is not where its number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// ISA interrupt.
    pub isa_irq: u8,
    /// Its line.
    pub gsi: Gsi,
    /// Polarity in bits 0..2 and trigger in 2..4: 0 as the bus has it, 1 high or edge, 3 low or
    /// level.
    pub flags: u16,
}

impl Override {
    /// Active low; an ISA interrupt is active high unless it says otherwise.
    pub const fn active_low(&self) -> bool {
        self.flags & 3 == 3
    }

    /// Level-triggered; an ISA interrupt is edge-triggered unless it says otherwise.
    pub const fn level(&self) -> bool {
        self.flags >> 2 & 3 == 3
    }
}

/// A line that is a non-maskable interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NmiSource {
    /// An input of an I/O APIC.
    IoApic {
        /// The line.
        gsi: Gsi,
        /// As in [`Override::flags`].
        flags: u16,
    },
    /// An input of local APICs.
    LocalApic {
        /// [`Cpu::acpi_uid`]; `None` for all.
        acpi_uid: Option<u32>,
        /// LINT0 or LINT1.
        lint: u8,
        /// As in [`Override::flags`].
        flags: u16,
    },
}

/// The table's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Madt {
    /// Register page of the local APICs.
    pub local_apic: Hpa,
    /// There are two 8259s, which must be masked.
    pub has_8259: bool,
    /// CPUs that are enabled or can be, in the order of the table; no APIC id twice.
    pub cpus: ArrayVec<Cpu, MAX_CPUS>,
    /// I/O APICs.
    pub ioapics: ArrayVec<IoApic, MAX_IOAPICS>,
    /// Overrides.
    pub overrides: ArrayVec<Override, MAX_OVERRIDES>,
    /// NMIs.
    pub nmis: ArrayVec<NmiSource, MAX_NMIS>,
}

impl Madt {
    /// Where an ISA interrupt arrives.
    pub fn isa(&self, isa_irq: u8) -> Override {
        self.overrides
            .iter()
            .find(|entry| entry.isa_irq == isa_irq)
            .copied()
            .unwrap_or(Override {
                isa_irq,
                gsi: Gsi(isa_irq.into()),
                flags: 0,
            })
    }

    /// The ISA interrupt whose line is this one, which is also the number of its 8259 input.
    pub fn isa_irq(&self, gsi: Gsi) -> Option<u8> {
        (0..16).find(|irq| self.isa(*irq).gsi == gsi)
    }

    /// Reads the table; `problem` is told of what there is no room for.
    pub fn parse(
        memory: &impl PhysicalMemory,
        table: Table,
        mut problem: impl FnMut(Error),
    ) -> Result<Self, Error> {
        table.check(memory)?;
        let short = Error::BadLength {
            table: Signature::MADT,
            length: table.length,
        };
        let mut madt = Self {
            local_apic: Hpa(table.get::<u32>(memory, 36).ok_or(short)?.into()),
            has_8259: table.get::<u32>(memory, 40).ok_or(short)? & 1 != 0,
            ..Self::default()
        };
        let mut offset = 44u32;
        while offset + 2 <= table.length {
            let [kind, length]: [u8; 2] = table.get(memory, offset).ok_or(short)?;
            let length = u32::from(length);
            if length < 2 || length > table.length - offset {
                return Err(Error::BadEntry {
                    table: Signature::MADT,
                    offset,
                    length,
                });
            }
            let entry = Entry {
                memory,
                table,
                offset,
                length,
            };
            match madt.add(kind, entry) {
                Some(Ok(())) => {}
                Some(Err((what, max))) => {
                    problem(Error::TooMany {
                        table: Signature::MADT,
                        what,
                        max,
                    });
                }
                None => problem(Error::BadEntry {
                    table: Signature::MADT,
                    offset,
                    length,
                }),
            }
            offset += length;
        }
        if madt.cpus.iter().any(|cpu| cpu.enabled) {
            Ok(madt)
        } else {
            Err(Error::NoCpu)
        }
    }

    /// Shows every entry of a CPU, usable or not: its APIC id, the offset of its flags in the table, and
    /// the flags. A damaged table is shown up to where it is.
    pub fn for_each_cpu(
        memory: &impl PhysicalMemory,
        table: &Table,
        mut show: impl FnMut(u32, u32, u32),
    ) {
        let mut offset = 44u32;
        while let Some([kind, length]) = table.get::<[u8; 2]>(memory, offset) {
            let length = u32::from(length);
            let entry = Entry {
                memory,
                table: *table,
                offset,
                length,
            };
            let id = match kind {
                0 => entry.get::<u8>(3).map(u32::from).zip(Some(4)),
                9 => entry.get(4).zip(Some(8)),
                _ => None,
            };
            if let Some((id, field)) = id
                && let Some(flags) = entry.get(field)
            {
                show(id, offset + field, flags);
            }
            let Some(next) = offset.checked_add(length).filter(|_| length >= 2) else {
                return;
            };
            offset = next;
        }
    }

    /// Takes one entry in. `None`: too short for its kind; an error: no room for it.
    fn add<M: PhysicalMemory>(
        &mut self,
        kind: u8,
        entry: Entry<'_, M>,
    ) -> Option<Result<(), (&'static str, usize)>> {
        Some(match kind {
            0 => {
                let [acpi_uid, apic_id]: [u8; 2] = entry.get(2)?;
                self.add_cpu(apic_id.into(), acpi_uid.into(), entry.get(4)?)
            }
            1 => {
                let ioapic = IoApic {
                    id: entry.get(2)?,
                    address: Hpa(entry.get::<u32>(4)?.into()),
                    gsi_base: Gsi(entry.get(8)?),
                };
                self.ioapics
                    .try_push(ioapic)
                    .map_err(|_| ("I/O APICs", MAX_IOAPICS))
            }
            2 => {
                let isa_irq = entry.get(3)?;
                let line = Override {
                    isa_irq,
                    gsi: Gsi(entry.get(4)?),
                    flags: entry.get(8)?,
                };
                self.overrides
                    .try_push(line)
                    .map_err(|_| ("overrides", MAX_OVERRIDES))
            }
            3 => self.add_nmi(NmiSource::IoApic {
                flags: entry.get(2)?,
                gsi: Gsi(entry.get(4)?),
            }),
            4 => self.add_nmi(NmiSource::LocalApic {
                acpi_uid: Some(entry.get::<u8>(2)?)
                    .filter(|&uid| uid != 0xFF)
                    .map(u32::from),
                flags: entry.get(3)?,
                lint: entry.get(5)?,
            }),
            5 => {
                self.local_apic = Hpa(entry.get(4)?);
                Ok(())
            }
            9 => self.add_cpu(entry.get(4)?, entry.get(12)?, entry.get(8)?),
            10 => self.add_nmi(NmiSource::LocalApic {
                acpi_uid: Some(entry.get::<u32>(4)?).filter(|&uid| uid != u32::MAX),
                flags: entry.get(2)?,
                lint: entry.get(8)?,
            }),
            _ => Ok(()),
        })
    }

    fn add_nmi(&mut self, nmi: NmiSource) -> Result<(), (&'static str, usize)> {
        self.nmis.try_push(nmi).map_err(|_| ("NMI lines", MAX_NMIS))
    }

    fn add_cpu(
        &mut self,
        apic_id: u32,
        acpi_uid: u32,
        flags: u32,
    ) -> Result<(), (&'static str, usize)> {
        let usable = flags & (ENABLED | ONLINE_CAPABLE) != 0;
        // Firmware may list a CPU both ways, as xAPIC and as x2APIC.
        if !usable || self.cpus.iter().any(|cpu| cpu.apic_id == apic_id) {
            return Ok(());
        }
        let cpu = Cpu {
            apic_id,
            acpi_uid,
            enabled: flags & ENABLED != 0,
        };
        self.cpus.try_push(cpu).map_err(|_| ("CPUs", MAX_CPUS))
    }
}

/// Flag of a CPU: it is there.
pub const ENABLED: u32 = 1 << 0;
/// Flag of a CPU: it can be brought online.
pub const ONLINE_CAPABLE: u32 = 1 << 1;

/// One entry of the table.
struct Entry<'a, M> {
    memory: &'a M,
    table: Table,
    offset: u32,
    length: u32,
}

impl<M: PhysicalMemory> Entry<'_, M> {
    /// Reads a field; `None` when it is not within the entry.
    fn get<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self, field: u32) -> Option<T> {
        if u64::from(field) + size_of::<T>() as u64 > self.length.into() {
            return None;
        }
        self.table.get(self.memory, self.offset.checked_add(field)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, table};

    fn parse(entries: &[&[u8]]) -> (Result<Madt, Error>, Vec<Error>) {
        let mut body = vec![0, 0, 0xE0, 0xFE, 1, 0, 0, 0];
        body.extend(entries.concat());
        let mut ram = Ram::new(0x2000);
        ram.put(0x100, &table(*b"APIC", &body));
        let table = Table::locate(&ram, Hpa(0x100)).unwrap();
        let mut problems = vec![];
        (
            Madt::parse(&ram, table, |problem| problems.push(problem)),
            problems,
        )
    }

    const CPU0: &[u8] = &[0, 8, 0, 0, 1, 0, 0, 0];

    #[test]
    fn the_flags_of_every_cpu_are_found() {
        let body = [
            &[0, 0, 0xE0, 0xFE, 1, 0, 0, 0][..],
            CPU0,
            &[1, 12, 3, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0],
            &[9, 16, 0, 0, 0, 1, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0],
            &[0, 8, 1, 2, 0, 0, 0, 0],
            &[0, 1],
        ];
        let mut ram = Ram::new(0x2000);
        ram.put(0x100, &table(*b"APIC", &body.concat()));
        let table = Table::locate(&ram, Hpa(0x100)).unwrap();
        let mut seen = vec![];
        Madt::for_each_cpu(&ram, &table, |id, at, flags| seen.push((id, at, flags)));
        assert_eq!(seen, [(0, 48, 1), (0x100, 72, 3), (2, 84, 0)]);
    }

    #[test]
    fn all_kinds_of_entries_are_read() {
        let (madt, problems) = parse(&[
            CPU0,
            &[0, 8, 1, 2, 0, 0, 0, 0],
            &[0, 8, 2, 4, 2, 0, 0, 0],
            &[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0],
            &[9, 16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 12, 3, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0],
            &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
            &[2, 10, 0, 9, 9, 0, 0, 0, 13, 0],
            &[3, 8, 0, 0, 5, 0, 0, 0],
            &[4, 6, 0xFF, 5, 0, 1],
            &[10, 12, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0],
            &[0x7F, 4, 0, 0],
        ]);
        let madt = madt.unwrap();
        assert_eq!(problems, []);
        assert_eq!((madt.local_apic, madt.has_8259), (Hpa(0xFEE0_0000), true));
        let cpus: Vec<_> = madt
            .cpus
            .iter()
            .map(|cpu| (cpu.apic_id, cpu.enabled))
            .collect();
        assert_eq!(
            cpus,
            [(0, true), (4, false), (0x100, true)],
            "each once, no disabled one"
        );
        assert_eq!(madt.ioapics[0].address, Hpa(0xFEC0_0000));
        assert_eq!(madt.isa(0).gsi, Gsi(2));
        assert!(madt.isa(9).level() && !madt.isa(9).active_low());
        let inputs = [0, 1, 2, 9, 16].map(|gsi| madt.isa_irq(Gsi(gsi)));
        // Pin 0 has nothing, and input 2 of an 8259 is the other one.
        assert_eq!(inputs, [None, Some(1), Some(0), Some(9), None]);
        assert_eq!(
            madt.isa(4),
            Override {
                isa_irq: 4,
                gsi: Gsi(4),
                flags: 0
            }
        );
        assert_eq!(
            madt.nmis[1],
            NmiSource::LocalApic {
                acpi_uid: None,
                lint: 1,
                flags: 5
            }
        );
        assert_eq!(madt.nmis.len(), 3);
    }

    #[test]
    fn an_entry_of_length_zero_or_beyond_the_end_is_an_error() {
        let zero = parse(&[CPU0, &[1, 0]]).0;
        assert_eq!(
            zero,
            Err(Error::BadEntry {
                table: Signature::MADT,
                offset: 52,
                length: 0
            })
        );
        let long = parse(&[CPU0, &[1, 12, 0]]).0;
        assert_eq!(
            long,
            Err(Error::BadEntry {
                table: Signature::MADT,
                offset: 52,
                length: 12
            })
        );
    }

    #[test]
    fn an_entry_too_short_for_its_kind_is_skipped_and_reported() {
        let (madt, problems) = parse(&[&[0, 2], CPU0]);
        assert_eq!(madt.unwrap().cpus.len(), 1);
        assert_eq!(
            problems,
            [Error::BadEntry {
                table: Signature::MADT,
                offset: 44,
                length: 2
            }]
        );
    }

    #[test]
    fn more_cpus_than_fit_are_reported() {
        let cpus: Vec<_> = (0..65).map(|id| [0, 8, id, id, 1, 0, 0, 0]).collect();
        let entries: Vec<&[u8]> = cpus.iter().map(|cpu| &cpu[..]).collect();
        let (madt, problems) = parse(&entries);
        assert_eq!(madt.unwrap().cpus.len(), MAX_CPUS);
        assert!(matches!(
            problems[..],
            [Error::TooMany { what: "CPUs", .. }]
        ));
    }

    #[test]
    fn a_table_without_an_enabled_cpu_is_an_error() {
        assert_eq!(parse(&[&[0, 8, 0, 0, 2, 0, 0, 0]]).0, Err(Error::NoCpu));
    }
}
