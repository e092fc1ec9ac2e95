//! What has happened: the last events, numbered.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Events that are kept.
const CAPACITY: usize = 1024;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number, from 1 and without gaps since the daemon's start.
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
}
