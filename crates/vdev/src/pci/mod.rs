//! PCI configuration space: who is addressed, and what a VM may do with a physical function.
//!
//! An access arrives through ports 0xCF8/0xCFC ([`ConfigAddress`]) or the memory-mapped window
//! ([`EcamWindow`]) and becomes a [`ConfigAccess`]. A function that a VM owns is a [`Function`]:
//! most registers go to the hardware, while message-signalled interrupts are shadowed, so that
//! the guest programs its own vectors and the hypervisor the physical ones. The physical side is
//! any [`ConfigSpace`]. A function that only exists here is a [`VirtualFunction`].

mod access;
mod bar;
mod function;
mod host_bridge;
mod message;
mod msi;
mod msix;
mod scan;
mod virtual_function;

#[cfg(test)]
mod tests;

use acrn_abi::Bdf;

pub use access::{CONFIG_ADDRESS_PORT, CONFIG_DATA_PORT, ConfigAccess, ConfigAddress, EcamWindow};
pub use bar::{BAR_COUNT, Bar, BarKind, ROM_BAR};
pub use function::{BusNumbers, ConfigAction, Function, Header};
pub use host_bridge::HostBridge;
pub use message::MsiMessage;
pub use msi::Msi;
pub use msix::{Msix, MsixEntry, MsixTable};
pub use scan::{Capabilities, enumerate};
pub use virtual_function::{Identity, MAX_VECTORS, TABLE_BAR_SIZE, VirtualFunction};

/// Bytes of one function's configuration space, PCI Express.
pub const CONFIG_SIZE: u16 = 4096;

/// Access to physical configuration space.
///
/// `register` and `size` come from a checked [`ConfigAccess`] or are constants: `size` is 1, 2 or
/// 4, and the access lies in one aligned doubleword.
pub trait ConfigSpace {
    /// Reads `size` bytes; all ones when there is no such function or register.
    fn read(&self, bdf: Bdf, register: u16, size: u8) -> u32;
    /// Writes the low `size` bytes of `value`.
    fn write(&mut self, bdf: Bdf, register: u16, size: u8, value: u32);
}

/// What a read of `size` bytes returns when nothing answers.
pub const fn all_ones(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

/// The `size` bytes of an aligned doubleword at `register`, as an access would see them.
const fn extract(dword: u32, register: u16, size: u8) -> u32 {
    (dword >> ((register & 3) * 8)) & all_ones(size)
}

/// An aligned doubleword after `size` bytes at `register` were written.
const fn merge(dword: u32, register: u16, size: u8, value: u32) -> u32 {
    let shift = (register & 3) * 8;
    let mask = all_ones(size) << shift;
    dword & !mask | value << shift & mask
}

/// Whether an access is one that configuration space has: 1, 2 or 4 bytes in one doubleword.
const fn is_regular(register: u16, size: u8) -> bool {
    matches!(size, 1 | 2 | 4) && (register & 3) + size as u16 <= 4 && register < CONFIG_SIZE
}

/// Registers of the common header (PCI 3.0, 6.1).
mod reg {
    pub const VENDOR: u16 = 0x00;
    pub const COMMAND: u16 = 0x04;
    pub const STATUS: u16 = 0x06;
    pub const CLASS_REVISION: u16 = 0x08;
    pub const HEADER_TYPE: u16 = 0x0e;
    pub const BAR0: u16 = 0x10;
    pub const BUS_NUMBERS: u16 = 0x18;
    pub const ROM_ENDPOINT: u16 = 0x30;
    pub const CAPABILITIES: u16 = 0x34;
    pub const ROM_BRIDGE: u16 = 0x38;
}

/// I/O and memory decode bits of the command register.
const COMMAND_DECODE: u32 = 3;
