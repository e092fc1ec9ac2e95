//! What was measured on one emulator.

use std::fmt::Write;

use anyhow::Result;
use serde_json::json;

use super::setup::{Runner, Setup};
use super::table::{self, Results, Row, START_BAR, grouped};
use crate::machine::Emulator;

/// Figures of the set-ups on an emulator.
pub struct Report {
    /// Which.
    pub emulator: Emulator,
    /// The table's lines.
    pub rows: Vec<Row>,
    results: Results,
    failed: Vec<Setup>,
}

impl Report {
    /// Runs the set-ups, or those in `only` if it has any.
    pub fn measure(runner: &Runner, only: &[Setup]) -> Self {
        let emulator = runner.emulator;
        let mut results = Results::new();
        let mut failed = Vec::new();
        let wanted = |setup: &Setup| only.is_empty() || only.contains(setup);
        for setup in Setup::ALL.into_iter().filter(wanted) {
            match runner.run(setup) {
                Ok(figures) => {
                    results.insert(setup, figures);
                }
                Err(error) => {
                    eprintln!("{}, {}: {error:#}", emulator.name(), setup.name());
                    failed.push(setup);
                }
            }
        }
        Self::of(emulator, results, failed)
    }

    pub(super) fn of(emulator: Emulator, results: Results, failed: Vec<Setup>) -> Self {
        Self {
            emulator,
            rows: table::rows(emulator, &results),
            results,
            failed,
        }
    }

    /// Instructions from the hypervisor's entry to the first entry into a VM.
    #[must_use]
    pub fn start(&self) -> Option<u64> {
        self.results.get(&Setup::Service)?.hypervisor_start
    }

    fn memory(&self) -> Option<&str> {
        self.results.get(&Setup::Service)?.memory.as_deref()
    }

    /// The table and what the hypervisor said of itself.
    #[must_use]
    pub fn text(&self) -> String {
        let title = match self.emulator {
            Emulator::Qemu => "AMD SVM in QEMU, instructions",
            Emulator::Bochs => "Intel VMX in Bochs, instructions",
        };
        let mut out = table::text(title, &self.rows);
        let _ = writeln!(
            out,
            "hypervisor entry to first VM entry: {} instructions (bar: <= {})",
            self.start().map_or("-".into(), grouped),
            grouped(START_BAR)
        );
        let _ = writeln!(out, "memory: {}", self.memory().unwrap_or("-"));
        out
    }

    /// The same for programs.
    ///
    /// # Errors
    /// A figure has no form in JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        let set_ups: serde_json::Map<_, _> = self
            .results
            .iter()
            .map(|(setup, figures)| Ok((setup.name().to_owned(), serde_json::to_value(figures)?)))
            .collect::<Result<_>>()?;
        Ok(json!({
            "set_ups": set_ups,
            "failed": self.failed,
            "table": self.rows,
            "first_entry": self.start(),
            "memory": self.memory(),
        }))
    }

    /// Bars that do not hold.
    #[must_use]
    pub fn missed(&self) -> Vec<&'static str> {
        let rows = self.rows.iter().filter(|row| row.bar == Some(false));
        let late = self.start().is_some_and(|start| start > START_BAR);
        rows.map(|row| row.title)
            .chain(late.then_some("hypervisor entry to first VM entry"))
            .collect()
    }

    /// Set-ups without figures although they were tried.
    #[must_use]
    pub fn failed(&self) -> Vec<&'static str> {
        self.failed.iter().map(|setup| setup.name()).collect()
    }

    /// Bars that cannot be judged, of a run of all set-ups.
    #[must_use]
    pub fn unmeasured(&self) -> Vec<&'static str> {
        let mut open = table::unmeasured(&self.rows);
        if self.start().is_none() {
            open.push("hypervisor entry to first VM entry");
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use super::super::setup::Figures;
    use super::*;

    #[test]
    fn a_late_start_is_a_bar_missed_and_none_is_one_open() {
        let report = |start| {
            let figures = Figures {
                hypervisor_start: start,
                ..Figures::default()
            };
            let results = [(Setup::Service, figures)].into();
            Report::of(Emulator::Bochs, results, vec![Setup::User])
        };
        const NAME: &str = "hypervisor entry to first VM entry";
        assert!(report(Some(START_BAR + 1)).missed().contains(&NAME));
        assert!(!report(Some(START_BAR)).missed().contains(&NAME));
        let open = report(None);
        assert!(open.unmeasured().contains(&NAME));
        assert_eq!(open.failed(), ["user"]);
        assert!(open.text().contains("first VM entry: - instructions"));
    }
}
