//! The chipset over the machine's sleep: what firmware has programmed at the start and ought to program again,
//! such as the places of the configuration window and of the registers of power management. Not every firmware does.

use super::host;
use crate::arch::device;
use crate::power;
use acrn_abi::Bdf;
use arrayvec::ArrayVec;
use spin::Mutex;

/// Doublewords of a function that are kept: all that ports reach.
const SPACE: usize = 64;
const CLASS: u16 = 8;
/// Host bridge, bridge to ISA, other bridge: class and subclass.
const KEPT: [u32; 3] = [0x0600, 0x0601, 0x0680];

struct Kept {
    bdf: Bdf,
    space: [u32; SPACE],
}

static FUNCTIONS: Mutex<ArrayVec<Kept, 8>> = Mutex::new(ArrayVec::new_const());

/// Before the machine's sleep.
pub fn save() {
    let mut functions = FUNCTIONS.lock();
    functions.clear();
    for number in 0..=0xff {
        let bdf = Bdf(number);
        if KEPT.contains(&(device::config_read(bdf, CLASS, 4) >> 16)) {
            let read = |index| device::config_read(bdf, 4 * index as u16, 4);
            let space = core::array::from_fn(read);
            let _ = functions.try_push(Kept { bdf, space });
        }
    }
}

/// After it, by ports and only where firmware has left it undone. The lowest registers last: chipsets have the bit
/// that opens a window in the lower half of its address.
pub fn restore() {
    if host::answers() && power::answers() {
        return;
    }
    for Kept { bdf, space } in FUNCTIONS.lock().iter() {
        for (index, value) in space.iter().enumerate().rev() {
            let register = 4 * index as u16;
            if device::config_read(*bdf, register, 4) != *value {
                device::config_write(*bdf, register, 4, *value);
            }
        }
    }
}
