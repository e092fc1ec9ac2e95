//! Intel VT-d as data: what a remapping unit can do, the tables that it walks, the queue that makes
//! it forget, and what it says of a refused access.
//!
//! Nothing here touches hardware; the hypervisor's module `iommu` does. Only legacy mode is there:
//! requests without PASID go through a second-level table, which maps the addresses of a VM as its
//! nested table does ([`SecondLevel`]). Remapping of interrupts is not there.
//!
//! Section numbers are of the VT-d specification 4.1.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod capability;
mod fault;
mod queue;
pub mod register;
mod second_level;
mod table;

pub use capability::{Capabilities, Missing, Width};
pub use fault::{Fault, Reason};
pub use queue::{Descriptor, ENTRIES, Queue};
pub use second_level::SecondLevel;
pub use table::{ContextEntry, DomainId, RootEntry};
