//! From a port or memory access to a function and a register.

use acrn_abi::{Bdf, Gpa};

use super::{CONFIG_SIZE, is_regular};

/// The 32-bit address port of configuration mechanism 1 (PCI 3.0, 3.2.2.3.2).
pub const CONFIG_ADDRESS_PORT: u16 = 0xcf8;
/// First of the four data ports.
pub const CONFIG_DATA_PORT: u16 = 0xcfc;

/// One configuration access, checked: 1, 2 or 4 bytes within an aligned doubleword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAccess {
    /// The function.
    pub bdf: Bdf,
    /// Register offset, 0..=4095.
    pub register: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
}

/// The latch behind port 0xCF8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigAddress(u32);

impl ConfigAddress {
    const ENABLE: u32 = 1 << 31;

    /// The latch after reset: no access enabled.
    pub const fn new() -> Self {
        Self(0)
    }

    /// What a 32-bit read of the port returns.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// A 32-bit write of the port. Narrower ones are no accesses to the latch; the caller keeps
    /// them away.
    pub const fn set(&mut self, value: u32) {
        self.0 = value & 0x80ff_fffc;
    }

    /// The access that `size` bytes at data port `port` (0xCFC..=0xCFF) make; `None` when the
    /// latch is not enabled or the access leaves the four ports.
    pub const fn decode(self, port: u16, size: u8) -> Option<ConfigAccess> {
        let Some(byte) = port.checked_sub(CONFIG_DATA_PORT) else {
            return None;
        };
        if self.0 & Self::ENABLE == 0 || byte > 3 || !is_regular(byte, size) {
            return None;
        }
        let register = (self.0 & 0xfc) as u16 | byte;
        Some(ConfigAccess {
            bdf: Bdf((self.0 >> 8) as u16),
            register,
            size,
        })
    }
}

/// A memory-mapped configuration window, from an entry of ACPI's MCFG table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcamWindow {
    /// Address of bus 0, even when the window starts at a later bus.
    pub base: Gpa,
    /// First bus of the window.
    pub first_bus: u8,
    /// Last bus of the window.
    pub last_bus: u8,
}

impl EcamWindow {
    /// Whether `gpa` lies in the window.
    pub fn contains(&self, gpa: Gpa) -> bool {
        self.offset(gpa).is_some()
    }

    fn offset(&self, gpa: Gpa) -> Option<u64> {
        let offset = gpa.0.checked_sub(self.base.0)?;
        let buses = u64::from(self.first_bus)..=u64::from(self.last_bus);
        buses.contains(&(offset >> 20)).then_some(offset)
    }

    /// The access that `size` bytes at `gpa` make (PCI Express 5.0, 7.2.2); `None` outside the
    /// window, for other sizes than 1, 2 and 4, and across a doubleword boundary, which a root
    /// complex need not support.
    pub fn decode(&self, gpa: Gpa, size: u8) -> Option<ConfigAccess> {
        let offset = self.offset(gpa)?;
        let register = offset as u16 & (CONFIG_SIZE - 1);
        let access = ConfigAccess {
            bdf: Bdf((offset >> 12) as u16),
            register,
            size,
        };
        is_regular(register, size).then_some(access)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latch_addresses_a_byte_of_a_function() {
        let mut address = ConfigAddress::new();
        address.set(0x8001_fa43);
        assert_eq!(address.get(), 0x8001_fa40);
        let bdf = Bdf::new(1, 0x1f, 2);
        assert_eq!(
            address.decode(0xcfc, 4),
            Some(ConfigAccess {
                bdf,
                register: 0x40,
                size: 4
            })
        );
        assert_eq!(
            address.decode(0xcff, 1),
            Some(ConfigAccess {
                bdf,
                register: 0x43,
                size: 1
            })
        );
        assert_eq!(
            address.decode(0xcfe, 2),
            Some(ConfigAccess {
                bdf,
                register: 0x42,
                size: 2
            })
        );
    }

    #[test]
    fn what_leaves_the_data_ports_is_no_access() {
        let mut address = ConfigAddress::new();
        assert_eq!(address.decode(0xcfc, 4), None, "not enabled");
        address.set(0x8000_0000);
        for (port, size) in [(0xcfd, 4), (0xcff, 2), (0xcfc, 3), (0xcfc, 8), (0xcfc, 0)] {
            assert_eq!(address.decode(port, size), None, "{port:#x} {size}");
        }
        for port in [0xcf8, 0xd00, 0] {
            assert_eq!(address.decode(port, 1), None);
        }
    }

    #[test]
    fn the_window_addresses_4096_registers() {
        let window = EcamWindow {
            base: Gpa(0xe000_0000),
            first_bus: 1,
            last_bus: 2,
        };
        let access = window.decode(Gpa(0xe01f_affc), 4).unwrap();
        assert_eq!(
            access,
            ConfigAccess {
                bdf: Bdf::new(1, 0x1f, 2),
                register: 0xffc,
                size: 4
            }
        );
        assert_eq!(
            window.decode(Gpa(0xe000_0000), 4),
            None,
            "bus 0 is not in the window"
        );
        assert_eq!(window.decode(Gpa(0xe030_0000), 4), None);
        assert_eq!(window.decode(Gpa(0xdfff_ffff), 1), None);
        assert_eq!(window.decode(Gpa(u64::MAX), 1), None);
        assert_eq!(window.decode(Gpa(0xe010_0ffe), 4), None);
        assert_eq!(window.decode(Gpa(0xe010_0000), 8), None);
        assert!(window.contains(Gpa(0xe02f_ffff)));
    }
}
