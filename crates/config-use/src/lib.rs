//! What the hypervisor makes of its configuration.
//!
//! [`Setup::judge`] decides whether the boot module's bytes are in force on this machine; if not, why
//! not ([`Refusal`]), and whether the machine starts with the safe default, a Service VM alone. A
//! [`Setup`] then answers what start-up and the life of VMs ask: levels of the log, what the shell may
//! do, how each CPU is shared, which CPUs and which slot of the VM table a VM has. [`lines`] are the
//! serial lines between VMs, [`HugePages`] are what the Service VM's kernel reserves for others.
//! [`without_effect`] names everything that a configuration asks for and does not get.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod effect;
mod line;
mod reserve;
mod schedule;
mod setup;
#[cfg(test)]
mod testing;

pub use effect::without_effect;
pub use line::{LineEnd, lines};
pub use reserve::HugePages;
pub use setup::{MAX_SIZE, Place, Rank, Refusal, SLOTS, Setup};
