//! What can be wrong with a table.

use crate::table::Signature;
use acrn_abi::Hpa;
use core::fmt;

/// Which table, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Neither the boot loader nor the BIOS areas have a root pointer.
    NoRsdp,
    /// The root pointer's bytes are too few, or do not begin or sum as they should.
    BadRsdp,
    /// There is no such table.
    Missing {
        /// Its signature.
        table: Signature,
    },
    /// The memory of a table cannot be read.
    Unreadable {
        /// Its signature, as far as known.
        table: Signature,
        /// Its address.
        address: Hpa,
    },
    /// Another table than the one that was pointed to.
    WrongSignature {
        /// What it should be.
        table: Signature,
        /// What is there.
        found: Signature,
        /// Its address.
        address: Hpa,
    },
    /// A length that cannot be.
    BadLength {
        /// The table.
        table: Signature,
        /// Its length in bytes.
        length: u32,
    },
    /// The bytes of the table do not sum to zero.
    BadChecksum {
        /// The table.
        table: Signature,
        /// Its address.
        address: Hpa,
        /// What they sum to.
        sum: u8,
    },
    /// An entry of a table is shorter than its head or leaves the table.
    BadEntry {
        /// The table.
        table: Signature,
        /// Offset of the entry in the table.
        offset: u32,
        /// Length that it gives.
        length: u32,
    },
    /// More entries than there is room for; the rest is ignored.
    TooMany {
        /// The table.
        table: Signature,
        /// Of what.
        what: &'static str,
        /// Room.
        max: usize,
    },
    /// The MADT names no usable CPU.
    NoCpu,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRsdp => f.write_str(
                "no ACPI root pointer, neither from the boot loader nor in the BIOS areas",
            ),
            Self::BadRsdp => f.write_str("the ACPI root pointer of the boot loader is damaged"),
            Self::Missing { table } => write!(f, "ACPI table {table} is missing"),
            Self::Unreadable { table, address } => {
                write!(f, "ACPI table {table} at {address} cannot be read")
            }
            Self::WrongSignature {
                table,
                found,
                address,
            } => {
                write!(f, "ACPI table at {address} is {found}, not {table}")
            }
            Self::BadLength { table, length } => {
                write!(
                    f,
                    "ACPI table {table} has an impossible length of {length} bytes"
                )
            }
            Self::BadChecksum {
                table,
                address,
                sum,
            } => {
                write!(
                    f,
                    "ACPI table {table} at {address} has a wrong checksum (sum {sum:#04x})"
                )
            }
            Self::BadEntry {
                table,
                offset,
                length,
            } => write!(
                f,
                "ACPI table {table}: entry at offset {offset:#x} has an impossible length of {length}"
            ),
            Self::TooMany { table, what, max } => {
                write!(
                    f,
                    "ACPI table {table} has more than {max} {what}; the rest is ignored"
                )
            }
            Self::NoCpu => f.write_str("ACPI table APIC names no enabled CPU"),
        }
    }
}
