//! Functions without behaviour of their own: the host bridge and the bridge to the ISA bus.

use super::{ConfigSpace, Identity, PciDevice};

/// A function that is only a configuration space.
pub struct Bridge {
    name: &'static str,
    config: ConfigSpace,
}

impl Bridge {
    /// The host bridge, with ACRN's ids.
    pub fn host() -> Self {
        let identity = Identity {
            vendor: 0x1275,
            device: 0x1275,
            class: 0x06_00_00,
            ..Identity::default()
        };
        Self {
            name: "hostbridge",
            config: ConfigSpace::new(identity),
        }
    }

    /// The bridge to the serial ports and other old devices, with ACRN's ids.
    pub fn lpc() -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x7000,
            class: 0x06_01_00,
            ..Identity::default()
        };
        Self {
            name: "lpc",
            config: ConfigSpace::new(identity),
        }
    }
}

impl PciDevice for Bridge {
    fn name(&self) -> &str {
        self.name
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn bar_read(&mut self, _: u8, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn bar_write(&mut self, _: u8, _: u64, _: &[u8]) {}
    fn reset(&mut self) {}
    fn stop(&mut self) {}
}
