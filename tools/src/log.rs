//! Log lines as data.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody must act.
    Error,
    /// Something was refused.
    Warn,
    /// Life-cycle.
    Info,
    /// The rest.
    Debug,
}

impl Severity {
    const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// A line of the hypervisor's log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Entry {
    /// Microseconds since the hypervisor's start.
    pub us: u64,
    /// The CPU that says it.
    pub cpu: u16,
    /// How bad it is.
    pub severity: Severity,
    /// What it says.
    pub text: String,
}

/// A line that is none of the hypervisor's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine;

impl FromStr for Entry {
    type Err = BadLine;

    /// Such as `[    12.000345][cpu1] info: vm1 (user) is gone`.
    fn from_str(line: &str) -> Result<Self, BadLine> {
        Self::parse(line).ok_or(BadLine)
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let (time, rest) = line.strip_prefix('[')?.split_once("][cpu")?;
        let (cpu, rest) = rest.split_once("] ")?;
        let (severity, text) = rest.split_once(": ")?;
        let (seconds, micros) = time.trim_start().split_once('.')?;
        let seconds: u64 = seconds.parse().ok()?;
        let micros = Some(micros).filter(|micros| micros.len() == 6)?;
        let micros: u64 = micros.parse().ok()?;
        Some(Self {
            us: seconds.checked_mul(1_000_000)?.checked_add(micros)?,
            cpu: cpu.parse().ok()?,
            severity: Severity::ALL.into_iter().find(|s| s.name() == severity)?,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.us / 1_000_000, self.us % 1_000_000);
        let (cpu, severity) = (self.cpu, self.severity.name());
        write!(
            f,
            "[{seconds:>6}.{micros:06}][cpu{cpu}] {severity}: {}",
            self.text
        )
    }
}

/// Brings the lines of several CPUs into the order of time.
///
/// What one look has brought is given out with the next look: a line is in its ring a moment after
/// its time, so another CPU's may come later and belong before it.
#[derive(Debug, Default)]
pub struct Merger {
    pending: Vec<Entry>,
}

impl Merger {
    /// Takes what a look has brought, and gives what nothing can come before any more.
    pub fn look(&mut self, new: Vec<Entry>) -> Vec<Entry> {
        let settled = self.pending.iter().map(|entry| entry.us).max();
        self.pending.extend(new);
        let Some(settled) = settled else {
            return Vec::new();
        };
        let mut all = self.finish();
        let split = all.partition_point(|entry| entry.us <= settled);
        self.pending = all.split_off(split);
        all
    }

    /// Gives the rest. A line that is there twice, in the log of before and in a ring, is given once.
    pub fn finish(&mut self) -> Vec<Entry> {
        let mut all = std::mem::take(&mut self.pending);
        // Lines of one CPU at one time stay as they came.
        all.sort_by_key(|entry| (entry.us, entry.cpu));
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(us: u64, cpu: u16) -> Entry {
        Entry {
            us,
            cpu,
            severity: Severity::Info,
            text: format!("at {us}"),
        }
    }

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let line = "[    12.000345][cpu1] warn: vm1: what: [it] says";
        let entry: Entry = line.parse().unwrap();
        assert_eq!((entry.us, entry.cpu), (12_000_345, 1));
        assert_eq!(entry.severity, Severity::Warn);
        assert_eq!(entry.text, "vm1: what: [it] says");
        assert_eq!(entry.to_string(), line);
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "[1.0][cpu0] info: x",
            "[1.000000][cpu0] fine: x",
            "[1.000000][cpu] info: x",
            "1.000000][cpu0] info: x",
            "[99999999999999999999.000000][cpu0] info: x",
        ] {
            assert_eq!(line.parse::<Entry>(), Err(BadLine), "{line:?}");
        }
    }

    #[test]
    fn a_line_that_comes_one_look_late_is_still_in_order() {
        let mut merger = Merger::default();
        assert!(merger.look(vec![entry(1, 0), entry(5, 0)]).is_empty());
        let first = merger.look(vec![entry(3, 1), entry(9, 1)]);
        assert_eq!(first, [entry(1, 0), entry(3, 1), entry(5, 0)]);
        assert_eq!(merger.look(Vec::new()), [entry(9, 1)]);
        assert!(merger.finish().is_empty());
    }

    #[test]
    fn what_is_there_twice_is_given_once() {
        let mut merger = Merger::default();
        merger.look(vec![entry(1, 1), entry(2, 0), entry(1, 1)]);
        assert_eq!(merger.finish(), [entry(1, 1), entry(2, 0)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_each_output_is_in_order(
            looks in proptest::collection::vec(
                proptest::collection::vec((0u64..1000, 0u16..4), 0..8), 0..8)
        ) {
            let mut merger = Merger::default();
            let mut wanted: Vec<_> = looks.iter().flatten().map(|&(us, cpu)| entry(us, cpu)).collect();
            let mut given = Vec::new();
            for look in looks {
                let part = merger.look(look.into_iter().map(|(us, cpu)| entry(us, cpu)).collect());
                prop_assert!(part.is_sorted_by_key(|entry| entry.us));
                given.extend(part);
            }
            given.extend(merger.finish());
            given.sort();
            given.dedup();
            wanted.sort();
            wanted.dedup();
            prop_assert_eq!(given, wanted);
        }

        #[test]
        fn no_line_is_too_strange(line: String) {
            let _ = line.parse::<Entry>();
        }
    }
}
