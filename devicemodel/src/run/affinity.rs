//! From local APIC ids, which users know, to the CPU numbers of the hypervisor.
//!
//! The hypervisor numbers CPUs in the order of the MADT, which the Service VM shows in
//! `/sys/firmware/acpi/tables/APIC` (ACPI 6.5, 5.2.12).

use std::io;
use std::path::Path;

/// The host's MADT.
pub const MADT: &str = "/sys/firmware/acpi/tables/APIC";

const HEADER: usize = 44;
const LAPIC: u8 = 0;
const X2APIC: u8 = 9;
const ENABLED: u32 = 1;
/// CPUs that a bitmap has room for.
const MAX_CPUS: usize = 64;

/// CPUs for a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Bit n: physical CPU n. Zero lets the hypervisor's configuration decide.
    pub bitmap: u64,
    /// Local APIC ids in the order of vCPUs.
    pub apic_ids: Vec<u32>,
}

/// Why CPUs cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum AffinityError {
    /// The table cannot be read.
    #[error(
        "--cpu_affinity: {path} cannot be read: {source}; run acrn-dm as root in the Service VM"
    )]
    Table {
        /// Path of the table.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// No such CPU.
    #[error("--cpu_affinity: no CPU has the local APIC id {id}; there are {known}")]
    Unknown {
        /// The id.
        id: u32,
        /// Those that exist.
        known: String,
    },
}

/// Looks the CPUs up in the table at `path`.
///
/// # Errors
/// The table cannot be read, or an id is not in it.
pub fn resolve(ids: &[u32], path: &Path) -> Result<Affinity, AffinityError> {
    if ids.is_empty() {
        return Ok(Affinity::default());
    }
    let table = std::fs::read(path).map_err(|source| AffinityError::Table {
        path: path.display().to_string(),
        source,
    })?;
    let known = cpus(&table);
    let mut numbers = Vec::new();
    for id in ids {
        let position = known
            .iter()
            .position(|other| other == id)
            .filter(|at| *at < MAX_CPUS);
        match position {
            Some(number) => numbers.push(number),
            None => {
                let known = known
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(AffinityError::Unknown { id: *id, known });
            }
        }
    }
    numbers.sort_unstable();
    Ok(Affinity {
        bitmap: numbers
            .iter()
            .fold(0, |bitmap, number| bitmap | 1 << number),
        apic_ids: numbers
            .iter()
            .filter_map(|number| known.get(*number).copied())
            .collect(),
    })
}

/// Local APIC ids of the usable CPUs in a MADT, in its order.
fn cpus(table: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = table.get(HEADER..).unwrap_or(&[]);
    while let [kind, length, ..] = *rest {
        let Some(entry) = rest
            .get(..usize::from(length))
            .filter(|entry| entry.len() >= 2)
        else {
            break;
        };
        let word = |at: usize| {
            entry
                .get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u32::from_le_bytes)
        };
        match kind {
            LAPIC if word(4) & ENABLED != 0 => ids.extend(entry.get(3).map(|id| u32::from(*id))),
            X2APIC if word(8) & ENABLED != 0 => ids.push(word(4)),
            _ => {}
        }
        rest = &rest[entry.len()..];
    }
    ids
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn table() -> tempfile::NamedTempFile {
        let mut bytes = vec![0; HEADER];
        bytes.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        bytes.extend([1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0, 8, 1, 2, 0, 0, 0, 0]);
        bytes.extend([0, 8, 2, 4, 1, 0, 0, 0]);
        bytes.extend([9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn ids_become_positions_among_the_enabled_cpus() {
        let affinity = resolve(&[300, 4], table().path()).unwrap();
        assert_eq!(
            affinity,
            Affinity {
                bitmap: 0b110,
                apic_ids: vec![4, 300]
            }
        );
    }

    #[test]
    fn a_disabled_or_missing_cpu_is_named_with_those_that_exist() {
        let error = resolve(&[2], table().path()).unwrap_err().to_string();
        assert!(
            error.contains("id 2") && error.contains("0, 4, 300"),
            "{error}"
        );
    }

    #[test]
    fn no_list_needs_no_table() {
        assert_eq!(
            resolve(&[], Path::new("/none")).unwrap(),
            Affinity::default()
        );
        assert!(resolve(&[0], Path::new("/none")).is_err());
    }

    #[test]
    fn a_damaged_table_ends_where_it_is_damaged() {
        assert!(cpus(&[0; 10]).is_empty());
        assert!(cpus(&[vec![0; HEADER], vec![0, 0, 1]].concat()).is_empty());
        assert!(cpus(&[vec![0; HEADER], vec![0, 200, 1]].concat()).is_empty());
    }
}
