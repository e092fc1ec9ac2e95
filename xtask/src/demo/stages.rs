//! Named stages of a scripted session, with the time that each took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::progress::elapsed;

/// The stages so far.
#[derive(Debug, Default)]
pub struct Stages {
    done: Vec<(String, Duration, bool)>,
    quiet: bool,
}

impl Stages {
    /// A session whose stages are announced on standard error.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A session whose output the person sees anyway.
    #[must_use]
    pub fn quiet() -> Self {
        Self {
            quiet: true,
            ..Self::default()
        }
    }

    /// Runs one stage; an error names it.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn run<T>(&mut self, name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.quiet {
            eprintln!("stage: {name}");
        }
        let start = Instant::now();
        let result = body();
        self.done
            .push((name.to_owned(), start.elapsed(), result.is_ok()));
        result.with_context(|| format!("stage \"{name}\" failed"))
    }

    /// The table of stages and times.
    #[must_use]
    pub fn table(&self) -> String {
        let width = self
            .done
            .iter()
            .map(|(name, ..)| name.chars().count())
            .max()
            .unwrap_or(0);
        let mut table = String::new();
        for (name, time, passed) in &self.done {
            let result = if *passed { "" } else { "  FAILED" };
            table.push_str(&format!(
                "  {name:<width$}  {:>8}{result}\n",
                elapsed(*time)
            ));
        }
        let total = self.done.iter().map(|(_, time, _)| *time).sum();
        table.push_str(&format!("  {:<width$}  {:>8}\n", "total", elapsed(total)));
        table
    }

    /// Prints the table.
    pub fn print(&self) {
        println!("\nTime per stage:\n{}", self.table());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_error_name_the_stage_that_failed() {
        let mut stages = Stages::quiet();
        stages.run("boot", || Ok(())).unwrap();
        let error = stages.run("log in", || -> Result<()> { anyhow::bail!("no prompt") });
        assert_eq!(
            format!("{:#}", error.unwrap_err()),
            "stage \"log in\" failed: no prompt"
        );
        let table = stages.table();
        assert!(table.lines().nth(1).unwrap().ends_with("FAILED"), "{table}");
        assert!(!table.lines().next().unwrap().contains("FAILED"), "{table}");
    }
}
