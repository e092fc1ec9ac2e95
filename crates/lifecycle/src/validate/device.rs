//! Devices that the hypervisor emulates for a User VM, asked for with the call for emulated
//! devices: by vendor and device if they are on PCI, else by a `legacy_id`.
//!
//! On PCI there are the end of a serial line to another VM (9710:9900, the number of the vUART in
//! `args`) and shared memory (1af4:1110, its name in `args`, its size that of BAR 2), as ACRN has
//! them: `slot` is the place on the bus, `io_addr` has the BARs as firmware leaves them.
//!
//! The serial port behind the shell's `vm_console` ([`Vdev::LEGACY_UART`]): ACRN takes it from the
//! scenario, upstream Linux has no call for it. The counters of PM timer and HPET
//! ([`Vdev::LEGACY_COUNTERS`]), whose devices are otherwise the Device Model's. The interval timer
//! ([`Vdev::LEGACY_TIMER`]).

use acrn_abi::hypercall::{Errno, Vdev};
use acrn_abi::{Bdf, Gsi, guest_map};
use arrayvec::ArrayString;
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
    /// The 8254, which has one place.
    IntervalTimer,
    /// The end of a serial line, on PCI: that of the vUART with this number.
    SerialCard(PciPlace, u16),
    /// Shared memory of so many bytes.
    SharedMemory(PciPlace, RegionName, u64),
}

/// Places and sizes of PM timer and HPET.
const COUNTERS: [(u64, u64); 2] = [
    (guest_map::PORT_PM_TIMER as u64, 4),
    (guest_map::HPET_BASE.0, guest_map::HPET_SIZE),
];
/// Those of the 8254, and of the port with its third counter's gate.
const INTERVAL_TIMER: [(u64, u64); 2] = [
    (guest_map::PORT_PIT as u64, 4),
    (guest_map::PORT_SYSTEM_CONTROL as u64, 1),
];

/// Where a PCI function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciPlace {
    /// Its place on the bus.
    pub bdf: Bdf,
    /// Vendor and device.
    pub id: (u16, u16),
    /// Where its BARs are; a 64-bit one leaves the next empty.
    pub bars: [u64; 6],
}

/// Name of a region of shared memory, without what says whose it is.
pub type RegionName = ArrayString<32>;

/// What a Device Model writes in front of a name for a region of the hypervisor.
const PREFIX: &str = "hv:/";

/// The name in the arguments of a device, which ends at the first zero.
fn region_name(args: &[u8]) -> Result<RegionName, BadVdev> {
    let text = args.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = core::str::from_utf8(text).map_err(|_| BadVdev::Name)?;
    let name = text.strip_prefix(PREFIX).unwrap_or(text);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadVdev::Name);
    }
    RegionName::from(name).map_err(|_| BadVdev::Name)
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
    /// There is no such place on a PCI bus.
    Slot(u64),
    /// The name of shared memory is empty, too long, or no text.
    Name,
    /// The serial port cannot have this line.
    Line(u8),
    /// The parts of a device that has one place cannot be there.
    Places([u32; 2]),
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
            Self::Slot(slot) => write!(f, "{slot:#x} is no place on a PCI bus"),
            Self::Name => f.write_str("the name of shared memory is no text of 1 to 32 bytes"),
            Self::Line(gsi) => write!(f, "a serial port cannot have line {gsi}"),
            Self::Places([first, second]) => {
                write!(f, "a timer cannot be at {first:#x} and {second:#x}")
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
            (0, 0, Vdev::LEGACY_COUNTERS) => Self::Counters.in_its_places(vdev, COUNTERS),
            (0, 0, Vdev::LEGACY_TIMER) => Self::IntervalTimer.in_its_places(vdev, INTERVAL_TIMER),
            _ => match (vendor, device) {
                guest_map::PCI_UART_ID => {
                    let [low, high, ..] = vdev.args;
                    let number = u16::from_le_bytes([low, high]);
                    Ok(Self::SerialCard(PciPlace::new(vdev)?, number))
                }
                guest_map::IVSHMEM_ID => {
                    let name = region_name(&vdev.args)?;
                    let size = u64::from(vdev.io_size[2]);
                    Ok(Self::SharedMemory(PciPlace::new(vdev)?, name, size))
                }
                _ => Err(BadVdev::Unknown {
                    vendor,
                    device,
                    legacy_id,
                }),
            },
        }
    }

    fn in_its_places(self, vdev: &Vdev, places: [(u64, u64); 2]) -> Result<Self, BadVdev> {
        let [first, second, ..] = vdev.io_addr;
        let [first_size, second_size, ..] = vdev.io_size;
        let wanted = [(first, first_size), (second, second_size)];
        match wanted.map(|(at, size)| (at.into(), size.into())) == places {
            true => Ok(self),
            false => Err(BadVdev::Places([first, second])),
        }
    }

    /// Judges what names a device that is to go: on PCI its place and ids are enough.
    ///
    /// # Errors
    /// [`BadVdev`].
    pub fn to_remove(vdev: &Vdev) -> Result<Removal, BadVdev> {
        match (vdev.vendor, vdev.device) {
            guest_map::PCI_UART_ID | guest_map::IVSHMEM_ID => {
                PciPlace::new(vdev).map(Removal::Function)
            }
            _ => Self::new(vdev).map(Removal::Other),
        }
    }
}

/// A device that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// What is there on PCI, if it has these ids.
    Function(PciPlace),
    /// A device without PCI.
    Other(Emulated),
}

impl PciPlace {
    fn new(vdev: &Vdev) -> Result<Self, BadVdev> {
        let bdf = u16::try_from(vdev.slot).map_err(|_| BadVdev::Slot(vdev.slot))?;
        let mut bars = vdev.io_addr.map(u64::from);
        if (vdev.vendor, vdev.device) == guest_map::IVSHMEM_ID {
            bars[2] |= core::mem::take(&mut bars[3]) << 32;
        }
        Ok(Self {
            bdf: Bdf(bdf),
            id: (vdev.vendor, vdev.device),
            bars,
        })
    }
}

impl UartPlace {
    /// Whether a serial port can be at these eight ports.
    pub fn is_possible(first: u16) -> bool {
        let number = u32::from(first);
        number % PORTS == 0 && number >= FIRST_PORT && !TAKEN.contains(&first)
    }

    fn new(vdev: &Vdev) -> Result<Self, BadVdev> {
        let (first, count) = (vdev.io_addr[0], vdev.io_size[0]);
        let bad = BadVdev::Ports { first, count };
        let port = u16::try_from(first).map_err(|_| bad)?;
        if count != PORTS || !Self::is_possible(port) {
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
    fn timers_have_one_place() {
        let counters = (Vdev::LEGACY_COUNTERS, [(0x408, 4), (0xfed0_0000, 0x400)]);
        let interval_timer = (Vdev::LEGACY_TIMER, [(0x40, 4), (0x61, 1)]);
        for ((legacy_id, places), expected) in [
            (counters, Emulated::Counters),
            (interval_timer, Emulated::IntervalTimer),
        ] {
            let mut vdev = uart(0, 0, 0);
            vdev.legacy_id = legacy_id;
            for (index, (at, size)) in places.into_iter().enumerate() {
                (vdev.io_addr[index], vdev.io_size[index]) = (at, size);
            }
            assert_eq!(Emulated::new(&vdev), Ok(expected));
            for index in 0..2 {
                let (mut moved, mut resized) = (vdev, vdev);
                moved.io_addr[index] ^= 0x1000;
                resized.io_size[index] += 1;
                for wrong in [moved, resized] {
                    let answer = Emulated::new(&wrong);
                    assert!(matches!(answer, Err(BadVdev::Places(_))));
                }
            }
        }
    }

    fn shared(name: &[u8]) -> Vdev {
        let mut vdev = uart(0xc000_0000, 0x100, 0);
        (vdev.vendor, vdev.device) = guest_map::IVSHMEM_ID;
        vdev.slot = 0x28;
        vdev.io_addr[1..4].copy_from_slice(&[0xc000_1000, 0x8000_000c, 0x40]);
        vdev.io_size[2] = 2 << 20;
        vdev.args[..name.len()].copy_from_slice(name);
        vdev
    }

    #[test]
    fn shared_memory_has_a_place_a_name_and_a_size() {
        let vdev = shared(b"hv:/shm_region_0");
        let Ok(Emulated::SharedMemory(place, name, size)) = Emulated::new(&vdev) else {
            panic!("{:?}", Emulated::new(&vdev));
        };
        assert_eq!((name.as_str(), size), ("shm_region_0", 2 << 20));
        assert_eq!(
            (place.bdf, place.bars[2]),
            (Bdf::new(0, 5, 0), 0x40_8000_000c)
        );
        assert_eq!(Emulated::to_remove(&vdev), Ok(Removal::Function(place)));
    }

    #[test]
    fn names_and_places_that_are_none_are_refused() {
        for name in [
            &b""[..],
            b"hv:/",
            b"a b",
            b"\xff",
            &[b'a'; 40],
            &[b'a'; 128],
        ] {
            assert_eq!(Emulated::new(&shared(name)), Err(BadVdev::Name), "{name:?}");
        }
        let mut vdev = shared(b"plain");
        assert!(Emulated::new(&vdev).is_ok());
        vdev.slot = 0x1_0000;
        assert_eq!(Emulated::new(&vdev), Err(BadVdev::Slot(0x1_0000)));
    }

    #[test]
    fn a_serial_card_is_that_of_a_vuart() {
        let mut vdev = uart(0xc000_0000, 0x1000, 3);
        (vdev.vendor, vdev.device) = guest_map::PCI_UART_ID;
        let answer = Emulated::new(&vdev);
        assert!(
            matches!(answer, Ok(Emulated::SerialCard(_, 3))),
            "{answer:?}"
        );
    }

    #[test]
    fn other_devices_are_unknown() {
        let vdev = uart(0x3f8, 8, 4);
        assert!(matches!(Emulated::new(&vdev), Ok(Emulated::Uart(_))));
        let (mut vendor, mut legacy) = (vdev, vdev);
        vendor.vendor = 0x1af4;
        legacy.legacy_id = 4;
        for unknown in [vendor, legacy] {
            let answer = Emulated::new(&unknown);
            assert!(matches!(answer, Err(BadVdev::Unknown { .. })));
        }
    }
}
