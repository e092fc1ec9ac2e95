//! What a new daemon makes of a VM that an earlier one has left behind.
//!
//! A process is known by its id and the time of its start, so that a stranger that got the id
//! later is not taken for it.

use serde::{Deserialize, Serialize};

use crate::life::Exit;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it was started, in ticks since boot, as `/proc/PID/stat` has it.
    pub started: u64,
}

/// What is known of a VM from files and from `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traces {
    /// Whether it was to run; nothing when no daemon since boot has had to do with it.
    pub wanted: Option<bool>,
    /// The process that was noted.
    pub noted: Option<Process>,
    /// The process that has this id now, if one is alive.
    pub alive: Option<Process>,
    /// The exit status that was noted.
    pub exit: Option<i32>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Nobody has touched it since boot: start it if it is one that starts by itself.
    New,
    /// Go on with this process.
    GoOn(Process),
    /// Go on with this process, which was being stopped: stop it.
    GoOnStopping(Process),
    /// It was to run and has ended meanwhile.
    Ended(Exit),
    /// It was stopped, and is.
    Stopped,
}

impl Traces {
    /// Decides.
    pub fn judge(&self) -> Adoption {
        let ours = self.noted.filter(|noted| Some(*noted) == self.alive);
        match (self.wanted, ours) {
            (Some(false), Some(process)) => Adoption::GoOnStopping(process),
            (_, Some(process)) => Adoption::GoOn(process),
            (Some(true), None) => Adoption::Ended(self.exit.map_or(Exit::Unknown, Exit::Code)),
            (Some(false), None) => Adoption::Stopped,
            (None, None) => Adoption::New,
        }
    }
}

/// Takes the start time out of `/proc/PID/stat`; nothing for a process that has ended and waits
/// for its parent.
pub fn started(stat: &str) -> Option<u64> {
    let (state, started) = state_and_start(stat)?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// The same for a child that may have ended already.
pub fn child_started(stat: &str) -> Option<u64> {
    state_and_start(stat).map(|(_, started)| started)
}

fn state_and_start(stat: &str) -> Option<(&str, u64)> {
    // The program's name, in parentheses, may contain anything, parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Process = Process {
        pid: 7,
        started: 100,
    };
    const STRANGER: Process = Process {
        pid: 7,
        started: 900,
    };

    #[test]
    fn a_process_with_our_id_and_another_start_is_a_stranger() {
        let mut traces = Traces {
            wanted: Some(true),
            noted: Some(OURS),
            alive: Some(OURS),
            exit: None,
        };
        assert_eq!(traces.judge(), Adoption::GoOn(OURS));
        traces.alive = Some(STRANGER);
        assert_eq!(traces.judge(), Adoption::Ended(Exit::Unknown));
        traces.exit = Some(3);
        assert_eq!(traces.judge(), Adoption::Ended(Exit::Code(3)));
    }

    #[test]
    fn what_was_stopped_stays_stopped_and_what_was_stopping_is_stopped() {
        let traces = Traces {
            wanted: Some(false),
            noted: Some(OURS),
            ..Traces::default()
        };
        assert_eq!(traces.judge(), Adoption::Stopped);
        let alive = Some(OURS);
        assert_eq!(
            Traces { alive, ..traces }.judge(),
            Adoption::GoOnStopping(OURS)
        );
        assert_eq!(Traces::default().judge(), Adoption::New);
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let rest = "S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4711 10000 20";
        assert_eq!(started(&format!("7 (a) b) {rest}")), Some(4711));
        assert_eq!(
            started(&format!("7 (x) {}", rest.replacen('S', "Z", 1))),
            None
        );
        assert_eq!(started("7 (x) S 1"), None);
        let ended = format!("7 (x) {}", rest.replacen('S', "Z", 1));
        assert_eq!(child_started(&ended), Some(4711));
    }
}
