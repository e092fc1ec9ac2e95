//! A function that the hypervisor provides: here it has a slot and addresses, and no behaviour.

use std::sync::Arc;

use acrn_abi::guest_map::{IVSHMEM_ID, PCI_UART_ID};
use acrn_abi::hypercall::Vdev;
use acrn_abi::types::Bdf;

use super::{IVSHMEM, MEMORY, Region, UART, card_config};
use crate::hsm::Hsm;
use crate::pci::{ConfigSpace, DeviceError, PciDevice};

/// See the module.
pub struct Delegated {
    name: &'static str,
    config: ConfigSpace,
    description: Vdev,
    /// What is tried, and what the user may do when it fails.
    action: &'static str,
    hsm: Arc<dyn Hsm>,
}

impl Delegated {
    /// Shared memory of the scenario.
    pub(super) fn memory(
        region: &Region,
        bdf: Bdf,
        hsm: Arc<dyn Hsm>,
    ) -> Result<Self, DeviceError> {
        let mut description = describe(IVSHMEM_ID, bdf);
        description.io_size[MEMORY] = region.size as u32;
        let name = format!("hv:/{}", region.name);
        for (byte, character) in description.args.iter_mut().zip(name.bytes()) {
            *byte = character;
        }
        Ok(Self {
            name: IVSHMEM,
            config: region.config()?,
            description,
            action: "share memory of the hypervisor (the scenario must name this VM for the region, \
                     with this size)",
            hsm,
        })
    }

    /// The end of a serial line of the scenario.
    pub(super) fn card(vuart: u16, bdf: Bdf, hsm: Arc<dyn Hsm>) -> Result<Self, DeviceError> {
        let mut description = describe(PCI_UART_ID, bdf);
        let [low, high] = vuart.to_le_bytes();
        (description.args[0], description.args[1]) = (low, high);
        let layout = |source| DeviceError::Layout {
            device: UART,
            source,
        };
        Ok(Self {
            name: UART,
            config: card_config().map_err(layout)?,
            description,
            action: "connect a serial line (the scenario must have one of type pci for this VM under \
                     this number)",
            hsm,
        })
    }
}

fn describe((vendor, device): (u16, u16), bdf: Bdf) -> Vdev {
    Vdev {
        vendor,
        device,
        legacy_id: 0,
        slot: bdf.0.into(),
        io_addr: [0; 6],
        io_size: [0; 6],
        args: [0; 128],
    }
}

impl PciDevice for Delegated {
    fn name(&self) -> &str {
        self.name
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn placed(&mut self) -> Result<(), DeviceError> {
        for (register, address) in (0u16..).zip(&mut self.description.io_addr) {
            *address = self.config.read(0x10 + 4 * register, 4);
        }
        self.hsm
            .create_vdev(&self.description)
            .map_err(|source| DeviceError::Host {
                device: self.name,
                action: self.action,
                source,
            })
    }
    fn bar_read(&mut self, _: u8, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn bar_write(&mut self, _: u8, _: u64, _: &[u8]) {}
    fn reset(&mut self) {}
    fn stop(&mut self) {}
}
