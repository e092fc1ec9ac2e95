//! The host's IOAPICs: plain register access by (controller, pin).

use acrn_abi::Gsi;
use arrayvec::ArrayVec;
use spin::{Mutex, Once};

/// One controller.
#[derive(Clone, Copy, Debug)]
pub struct IoApic {
    /// Physical address of the two registers.
    pub base: u64,
    /// First global system interrupt.
    pub gsi_base: u32,
    /// Number of pins.
    pub pins: u32,
    /// Identifier as the MADT says.
    pub id: u8,
}

/// Most controllers that are used.
pub const MAX_IOAPICS: usize = 8;

static CONTROLLERS: Once<ArrayVec<IoApic, MAX_IOAPICS>> = Once::new();
static ACCESS: Mutex<()> = Mutex::new(());

fn read(base: u64, register: u32) -> u32 {
    let address = base as *mut u32;
    // SAFETY: an IOAPIC's register window, mapped uncached, used under the ACCESS lock.
    unsafe {
        address.write_volatile(register);
        address.add(4).read_volatile()
    }
}

fn write(base: u64, register: u32, value: u32) {
    let address = base as *mut u32;
    // SAFETY: an IOAPIC's register window, mapped uncached, used under the ACCESS lock.
    unsafe {
        address.write_volatile(register);
        address.add(4).write_volatile(value);
    }
}

/// Takes the controllers of the MADT over, all pins masked.
pub fn initialise(found: impl Iterator<Item = (u8, u64, u32)>) {
    CONTROLLERS.call_once(|| {
        let mut list = ArrayVec::new();
        for (id, base, gsi_base) in found.take(MAX_IOAPICS) {
            let _guard = ACCESS.lock();
            let pins = (read(base, 1) >> 16 & 0xff) + 1;
            for pin in 0..pins {
                write(base, 0x10 + 2 * pin, 1 << 16);
            }
            list.push(IoApic {
                base,
                gsi_base,
                pins: pins.min(120),
                id,
            });
        }
        list
    });
}

/// The controllers.
pub fn controllers() -> &'static [IoApic] {
    CONTROLLERS.get().map_or(&[], |list| list.as_slice())
}

/// A pin's redirection entry; `None` when no controller has the GSI.
pub fn read_entry(gsi: Gsi) -> Option<u64> {
    let (controller, pin) = locate(gsi)?;
    let _guard = ACCESS.lock();
    let low = read(controller.base, 0x10 + 2 * pin);
    let high = read(controller.base, 0x11 + 2 * pin);
    Some(u64::from(high) << 32 | u64::from(low))
}

/// Writes a pin's redirection entry; a GSI that no controller has is ignored.
pub fn write_entry(gsi: Gsi, entry: u64) {
    if let Some((controller, pin)) = locate(gsi) {
        let _guard = ACCESS.lock();
        // Masked while the two halves disagree.
        write(controller.base, 0x10 + 2 * pin, 1 << 16);
        write(controller.base, 0x11 + 2 * pin, (entry >> 32) as u32);
        write(controller.base, 0x10 + 2 * pin, entry as u32);
    }
}

/// Every pin of every controller.
fn pins() -> impl Iterator<Item = Gsi> {
    let controllers = controllers().iter();
    controllers.flat_map(|c| (c.gsi_base..c.gsi_base + c.pins).map(Gsi))
}

/// Entries over the machine's sleep.
static KEPT: Mutex<ArrayVec<u64, MAX_PINS>> = Mutex::new(ArrayVec::new_const());
const MAX_PINS: usize = MAX_IOAPICS * 120;

/// Before the machine's sleep.
pub fn save() {
    let mut kept = KEPT.lock();
    kept.clear();
    kept.extend(pins().take(MAX_PINS).filter_map(read_entry));
}

/// After it: every pin is as it was.
pub fn restore() {
    for (gsi, entry) in pins().zip(&*KEPT.lock()) {
        write_entry(gsi, *entry);
    }
}

/// Masks or unmasks a pin.
pub fn set_mask(gsi: Gsi, masked: bool) {
    if let Some((controller, pin)) = locate(gsi) {
        let _guard = ACCESS.lock();
        let low = read(controller.base, 0x10 + 2 * pin);
        let wanted = if masked {
            low | 1 << 16
        } else {
            low & !(1 << 16)
        };
        write(controller.base, 0x10 + 2 * pin, wanted);
    }
}

/// The controller with this pin.
pub fn controller(gsi: Gsi) -> Option<&'static IoApic> {
    locate(gsi).map(|(controller, _)| controller)
}

fn locate(gsi: Gsi) -> Option<(&'static IoApic, u32)> {
    controllers()
        .iter()
        .find(|c| gsi.0 >= c.gsi_base && gsi.0 - c.gsi_base < c.pins)
        .map(|c| (c, gsi.0 - c.gsi_base))
}
