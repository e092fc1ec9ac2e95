//! The state machines of VMs and virtual CPUs.
//!
//! [`VmState::on`] and [`VcpuState::on`] are pure functions: from a state and a request to the next
//! state or to a refusal that names both. They decide only whether a request is in order. Doing
//! what it asks (stopping vCPUs, freeing memory) is the hypervisor's work, which sets the new state
//! when that work is complete.
//!
//! The states, their numbers and the way from one to another are ACRN's, so that an unmodified
//! Linux `drivers/virt/acrn` and Device Model get the answers that they know; what is added is
//! resuming from pause, and that every refusal is an error instead of a silent success.
//!
//! [`Restarts`] decides when a VM that has ended by mistake may start again.
//!
//! [`validate`] turns what the Service VM asks into types that can be acted on, or into errors.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod restarts;
pub mod validate;
mod vcpu;
mod vm;

pub use restarts::Restarts;
pub use vcpu::{VcpuRefused, VcpuRequest, VcpuState};
pub use vm::{Caller, Reason, Refused, Severity, Standing, VmRequest, VmState};
