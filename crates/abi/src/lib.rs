//! Types and memory layouts shared by the hypervisor, the Service VM's kernel (upstream Linux
//! `drivers/virt/acrn`), the Device Model and the tests. One definition, used everywhere.
//!
//! This crate knows nothing of the others and contains no behaviour beyond conversions. Where to
//! look:
//!
//! * [`types`]: addresses and identifiers, re-exported here;
//! * [`hypercall`]: numbers, errors and parameter blocks of the `VMCALL` interface;
//! * [`hsm`]: what `/dev/acrn_hsm` takes, for programs in the Service VM;
//! * [`ioreq`]: the page through which the hypervisor hands I/O to the Device Model;
//! * [`sbuf`]: shared rings for trace, log and events;
//! * [`vm_flags`], [`cpuid`], [`guest_map`], [`module_tag`]: small sets of agreed values;
//! * [`physical`]: how parsers of firmware data reach host memory.
//!
//! All layouts are little endian, as x86 is. Bytes from a guest are read into these types with
//! `zerocopy`; every bit pattern is a valid value, so judging it is left to whoever acts on it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// Fails the build when a structure is not laid out as the other side expects.
macro_rules! layout {
    ($ty:ty: $size:literal { $($field:ident @ $offset:literal),* $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$ty>() == $size);
            $(assert!(core::mem::offset_of!($ty, $field) == $offset);)*
        };
    };
}

pub mod cpuid;
pub mod guest_map;
pub mod hsm;
pub mod hypercall;
pub mod ioreq;
pub mod module_tag;
pub mod physical;
pub mod sbuf;
pub mod types;
pub mod vm_flags;

pub use physical::PhysicalMemory;
pub use types::*;
