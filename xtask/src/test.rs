//! `cargo xtask test`: everything that must pass.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::bochs;
use crate::layout::Layout;
use crate::machine::Emulator;
use crate::progress::elapsed;
use crate::system::{self, Selection, Tally, table};
use crate::{build::Artefacts, setup};

/// Options of `cargo xtask test`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Options {
    /// List the system tests and what each would catch, and run nothing.
    #[arg(long)]
    list: bool,
    /// Run only the system tests on this emulator (and no host tests unless `all`).
    #[arg(long, value_enum, default_value = "all", conflicts_with = "host_only")]
    emulator: Where,
    /// Run only system tests whose name contains this (and no host tests).
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Run only the host tests.
    #[arg(long, conflicts_with = "filter")]
    host_only: bool,
    /// Run the Service VM's cases without the hypervisor: what fails then is not its fault.
    #[arg(long, requires = "filter")]
    bare: bool,
    /// Run the long forms of cases that have one: 100 starts of Linux in a User VM.
    #[arg(long, conflicts_with = "host_only")]
    full: bool,
    /// Run all cases and note the results in the book's table of what runs where.
    #[arg(long, conflicts_with_all = ["host_only", "bare"])]
    write_table: bool,
    /// Install missing Debian packages without asking.
    #[arg(long, short = 'y')]
    yes: bool,
}

/// Emulators to run something on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Where {
    /// QEMU: AMD SVM.
    Qemu,
    /// Bochs: Intel VMX.
    Bochs,
    /// Both, one after the other.
    #[default]
    All,
}

impl Where {
    pub(crate) fn emulators(self) -> &'static [Emulator] {
        match self {
            Self::Qemu => &[Emulator::Qemu],
            Self::Bochs => &[Emulator::Bochs],
            Self::All => &[Emulator::Qemu, Emulator::Bochs],
        }
    }
}

/// Runs the host tests, then the system tests, and closes with one line of totals.
///
/// # Errors
/// A build failed; a failing test is a count and the exit code.
pub fn run(layout: &Layout, options: &Options) -> Result<ExitCode> {
    let selection = Selection {
        emulators: options.emulator.emulators(),
        filter: options.filter.as_deref(),
    };
    if options.list {
        system::list(&selection);
        return Ok(ExitCode::SUCCESS);
    }
    setup::run(&setup::Options { yes: options.yes })?;
    let start = Instant::now();
    let mut tally = Tally::default();
    if options.filter.is_none() && options.emulator == Where::All {
        tally = host_tests(layout)?;
    }
    if options.host_only {
        println!("skipping the system tests: --host-only was given");
    } else {
        let bare = options.bare;
        let artefacts = if bare {
            Artefacts::bare(layout)?
        } else {
            Artefacts::build(layout)?
        };
        if selection.needs(Emulator::Bochs) {
            bochs::build::build(layout)?;
        }
        let manner = system::Manner {
            bare,
            full: options.full,
        };
        let report = system::run(layout, &artefacts, &selection, manner)?;
        tally.add(&report.tally);
        if options.write_table {
            table::write(layout, &report)?;
        }
    }
    println!("\nfinished in {}", elapsed(start.elapsed()));
    println!("{tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `cargo test --workspace`, shown as it runs and counted.
fn host_tests(layout: &Layout) -> Result<Tally> {
    println!("host tests: cargo test --workspace");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(layout.root())
        .args(["test", "--workspace", "--no-fail-fast"]);
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            tally.add(&counts_of(&line));
        }
    }
    let status = child.wait()?;
    // A test that does not compile is not in any of the summaries.
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// The counts in a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn counts_of(line: &str) -> Tally {
    let mut tally = Tally::default();
    let Some(summary) = line.strip_prefix("test result: ") else {
        return tally;
    };
    let summary = summary.split_once(". ").map_or("", |(_, rest)| rest);
    for part in summary.split(';') {
        let mut words = part.split_whitespace();
        let (Some(count), Some(what)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(count) = count.parse::<usize>() else {
            continue;
        };
        match what {
            "passed" => tally.passed = count,
            "failed" => tally.failed = count,
            "ignored" => tally.skipped = count,
            _ => {}
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_the_test_harness_are_counted() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out";
        assert_eq!(
            counts_of(line),
            Tally {
                passed: 3,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(counts_of("running 3 tests"), Tally::default());
    }
}
