//! `cargo xtask bench`: what virtualization costs in instructions, exact and independent of
//! the load of this computer.
//!
//! The same kernel with the same program as init runs in several set-ups on the same emulator
//! (`setup`); each exit's cost is the difference to the bare machine (`table`). QEMU shows AMD's
//! SVM and Bochs Intel's VMX; what the two cost stands side by side with ACRN's figures (`compare`).
//! An interrupt from one CPU to another is measured by a micro-guest.

mod compare;
mod emulator;
mod facts;
mod probe;
mod report;
mod setup;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::bochs;
use crate::layout::{Layout, display};
use crate::machine::Emulator;
use crate::progress::elapsed;
use crate::test::Where;
use report::Report;
use setup::{Files, Runner, Setup};
use table::grouped;

/// Options of `cargo xtask bench`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Measure on this emulator: QEMU's SVM, Bochs's VMX, or both.
    #[arg(long, value_enum, default_value = "all")]
    emulator: Where,
    /// Run these set-ups only; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Setup>,
    /// Where the figures are written as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
    /// How often each set-up is measured; the middle figure counts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Seconds that one run of the emulator may take before it is tried again.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    limit: u64,
    /// Fail when a bar is missed or cannot be judged.
    #[arg(long)]
    check: bool,
}

/// Runs the benchmark. A set-up that fails does not keep the others from being measured.
///
/// # Errors
/// A build fails, or the results cannot be written.
pub fn run(layout: &Layout, options: &Options) -> Result<ExitCode> {
    let begun = Instant::now();
    let emulators = options.emulator.emulators();
    if emulators.contains(&Emulator::Bochs) {
        bochs::build::build(layout)?;
    }
    let files = Files::build(layout)?;
    let mut reports = Vec::new();
    for &emulator in emulators {
        let runner = Runner {
            layout,
            files: &files,
            emulator,
            runs: options.runs,
            limit: Duration::from_secs(options.limit),
        };
        reports.push(Report::measure(&runner, &options.only));
    }
    for report in &reports {
        println!("{}", report.text());
    }
    let compared = compare::lines(&reports);
    println!("{}", compare::text(&compared));
    let size = print_size(layout)?;
    let by_emulator: serde_json::Map<_, _> = reports
        .iter()
        .map(|report| Ok((report.emulator.name().to_owned(), report.json()?)))
        .collect::<Result<_>>()?;
    let figures = json!({
        "unit": "instructions (TSC ticks of QEMU under -icount shift=0, and of Bochs)",
        "emulators": by_emulator,
        "service_vm": compared,
        "hypervisor": size,
    });
    let text = serde_json::to_string_pretty(&figures)? + "\n";
    let path = layout.root().join(&options.json);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("figures: {} ({})", display(&path), elapsed(begun.elapsed()));
    let mut measured = true;
    let mut bars_hold = true;
    for report in &reports {
        let name = report.emulator.name();
        let say = |what: &str, list: &[&str]| {
            if !list.is_empty() {
                println!("{name}: {what}: {}", list.join("; "));
            }
            list.is_empty()
        };
        bars_hold &= say("bars missed", &report.missed());
        measured &= say("set-ups that failed", &report.failed());
        if options.only.is_empty() {
            bars_hold &= say("not measured", &report.unmeasured());
        }
    }
    Ok(if measured && (bars_hold || !options.check) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints how large the hypervisor is and returns it as JSON.
fn print_size(layout: &Layout) -> Result<serde_json::Value> {
    let code = facts::code(layout)?;
    let sum = |pick: fn(&facts::Code) -> usize| code.iter().map(|(_, c)| pick(c)).sum::<usize>();
    let (lines, blocks) = (sum(|c| c.lines), sum(|c| c.unsafe_blocks));
    let image = layout.images().join("acrn.bin");
    let image = fs::metadata(image).map(|file| file.len()).ok();
    println!("image: {} bytes", image.map_or("-".into(), grouped));
    println!("code: {lines} lines, {blocks} unsafe blocks (without tests and comments)");
    for (name, part) in &code {
        println!(
            "  {name:<20}{:>7} lines{:>5} unsafe",
            part.lines, part.unsafe_blocks
        );
    }
    Ok(json!({
        "image_bytes": image,
        "lines": lines,
        "unsafe_blocks": blocks,
        "parts": code.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    }))
}
