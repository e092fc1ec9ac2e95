//! Devices that the hypervisor emulates for a User VM, asked for with the call for emulated
//! devices: vendor 0, device 0, and a `legacy_id`.
//!
//! The serial port behind the shell's `vm_console` ([`Vdev::LEGACY_UART`]): ACRN takes it from the
//! scenario, upstream Linux has no call for it. The counters of PM timer and HPET
//! ([`Vdev::LEGACY_COUNTERS`]), whose devices are otherwise the Device Model's.

use acrn_abi::hypercall::{Errno, Vdev};
use acrn_abi::{Gsi, guest_map};
use core::fmt;

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

/// What is to be emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulated {
    /// The serial port.
    Uart(UartPlace),
    /// The counters, which have one place.
    Counters,
}

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
    /// The counters cannot be there.
    Counters {
        /// Port of the PM timer.
        port: u32,
        /// Address of the HPET.
        hpet: u32,
    },
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
            Self::Counters { port, hpet } => {
                write!(f, "PM timer and HPET cannot be at {port:#x} and {hpet:#x}")
            }
        }
    }
}

impl core::error::Error for BadVdev {}

impl Emulated {
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
        match (vendor, device, legacy_id) {
            (0, 0, Vdev::LEGACY_UART) => UartPlace::new(vdev).map(Self::Uart),
            (0, 0, Vdev::LEGACY_COUNTERS) => {
                let [port, hpet, ..] = vdev.io_addr;
                let wanted = (
                    [guest_map::PORT_PM_TIMER.into(), guest_map::HPET_BASE.0],
                    [4, guest_map::HPET_SIZE],
                );
                let sizes = [vdev.io_size[0], vdev.io_size[1]];
                if ([port, hpet].map(u64::from), sizes.map(u64::from)) == wanted {
                    Ok(Self::Counters)
                } else {
                    Err(BadVdev::Counters { port, hpet })
                }
            }
            _ => Err(BadVdev::Unknown {
                vendor,
                device,
                legacy_id,
            }),
        }
    }
}

impl UartPlace {
    fn new(vdev: &Vdev) -> Result<Self, BadVdev> {
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
            legacy_id: Vdev::LEGACY_UART,
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
    fn the_counters_have_one_place() {
        let mut vdev = uart(0x408, 4, 0);
        vdev.legacy_id = Vdev::LEGACY_COUNTERS;
        vdev.io_addr[1] = 0xfed0_0000;
        vdev.io_size[1] = 0x400;
        assert_eq!(Emulated::new(&vdev), Ok(Emulated::Counters));
        for index in 0..2 {
            let (mut moved, mut resized) = (vdev, vdev);
            moved.io_addr[index] ^= 0x1000;
            resized.io_size[index] += 1;
            for wrong in [moved, resized] {
                let answer = Emulated::new(&wrong);
                assert!(matches!(answer, Err(BadVdev::Counters { .. })));
            }
        }
    }

    #[test]
    fn other_devices_are_unknown() {
        let vdev = uart(0x3f8, 8, 4);
        assert!(matches!(Emulated::new(&vdev), Ok(Emulated::Uart(_))));
        let (mut vendor, mut legacy) = (vdev, vdev);
        vendor.vendor = 0x1af4;
        legacy.legacy_id = 3;
        for unknown in [vendor, legacy] {
            let answer = Emulated::new(&unknown);
            assert!(matches!(answer, Err(BadVdev::Unknown { .. })));
        }
    }
}
