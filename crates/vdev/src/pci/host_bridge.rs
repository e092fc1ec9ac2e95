//! A host bridge of our own, for VMs that see no physical one.

use super::{all_ones, extract, is_regular};

/// Configuration space of a host bridge without registers: identification only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostBridge {
    vendor: u16,
    device: u16,
}

impl HostBridge {
    /// A bridge with these ids. Some operating systems choose a configuration mechanism by them.
    pub const fn new(vendor: u16, device: u16) -> Self {
        Self { vendor, device }
    }

    /// Reads `size` bytes at `register`. Writes have no effect, so there is no `write`.
    pub const fn read(&self, register: u16, size: u8) -> u32 {
        if !is_regular(register, size) {
            return all_ones(size);
        }
        let dword = match register & !3 {
            0x00 => (self.device as u32) << 16 | self.vendor as u32,
            // Class: bridge, host.
            0x08 => 0x0600_0000,
            _ => 0,
        };
        extract(dword, register, size)
    }
}
