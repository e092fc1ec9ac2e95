//! High-precision event timer (IA-PC HPET 1.0a) with three comparators, at 0xFED00000.
//!
//! It ticks every 100 ns. The counter is computed from the clock; each comparator has an alarm.
//! The hypervisor answers reads of the running counter where it can ([`crate::run::machine`]),
//! and sees writes on their way here.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use acrn_abi::guest_map;
use acrn_abi::types::Gsi;

use super::alarm::Alarm;
use crate::hsm::sinks::Lines;
use crate::pci::InterruptLine;

/// Address of the registers.
pub const BASE: u64 = guest_map::HPET_BASE.0;
/// Their size.
pub const SIZE: u64 = guest_map::HPET_SIZE;
/// Id for the ACPI table: vendor 8086, 64-bit counter, three comparators. Without legacy replacement: the
/// timer interrupt is the 8254's, which the hypervisor keeps in time.
pub const ID: u32 = 0x8086_2201;

const TICK_NS: u64 = guest_map::HPET_TICK_NS;
const PERIOD_FS: u64 = TICK_NS * 1_000_000;
const TIMERS: usize = 3;
/// Shortest time between periodic interrupts: 100 microseconds.
const SHORTEST_TICKS: u64 = 1000;
/// Lines that comparators can be routed to: 20 to 23.
const ROUTES: u64 = 0x00f0_0000;

const CAPABILITIES: u64 = 0x000;
const CONFIG: u64 = 0x010;
const STATUS: u64 = 0x020;
const COUNTER: u64 = 0x0f0;
const FIRST_TIMER: u64 = 0x100;
const TIMER_STRIDE: u64 = 0x20;

const CONFIG_ENABLE: u64 = 1 << 0;
const TIMER_LEVEL: u64 = 1 << 1;
const TIMER_INTERRUPT: u64 = 1 << 2;
const TIMER_PERIODIC: u64 = 1 << 3;
const TIMER_SET: u64 = 1 << 6;
const TIMER_32: u64 = 1 << 8;
const TIMER_ROUTE: u64 = 0x1f << 9;
const TIMER_WRITABLE: u64 =
    TIMER_LEVEL | TIMER_INTERRUPT | TIMER_PERIODIC | TIMER_SET | TIMER_32 | TIMER_ROUTE;
/// Periodic and 64 bits are possible.
const TIMER_CAPABILITIES: u64 = 1 << 4 | 1 << 5 | ROUTES << 32;

struct Timer {
    config: u64,
    comparator: u64,
    period: u64,
    alarm: Option<Alarm>,
}

impl Timer {
    fn mask(&self) -> u64 {
        if self.config & TIMER_32 != 0 {
            u32::MAX.into()
        } else {
            u64::MAX
        }
    }

    fn periodic(&self) -> bool {
        self.config & TIMER_PERIODIC != 0
    }
}

/// The timer block.
pub struct Hpet {
    config: u64,
    status: u64,
    /// Counter value at `since`, or for good while it stands.
    base: u64,
    since: Instant,
    timers: [Timer; TIMERS],
    lines: Arc<Lines>,
    /// One line for each route, for level-triggered comparators.
    levels: Vec<Arc<dyn InterruptLine>>,
}

impl Hpet {
    /// A timer block on `lines`.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn new(lines: &Arc<Lines>) -> std::io::Result<Arc<Mutex<Self>>> {
        let timer = || Timer {
            config: 0,
            comparator: u64::MAX,
            period: 0,
            alarm: None,
        };
        let hpet = Self {
            config: 0,
            status: 0,
            base: 0,
            since: Instant::now(),
            timers: [timer(), timer(), timer()],
            lines: lines.clone(),
            levels: (20..24).map(|gsi| lines.line(Gsi(gsi))).collect(),
        };
        let shared = Arc::new(Mutex::new(hpet));
        for index in 0..TIMERS {
            let weak: Weak<Mutex<Self>> = Arc::downgrade(&shared);
            let alarm = Alarm::new(&format!("hpet-{index}"), move || {
                if let Some(hpet) = weak.upgrade() {
                    hpet.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .expired(index);
                }
            })?;
            shared.lock().unwrap_or_else(PoisonError::into_inner).timers[index].alarm = Some(alarm);
        }
        Ok(shared)
    }

    fn enabled(&self) -> bool {
        self.config & CONFIG_ENABLE != 0
    }

    fn counter(&self) -> u64 {
        if !self.enabled() {
            return self.base;
        }
        let ticks = self.since.elapsed().as_nanos() / u128::from(TICK_NS);
        self.base.wrapping_add(ticks as u64)
    }

    fn arm(&self, index: usize) {
        let timer = &self.timers[index];
        let Some(alarm) = &timer.alarm else { return };
        if !self.enabled() || timer.config & TIMER_INTERRUPT == 0 {
            return alarm.cancel();
        }
        let mask = timer.mask();
        // A match that has just passed is due now: the guest, or we, may have been too slow, and
        // waiting for the counter to wrap around would stop the guest's clock.
        let left = match timer.comparator.wrapping_sub(self.counter()) & mask {
            passed if passed > mask / 2 => 0,
            left => left,
        };
        // A guest may ask for a period that would keep a CPU of the Service VM busy.
        let left = if timer.periodic() {
            left.max(SHORTEST_TICKS)
        } else {
            left
        };
        let at = left
            .checked_mul(TICK_NS)
            .and_then(|ns| Instant::now().checked_add(Duration::from_nanos(ns)));
        match at {
            Some(at) => alarm.set(at, None),
            None => alarm.cancel(),
        }
    }

    fn arm_all(&self) {
        for index in 0..TIMERS {
            self.arm(index);
        }
    }

    fn expired(&mut self, index: usize) {
        let counter = self.counter();
        let enabled = self.enabled();
        let timer = &mut self.timers[index];
        if !enabled || timer.config & TIMER_INTERRUPT == 0 {
            return;
        }
        let mask = timer.mask();
        let late = counter.wrapping_sub(timer.comparator) & mask;
        if late > mask / 2 {
            // Set anew while the alarm was on its way.
            return self.arm(index);
        }
        if timer.periodic() && timer.period != 0 {
            let steps = (late / timer.period).saturating_add(1);
            timer.comparator = timer
                .comparator
                .wrapping_add(timer.period.wrapping_mul(steps))
                & mask;
            self.arm(index);
        }
        self.fire(index);
    }

    fn fire(&mut self, index: usize) {
        let config = self.timers[index].config;
        let level = config & TIMER_LEVEL != 0;
        if level {
            self.status |= 1 << index;
        }
        let route = ((config & TIMER_ROUTE) >> 9) as u32;
        if ROUTES >> route & 1 == 0 {
            return;
        }
        if level {
            if let Some(line) = self.levels.get((route - 20) as usize) {
                line.set(true);
            }
        } else {
            self.lines.pulse(Gsi(route));
        }
    }

    fn lower_lines(&self) {
        for (at, line) in (20..).zip(&self.levels) {
            let wanted = (0..TIMERS).any(|index| {
                let config = self.timers[index].config;
                self.status >> index & 1 != 0 && (config & TIMER_ROUTE) >> 9 == at
            });
            if !wanted {
                line.set(false);
            }
        }
    }

    fn get(&self, register: u64) -> u64 {
        match register {
            CAPABILITIES => PERIOD_FS << 32 | u64::from(ID),
            CONFIG => self.config,
            STATUS => self.status,
            COUNTER => self.counter(),
            _ => match self.timer(register) {
                Some((index, 0x00)) => self.timers[index].config | TIMER_CAPABILITIES,
                Some((index, 0x08)) => self.timers[index].comparator,
                _ => 0,
            },
        }
    }

    /// Which comparator a register belongs to, and its offset there.
    fn timer(&self, register: u64) -> Option<(usize, u64)> {
        let offset = register.checked_sub(FIRST_TIMER)?;
        let index = usize::try_from(offset / TIMER_STRIDE).ok()?;
        (index < TIMERS).then_some((index, offset % TIMER_STRIDE))
    }

    /// Writes the bits of `mask`.
    fn put(&mut self, register: u64, value: u64, mask: u64) {
        match register {
            CONFIG => {
                let counter = self.counter();
                self.config = (self.config & !mask | value & mask) & CONFIG_ENABLE;
                self.base = counter;
                self.since = Instant::now();
                self.arm_all();
            }
            STATUS => {
                self.status &= !(value & mask);
                self.lower_lines();
            }
            COUNTER => {
                self.base = self.counter() & !mask | value & mask;
                self.since = Instant::now();
                self.arm_all();
            }
            _ => match self.timer(register) {
                Some((index, 0x00)) => {
                    let timer = &mut self.timers[index];
                    timer.config = (timer.config & !mask | value & mask) & TIMER_WRITABLE;
                    self.arm(index);
                }
                Some((index, 0x08)) => self.set_comparator(index, value, mask),
                _ => {}
            },
        }
    }

    fn set_comparator(&mut self, index: usize, value: u64, mask: u64) {
        let timer = &mut self.timers[index];
        let merge = |old: u64| old & !mask | value & mask;
        if !timer.periodic() || timer.config & TIMER_SET != 0 {
            timer.comparator = merge(timer.comparator) & timer.mask();
        }
        if timer.periodic() {
            timer.period = merge(timer.period) & timer.mask();
        }
        // A 64-bit value in two halves: the mark stays for the upper one.
        if mask >> 32 != 0 || timer.config & TIMER_32 != 0 {
            timer.config &= !TIMER_SET;
        }
        self.arm(index);
    }

    /// Reads `size` bytes, 1 to 8, at an offset in the registers.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let shift = 8 * (offset & 7) as u32;
        self.get(offset & !7) >> shift & byte_mask(size)
    }

    /// Writes `size` bytes, 1 to 8.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        let shift = 8 * (offset & 7) as u32;
        self.put(offset & !7, value << shift, byte_mask(size) << shift);
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        self.config = 0;
        self.status = 0;
        self.base = 0;
        for timer in &mut self.timers {
            (timer.config, timer.comparator, timer.period) = (0, u64::MAX, 0);
        }
        self.lower_lines();
        self.arm_all();
    }
}

fn byte_mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

#[cfg(test)]
mod tests {
    use acrn_abi::hypercall::IrqLine;

    use super::*;
    use crate::hsm::fake::{Call, FakeHsm};

    fn hpet() -> (Arc<FakeHsm>, Arc<Mutex<Hpet>>) {
        let hsm = FakeHsm::new();
        let lines = Lines::new(hsm.clone());
        (hsm, Hpet::new(&lines).unwrap())
    }

    #[test]
    fn the_counter_runs_only_while_enabled() {
        let (_hsm, hpet) = hpet();
        let mut hpet = hpet.lock().unwrap();
        assert_eq!(hpet.read(COUNTER, 8), 0);
        hpet.write(CONFIG, 4, 1);
        std::thread::sleep(Duration::from_millis(1));
        assert!(hpet.read(COUNTER, 8) >= 10_000);
        hpet.write(CONFIG, 4, 0);
        assert_eq!(hpet.read(COUNTER, 8), hpet.read(COUNTER, 8));
    }

    #[test]
    fn linux_gets_its_tick() {
        let (hsm, shared) = hpet();
        let mut hpet = shared.lock().unwrap();
        hpet.write(CONFIG, 4, 3);
        assert_eq!(hpet.read(CONFIG, 4), 1, "no legacy replacement");
        // As Linux sets a period: mark, first match, period.
        hpet.write(
            0x100,
            4,
            TIMER_INTERRUPT | TIMER_PERIODIC | TIMER_SET | TIMER_32 | 20 << 9,
        );
        let now = hpet.read(COUNTER, 4);
        hpet.write(0x108, 4, now + 10_000);
        hpet.write(0x108, 4, 10_000);
        drop(hpet);
        let tick = Call::IrqLine(20, IrqLine::RISING_PULSE);
        hsm.wait_for(&tick);
        hsm.take_calls();
        hsm.wait_for(&tick);
    }

    #[test]
    fn a_level_comparator_holds_its_line_until_its_status_is_cleared() {
        let (hsm, shared) = hpet();
        let mut hpet = shared.lock().unwrap();
        hpet.write(CONFIG, 4, 1);
        let now = hpet.read(COUNTER, 8);
        hpet.write(0x148, 8, now + 10_000);
        hpet.write(0x140, 8, TIMER_INTERRUPT | TIMER_LEVEL | 21 << 9);
        drop(hpet);
        hsm.wait_for(&Call::IrqLine(21, IrqLine::HIGH));
        let mut hpet = shared.lock().unwrap();
        assert_eq!(hpet.read(STATUS, 4), 1 << 2);
        hpet.write(STATUS, 4, 1 << 2);
        assert_eq!(
            hsm.take_calls().last(),
            Some(&Call::IrqLine(21, IrqLine::LOW))
        );
    }

    #[test]
    fn a_match_that_has_passed_is_due_at_once() {
        let (hsm, shared) = hpet();
        let mut hpet = shared.lock().unwrap();
        hpet.write(CONFIG, 4, 1);
        hpet.write(COUNTER, 8, 1000);
        hpet.write(0x100, 4, TIMER_INTERRUPT | TIMER_32 | 20 << 9);
        drop(hpet);
        let due = Call::IrqLine(20, IrqLine::RISING_PULSE);
        hsm.wait_for(&due);
        hsm.take_calls();
        shared.lock().unwrap().write(0x108, 4, 500);
        hsm.wait_for(&due);
    }

    #[test]
    fn capabilities_tell_the_period() {
        let (_hsm, hpet) = hpet();
        let hpet = hpet.lock().unwrap();
        assert_eq!(hpet.read(4, 4), 100_000_000);
        assert_eq!(hpet.read(0, 4) as u32, ID);
    }

    #[test]
    fn any_access_is_survived() {
        let (_hsm, hpet) = hpet();
        let mut hpet = hpet.lock().unwrap();
        for offset in 0..SIZE {
            for size in [1, 2, 4, 8] {
                hpet.write(offset, size, u64::MAX);
                hpet.read(offset, size);
                hpet.write(offset, size, 1);
            }
        }
    }
}
