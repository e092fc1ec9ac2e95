//! The configuration that the hypervisor reads at boot, from the module tagged `acrn_config`.
//!
//! `acrn-config build` makes it of a board file and a scenario file; the hypervisor only reads it.
//! The same types serve both: [`Config::parse`] borrows from the module's bytes and allocates nothing,
//! [`encode`] writes a [`Config`] whose lists are slices. A hypervisor without a module can make its
//! built-in default of the same types.
//!
//! The format: a header of 20 bytes ([`header`]), then the fields of [`Config`] in the order of their
//! declaration, little endian, without padding. A list is a `u16` count and records of one size; a
//! text is a `u16` length and UTF-8. There are no pointers, so nothing can point astray.
//!
//! What parsing promises: any bytes are answered, with a [`Config`] whose every value is in range and
//! whose references (CPUs, VMs, vUARTs, shared regions) lead somewhere, or with an [`Error`] that names
//! the field. The checksum (CRC-32) finds damage, not malice: the blob is as trustworthy as the boot
//! loader that brought it. Whether the blob suits the machine is another question, which
//! [`Config::check_machine`] answers.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod check;
mod choice;
mod config;
mod crc;
mod encode;
mod error;
mod field;
pub mod header;
mod list;
mod machine;
mod options;
mod reader;
#[cfg(test)]
mod testing;
mod text;
mod vm;
mod vms;
mod walk;

pub use choice::{
    CacheKind, ConsoleKind, DeviceKind, KernelKind, LoadOrder, MmioKind, PerformancePolicy,
    Priority, Restart, Scheduler, ShellMode, VmKind, VuartKind,
};
pub use config::{Board, BoardCpu, BoardPci, Config, Range};
pub use encode::encode;
pub use error::{Error, Path, Problem};
pub use field::{Field, Record};
pub use list::List;
pub use machine::{Machine, Mismatch};
pub use options::{CacheMask, Capacities, Console, Features, HiddenDevice, Options, SharedRegion};
pub use text::Text;
pub use vm::{
    Bar, IntxPin, MemoryRegion, MmioDevice, Os, PciDevice, Scheduling, Target, Vcpu, VirtualClos,
    Vm, Vuart,
};
pub use vms::Vms;
pub use walk::{Shown, Visitor};

/// Most VMs.
pub const MAX_VMS: usize = 16;
/// Most CPUs, of the board and of a VM.
pub const MAX_CPUS: usize = 64;
/// Longest name of a VM, in bytes.
pub const MAX_NAME: usize = 15;
/// Longest boot arguments, in bytes.
pub const MAX_BOOTARGS: usize = 2047;
/// Longest tag of a boot module, in bytes.
pub const MAX_TAG: usize = 31;
/// Longest name of a shared memory region, in bytes.
pub const MAX_REGION_NAME: usize = 27;
/// Number of the vUART that is the VM's console.
pub const CONSOLE_VUART: u16 = 0;
/// Most vUARTs of a VM: its console; 8 lines; and those through which the Service VM and the
/// others tell each other to shut down.
pub const MAX_VUARTS: usize = 24;
/// Most PCI devices that a VM is given.
pub const MAX_PCI_DEVICES: usize = 64;
/// Most pieces of host memory of a VM.
pub const MAX_MEMORY_REGIONS: usize = 16;
/// Most regions of shared memory.
pub const MAX_SHARED_REGIONS: usize = 8;
/// Most MMIO devices of a VM.
pub const MAX_MMIO_DEVICES: usize = 2;
/// Most pins of I/O APICs that are passed to a VM.
pub const MAX_INTX_PINS: usize = 32;
/// Most classes of service.
pub const MAX_CLOS: usize = 128;
/// Most cache masks.
pub const MAX_CACHE_MASKS: usize = 512;
/// Most devices that nobody gets.
pub const MAX_HIDDEN: usize = 32;
/// Most ranges of RAM that identify a board.
pub const MAX_RAM_RANGES: usize = 64;
/// A VM or vUART that does not exist.
pub const NO_VM: u16 = 0xffff;
