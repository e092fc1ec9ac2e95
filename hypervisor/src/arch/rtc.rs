//! The time of day: read from the machine's clock before a VM has it, at start-up and after the machine's
//! sleep, and counted by the TSC.

use super::{cpu, tsc};
use acrn_vdev::rtc::{self, DATA_PORT, INDEX_PORT};
use spin::Mutex;

/// Seconds since 1970, and the TSC then.
static START: Mutex<(u64, u64)> = Mutex::new((0, 0));

/// How often the clock is asked; an update takes 2 ms at most.
const TRIES: usize = 1000;

/// Reads the machine's clock. When the rate of the TSC is known.
pub fn initialise() {
    let mut before = None;
    for _ in 0..TRIES {
        let time = rtc::time_of(read);
        if let Some(time) = time.filter(|_| time == before) {
            *START.lock() = (time, cpu::rdtsc());
            return;
        }
        before = time;
    }
    warning!("the machine's clock shows no time: VMs without a Device Model begin in 1970");
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    let (time, tsc) = *START.lock();
    let passed = cpu::rdtsc().wrapping_sub(tsc);
    time.saturating_add(passed / tsc::from_ms(1000).max(1))
}

fn read(register: u8) -> u8 {
    // SAFETY: the clock's registers, while no VM has them; reading them changes nothing but the index.
    unsafe {
        cpu::outb(INDEX_PORT, register);
        cpu::inb(DATA_PORT)
    }
}
