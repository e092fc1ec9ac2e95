//! The bus: routes configuration, memory and port accesses to its functions.
//!
//! Each function is behind a lock of its own, so accesses to different devices do not wait for
//! each other. Where BARs are is kept in a table of its own, which is rebuilt when the guest
//! moves one; it is never locked while a device runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use acrn_abi::types::{Bdf, Gsi};

use super::config::{BAR_COUNT, BAR0, BarKind, SetupError};
use super::{ConfigSpace, DeviceError, PciDevice};

/// Memory-mapped configuration space (PCI Express ECAM), one MiB per bus.
pub const ECAM_BASE: u64 = 0xe000_0000;
/// Its size.
pub const ECAM_SIZE: u64 = 0x1000_0000;
/// Window for memory BARs below 4 GiB.
pub const MEMORY_WINDOW: std::ops::Range<u64> = 0x8000_0000..ECAM_BASE;
/// Window for memory BARs above 4 GiB.
pub const HIGH_WINDOW: std::ops::Range<u64> = 0x40_0000_0000..0x80_0000_0000;
/// Window for I/O BARs.
pub const IO_WINDOW: std::ops::Range<u64> = 0x2000..0x1_0000;
/// 64-bit BARs from this size on are placed above 4 GiB.
const LARGE_BAR: u64 = 256 << 20;

/// End of the registers that decide where a function's BARs are.
const BAR_END: u16 = BAR0 + 4 * BAR_COUNT as u16;

/// First interrupt line for PCI, after those of ISA.
const FIRST_GSI: u32 = 16;
/// Lines that the pins of all slots are spread over.
const GSIS: u32 = 32;

/// The interrupt line of `pin`, 1 (INTA#) to 4, of a slot.
pub fn pin_gsi(slot: u8, pin: u8) -> Gsi {
    Gsi(FIRST_GSI + (u32::from(slot) + u32::from(pin).saturating_sub(1)) % GSIS)
}

/// A function as the bus holds it.
pub type SharedDevice = Arc<Mutex<Box<dyn PciDevice>>>;

/// A decoded BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decoded {
    start: u64,
    /// One past its end.
    end: u64,
    function: usize,
    bar: u8,
}

/// All decoded BARs, each list sorted by start.
#[derive(Default)]
struct Map {
    memory: Vec<Decoded>,
    ports: Vec<Decoded>,
}

struct Function {
    bdf: Bdf,
    device: SharedDevice,
}

/// The bus.
#[derive(Default)]
pub struct Bus {
    functions: Vec<Function>,
    map: RwLock<Map>,
    next_memory: u64,
    next_high: u64,
    next_port: u64,
}

/// What to do while another thread is in the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Wait until it has left.
    Wait,
    /// Give up with [`Busy`].
    Refuse,
}

/// Another thread is in the device, which may take a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

fn enter(
    device: &SharedDevice,
    patience: Patience,
) -> Result<MutexGuard<'_, Box<dyn PciDevice>>, Busy> {
    match (patience, device.try_lock()) {
        (_, Ok(guard)) => Ok(guard),
        (_, Err(TryLockError::Poisoned(poisoned))) => Ok(poisoned.into_inner()),
        (Patience::Refuse, Err(TryLockError::WouldBlock)) => Err(Busy),
        (Patience::Wait, Err(TryLockError::WouldBlock)) => Ok(lock(device)),
    }
}

fn lock(device: &SharedDevice) -> MutexGuard<'_, Box<dyn PciDevice>> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self {
            next_memory: MEMORY_WINDOW.start,
            next_high: HIGH_WINDOW.start,
            next_port: IO_WINDOW.start,
            ..Self::default()
        }
    }

    /// Adds a function and gives its BARs addresses, as firmware would.
    ///
    /// # Errors
    /// The slot is taken, or there is no address space left.
    pub fn add(&mut self, bdf: Bdf, mut device: Box<dyn PciDevice>) -> Result<(), SetupError> {
        if self.functions.iter().any(|function| function.bdf == bdf) {
            return Err(SetupError::SlotTaken(bdf));
        }
        let bars: Vec<_> = device.config().bars().collect();
        for (index, bar) in bars {
            let (next, window) = match bar.kind {
                BarKind::Io => (&mut self.next_port, IO_WINDOW),
                BarKind::Memory64 { .. } if bar.size >= LARGE_BAR => {
                    (&mut self.next_high, HIGH_WINDOW)
                }
                _ => (&mut self.next_memory, MEMORY_WINDOW),
            };
            // A page at least, so that no two functions share one.
            let granule = if bar.kind == BarKind::Io {
                bar.size
            } else {
                bar.size.max(0x1000)
            };
            let start = next.next_multiple_of(granule);
            let end = start + granule;
            if end > window.end {
                return Err(SetupError::NoAddressSpace(bar.size));
            }
            *next = end;
            device.config_mut().place_bar(index, start);
        }
        let same_slot =
            |function: &&Function| function.bdf.device() == bdf.device() && bdf.bus() == 0;
        if bdf.function() != 0 {
            // Function 0 says whether the others are looked for.
            for function in self.functions.iter().filter(same_slot) {
                lock(&function.device).config_mut().set_multi_function();
            }
            device.config_mut().set_multi_function();
        } else if self.functions.iter().any(|function| same_slot(&function)) {
            device.config_mut().set_multi_function();
        }
        self.functions.push(Function {
            bdf,
            device: Arc::new(Mutex::new(device)),
        });
        Ok(())
    }

    /// Tells a function that it has its place and its addresses.
    ///
    /// # Errors
    /// The device's.
    pub fn placed(&self, bdf: Bdf) -> Result<(), DeviceError> {
        self.find(bdf)
            .map_or(Ok(()), |(_, function)| lock(&function.device).placed())
    }

    /// Whether a function is there.
    pub fn contains(&self, bdf: Bdf) -> bool {
        self.functions.iter().any(|function| function.bdf == bdf)
    }

    /// Slots other than 0 must have a function 0, or the guest does not look at them. Returns
    /// the first one that has none.
    pub fn slot_without_first_function(&self) -> Option<u8> {
        let slots = self.functions.iter().map(|function| function.bdf.device());
        slots
            .into_iter()
            .find(|slot| !self.contains(Bdf::new(0, *slot, 0)))
    }

    fn find(&self, bdf: Bdf) -> Option<(usize, &Function)> {
        self.functions
            .iter()
            .enumerate()
            .find(|(_, function)| function.bdf == bdf)
    }

    /// Reads configuration space; all ones where there is nothing.
    ///
    /// # Errors
    /// The device is busy, as for the other accesses.
    pub fn config_read(
        &self,
        bdf: Bdf,
        reg: u16,
        size: u8,
        patience: Patience,
    ) -> Result<u32, Busy> {
        let Some((_, function)) = self.find(bdf) else {
            return Ok(ones(size));
        };
        let mut device = enter(&function.device, patience)?;
        device.config_reading(reg, size);
        Ok(device.config().read(reg, size))
    }

    /// Writes configuration space.
    ///
    /// # Errors
    /// The device is busy.
    pub fn config_write(
        &self,
        bdf: Bdf,
        reg: u16,
        size: u8,
        value: u32,
        patience: Patience,
    ) -> Result<(), Busy> {
        let Some((index, function)) = self.find(bdf) else {
            return Ok(());
        };
        let mut device = enter(&function.device, patience)?;
        if reg < BAR_END {
            let before = decoded(device.config(), index);
            device.config_mut().write(reg, size, value);
            let after = decoded(device.config(), index);
            if before != after {
                self.replace(index, &after);
                device.bars_moved();
            }
        } else {
            device.config_mut().write(reg, size, value);
        }
        device.config_written(reg, size);
        Ok(())
    }

    /// Replaces the decoded BARs of a function.
    fn replace(&self, function: usize, bars: &[(bool, Decoded)]) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.memory.retain(|bar| bar.function != function);
        map.ports.retain(|bar| bar.function != function);
        for (port, bar) in bars {
            let list = if *port {
                &mut map.ports
            } else {
                &mut map.memory
            };
            let at = list.partition_point(|other| other.start <= bar.start);
            list.insert(at, *bar);
        }
    }

    /// The BAR that holds all of `size` bytes at `address`.
    fn target(&self, port: bool, address: u64, size: u8) -> Option<(&SharedDevice, u8, u64)> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let list = if port { &map.ports } else { &map.memory };
        let after = list.partition_point(|bar| bar.start <= address);
        let bar = *list.get(after.checked_sub(1)?)?;
        let end = address.checked_add(size.into())?;
        if end > bar.end {
            return None;
        }
        Some((
            &self.functions.get(bar.function)?.device,
            bar.bar,
            address - bar.start,
        ))
    }

    /// Reads from a BAR; `None` when there is none.
    ///
    /// # Errors
    /// The device is busy.
    pub fn read(
        &self,
        port: bool,
        address: u64,
        size: u8,
        patience: Patience,
    ) -> Result<Option<u64>, Busy> {
        let Some((device, bar, offset)) = self.target(port, address, size) else {
            return Ok(None);
        };
        let mut data = [0u8; 8];
        if let Some(data) = data.get_mut(..usize::from(size)) {
            enter(device, patience)?.bar_read(bar, offset, data);
        }
        Ok(Some(u64::from_le_bytes(data)))
    }

    /// Writes to a BAR; false when there is none. Never done with [`Patience::Refuse`], since a
    /// write may start something that takes long.
    pub fn write(&self, port: bool, address: u64, size: u8, value: u64) -> bool {
        let Some((device, bar, offset)) = self.target(port, address, size) else {
            return false;
        };
        if let Some(data) = value.to_le_bytes().get(..usize::from(size)) {
            lock(device).bar_write(bar, offset, data);
        }
        true
    }

    /// Whether a BAR is there.
    pub fn decodes(&self, port: bool, address: u64, size: u8) -> bool {
        self.target(port, address, size).is_some()
    }

    /// Puts a medium into the drive at `bdf`; `None` when nothing is there.
    pub fn insert(&self, bdf: Bdf, medium: &str) -> Option<Result<(), DeviceError>> {
        let (_, function) = self.find(bdf)?;
        Some(lock(&function.device).insert(medium))
    }

    /// Resets all functions.
    pub fn reset(&self) {
        for (index, function) in self.functions.iter().enumerate() {
            let mut device = lock(&function.device);
            device.config_mut().reset();
            self.replace(index, &[]);
            device.reset();
        }
    }

    /// Stops all functions, at the end of the VM.
    pub fn stop(&self) {
        for function in &self.functions {
            lock(&function.device).stop();
        }
    }
}

/// All ones in `size` bytes.
fn ones(size: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
}

/// The BARs that a function decodes now, with whether they are ports.
fn decoded(config: &ConfigSpace, function: usize) -> Vec<(bool, Decoded)> {
    config
        .bars()
        .filter_map(|(index, bar)| {
            let start = config.bar(index)?;
            let decoded = Decoded {
                start,
                end: start.checked_add(bar.size)?,
                function,
                bar: index as u8,
            };
            Some((bar.kind == BarKind::Io, decoded))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Patience::Wait;
    use super::*;
    use crate::pci::Identity;
    use crate::pci::config::{COMMAND, COMMAND_IO, COMMAND_MEMORY};

    /// A device with a memory BAR 0, a port BAR 1 and a log.
    struct Probe {
        config: ConfigSpace,
        log: Arc<Mutex<Vec<String>>>,
    }

    impl Probe {
        fn new(log: &Arc<Mutex<Vec<String>>>) -> Box<Self> {
            let identity = Identity {
                vendor: 0x1234,
                device: 0x5678,
                ..Identity::default()
            };
            let mut config = ConfigSpace::new(identity);
            config.add_bar(0, BarKind::Memory32, 0x100).unwrap();
            config.add_bar(1, BarKind::Io, 0x10).unwrap();
            Box::new(Self {
                config,
                log: log.clone(),
            })
        }
        fn note(&self, text: String) {
            self.log.lock().unwrap().push(text);
        }
    }

    impl PciDevice for Probe {
        fn name(&self) -> &str {
            "probe"
        }
        fn config(&self) -> &ConfigSpace {
            &self.config
        }
        fn config_mut(&mut self) -> &mut ConfigSpace {
            &mut self.config
        }
        fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
            self.note(format!("read {bar}+{offset:#x}"));
            data.fill(0xa5);
        }
        fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
            self.note(format!("write {bar}+{offset:#x} {data:?}"));
        }
        fn bars_moved(&mut self) {
            self.note(format!("moved {:x?}", self.config.bar(0)));
        }
        fn reset(&mut self) {
            self.note("reset".into());
        }
        fn stop(&mut self) {
            self.note("stop".into());
        }
    }

    const SLOT: Bdf = Bdf::new(0, 3, 0);

    fn bus() -> (Bus, Arc<Mutex<Vec<String>>>) {
        let log = Arc::default();
        let mut bus = Bus::new();
        bus.add(SLOT, Probe::new(&log)).unwrap();
        (bus, log)
    }

    fn taken(log: &Mutex<Vec<String>>) -> Vec<String> {
        std::mem::take(&mut log.lock().unwrap())
    }

    #[test]
    fn an_empty_slot_reads_all_ones() {
        let (bus, _) = bus();
        assert_eq!(
            bus.config_read(Bdf::new(0, 9, 0), 0, 4, Wait).unwrap(),
            u32::MAX
        );
        assert_eq!(
            bus.config_read(Bdf::new(0, 9, 0), 0, 2, Wait).unwrap(),
            0xffff
        );
        assert_eq!(bus.config_read(SLOT, 0, 4, Wait).unwrap(), 0x5678_1234);
    }

    #[test]
    fn a_bar_answers_only_while_it_is_decoded() {
        let (bus, log) = bus();
        let base = MEMORY_WINDOW.start;
        assert_eq!(bus.read(false, base, 4, Wait).unwrap(), None);
        bus.config_write(SLOT, COMMAND, 2, (COMMAND_MEMORY | COMMAND_IO).into(), Wait)
            .unwrap();
        assert_eq!(
            bus.read(false, base + 0x10, 4, Wait).unwrap(),
            Some(0xa5a5_a5a5)
        );
        assert!(bus.write(true, IO_WINDOW.start + 2, 2, 0x1234));
        bus.config_write(SLOT, COMMAND, 2, 0, Wait).unwrap();
        assert!(!bus.write(false, base, 4, 1));
        let expected = [
            "moved Some(80000000)",
            "read 0+0x10",
            "write 1+0x2 [52, 18]",
            "moved None",
        ];
        assert_eq!(taken(&log), expected);
    }

    #[test]
    fn a_bar_follows_its_register() {
        let (bus, log) = bus();
        bus.config_write(SLOT, COMMAND, 2, COMMAND_MEMORY.into(), Wait)
            .unwrap();
        bus.config_write(SLOT, BAR0, 4, 0x9000_0000, Wait).unwrap();
        assert_eq!(bus.read(false, MEMORY_WINDOW.start, 4, Wait).unwrap(), None);
        assert!(bus.read(false, 0x9000_00fc, 4, Wait).unwrap().is_some());
        assert_eq!(
            bus.read(false, 0x9000_00fd, 4, Wait).unwrap(),
            None,
            "it would reach beyond the end"
        );
        assert_eq!(taken(&log)[1], "moved Some(90000000)");
    }

    #[test]
    fn a_bar_at_the_end_of_the_address_space_is_harmless() {
        let (bus, _) = bus();
        bus.config_write(SLOT, COMMAND, 2, COMMAND_MEMORY.into(), Wait)
            .unwrap();
        bus.config_write(SLOT, BAR0, 4, u32::MAX, Wait).unwrap();
        assert!(bus.read(false, 0xffff_ff00, 8, Wait).unwrap().is_some());
        assert_eq!(bus.read(false, u64::MAX, 8, Wait).unwrap(), None);
    }

    #[test]
    fn a_slot_is_given_once_and_a_reset_closes_bars() {
        let (mut bus, log) = bus();
        assert_eq!(
            bus.add(SLOT, Probe::new(&log)),
            Err(SetupError::SlotTaken(SLOT))
        );
        bus.config_write(SLOT, COMMAND, 2, COMMAND_MEMORY.into(), Wait)
            .unwrap();
        bus.reset();
        assert_eq!(bus.read(false, MEMORY_WINDOW.start, 4, Wait).unwrap(), None);
        assert_eq!(taken(&log).last().map(String::as_str), Some("reset"));
    }

    #[test]
    fn functions_make_their_slot_multi_function() {
        let (mut bus, log) = bus();
        bus.add(Bdf::new(0, 3, 1), Probe::new(&log)).unwrap();
        assert_eq!(bus.config_read(SLOT, 0x0e, 1, Wait).unwrap(), 0x80);
        bus.add(Bdf::new(0, 5, 1), Probe::new(&log)).unwrap();
        assert_eq!(bus.slot_without_first_function(), Some(5));
    }

    #[test]
    fn each_pin_has_a_line_above_those_of_isa() {
        assert_eq!(pin_gsi(3, 1), Gsi(19));
        assert_eq!(pin_gsi(31, 4), Gsi(18));
    }
}
