//! When a VM that has ended by mistake may start again.
//!
//! A first triple fault is what it is on a PC: a reset. A VM that goes on like that is given more and more time
//! between its attempts, or none, as its policy has it, so that its CPUs and its devices are not kept busy with
//! it and the log stays readable.

/// The first pause between two attempts, in milliseconds. The next one is twice as long, and so on.
const FIRST_PAUSE: u64 = 1000;
/// The longest pause.
const LONGEST_PAUSE: u64 = 60_000;
/// A VM that has run for so long after a pause begins anew.
const GOOD_TIME: u64 = 60_000;

/// The ends of one VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// How many came close to each other.
    count: u32,
    /// When the VM started again after the last one, in milliseconds.
    since: u64,
}

impl Restarts {
    /// None yet.
    pub const fn new() -> Self {
        Self { count: 0, since: 0 }
    }

    /// The VM has ended at `now`, in milliseconds of any clock. Returns after how many it may start again; 0 is at
    /// once, and `None` is never. `first` and `again` say whether it may after the first and after a later end.
    pub fn ended(&mut self, now: u64, first: bool, again: bool) -> Option<u64> {
        if now.saturating_sub(self.since) >= GOOD_TIME {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        let pause = match self.count {
            1 => 0,
            count => FIRST_PAUSE << (count - 2).min(6),
        };
        let pause = pause.min(LONGEST_PAUSE);
        self.since = now.saturating_add(pause);
        let may = if self.count == 1 { first } else { again };
        may.then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_reset_is_at_once_and_later_ones_take_longer_and_longer() {
        let (mut ends, mut now) = (Restarts::new(), 5);
        let mut pauses = vec![];
        for _ in 0..10 {
            let pause = ends.ended(now, true, true).unwrap();
            pauses.push(pause / 1000);
            now += pause + 10;
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn without_a_policy_the_second_reset_in_a_row_is_the_last() {
        let mut ends = Restarts::new();
        assert_eq!(ends.ended(0, true, false), Some(0));
        assert_eq!(ends.ended(1000, true, false), None);
        // One that may not start even once.
        assert_eq!(Restarts::new().ended(0, false, false), None);
    }

    #[test]
    fn a_vm_that_has_run_for_a_while_begins_anew() {
        let mut ends = Restarts::new();
        assert_eq!(ends.ended(0, true, false), Some(0));
        assert_eq!(ends.ended(GOOD_TIME, true, false), Some(0));
        assert_eq!(ends.ended(2 * GOOD_TIME - 1, true, false), None);
    }

    proptest! {
        #[test]
        fn no_time_makes_it_panic_or_wait_too_long(times in prop::collection::vec(any::<u64>(), 1..100)) {
            let mut ends = Restarts::new();
            for now in times {
                prop_assert!(ends.ended(now, true, true).is_some_and(|pause| pause <= LONGEST_PAUSE));
            }
        }
    }
}
