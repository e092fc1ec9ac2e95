//! What has happened: the last events, numbered.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Events that are kept.
const CAPACITY: usize = 1024;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number, one more than that of the event before.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// Which VM.
    pub vm: String,
    /// What, such as `started`.
    pub event: String,
    /// More about it, for people; may be empty.
    pub detail: String,
}

/// The ring.
#[derive(Debug, Default)]
pub struct Events {
    ring: VecDeque<Event>,
    last: u64,
}

impl Events {
    /// Those that an earlier daemon has noted, in their order; the next one gets the next number.
    pub fn noted(events: Vec<Event>) -> Self {
        let skipped = events.len().saturating_sub(CAPACITY);
        let mut this = Self::default();
        for event in events.into_iter().skip(skipped) {
            // Whoever has changed the file gets no order that readers do not expect.
            if event.number > this.last && event.number < u64::MAX / 2 {
                this.last = event.number;
                this.ring.push_back(event);
            }
        }
        this
    }

    /// Adds an event; the oldest goes when there are too many.
    pub fn add(&mut self, time: u64, vm: &str, event: &str, detail: String) -> &Event {
        self.last += 1;
        if self.ring.len() == CAPACITY {
            self.ring.pop_front();
        }
        self.ring.push_back(Event {
            number: self.last,
            time,
            vm: vm.to_owned(),
            event: event.to_owned(),
            detail,
        });
        &self.ring[self.ring.len() - 1]
    }

    /// The number of the last event; 0 when there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The events behind number `after` that are still kept.
    pub fn after(&self, after: u64) -> Vec<Event> {
        let begin = self.ring.partition_point(|event| event.number <= after);
        self.ring.iter().skip(begin).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_go_and_numbers_go_on() {
        let mut events = Events::default();
        for time in 0..CAPACITY as u64 + 5 {
            events.add(time, "vm1", "started", String::new());
        }
        let kept = events.after(0);
        assert_eq!((kept.len(), kept[0].number), (CAPACITY, 6));
        assert_eq!(events.after(events.last() - 2).len(), 2);
        assert!(events.after(u64::MAX).is_empty());
    }

    #[test]
    fn noted_events_come_before_new_ones_and_only_in_order() {
        let mut earlier = Events::default();
        for time in 0..CAPACITY as u64 + 5 {
            earlier.add(time, "vm1", "started", String::new());
        }
        let mut noted = earlier.after(0);
        noted.insert(0, noted[9].clone());
        noted.push(noted[3].clone());
        noted.push(Event {
            number: u64::MAX,
            ..noted[3].clone()
        });
        let mut events = Events::noted(noted);
        let last = earlier.last();
        assert_eq!(events.last(), last);
        assert_eq!(
            events.add(9, "vm2", "started", String::new()).number,
            last + 1
        );
        let numbers: Vec<_> = events.after(0).iter().map(|event| event.number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next));
    }
}
