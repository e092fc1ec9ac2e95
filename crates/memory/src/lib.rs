//! Memory of the machine and of its guests, as three data structures over storage of the caller.
//!
//! * [`MemoryMap`] is a sorted list of address ranges with a kind: what the firmware reports
//!   ([`HostMap`]) and what a guest is told ([`GuestMap`], its e820).
//! * [`OwnerMap`] knows the one owner of each 4 KiB host page and to whom it is lent. Whoever maps
//!   host memory anywhere asks it first; that is how no guest ever reaches the hypervisor.
//! * [`pc`] lays host ranges out as the memory of a PC.
//! * [`NestedTable`] is the second stage of address translation, in AMD's format ([`Npt`]) or
//!   Intel's ([`Ept`]), over an abstract [`FrameStore`].
//!
//! Every operation checks its whole range before it changes anything and either happens
//! completely or not at all. Nothing here locks, allocates or touches real memory: the hypervisor
//! wraps these in its own locks and brings the frames; the tests bring a vector.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod map;
mod nested;
mod owner;
pub mod pc;

pub use map::{
    Address, Block, GuestMap, HostMap, MAP_CAPACITY, MapChangeError, MemoryKind, MemoryMap, Side,
};
pub use nested::{
    Access, Ept, Format, FrameStore, Limits, MapError, Mapping, MemType, NestedTable, Npt,
};
pub use owner::{Borrowers, Class, Owner, OwnerError, OwnerMap, VM_LIMIT};
