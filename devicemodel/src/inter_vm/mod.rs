//! Devices by which VMs reach each other.
//!
//! Most are the hypervisor's: a serial line on a PCI card (`uart,vuart_idx:N`) and shared memory of the
//! scenario (`ivshmem,hv:/NAME,MIB`). Here such a device only takes its slot and its addresses on the bus, and
//! the hypervisor is asked to put its function there; the guest's accesses never arrive here
//! ([`delegated`]). Shared memory of the Service VM (`ivshmem,dm:/NAME,MIB`) is a file below `/dev/shm` that the
//! guest sees as memory ([`file`](mod@file)).

pub mod delegated;
pub mod file;

use std::sync::Arc;

use acrn_abi::types::Bdf;

use crate::hsm::Hsm;
use crate::pci::config::SetupError;
use crate::pci::{BarKind, ConfigSpace, DeviceError, Identity, PciDevice};
use delegated::Delegated;
use file::SharedFile;

const IVSHMEM: &str = "ivshmem";
const UART: &str = "uart";

/// BARs of shared memory: registers, MSI-X table, memory.
const REGISTERS: usize = 0;
const TABLE: usize = 1;
const MEMORY: usize = 2;

/// Makes the device `ivshmem`.
///
/// # Errors
/// The options are wrong, or the memory cannot be had.
pub fn ivshmem(
    options: &str,
    bdf: Bdf,
    hsm: Arc<dyn Hsm>,
) -> Result<Box<dyn PciDevice>, DeviceError> {
    let region = Region::parse(options)?;
    Ok(match region.home {
        Home::Hypervisor => Box::new(Delegated::memory(&region, bdf, hsm)?),
        Home::ServiceVm => Box::new(SharedFile::open(&region, hsm)?),
    })
}

/// Makes the device `uart`.
///
/// # Errors
/// The options are wrong.
pub fn uart(options: &str, bdf: Bdf, hsm: Arc<dyn Hsm>) -> Result<Box<dyn PciDevice>, DeviceError> {
    let number = options.strip_prefix("vuart_idx:").map(str::parse::<u16>);
    match number {
        Some(Ok(number)) => Ok(Box::new(Delegated::card(number, bdf, hsm)?)),
        _ => Err(DeviceError::Option {
            device: UART,
            option: options.to_owned(),
            remedy:
                "write vuart_idx:N with the number that the scenario gives the serial line, or \
                     use -l com1,BACKEND for a port of this VM alone"
                    .to_owned(),
        }),
    }
}

/// Whose memory is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// The hypervisor's: VMs that the scenario names share it.
    Hypervisor,
    /// The Service VM's: a file.
    ServiceVm,
}

/// Memory to share.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Region {
    home: Home,
    name: String,
    /// In bytes.
    size: u64,
}

/// Longest name of a region.
const MAX_NAME: usize = 27;

impl Region {
    /// `hv:/NAME,MIB` or `dm:/NAME,MIB`. What may follow (ACRN's number of the region) is the
    /// scenario's to say.
    fn parse(options: &str) -> Result<Self, DeviceError> {
        let wrong = |remedy: &str| DeviceError::Option {
            device: IVSHMEM,
            option: options.to_owned(),
            remedy: remedy.to_owned(),
        };
        let mut parts = options.split(',');
        let place = parts.next().unwrap_or_default();
        let (home, name) = if let Some(name) = place.strip_prefix("hv:/") {
            (Home::Hypervisor, name)
        } else if let Some(name) = place.strip_prefix("dm:/") {
            (Home::ServiceVm, name)
        } else {
            return Err(wrong(
                "write hv:/NAME,MIB for memory of the scenario or dm:/NAME,MIB for a file in /dev/shm",
            ));
        };
        let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty()
            || name.len() > MAX_NAME
            || !name.chars().all(good)
            || name.starts_with('.')
        {
            return Err(wrong("a name has 1 to 27 letters, digits, - and _"));
        }
        let size = parts.next().and_then(|size| size.parse::<u64>().ok());
        let size = size.filter(|size| size.is_power_of_two() && (2..=512).contains(size));
        let mib = size.ok_or_else(|| {
            wrong("write the size in MiB after the name: a power of two from 2 to 512")
        })?;
        Ok(Self {
            home,
            name: name.to_owned(),
            size: mib << 20,
        })
    }

    /// The configuration space that a guest finds.
    fn config(&self) -> Result<ConfigSpace, DeviceError> {
        let identity = Identity {
            vendor: acrn_abi::guest_map::IVSHMEM_ID.0,
            device: acrn_abi::guest_map::IVSHMEM_ID.1,
            class: 0x05_00_00,
            revision: 1,
            ..Identity::default()
        };
        let mut config = ConfigSpace::new(identity);
        let layout = |source| DeviceError::Layout {
            device: IVSHMEM,
            source,
        };
        let mut add = |bar, kind, size| config.add_bar(bar, kind, size).map_err(layout);
        add(REGISTERS, BarKind::Memory32, 0x100)?;
        add(TABLE, BarKind::Memory32, 0x1000)?;
        add(MEMORY, BarKind::Memory64 { prefetchable: true }, self.size)?;
        Ok(config)
    }
}

fn card_config() -> Result<ConfigSpace, SetupError> {
    let identity = Identity {
        vendor: acrn_abi::guest_map::PCI_UART_ID.0,
        device: acrn_abi::guest_map::PCI_UART_ID.1,
        class: 0x07_00_02,
        ..Identity::default()
    };
    let mut config = ConfigSpace::new(identity);
    config.add_bar(REGISTERS, BarKind::Memory32, 0x1000)?;
    config.add_bar(TABLE, BarKind::Memory32, 0x1000)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::fake::{Call, FakeHsm};
    use crate::pci::bus::Bus;

    const SLOT: Bdf = Bdf::new(0, 5, 0);

    #[test]
    fn names_and_sizes_are_acrns() {
        let region = Region::parse("hv:/shm_region_0,16,3").unwrap();
        assert_eq!((region.home, region.size), (Home::Hypervisor, 16 << 20));
        assert_eq!(region.name, "shm_region_0");
        assert_eq!(Region::parse("dm:/a,2").unwrap().home, Home::ServiceVm);
        for wrong in [
            "",
            "shm,2",
            "hv:/,2",
            "hv:/a",
            "hv:/a,",
            "hv:/a,3",
            "hv:/a,1",
            "hv:/a,1024",
            "dm:/../etc/passwd,2",
            "dm:/a/b,2",
            "dm:/.,2",
            "hv:/aaaaaaaaaaaaaaaaaaaaaaaaaaaa,2",
        ] {
            assert!(Region::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// What the driver was asked for when a device has its place on the bus.
    fn asked(make: impl FnOnce(Arc<dyn Hsm>) -> Box<dyn PciDevice>) -> Vec<Call> {
        let hsm = FakeHsm::new();
        let mut bus = Bus::new();
        bus.add(SLOT, make(hsm.clone())).unwrap();
        bus.placed(SLOT).unwrap();
        hsm.take_calls()
    }

    #[test]
    fn the_hypervisor_gets_slot_addresses_size_and_name_of_its_memory() {
        let calls = asked(|hsm| ivshmem("hv:/frames,4", SLOT, hsm).unwrap());
        let [
            Call::Function {
                slot,
                id,
                bars,
                sizes,
                args,
            },
        ] = &calls[..]
        else {
            panic!("{calls:?}");
        };
        assert_eq!((*slot, *id), (0x28, (0x1af4, 0x1110)));
        assert_eq!(*bars, [0x8000_0000, 0x8000_1000, 0x8040_000c, 0, 0, 0]);
        assert_eq!(sizes[2], 4 << 20);
        assert!(args.starts_with(b"hv:/frames\0"));
    }

    #[test]
    fn the_hypervisor_gets_the_number_of_a_serial_line() {
        let calls = asked(|hsm| uart("vuart_idx:2", SLOT, hsm).unwrap());
        let [Call::Function { id, args, .. }] = &calls[..] else {
            panic!("{calls:?}");
        };
        assert_eq!((*id, args[0], args[1]), ((0x9710, 0x9900), 2, 0));
        for wrong in ["", "vuart_idx", "vuart_idx:", "vuart_idx:x", "tty"] {
            assert!(uart(wrong, SLOT, FakeHsm::new()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_names_the_device_and_the_remedy() {
        let hsm = FakeHsm::new();
        hsm.refuse.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut bus = Bus::new();
        let device = ivshmem("hv:/frames,4", SLOT, hsm).unwrap();
        bus.add(SLOT, device).unwrap();
        let error = bus.placed(SLOT).unwrap_err().to_string();
        assert!(
            error.contains("ivshmem") && error.contains("scenario"),
            "{error}"
        );
    }
}
