//! The PCI device of the book's chapter "Adding a virtual device", which includes the parts
//! between the anchors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use acrn_abi::Bdf;
use acrn_dm::pci::bus::{Bus, MEMORY_WINDOW, Patience};
use acrn_dm::pci::{BarKind, ConfigSpace, Identity, InterruptLine, PciDevice, SetupError};

// ANCHOR: device
/// Rings when it is written to, and counts.
///
/// | offset in BAR 0 | read | write |
/// |---|---|---|
/// | 0 | rings since the last reset; silences the interrupt | rings: raises the interrupt |
struct Bell {
    config: ConfigSpace,
    line: Arc<dyn InterruptLine>,
    rings: u32,
}

impl Bell {
    fn new(line: Arc<dyn InterruptLine>) -> Result<Self, SetupError> {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: 0xbe11,
            class: 0xff_00_00,
            ..Identity::default()
        });
        config.add_bar(0, BarKind::Memory32, 16)?;
        // INTA#; the machine fills the line in.
        config.set_interrupt(1, 0);
        Ok(Self {
            config,
            line,
            rings: 0,
        })
    }
}

impl PciDevice for Bell {
    fn name(&self) -> &str {
        "bell"
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn bar_read(&mut self, _bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset == 0 {
            // A guest may read 1, 2, 4 or 8 bytes.
            let value = u64::from(self.rings).to_le_bytes();
            data.copy_from_slice(&value[..data.len()]);
            self.line.set(false);
        }
    }
    fn bar_write(&mut self, _bar: u8, offset: u64, _data: &[u8]) {
        if offset == 0 {
            self.rings = self.rings.wrapping_add(1);
            self.line.set(true);
        }
    }
    fn reset(&mut self) {
        self.rings = 0;
        self.line.set(false);
    }
    fn stop(&mut self) {}
}
// ANCHOR_END: device

// ANCHOR: test
#[derive(Default)]
struct Line(AtomicBool);

impl InterruptLine for Line {
    fn set(&self, level: bool) {
        self.0.store(level, Ordering::Relaxed);
    }
}

#[test]
fn a_bell_rings_until_it_is_read() {
    const COMMAND: u16 = 4;
    const COMMAND_MEMORY: u32 = 2;
    let place = Bdf::new(0, 3, 0);
    let line = Arc::new(Line::default());
    let mut bus = Bus::new();
    bus.add(place, Box::new(Bell::new(line.clone()).unwrap()))
        .unwrap();
    bus.config_write(place, COMMAND, 2, COMMAND_MEMORY, Patience::Wait)
        .unwrap();

    let register = MEMORY_WINDOW.start;
    assert!(bus.write(false, register, 4, 0));
    assert!(line.0.load(Ordering::Relaxed));
    let rings = bus.read(false, register, 4, Patience::Wait).unwrap();
    assert_eq!(rings, Some(1));
    assert!(!line.0.load(Ordering::Relaxed));
}
// ANCHOR_END: test
