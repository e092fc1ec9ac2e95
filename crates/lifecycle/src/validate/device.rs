//! Devices that the hypervisor emulates for a User VM. There is one: the serial port behind the
//! shell's `vm_console`.
//!
//! ACRN takes it from the scenario, upstream Linux has no call for it. Ours is asked for with the
//! call for emulated devices: vendor 0, device 0, `legacy_id` [`UART_LEGACY_ID`], `io_addr[0]` the
//! first of eight ports, `io_size[0]` 8, `args[0]` the interrupt line.

use acrn_abi::hypercall::{Errno, Vdev};
use acrn_abi::{Gsi, guest_map};
use core::fmt;

/// `legacy_id` of the serial port.
pub const UART_LEGACY_ID: u32 = 1;

/// Ports of a 16550.
const PORTS: u32 = 8;
/// Below are the devices of every PC.
const FIRST_PORT: u32 = 0x100;
/// Other registers that the hypervisor or the kernel of the Service VM answers, as eights.
const TAKEN: [u16; 3] = [
    guest_map::PORT_ELCR & !7,
    guest_map::PORT_PCI_ADDRESS,
    guest_map::PORT_PM1A_EVENT,
];

/// Where a serial port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UartPlace {
    /// First port.
    pub port: u16,
    /// Interrupt line.
    pub gsi: Gsi,
}

/// Why a device is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadVdev {
    /// No device of this vendor, device and legacy number is emulated here.
    Unknown {
        /// PCI vendor.
        vendor: u16,
        /// PCI device.
        device: u16,
        /// Number of a device without PCI.
        legacy_id: u32,
    },
    /// The serial port cannot be there.
    Ports {
        /// First port.
        first: u32,
        /// Number of ports.
        count: u32,
    },
    /// The serial port cannot have this line.
    Line(u8),
}

impl BadVdev {
    /// The result for the caller.
    pub const fn errno(self) -> Errno {
        Errno::EINVAL
    }
}

impl fmt::Display for BadVdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown {
                vendor,
                device,
                legacy_id,
            } => {
                write!(
                    f,
                    "no device {vendor:04x}:{device:04x}, legacy {legacy_id}, is emulated"
                )
            }
            Self::Ports { first, count } => {
                write!(f, "a serial port cannot have {count} ports at {first:#x}")
            }
            Self::Line(gsi) => write!(f, "a serial port cannot have line {gsi}"),
        }
    }
}

impl core::error::Error for BadVdev {}

impl UartPlace {
    /// Judges a description.
    ///
    /// # Errors
    /// [`BadVdev`].
    pub fn new(vdev: &Vdev) -> Result<Self, BadVdev> {
        let Vdev {
            vendor,
            device,
            legacy_id,
            ..
        } = *vdev;
        if (vendor, device, legacy_id) != (0, 0, UART_LEGACY_ID) {
            return Err(BadVdev::Unknown {
                vendor,
                device,
                legacy_id,
            });
        }
        let (first, count) = (vdev.io_addr[0], vdev.io_size[0]);
        let bad = BadVdev::Ports { first, count };
        let port = u16::try_from(first).map_err(|_| bad)?;
        if count != PORTS || first % PORTS != 0 || first < FIRST_PORT || TAKEN.contains(&port) {
            return Err(bad);
        }
        let line = vdev.args[0];
        // 0 and 2 are the timer, 2 also the link between the two 8259s.
        if line == 0 || line == 2 || u32::from(line) >= guest_map::IOAPIC_PINS {
            return Err(BadVdev::Line(line));
        }
        Ok(Self {
            port,
            gsi: Gsi(line.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uart(port: u32, count: u32, line: u8) -> Vdev {
        let mut vdev = Vdev {
            vendor: 0,
            device: 0,
            legacy_id: UART_LEGACY_ID,
            slot: 0,
            io_addr: [0; 6],
            io_size: [0; 6],
            args: [0; 128],
        };
        vdev.io_addr[0] = port;
        vdev.io_size[0] = count;
        vdev.args[0] = line;
        vdev
    }

    #[test]
    fn com_ports_and_free_ports_are_accepted() {
        for port in [0x3f8, 0x2f8, 0x3e8, 0x2e8, 0x9200, 0xfff8] {
            let place = UartPlace::new(&uart(port, 8, 4)).unwrap();
            assert_eq!((u32::from(place.port), place.gsi), (port, Gsi(4)));
        }
    }

    #[test]
    fn ports_of_other_devices_odd_ones_and_none_are_refused() {
        for port in [
            0, 0x20, 0xf8, 0x400, 0x4d0, 0xcf8, 0x3f9, 0x1_03f8, 0x1_0000,
        ] {
            assert!(UartPlace::new(&uart(port, 8, 4)).is_err(), "{port:#x}");
        }
        assert!(UartPlace::new(&uart(0x3f8, 4, 4)).is_err());
    }

    #[test]
    fn a_line_is_an_input_that_is_not_the_timers() {
        for line in [0, 2, 48, 255] {
            assert_eq!(
                UartPlace::new(&uart(0x3f8, 8, line)),
                Err(BadVdev::Line(line))
            );
        }
        assert!(UartPlace::new(&uart(0x3f8, 8, 47)).is_ok());
    }

    #[test]
    fn other_devices_are_unknown() {
        let mut vdev = uart(0x3f8, 8, 4);
        vdev.vendor = 0x1af4;
        assert!(matches!(
            UartPlace::new(&vdev),
            Err(BadVdev::Unknown { vendor: 0x1af4, .. })
        ));
    }
}
