//! A UART on a PCI card: the MCS9900 as ACRN emulates it, with one port and one MSI-X interrupt.
//!
//! Linux's `8250_pci` knows it by its ids and asks it for message-signalled interrupts. The UART is
//! somebody else's, such as the end of a [`SerialLink`](crate::serial_link::SerialLink).

use crate::pci::{Identity, VirtualFunction};
use acrn_abi::guest_map::PCI_UART_ID;

/// BAR with the registers of the UART, a byte each, in the order of the ports of a PC.
pub const REGISTERS: u8 = 0;
/// BAR with the MSI-X table.
pub const TABLE: u8 = 1;
/// Registers at the start of their BAR.
pub const REGISTER_COUNT: u64 = 8;

/// By the subsystem Linux tells the chip's many forms apart.
const SUBSYSTEM: (u16, u16) = (0xa000, 0x1000);
/// Serial port, compatible with the 16550.
const CLASS: u32 = 0x07_0002;

/// The PCI function.
pub fn function() -> VirtualFunction {
    let identity = Identity {
        id: PCI_UART_ID,
        subsystem: SUBSYSTEM,
        class: CLASS,
        revision: 0,
    };
    VirtualFunction::new(identity)
        .with_memory32(REGISTERS, 0x1000)
        .with_msix(TABLE, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_ids_by_which_linux_knows_a_single_port() {
        let function = function();
        assert_eq!(function.read(0, 4), 0x9900_9710);
        assert_eq!(function.read(0x2c, 4), 0x1000_a000);
        assert_eq!(function.read(8, 4) >> 8, 0x07_0002);
        assert_eq!(function.read(0x42, 2), 0, "one vector");
    }
}
