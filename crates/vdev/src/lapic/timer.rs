//! The local APIC timer (SDM 3A, 10.5.4).
//!
//! Nothing counts here: an armed timer is the guest TSC value at which it expires, and the
//! current count is computed when it is read. All rates are powers of two of the TSC, so the
//! usual paths shift and never divide. A guest may set its TSC to anything: what counts moves along
//! with it ([`Timer::move_tsc`]) and may go around the end of 64 bits, while a TSC deadline is a
//! value of the TSC and stays.

/// Shortest time between two expiries that are delivered, in TSC ticks. A guest may program a
/// shorter period; the expiries in between are then merged, so that it cannot keep its physical
/// CPU in the timer handler.
pub const MIN_PERIOD: u64 = 1 << 14;

/// Largest accepted ratio of TSC to timer clock, as a shift.
const MAX_CLOCK_SHIFT: u8 = 16;

/// Timer mode, bits 18:17 of the LVT timer register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl TimerMode {
    pub(super) fn from_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    mode: TimerMode,
    initial: u32,
    divide: u32,
    /// One timer tick is `1 << clock_shift` TSC ticks before the divider.
    clock_shift: u8,
    /// Guest TSC of the next expiry; 0 when disarmed.
    deadline: u64,
}

impl Timer {
    pub(super) const fn new(clock_shift: u8) -> Self {
        Self {
            mode: TimerMode::OneShot,
            initial: 0,
            divide: 0,
            clock_shift: if clock_shift < MAX_CLOCK_SHIFT {
                clock_shift
            } else {
                MAX_CLOCK_SHIFT
            },
            deadline: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.clock_shift);
    }

    /// log2 of the TSC ticks per count.
    fn shift(&self) -> u32 {
        let divider = (self.divide & 3 | self.divide >> 1 & 4) + 1;
        u32::from(self.clock_shift) + (divider & 7)
    }

    /// At most 2^32 counts of 2^23 TSC ticks: no overflow.
    fn ticks(&self, count: u32) -> u64 {
        u64::from(count) << self.shift()
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        (self.deadline != 0).then_some(self.deadline)
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) fn set_mode(&mut self, mode: TimerMode) {
        if mode != self.mode && !(mode.counts() && self.mode.counts()) {
            self.initial = 0;
            self.deadline = 0;
        }
        self.mode = mode;
    }

    pub(super) fn set_initial(&mut self, count: u32, now: u64) {
        if self.mode.counts() {
            self.initial = count;
            self.arm(count, now);
        }
    }

    fn arm(&mut self, count: u32, now: u64) {
        self.deadline = if count == 0 {
            0
        } else {
            armed(now.wrapping_add(self.ticks(count)))
        };
    }

    /// The guest's TSC has jumped by `change`: what counts does not depend on it.
    pub(super) fn move_tsc(&mut self, change: u64) {
        if self.mode.counts() && self.deadline != 0 {
            self.deadline = armed(self.deadline.wrapping_add(change));
        }
    }

    /// TSC ticks from the end of the count to `now`; `None` before it. No count is longer than
    /// 2^55 ticks.
    fn late(&self, now: u64) -> Option<u64> {
        let late = now.wrapping_sub(self.deadline);
        (late >> 63 == 0).then_some(late)
    }

    /// A running count goes on from where it is, at the new rate.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let count = self.current(now);
        self.divide = value & 0xb;
        if self.mode.counts() && self.deadline != 0 {
            self.arm(count, now);
        }
    }

    pub(super) fn current(&self, now: u64) -> u32 {
        if !self.mode.counts() || self.deadline == 0 {
            return 0;
        }
        let period = self.ticks(self.initial);
        let remaining = match self.late(now) {
            None => self.deadline.wrapping_sub(now),
            Some(late) if self.mode == TimerMode::Periodic && period != 0 => period - late % period,
            Some(_) => 0,
        };
        // A TSC that went backwards must not show more than was programmed.
        let count = remaining.div_ceil(1 << self.shift());
        count.min(u64::from(self.initial)) as u32
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        if self.mode == TimerMode::TscDeadline {
            self.deadline
        } else {
            0
        }
    }

    pub(super) fn set_tsc_deadline(&mut self, value: u64) {
        if self.mode == TimerMode::TscDeadline {
            self.deadline = value;
        }
    }

    /// TSC ticks from `now` to the end of the armed timer.
    pub(super) fn due_in(&self, now: u64) -> u64 {
        if !self.mode.counts() {
            return self.deadline.saturating_sub(now);
        }
        match self.late(now) {
            None => self.deadline.wrapping_sub(now),
            Some(_) => 0,
        }
    }

    /// Whether the timer has expired by `now`; if so, goes on to the next period or disarms.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        if self.deadline == 0 {
            return false;
        }
        if !self.mode.counts() {
            let due = now >= self.deadline;
            if due {
                self.deadline = 0;
            }
            return due;
        }
        let Some(late) = self.late(now) else {
            return false;
        };
        let period = self.ticks(self.initial);
        self.deadline = if self.mode == TimerMode::Periodic && period != 0 {
            armed(self.deadline.wrapping_add(to_next(late, period)))
        } else {
            0
        };
        true
    }
}

/// A deadline, which is never 0.
fn armed(deadline: u64) -> u64 {
    deadline.max(1)
}

/// From an expiry that is served `late` ticks after it to the next one: the first multiple of the
/// period that is ahead, and at least [`MIN_PERIOD`] ahead when the period is shorter than that.
/// Keeps the phase, so a periodic timer does not drift.
fn to_next(late: u64, period: u64) -> u64 {
    let least = if period < MIN_PERIOD {
        late + MIN_PERIOD
    } else {
        late
    };
    if period > least {
        return period;
    }
    (least / period + 1) * period
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(mode: TimerMode, divide: u32) -> Timer {
        let mut timer = Timer::new(2);
        timer.set_mode(mode);
        timer.set_divide(divide, 0);
        timer
    }

    /// Divide by 1: a count is 4 TSC ticks with the fixture's clock.
    const BY_1: u32 = 0xb;

    #[test]
    fn the_divider_encodes_1_to_128() {
        for (encoding, divider) in [
            (0, 2),
            (1, 4),
            (2, 8),
            (3, 16),
            (8, 32),
            (9, 64),
            (10, 128),
            (11, 1),
        ] {
            let mut timer = timer(TimerMode::OneShot, encoding);
            timer.set_initial(10, 100);
            assert_eq!(timer.deadline(), Some(100 + 10 * 4 * divider));
        }
    }

    #[test]
    fn one_shot_counts_down_to_zero_once() {
        let mut timer = timer(TimerMode::OneShot, BY_1);
        timer.set_initial(10, 1000);
        assert_eq!(timer.current(1000), 10);
        assert_eq!(timer.current(1001), 10);
        assert_eq!(timer.current(1004), 9);
        assert_eq!(timer.current(1040), 0);
        assert!(!timer.expire(1039));
        assert!(timer.expire(1040));
        assert_eq!(timer.deadline(), None);
        assert!(!timer.expire(u64::MAX));
        assert_eq!(timer.current(2000), 0);
    }

    #[test]
    fn periodic_keeps_its_phase_however_late_it_is_served() {
        let mut timer = timer(TimerMode::Periodic, BY_1);
        let count = 10_000;
        let period = 40_000;
        timer.set_initial(count, 7);
        assert!(timer.expire(7 + period + 3));
        assert_eq!(timer.deadline(), Some(7 + 2 * period));
        assert!(timer.expire(7 + 1000 * period));
        assert_eq!(timer.deadline(), Some(7 + 1001 * period));
        assert_eq!(timer.current(7 + 1001 * period + 4), count - 1);
    }

    #[test]
    fn a_tiny_period_cannot_storm() {
        let mut timer = timer(TimerMode::Periodic, BY_1);
        timer.set_initial(1, 0);
        assert!(timer.expire(4));
        let next = timer.deadline().unwrap();
        assert!(next > 4 + MIN_PERIOD && next <= 8 + MIN_PERIOD && next % 4 == 0);
    }

    #[test]
    fn a_new_divider_keeps_the_count() {
        let mut timer = timer(TimerMode::OneShot, BY_1);
        timer.set_initial(100, 0);
        timer.set_divide(0, 200);
        assert_eq!(timer.current(200), 50);
        assert_eq!(timer.deadline(), Some(200 + 50 * 8));
    }

    #[test]
    fn a_count_does_not_depend_on_where_the_tsc_jumps() {
        for change in [1 << 40, 0u64.wrapping_sub(1 << 40), u64::MAX / 2, 0, 37] {
            let mut one_shot = timer(TimerMode::OneShot, BY_1);
            one_shot.set_initial(100, 1000);
            one_shot.move_tsc(change);
            let start = 1000u64.wrapping_add(change);
            assert_eq!(one_shot.current(start.wrapping_add(200)), 50);
            assert_eq!(one_shot.due_in(start.wrapping_add(250)), 150);
            assert!(!one_shot.expire(start.wrapping_add(399)));
            assert_eq!(one_shot.due_in(start.wrapping_add(401)), 0);
            assert!(one_shot.expire(start.wrapping_add(400)));
            let mut periodic = timer(TimerMode::Periodic, BY_1);
            periodic.set_initial(10_000, 0);
            periodic.move_tsc(change);
            for round in 1..4 {
                let due = change.wrapping_add(round * 40_000);
                assert!(
                    !periodic.expire(due.wrapping_sub(1)),
                    "{change:#x}, {round}"
                );
                assert!(periodic.expire(due), "{change:#x}, {round}");
            }
        }
    }

    #[test]
    fn a_tsc_deadline_stays_where_the_tsc_jumps() {
        let mut timer = timer(TimerMode::TscDeadline, BY_1);
        timer.set_tsc_deadline(500);
        timer.move_tsc(1000);
        assert_eq!(timer.deadline(), Some(500));
        assert_eq!((timer.due_in(100), timer.due_in(u64::MAX)), (400, 0));
        assert!(timer.expire(u64::MAX));
    }

    #[test]
    fn tsc_deadline_and_counting_modes_do_not_mix() {
        let mut timer = timer(TimerMode::TscDeadline, BY_1);
        timer.set_initial(100, 0);
        assert_eq!((timer.initial(), timer.deadline()), (0, None));
        timer.set_tsc_deadline(500);
        assert_eq!(timer.tsc_deadline(), 500);
        timer.set_mode(TimerMode::Periodic);
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (0, None));
        timer.set_tsc_deadline(500);
        assert_eq!(timer.deadline(), None);
    }
}
