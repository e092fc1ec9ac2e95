//! From events to times: what each CPU did, from when to when.

use acrn_trace::{Event, Record, Who};

/// What a CPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It runs a guest.
    Guest(Who),
    /// It handles an exit: from leaving the guest until it enters one, or chooses whom to run.
    Exit {
        /// Whose.
        who: Who,
        /// Why, as an index of [`acrn_trace::REASONS`].
        reason: u32,
        /// Where the guest was.
        rip: u64,
    },
    /// It brings a vCPU in that it has chosen.
    Switch(Who),
    /// It waits for something to do.
    Idle,
}

/// A time in the life of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The CPU.
    pub cpu: u8,
    /// TSC at the begin.
    pub start: u64,
    /// TSC at the end.
    pub end: u64,
    /// What it did.
    pub doing: Doing,
}

/// Makes spans of records.
pub struct Spans {
    now: Vec<Option<(u64, Doing)>>,
    /// Entries that no exit follows, and exits that no entry came before, where nothing was lost.
    pub unpaired: u64,
}

impl Default for Spans {
    fn default() -> Self {
        Self {
            now: vec![None; 256],
            unpaired: 0,
        }
    }
}

impl Spans {
    /// Takes the next record; gives the span that it ends.
    pub fn push(&mut self, record: &Record) -> Option<Span> {
        let now = self.now[usize::from(record.cpu)];
        let next = match record.event {
            Event::Interrupt { .. } => return None,
            Event::Lost(_) => {
                self.now[usize::from(record.cpu)] = None;
                return None;
            }
            // Still nothing to do: the same time goes on.
            Event::Turn(None) if matches!(now, Some((_, Doing::Idle))) => return None,
            Event::Turn(None) => Doing::Idle,
            Event::Turn(Some(who)) => Doing::Switch(who),
            Event::Enter(who) => Doing::Guest(who),
            Event::Exit { who, reason, rip } => Doing::Exit { who, reason, rip },
        };
        if let Some((_, before)) = now {
            let inside = match before {
                Doing::Guest(who) => Some(who),
                _ => None,
            };
            let left = match next {
                Doing::Exit { who, .. } => Some(who),
                _ => None,
            };
            self.unpaired += u64::from(inside != left);
        }
        self.now[usize::from(record.cpu)] = Some((record.tsc, next));
        now.map(|(start, doing)| Span {
            cpu: record.cpu,
            start,
            end: record.tsc,
            doing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::sample::{capture, who};

    fn exit(vm: u16) -> Event {
        Event::Exit {
            who: who(vm, 0),
            reason: 4,
            rip: 9,
        }
    }

    fn spans(events: &[(u64, u8, Event)]) -> (Vec<(u64, u64, Doing)>, u64) {
        let mut spans = Spans::default();
        let capture = capture(events);
        let all = capture.records.iter().filter_map(|r| spans.push(r));
        let all = all.map(|span| (span.start, span.end, span.doing)).collect();
        (all, spans.unpaired)
    }

    #[test]
    fn a_cpu_runs_handles_chooses_and_waits() {
        let vm1 = who(1, 0);
        let (all, unpaired) = spans(&[
            (10, 0, Event::Turn(Some(vm1))),
            (12, 0, Event::Enter(vm1)),
            (20, 0, exit(1)),
            (25, 0, Event::Turn(None)),
            (30, 0, Event::Turn(None)),
            (40, 0, Event::Turn(Some(vm1))),
        ]);
        let handling = Doing::Exit {
            who: vm1,
            reason: 4,
            rip: 9,
        };
        let wanted = [
            (10, 12, Doing::Switch(vm1)),
            (12, 20, Doing::Guest(vm1)),
            (20, 25, handling),
            (25, 40, Doing::Idle),
        ];
        assert_eq!((all, unpaired), (wanted.to_vec(), 0));
    }

    #[test]
    fn cpus_do_not_disturb_each_other() {
        let (all, unpaired) = spans(&[
            (1, 0, Event::Enter(who(0, 0))),
            (2, 1, Event::Enter(who(0, 1))),
            (3, 0, exit(0)),
        ]);
        assert_eq!((all, unpaired), (vec![(1, 3, Doing::Guest(who(0, 0)))], 0));
    }

    #[test]
    fn what_has_no_partner_is_counted_unless_something_was_lost() {
        let enter = Event::Enter(who(1, 0));
        assert_eq!(spans(&[(1, 0, enter), (2, 0, enter)]).1, 1);
        assert_eq!(spans(&[(1, 0, enter), (2, 0, Event::Turn(None))]).1, 1);
        assert_eq!(spans(&[(1, 0, Event::Turn(None)), (2, 0, exit(1))]).1, 1);
        assert_eq!(spans(&[(1, 0, enter), (2, 0, exit(2))]).1, 1);
        let lost = spans(&[(1, 0, enter), (2, 0, Event::Lost(1)), (3, 0, enter)]);
        assert_eq!(lost.1, 0);
        // The first that is seen may be either.
        assert_eq!(spans(&[(1, 0, exit(1)), (2, 0, enter)]).1, 0);
    }
}
