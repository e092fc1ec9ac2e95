//! Interval timer (Intel 8254): three counters at ports 0x40 to 0x43, and port 0x61 with the gate and the
//! output of the third.
//!
//! Nothing counts here: counters are computed from the time since they were loaded, on a clock whose rate
//! [`Pit::new`] is told. Whoever owns the device asks [`Pit::next_rise`] when counter 0, the timer
//! interrupt, is due.
//!
//! Not modelled: counting in BCD; a new count that waits for the end of the running period, which begins
//! at once here.

use acrn_abi::guest_map;

/// Input clock in Hz.
const FREQUENCY: u64 = 1_193_182;
/// Counter 0; the others follow.
const FIRST_PORT: u16 = guest_map::PORT_PIT;
/// The control word.
const CONTROL: u16 = FIRST_PORT + 3;
const SYSTEM_CONTROL: u16 = guest_map::PORT_SYSTEM_CONTROL;
/// Bit 4 of port 0x61 toggles with the refresh of memory, after this many clocks (15 microseconds).
const REFRESH: u64 = 18;

/// Which byte of a counter is accessed next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low,
    High,
    Both,
}

/// The clock that callers read.
#[derive(Clone, Copy, Debug)]
struct Clock {
    hz: u64,
}

impl Clock {
    /// Clocks of the timer in a time.
    fn clocks(self, time: u64) -> u64 {
        (u128::from(time) * u128::from(FREQUENCY) / u128::from(self.hz)) as u64
    }

    /// The time until so many clocks have passed.
    fn time(self, clocks: u64) -> u64 {
        (u128::from(clocks) * u128::from(self.hz)).div_ceil(u128::from(FREQUENCY)) as u64
    }
}

/// How far a counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It has no count, or nothing has started it.
    Idle,
    /// Its gate is closed after so many clocks.
    Held(u64),
    /// It counts since this time.
    Since(u64),
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    clock: Clock,
    access: Access,
    mode: u8,
    /// 1 to 0x10000, once a count was written.
    reload: Option<u32>,
    progress: Progress,
    gate: bool,
    written_low: Option<u8>,
    high_is_next: bool,
    latched: Option<u16>,
    status: Option<u8>,
}

impl Counter {
    const fn new(clock: Clock, gate: bool) -> Self {
        Self {
            clock,
            access: Access::Both,
            mode: 3,
            reload: None,
            progress: Progress::Idle,
            gate,
            written_low: None,
            high_is_next: false,
            latched: None,
            status: None,
        }
    }

    /// Whether the gate starts the counter, rather than lets it count.
    fn is_triggered(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    /// Whether it begins anew at its end.
    fn repeats(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn reload(&self) -> u64 {
        self.reload.unwrap_or(0x1_0000).into()
    }

    /// Clocks that it has counted.
    fn elapsed(&self, now: u64) -> Option<u64> {
        match self.progress {
            Progress::Idle => None,
            Progress::Held(clocks) => Some(clocks),
            // A reading of another CPU may be a few ticks older.
            Progress::Since(start) => Some(self.clock.clocks(now.saturating_sub(start))),
        }
    }

    fn count(&self, now: u64) -> u16 {
        let reload = self.reload();
        let elapsed = self.elapsed(now).unwrap_or(0);
        let value = match self.mode {
            2 => reload - elapsed % reload,
            3 => reload - elapsed.wrapping_mul(2) % reload,
            _ => reload.wrapping_sub(elapsed),
        };
        value as u16
    }

    fn output(&self, now: u64) -> bool {
        let reload = self.reload();
        match (self.mode, self.elapsed(now)) {
            (0, elapsed) => elapsed.is_some_and(|elapsed| elapsed >= reload),
            (_, None) => true,
            (1, Some(elapsed)) => elapsed >= reload,
            (2, Some(elapsed)) => elapsed % reload != reload - 1,
            (3, Some(elapsed)) => elapsed % reload < reload.div_ceil(2),
            (_, Some(elapsed)) => elapsed != reload,
        }
    }

    /// When the output rises next after a time.
    fn next_rise(&self, after: u64) -> Option<u64> {
        let Progress::Since(start) = self.progress else {
            return None;
        };
        let reload = self.reload();
        let elapsed = self.clock.clocks(after.saturating_sub(start));
        let rise = match self.repeats() {
            true => (elapsed / reload).saturating_add(1).saturating_mul(reload),
            false if elapsed < reload => reload,
            false => return None,
        };
        Some(start.saturating_add(self.clock.time(rise)))
    }

    /// Takes a control word's mode and access; the counter waits for a count.
    fn program(&mut self, access: Access, mode: u8) {
        *self = Self {
            access,
            // Modes 6 and 7 are 2 and 3.
            mode: if mode > 5 { mode - 4 } else { mode },
            ..Self::new(self.clock, self.gate)
        };
    }

    /// Writes a byte of the count; true when the count is complete.
    fn write(&mut self, value: u8, now: u64) -> bool {
        let count = match (self.access, self.written_low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, None) => {
                self.written_low = Some(value);
                return false;
            }
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
        };
        self.reload = Some(if count == 0 { 0x1_0000 } else { count.into() });
        self.progress = match (self.gate, self.is_triggered()) {
            (_, true) => Progress::Idle,
            (true, false) => Progress::Since(now),
            (false, false) if self.repeats() => Progress::Idle,
            (false, false) => Progress::Held(0),
        };
        true
    }

    fn set_gate(&mut self, open: bool, now: u64) {
        if open == self.gate {
            return;
        }
        self.gate = open;
        self.progress = match (self.progress, open) {
            (Progress::Held(clocks), true) => {
                Progress::Since(now.saturating_sub(self.clock.time(clocks)))
            }
            (_, true) if self.reload.is_some() => Progress::Since(now),
            (_, false) if self.repeats() => Progress::Idle,
            (Progress::Since(_), false) if !self.is_triggered() => {
                Progress::Held(self.elapsed(now).unwrap_or(0))
            }
            (progress, _) => progress,
        };
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let [low, high] = self
            .latched
            .unwrap_or_else(|| self.count(now))
            .to_le_bytes();
        if self.access == Access::Both {
            self.high_is_next = !self.high_is_next;
            if self.high_is_next {
                return low;
            }
        }
        self.latched = None;
        match self.access {
            Access::Low => low,
            Access::High | Access::Both => high,
        }
    }

    fn latch_count(&mut self, now: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.count(now));
            self.high_is_next = false;
        }
    }

    fn latch_status(&mut self, now: u64) {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        let output = u8::from(self.output(now)) << 7;
        let no_count = u8::from(self.reload.is_none()) << 6;
        let status = output | no_count | access << 4 | self.mode << 1;
        self.status.get_or_insert(status);
    }
}

/// The timer. Times are readings of one clock.
#[derive(Clone, Debug)]
pub struct Pit {
    counters: [Counter; 3],
    /// Bits 0 and 1 of port 0x61.
    control: u8,
}

impl Pit {
    /// Whether a port is one of its own.
    #[must_use]
    pub const fn owns(port: u16) -> bool {
        matches!(port, FIRST_PORT..=CONTROL | SYSTEM_CONTROL)
    }

    /// No counter has a count. `hz` is the rate of the clock that times are read from.
    #[must_use]
    pub const fn new(hz: u64) -> Self {
        let clock = Clock {
            hz: if hz == 0 { 1 } else { hz },
        };
        let open = Counter::new(clock, true);
        Self {
            counters: [open, open, Counter::new(clock, false)],
            control: 0,
        }
    }

    /// As after power-up.
    pub fn reset(&mut self) {
        let [counter, ..] = self.counters;
        *self = Self::new(counter.clock.hz);
    }

    /// Reads a port; all ones where it has none.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        if port == SYSTEM_CONTROL {
            return self.system_control(now);
        }
        match self.counter(port) {
            Some(counter) => counter.read(now),
            None => 0xff,
        }
    }

    /// Writes a port. True when counter 0 has begun anew or stands: [`Self::next_rise`] tells something
    /// else from now on.
    pub fn write(&mut self, port: u16, value: u8, now: u64) -> bool {
        match port {
            CONTROL => return self.command(value, now),
            SYSTEM_CONTROL => {
                self.control = value & 3;
                let [_, _, speaker] = &mut self.counters;
                speaker.set_gate(value & 1 != 0, now);
            }
            _ => {
                if let Some(counter) = self.counter(port) {
                    return counter.write(value, now) && port == FIRST_PORT;
                }
            }
        }
        false
    }

    /// When counter 0 interrupts next after a time.
    #[must_use]
    pub fn next_rise(&self, after: u64) -> Option<u64> {
        let [timer, ..] = &self.counters;
        timer.next_rise(after)
    }

    fn counter(&mut self, port: u16) -> Option<&mut Counter> {
        let index = port.checked_sub(FIRST_PORT)?;
        self.counters.get_mut(usize::from(index))
    }

    fn system_control(&self, now: u64) -> u8 {
        let [.., speaker] = &self.counters;
        let refresh = (speaker.clock.clocks(now) / REFRESH) & 1;
        self.control | (refresh as u8) << 4 | u8::from(speaker.output(now)) << 5
    }

    /// A control word.
    fn command(&mut self, value: u8, now: u64) -> bool {
        let selected = usize::from(value >> 6);
        let Some(counter) = self.counters.get_mut(selected) else {
            self.read_back(value, now);
            return false;
        };
        let access = match value >> 4 & 3 {
            0 => {
                counter.latch_count(now);
                return false;
            }
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        counter.program(access, value >> 1 & 7);
        selected == 0
    }

    /// Bits 1 to 3 choose counters, low bits 4 and 5 what to latch.
    fn read_back(&mut self, value: u8, now: u64) {
        for (index, counter) in self.counters.iter_mut().enumerate() {
            if value & 2 << index == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                counter.latch_count(now);
            }
            if value & 0x10 == 0 {
                counter.latch_status(now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
