//! Intel VT-d as data: what a remapping unit can do, the tables that it walks, the queue that makes
//! it forget, what becomes of interrupts, and what it says of refused accesses and interrupts.
//!
//! Nothing here touches hardware; the hypervisor's module `iommu` does. Only legacy mode is there:
//! requests without PASID go through a second-level table, which maps the addresses of a VM as its
//! nested table does ([`SecondLevel`]). Interrupts are remapped ([`InterruptEntry`]), not posted.
//!
//! Section numbers are of the VT-d specification 4.1.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod capability;
mod fault;
mod interrupt;
mod queue;
pub mod register;
mod second_level;
mod table;

pub use capability::{Capabilities, Missing, Width};
pub use fault::{Fault, Reason, Refused};
pub use interrupt::{
    INTERRUPTS, InterruptEntry, Route, message, redirected, redirection, table_register,
};
pub use queue::{Descriptor, ENTRIES, Queue};
pub use second_level::SecondLevel;
pub use table::{ContextEntry, DomainId, RootEntry};
