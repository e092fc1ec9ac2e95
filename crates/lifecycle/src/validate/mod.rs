//! What the Service VM asks by hypercall, decoded and judged.
//!
//! Pure functions from the registers and parameter blocks of `acrn_abi::hypercall`, every bit of
//! which is a claim of a guest, to types that the hypervisor can act on. They know numbers only:
//! whether a VM exists, who owns a page and which state a VM is in is asked by whoever acts.

mod call;
mod creation;
mod device;
mod region;
mod registers;
mod ring;

pub use call::{BadCall, Call, PassThrough, VdevChange};
pub use creation::{BadCreation, Creation};
pub use device::{BadVdev, Emulated, PciPlace, RegionName, Removal, UartPlace};
pub use region::{BadRegion, Change, MAX_REGIONS, Region};
pub use registers::{BadRegisters, Code, Limits, Segment, Start};
pub use ring::{BadRingRequest, Content, RingRequest};
