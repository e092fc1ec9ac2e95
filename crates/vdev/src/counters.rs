//! Two counters of a User VM that run without its Device Model: the ACPI PM timer, and the main
//! counter of the HPET.
//!
//! A guest that does not know ACRN's CPUID leaves measures the TSC against one of them. Linux
//! takes a reading only if it took less than about 100,000 TSC ticks, which an answer of the Device
//! Model exceeds on a busy or emulated machine; the guest then does without its TSC, and each
//! look at the clock is a request to the Device Model. So the hypervisor answers the reads.
//!
//! All else of the two devices is the Device Model's. Writes to the HPET are shown to
//! [`Counters::hpet_write`] on their way there, so that this counter stands and runs when that
//! one does. It is ahead by the time that the write needs to get there; comparators, which the
//! Device Model watches, match that much late and never early.

use acrn_abi::guest_map::HPET_TICK_NS;

/// Rate of the PM timer in Hz (ACPI 6.5, section 4.8.2.1).
const PM_TIMER_HZ: u64 = 3_579_545;
const HPET_HZ: u64 = 1_000_000_000 / HPET_TICK_NS;

/// General configuration register of the HPET; bit 0 lets the counter run.
const HPET_CONFIG: u64 = 0x10;
/// Main counter of the HPET.
const HPET_COUNTER: u64 = 0xf0;

/// Both counters. Times are TSC values of the host.
#[derive(Clone, Debug)]
pub struct Counters {
    tsc_khz: u64,
    start: u64,
    running: bool,
    /// Value of the HPET's counter at `since`, or for good while it stands.
    base: u64,
    since: u64,
}

impl Counters {
    /// The PM timer begins at 0 and runs; the HPET stands at 0. `tsc_khz` is the rate of the TSC.
    #[must_use]
    pub fn new(tsc_khz: u64, now: u64) -> Self {
        Self {
            tsc_khz: tsc_khz.max(1),
            start: now,
            running: false,
            base: 0,
            since: now,
        }
    }

    /// Stops the HPET at 0, as a reset of the machine does. The PM timer runs on.
    pub fn reset(&mut self) {
        (self.running, self.base) = (false, 0);
    }

    fn ticks(&self, from: u64, now: u64, hz: u64) -> u64 {
        // A reading of another CPU may be a few ticks older.
        let passed = now.saturating_sub(from);
        (u128::from(passed) * u128::from(hz) / (u128::from(self.tsc_khz) * 1000)) as u64
    }

    /// The PM timer, 32 bits wide.
    #[must_use]
    pub fn pm_timer(&self, now: u64) -> u32 {
        self.ticks(self.start, now, PM_TIMER_HZ) as u32
    }

    fn hpet_counter(&self, now: u64) -> u64 {
        if self.running {
            let passed = self.ticks(self.since, now, HPET_HZ);
            self.base.wrapping_add(passed)
        } else {
            self.base
        }
    }

    /// Reads `size` bytes at an offset of the HPET's registers; `None` if it is not the counter,
    /// or the counter stands.
    #[must_use]
    pub fn hpet_read(&self, offset: u64, size: u8, now: u64) -> Option<u64> {
        let at = offset.checked_sub(HPET_COUNTER)?;
        if !self.running || at + u64::from(size) > 8 {
            return None;
        }
        Some(self.hpet_counter(now) >> (8 * at) & mask(size))
    }

    /// Takes note of a write of `size` bytes to the HPET's registers.
    pub fn hpet_write(&mut self, offset: u64, size: u8, value: u64, now: u64) {
        let within = |register: u64| offset.checked_sub(register).filter(|at| *at < 8);
        if offset == HPET_CONFIG {
            self.base = self.hpet_counter(now);
            self.since = now;
            self.running = value & 1 != 0;
        } else if let Some(at) = within(HPET_COUNTER) {
            let mask = mask(size) << (8 * at);
            let value = value << (8 * at) & mask;
            self.base = self.hpet_counter(now) & !mask | value;
            self.since = now;
        }
    }
}

fn mask(size: u8) -> u64 {
    match size {
        0..8 => (1 << (8 * size)) - 1,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TSC ticks a millisecond.
    const KHZ: u64 = 2_300_000;
    const SECOND: u64 = KHZ * 1000;

    #[test]
    fn the_pm_timer_runs_at_its_rate_and_wraps() {
        let counters = Counters::new(KHZ, 77);
        assert_eq!(counters.pm_timer(77), 0);
        assert_eq!(counters.pm_timer(77 + SECOND), 3_579_545);
        let wrapped = (3_579_545_u64 * 2000 % (1 << 32)) as u32;
        assert_eq!(counters.pm_timer(77 + 2000 * SECOND), wrapped);
        assert_eq!(counters.pm_timer(0), 0);
    }

    #[test]
    fn the_hpet_stands_until_it_is_enabled_and_when_it_is_stopped() {
        let mut counters = Counters::new(KHZ, 0);
        assert_eq!(counters.hpet_read(0xf0, 8, SECOND), None);
        counters.hpet_write(0x10, 4, 1, SECOND);
        assert_eq!(counters.hpet_read(0xf0, 4, SECOND), Some(0));
        assert_eq!(counters.hpet_read(0xf0, 8, 2 * SECOND), Some(10_000_000));
        counters.hpet_write(0x10, 8, 0, 3 * SECOND);
        assert_eq!(counters.hpet_read(0xf0, 8, 9 * SECOND), None);
        counters.hpet_write(0x10, 4, 3, 9 * SECOND);
        assert_eq!(counters.hpet_read(0xf0, 8, 10 * SECOND), Some(30_000_000));
        counters.reset();
        assert_eq!(counters.hpet_read(0xf0, 8, 10 * SECOND), None);
    }

    #[test]
    fn the_counter_is_written_and_read_in_halves() {
        let mut counters = Counters::new(KHZ, 0);
        counters.hpet_write(0xf4, 4, 0x1234, 0);
        counters.hpet_write(0xf0, 4, 0xffff_fff0, 0);
        counters.hpet_write(0x10, 4, 1, 0);
        assert_eq!(counters.hpet_read(0xf0, 8, 0), Some(0x1234_ffff_fff0));
        assert_eq!(counters.hpet_read(0xf4, 4, 0), Some(0x1234));
        assert_eq!(counters.hpet_read(0xf6, 2, 0), Some(0));
        assert_eq!(counters.hpet_read(0xf4, 4, SECOND), Some(0x1235));
    }

    #[test]
    fn other_registers_and_odd_accesses_are_the_device_models() {
        let mut counters = Counters::new(KHZ, 0);
        counters.hpet_write(0x10, 4, 1, 0);
        for (offset, size) in [(0x00, 8), (0x10, 4), (0xec, 8), (0xf4, 8), (0xf8, 4)] {
            assert_eq!(counters.hpet_read(offset, size, 5), None, "{offset:#x}");
            counters.hpet_write(offset.max(0x20), size, u64::MAX, 5);
        }
        for offset in [0x11, 0x14, 0x20, 0x100, u64::MAX] {
            counters.hpet_write(offset, 4, 0, 5);
            assert!(counters.running, "{offset:#x}");
        }
    }
}
