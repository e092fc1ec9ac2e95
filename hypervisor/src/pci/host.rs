//! The machine's configuration space, by its memory-mapped window where there is one.

use crate::arch::{device, paging};
use acrn_abi::{Bdf, Gpa, Hpa};
use acrn_acpi::Platform;
use acrn_vdev::pci::{ConfigSpace, EcamWindow};
use arrayvec::ArrayVec;
use spin::Once;

/// Most windows that are looked at.
const MAX_WINDOWS: usize = 8;
/// First address that only the hypervisor's own tables map.
const BOOT_LIMIT: u64 = 1 << 32;

/// A window of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Where, and which buses.
    pub range: EcamWindow,
    /// Whether its functions are those that ports reach. Others are hidden from guests.
    pub first_segment: bool,
    /// Whether the hypervisor's tables map it.
    mapped: bool,
}

impl Window {
    /// First address and size in bytes.
    pub fn extent(&self) -> (u64, u64) {
        let buses = u64::from(self.range.last_bus - self.range.first_bus) + 1;
        let start = self.range.base.0 + (u64::from(self.range.first_bus) << 20);
        (start, buses << 20)
    }

    fn reachable(&self) -> bool {
        let (start, size) = self.extent();
        self.mapped && (paging::is_built() || start + size <= BOOT_LIMIT)
    }
}

static WINDOWS: Once<ArrayVec<Window, MAX_WINDOWS>> = Once::new();

/// Takes note of the windows and returns the one that is to be mapped.
pub fn initialise(platform: &Platform) -> Option<(Hpa, u64)> {
    WINDOWS.call_once(|| {
        let mut list = ArrayVec::new();
        let mut chosen = false;
        for ecam in &platform.ecam {
            let limit = 1u64 << 52;
            if ecam.base.get() >= limit || ecam.last_bus < ecam.first_bus {
                continue;
            }
            let mut window = Window {
                range: EcamWindow {
                    base: Gpa(ecam.base.get()),
                    first_bus: ecam.first_bus,
                    last_bus: ecam.last_bus,
                },
                first_segment: ecam.segment == 0,
                mapped: false,
            };
            window.mapped = !chosen && window.first_segment && is_genuine(&window);
            chosen |= window.mapped;
            let _ = list.try_push(window);
        }
        list
    });
    let (start, size) = windows().iter().find(|w| w.mapped)?.extent();
    Some((Hpa(start), size))
}

/// Firmware has been seen to announce windows that are not there. One above 4 GiB cannot be
/// looked at this early.
fn is_genuine(window: &Window) -> bool {
    let (start, size) = window.extent();
    if start + size > BOOT_LIMIT {
        return true;
    }
    let first = Bdf::new(window.range.first_bus, 0, 0);
    // SAFETY: paging is not on yet and the window lies below 4 GiB.
    let seen = unsafe { device::ecam_read(Hpa(start), 4) };
    let genuine = seen == device::config_read(first, 0, 4);
    if !genuine {
        crate::warning!("PCI: the configuration window at {start:#x} does not work");
    }
    genuine
}

/// Whether the window that is used answers; `true` without one.
pub fn answers() -> bool {
    let Some(window) = windows().iter().find(|window| window.mapped) else {
        return true;
    };
    let first = Bdf::new(window.range.first_bus, 0, 0);
    let seen = device::read(Hpa(window.extent().0), 4);
    seen == u64::from(device::config_read(first, 0, 4))
}

/// All windows.
pub fn windows() -> &'static [Window] {
    WINDOWS.get().map_or(&[], |list| list.as_slice())
}

/// The window that holds an address.
pub fn window_at(gpa: Gpa) -> Option<&'static Window> {
    windows().iter().find(|window| window.range.contains(gpa))
}

/// Configuration space of the host.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Host {
    fn address(bdf: Bdf, register: u16) -> Option<Hpa> {
        let window = windows().iter().find(|w| w.mapped)?;
        let buses = window.range.first_bus..=window.range.last_bus;
        if !buses.contains(&bdf.bus()) || !window.reachable() {
            return None;
        }
        let offset = u64::from(bdf.0) << 12 | u64::from(register & 0xfff);
        Some(Hpa(window.range.base.0 + offset))
    }
}

impl ConfigSpace for Host {
    fn read(&self, bdf: Bdf, register: u16, size: u8) -> u32 {
        match Self::address(bdf, register) {
            // SAFETY: in a window that is mapped.
            Some(address) => unsafe { device::ecam_read(address, size) },
            None if register < 0x100 => device::config_read(bdf, register, size),
            None => u32::MAX,
        }
    }

    fn write(&mut self, bdf: Bdf, register: u16, size: u8, value: u32) {
        match Self::address(bdf, register) {
            // SAFETY: in a window that is mapped.
            Some(address) => unsafe { device::ecam_write(address, size, value) },
            None if register < 0x100 => device::config_write(bdf, register, size, value),
            None => {}
        }
    }
}

/// Configuration space that is not there: for seeing what a write would do.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl ConfigSpace for Nowhere {
    fn read(&self, _bdf: Bdf, _register: u16, size: u8) -> u32 {
        acrn_vdev::pci::all_ones(size)
    }

    fn write(&mut self, _bdf: Bdf, _register: u16, _size: u8, _value: u32) {}
}
