//! The UART of a guest's console: what [`crate::console`] shows.

use super::Vm;
use crate::virtual_pci;
use acrn_abi::Bdf;
use acrn_lifecycle::validate::UartPlace;
use acrn_vdev::uart::VUart;

/// The console's number among the sources of a line.
pub const CONSOLE_SOURCE: u8 = 0;

/// Where a guest finds the UART of its console.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ConsolePlace {
    /// Nowhere: the guest has none.
    Absent,
    /// At I/O ports.
    Ports(UartPlace),
    /// On a PCI card.
    Card {
        /// The card.
        bdf: Bdf,
        /// The UART's interrupt as the card has told it.
        told: bool,
    },
}

/// The UART of a guest's console.
pub struct ConsoleUart {
    /// Where it is.
    pub place: ConsolePlace,
    /// The device.
    pub device: VUart,
}

impl ConsoleUart {
    /// None, until it gets a place.
    pub(super) const fn absent() -> Self {
        Self {
            place: ConsolePlace::Absent,
            device: VUart::new(),
        }
    }

    /// Whether the guest has it.
    pub fn is_there(&self) -> bool {
        self.place != ConsolePlace::Absent
    }

    /// Gives it to the guest, as after power-up.
    pub fn put(&mut self, place: ConsolePlace) {
        *self = Self {
            place,
            ..Self::absent()
        };
    }

    /// Takes it from the guest.
    pub fn remove(&mut self) {
        self.place = ConsolePlace::Absent;
    }

    /// As after power-up.
    pub(super) fn reset(&mut self) {
        self.device = VUart::new();
        if let ConsolePlace::Card { told, .. } = &mut self.place {
            *told = false;
        }
    }
}

impl Vm {
    /// Brings the UART's interrupt in step with the device.
    pub fn refresh_uart_line(&self) {
        // The lock is held until the line is set: another CPU that changes the UART in between
        // would see its own, newer level undone, and the guest would miss an interrupt for good.
        let mut uart = self.uart.lock();
        let level = uart.device.irq();
        match &mut uart.place {
            ConsolePlace::Absent => {}
            ConsolePlace::Ports(place) => self.set_shared_line(place.gsi, CONSOLE_SOURCE, level),
            ConsolePlace::Card { bdf, told } => {
                let before = core::mem::replace(told, level);
                if level && !before {
                    virtual_pci::raise(self, *bdf, 0);
                }
            }
        }
    }
}
