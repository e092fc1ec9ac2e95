//! The virtual PCI bus: what a device model implements and what it may use.
//!
//! A device is a [`PciDevice`]: it owns a [`ConfigSpace`] and answers accesses to its BARs.
//! The [`bus`] does everything that all functions have in common: header, BAR sizing and
//! relocation, command register, capability list, routing of accesses. A device is created
//! with a [`PciContext`], its only way to the guest: memory, interrupts and I/O event
//! descriptors.
//!
//! One device is behind one lock, so its methods never run at the same time. Threads that a
//! device starts use the shared handles of the context ([`msix::MsixSignaller`] and the
//! traits here), which all may be called from any thread.

pub mod bus;
pub mod config;
pub mod legacy;
pub mod msix;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use acrn_abi::types::Bdf;
use vm_memory::GuestMemoryMmap;
pub use vmm_sys_util::eventfd::EventFd;

pub use self::config::{BarKind, ConfigSpace, Identity, SetupError};

/// Guest RAM as device models see it.
pub type GuestRam = GuestMemoryMmap<()>;

/// The INTx line of a slot, level triggered. Several slots may share one interrupt; the
/// implementation keeps it asserted while any of them asserts.
pub trait InterruptLine: Send + Sync {
    /// Asserts or releases the line.
    fn set(&self, level: bool);
}

/// Message-signalled interrupts of the VM.
pub trait MsiSink: Send + Sync {
    /// Sends one message: `address` and `data` as the guest programmed them. Failures are
    /// logged, since a device can do nothing about them.
    fn inject(&self, address: u64, data: u32);
    /// From now on a write to `fd` sends the message. If `fd` is readable already, the
    /// message is sent at once.
    ///
    /// # Errors
    /// What the kernel reports; `EBUSY` when `fd` is bound already.
    fn bind_irqfd(&self, fd: &EventFd, address: u64, data: u32) -> io::Result<()>;
    /// Takes the binding of `fd` back.
    ///
    /// # Errors
    /// What the kernel reports.
    fn unbind_irqfd(&self, fd: &EventFd) -> io::Result<()>;
}

/// The guest-physical place of a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoEventAddress {
    /// An I/O port.
    Pio(u16),
    /// A guest physical address.
    Mmio(u64),
}

/// Doorbells that the Service VM's kernel answers by signalling an event descriptor, without
/// waking the Device Model's request loop.
pub trait IoEventSink: Send + Sync {
    /// Signals `fd` on each guest write of at most `len` bytes (1, 2, 4 or 8) to `addr`; with
    /// `datamatch` only on writes of that value.
    ///
    /// Note that the kernel answers *all* accesses to this range from now on: reads return 0,
    /// and writes that match no descriptor are dropped.
    ///
    /// # Errors
    /// What the kernel reports.
    fn bind(
        &self,
        fd: &EventFd,
        addr: IoEventAddress,
        len: u32,
        datamatch: Option<u64>,
    ) -> io::Result<()>;
    /// Takes a binding back. One call removes one binding of `fd`.
    ///
    /// # Errors
    /// What the kernel reports.
    fn unbind(
        &self,
        fd: &EventFd,
        addr: IoEventAddress,
        len: u32,
        datamatch: Option<u64>,
    ) -> io::Result<()>;
}

/// What a device gets to work with.
#[derive(Clone)]
pub struct PciContext {
    /// Guest RAM.
    pub memory: Arc<GuestRam>,
    /// Message-signalled interrupts.
    pub msi: Arc<dyn MsiSink>,
    /// Doorbells.
    pub io_events: Arc<dyn IoEventSink>,
    /// The INTx line of this slot.
    pub intx: Arc<dyn InterruptLine>,
    /// Where the device sits.
    pub bdf: Bdf,
    /// Name of the VM, for host resources that carry it (thread names, MAC seeds).
    pub vm_name: String,
    /// Number of virtual CPUs, the natural limit for queue pairs.
    pub vcpus: u16,
}

/// A function on the virtual bus.
///
/// Everything that a method gets from the guest (offsets, sizes, data) is arbitrary, with two
/// promises: `bar` names a BAR that the device declared, and `offset + data.len()` lies within
/// that BAR, with `data.len()` 1, 2, 4 or 8.
pub trait PciDevice: Send {
    /// Short name for logs, such as `virtio-blk`.
    fn name(&self) -> &str;
    /// The configuration space.
    fn config(&self) -> &ConfigSpace;
    /// The configuration space, for the bus to write to.
    fn config_mut(&mut self) -> &mut ConfigSpace;
    /// The guest reads `size` bytes at `reg`: a chance to refresh computed registers.
    fn config_reading(&mut self, _reg: u16, _size: u8) {}
    /// The guest wrote `size` bytes at `reg`; the new value is in [`PciDevice::config`] already.
    fn config_written(&mut self, _reg: u16, _size: u8) {}
    /// Reads from a BAR.
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]);
    /// Writes to a BAR.
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]);
    /// The function is on the bus and its BARs have the addresses that firmware gives them. Called
    /// once, before the VM runs.
    ///
    /// # Errors
    /// What the device needs for that cannot be had.
    fn placed(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// BARs were moved, or their decoding was switched on or off. Where they are now:
    /// [`ConfigSpace::bar`], `None` while not decoded. Doorbells are to be bound anew here.
    fn bars_moved(&mut self) {}
    /// Puts a medium into a drive that has none.
    ///
    /// # Errors
    /// This is no such drive, or the medium cannot be used.
    fn insert(&mut self, medium: &str) -> Result<(), DeviceError> {
        Err(DeviceError::Option {
            device: "acrn-dm",
            option: medium.to_owned(),
            remedy: "this device takes no medium: name the slot of a virtio-blk with nodisk"
                .to_owned(),
        })
    }
    /// Back to the state after creation, with all threads idle and doorbells and irqfds taken
    /// back. The bus resets the configuration space itself, before this call.
    fn reset(&mut self);
    /// The VM ends: stops threads and writes back what is cached.
    fn stop(&mut self);
}

/// Why a device could not be created. Each text is one sentence with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no such device.
    #[error("no device is called \"{name}\"; the known ones are {known}")]
    UnknownName {
        /// What was asked for.
        name: String,
        /// The names that exist.
        known: &'static str,
    },
    /// An option of the device is wrong.
    #[error("{device} does not accept \"{option}\": {remedy}")]
    Option {
        /// Name of the device.
        device: &'static str,
        /// The offending option.
        option: String,
        /// What to write instead.
        remedy: String,
    },
    /// A file or host device cannot be used.
    #[error("{device} cannot use {}: {source}; {remedy}", path.display())]
    File {
        /// Name of the device.
        device: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// How to mend it.
        remedy: &'static str,
    },
    /// A host resource is missing.
    #[error("{device} cannot {action}: {source}")]
    Host {
        /// Name of the device.
        device: &'static str,
        /// What was tried, such as "start its worker thread".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The device's configuration space could not be laid out.
    #[error("{device} cannot be laid out: {source}")]
    Layout {
        /// Name of the device.
        device: &'static str,
        /// Why.
        source: SetupError,
    },
}
