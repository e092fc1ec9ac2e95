//! Registers of shared memory between VMs (QEMU's ivshmem, revision 1): who I am, and a doorbell.
//!
//! The memory itself is a BAR that the owner maps. Mask and status belong to an interrupt line that
//! revision 1 does not have; they keep what is written.

use crate::pci::{Identity, VirtualFunction};
use acrn_abi::guest_map::IVSHMEM_ID;

/// BAR with the registers, BAR with the MSI-X table, BAR with the memory.
pub const REGISTERS: u8 = 0;
/// BAR with the MSI-X table.
pub const TABLE: u8 = 1;
/// BAR with the memory, the first of two registers.
pub const MEMORY: u8 = 2;
/// Bytes of registers.
pub const REGISTERS_SIZE: u64 = 0x100;
/// Interrupts that others can send.
pub const VECTORS: u16 = 8;

const CLASS: u32 = 0x05_0000;
const SUBSYSTEM_VENDOR: u16 = 0x8086;

const MASK: u64 = 0;
const STATUS: u64 = 4;
const POSITION: u64 = 8;
const DOORBELL: u64 = 12;

/// A guest rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Number of the one that is to be interrupted.
    pub peer: u16,
    /// Which of its interrupts.
    pub vector: u16,
}

/// The registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ivshmem {
    position: u16,
    mask: u32,
    status: u32,
}

impl Ivshmem {
    /// Registers of the VM with this number, after reset.
    pub const fn new(position: u16) -> Self {
        Self {
            position,
            mask: 0,
            status: 0,
        }
    }

    /// Back to the state after creation.
    pub fn reset(&mut self) {
        *self = Self::new(self.position);
    }

    /// The PCI function for `size` bytes of the region with this number.
    pub fn function(size: u64, region: u16) -> VirtualFunction {
        let identity = Identity {
            id: IVSHMEM_ID,
            subsystem: (SUBSYSTEM_VENDOR, region),
            class: CLASS,
            revision: 1,
        };
        VirtualFunction::new(identity)
            .with_memory32(REGISTERS, REGISTERS_SIZE)
            .with_msix(TABLE, VECTORS)
            .with_memory64(MEMORY, size)
    }

    /// Guest's read. Registers are aligned words; other accesses read zero.
    pub const fn read(&self, offset: u64, size: u8) -> u32 {
        match (offset, size) {
            (MASK, 4) => self.mask,
            (STATUS, 4) => self.status,
            (POSITION, 4) => self.position as u32,
            _ => 0,
        }
    }

    /// Guest's write; what is to be done when it rings.
    pub const fn write(&mut self, offset: u64, size: u8, value: u32) -> Option<Ring> {
        match (offset, size) {
            (MASK, 4) => self.mask = value,
            (STATUS, 4) => self.status = value,
            (DOORBELL, 4) => {
                return Some(Ring {
                    peer: (value >> 16) as u16,
                    vector: value as u16,
                });
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_doorbell_names_peer_and_vector() {
        let mut device = Ivshmem::new(3);
        let ring = Ring { peer: 2, vector: 5 };
        assert_eq!(device.write(DOORBELL, 4, 0x0002_0005), Some(ring));
        assert_eq!(device.read(DOORBELL, 4), 0);
    }

    #[test]
    fn a_vm_finds_its_number_and_cannot_change_it() {
        let mut device = Ivshmem::new(3);
        assert_eq!(device.write(POSITION, 4, 9), None);
        assert_eq!(device.read(POSITION, 4), 3);
        device.reset();
        assert_eq!(device.read(POSITION, 4), 3);
    }

    #[test]
    fn mask_and_status_keep_what_is_written_until_reset() {
        let mut device = Ivshmem::new(3);
        assert_eq!(device.write(MASK, 4, 1), None);
        assert_eq!(device.write(STATUS, 4, 2), None);
        assert_eq!((device.read(MASK, 4), device.read(STATUS, 4)), (1, 2));
        device.reset();
        assert_eq!((device.read(MASK, 4), device.read(STATUS, 4)), (0, 0));
    }

    #[test]
    fn parts_of_registers_and_what_is_behind_them_do_nothing() {
        let mut device = Ivshmem::new(3);
        for (offset, size) in [(DOORBELL, 2), (DOORBELL, 8), (13, 4), (16, 4), (252, 4)] {
            assert_eq!(device.write(offset, size, u32::MAX), None);
            assert_eq!(device.read(offset, size), 0);
        }
    }
}
