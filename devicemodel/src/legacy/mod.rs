//! Devices of the PC that are not on PCI: serial ports, clocks, power management, reset.
//!
//! Interrupt controllers are the hypervisor's. A device registers its ports on the [`PortBus`];
//! HPET is the one that lies in memory.

pub mod alarm;
pub mod backend;
pub mod cmos;
pub mod hpet;
pub mod pit;
pub mod power;
pub mod reset;
pub mod uart;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A device with I/O ports.
pub trait PortDevice: Send {
    /// Reads the byte at a port, given relative to the device's first.
    fn read(&mut self, offset: u16) -> u8;
    /// Writes a byte.
    fn write(&mut self, offset: u16, value: u8);
    /// Reads `size` bytes, 2 or 4; devices with wider registers override it.
    fn read_wide(&mut self, offset: u16, size: u8) -> u32 {
        (0..size).rev().fold(0, |value, index| {
            value << 8 | u32::from(self.read(offset.saturating_add(index.into())))
        })
    }
    /// Writes `size` bytes, 2 or 4.
    fn write_wide(&mut self, offset: u16, size: u8, value: u32) {
        for (index, byte) in (0..).zip(value.to_le_bytes()).take(size.into()) {
            self.write(offset.saturating_add(index), byte);
        }
    }
    /// Back to power-on.
    fn reset(&mut self);
    /// The guest suspends to RAM: what is not supplied any more is as after power-on.
    fn sleep(&mut self) {
        self.reset();
    }
}

/// A device as the bus holds it.
pub type SharedPorts = Arc<Mutex<dyn PortDevice>>;

struct Entry {
    ports: Range<u16>,
    device: SharedPorts,
}

/// All devices with ports.
pub struct PortBus {
    entries: Vec<Entry>,
    /// For each port one more than the index of its entry, or 0.
    index: Box<[u8]>,
}

impl Default for PortBus {
    fn default() -> Self {
        Self::new()
    }
}

impl PortBus {
    /// Without devices.
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: vec![0; 0x1_0000].into(),
        }
    }

    /// Adds a device at `ports`; where another one is already, that one stays.
    pub fn add(&mut self, ports: Range<u16>, device: SharedPorts) {
        let number = u8::try_from(self.entries.len() + 1).unwrap_or(u8::MAX);
        for port in ports.clone() {
            let entry = &mut self.index[usize::from(port)];
            if *entry == 0 {
                *entry = number;
            }
        }
        self.entries.push(Entry { ports, device });
    }

    fn find(&self, port: u16) -> Option<(&Entry, u16)> {
        let number = usize::from(*self.index.get(usize::from(port))?);
        let entry = self.entries.get(number.checked_sub(1)?)?;
        Some((entry, port.wrapping_sub(entry.ports.start)))
    }

    /// Reads; `None` when there is no device. `size` is 1, 2 or 4. Bytes beyond the device
    /// read as ones.
    pub fn read(&self, port: u16, size: u8) -> Option<u32> {
        let (entry, offset) = self.find(port)?;
        let mut device = entry.device.lock().unwrap_or_else(PoisonError::into_inner);
        let room = entry.ports.end - port;
        Some(if size == 1 {
            device.read(offset).into()
        } else if u16::from(size) <= room {
            device.read_wide(offset, size)
        } else {
            let missing = u32::MAX << (8 * u32::from(room.min(3)));
            device.read_wide(offset, room as u8) | missing
        })
    }

    /// Writes; false when there is no device.
    pub fn write(&self, port: u16, size: u8, value: u32) -> bool {
        let Some((entry, offset)) = self.find(port) else {
            return false;
        };
        let mut device = entry.device.lock().unwrap_or_else(PoisonError::into_inner);
        if size == 1 {
            device.write(offset, value as u8);
        } else {
            let room = entry.ports.end - port;
            device.write_wide(offset, size.min(room.min(4) as u8), value);
        }
        true
    }

    /// Resets all devices.
    pub fn reset(&self) {
        self.each(|device| device.reset());
    }

    /// All devices follow the guest into its sleep.
    pub fn sleep(&self) {
        self.each(|device| device.sleep());
    }

    fn each(&self, act: impl Fn(&mut dyn PortDevice)) {
        for entry in &self.entries {
            act(&mut *entry.device.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo([u8; 4]);

    impl PortDevice for Echo {
        fn read(&mut self, offset: u16) -> u8 {
            self.0.get(usize::from(offset)).copied().unwrap_or(0xee)
        }
        fn write(&mut self, offset: u16, value: u8) {
            self.0[usize::from(offset)] = value;
        }
        fn reset(&mut self) {
            self.0 = [0; 4];
        }
    }

    fn bus() -> PortBus {
        let mut bus = PortBus::new();
        bus.add(0x60..0x64, Arc::new(Mutex::new(Echo([1, 2, 3, 4]))));
        bus
    }

    #[test]
    fn wide_accesses_are_split_into_bytes() {
        let bus = bus();
        assert_eq!(bus.read(0x60, 4), Some(0x0403_0201));
        assert!(bus.write(0x61, 2, 0xbbaa));
        assert_eq!(bus.read(0x61, 2), Some(0xbbaa));
    }

    #[test]
    fn an_access_across_the_end_reads_ones_there_and_writes_nothing() {
        let bus = bus();
        assert_eq!(bus.read(0x63, 4), Some(0xffff_ff04));
        assert!(bus.write(0x63, 4, 0x1122_3344));
        assert_eq!(bus.read(0x63, 1), Some(0x44));
    }

    #[test]
    fn nothing_answers_where_nothing_is() {
        assert_eq!(bus().read(0x64, 1), None);
        assert!(!bus().write(0xffff, 4, 0));
    }
}
