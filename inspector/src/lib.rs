//! What a machine has, as a board file; and whether acrn-rs will run on it.
//!
//! Everything is read from files that Linux offers (`/sys`, `/proc`) and with CPUID; nothing is written
//! and no physical memory is opened. [`host`] is the way to both, and notes as a [`host::Gap`] whatever
//! cannot be read, with the reason and what it means, so that a machine which hides something gets a
//! board file all the same.
//!
//! [`inspect`] collects: [`cpu`], [`cache`], [`memory`], [`tables`], [`ivrs`] and [`namespace`] of ACPI, [`pci`],
//! [`classes`] of devices, and the texts of the format's older half in [`texts`]. [`doctor`] judges.

#![forbid(unsafe_code)]

pub mod aml;
pub mod cache;
pub mod classes;
pub mod cli;
pub mod cpu;
pub mod cpuid;
pub mod doctor;
pub mod host;
pub mod inspect;
pub mod ivrs;
pub mod memory;
pub mod namespace;
pub mod pci;
pub mod run;
mod summary;
pub mod tables;
pub mod texts;
mod xml;
