//! Intel VMX (SDM volume 3C) as data, without a single privileged instruction.
//!
//! * [`Field`]: the encodings of VMCS fields;
//! * [`Capabilities`]: what the capability MSRs say, read once, and the controls that follow from
//!   it ([`Controls`]), with the name of each that is needed and missing;
//! * [`exit`]: reasons of VM exits and errors of VMX instructions;
//! * [`check`]: which of the manual's checks a refused VM entry has failed.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod capability;
pub mod check;
pub mod control;
pub mod exit;
mod field;
mod field_name;

pub use capability::{Capabilities, ControlMsr, MSRS, MissingControls};
pub use control::{Controls, Entry, Exits, Pin, Primary, Secondary};
pub use field::Field;
