//! A total parser of the ACPI tables that the hypervisor needs.
//!
//! The hypervisor asks one question, [`Platform::discover`]: which CPUs, interrupt controllers,
//! PCI configuration windows, timers, power registers and IOMMUs does this machine have? The
//! answer is plain data of fixed size. Only a missing or broken MADT is fatal; any other table
//! that is absent is absent, and one that is broken is skipped and named in
//! [`Platform::problems`].
//!
//! * [`rsdp`] finds and checks the root pointer;
//! * [`table`] reads one table with its checksum, and the lists that lead to it;
//! * [`madt`], [`fadt`], [`dmar`], [`small`] read the single tables;
//! * [`facs`] is where the machine goes on after its sleep;
//! * [`sleep`] finds the sleep types in the byte code of the DSDT, without an interpreter;
//! * [`checksum`] is for modified copies of tables that a guest is to see;
//! * [`build`] makes the tables of VMs that the hypervisor starts itself.
//!
//! Section numbers are of the ACPI specification 6.5.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod build;
pub mod checksum;
pub mod dmar;
mod error;
pub mod facs;
pub mod fadt;
pub mod madt;
mod platform;
pub mod rsdp;
pub mod sleep;
pub mod small;
pub mod table;

#[cfg(test)]
mod testing;

pub use dmar::Dmar;
pub use error::Error;
pub use fadt::{Fadt, Register};
pub use madt::{Cpu, IoApic, Madt, NmiSource, Override};
pub use platform::Platform;
pub use rsdp::Rsdp;
pub use sleep::SleepType;
pub use small::{Ecam, Hpet};
pub use table::{Signature, Table};
