//! Types and memory layouts shared by the hypervisor, the Service VM's kernel (upstream Linux
//! `drivers/virt/acrn`), the Device Model and the tests. One definition, used everywhere.
//!
//! This crate knows nothing of the others and contains no behaviour beyond conversions.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod types;

pub use types::*;
