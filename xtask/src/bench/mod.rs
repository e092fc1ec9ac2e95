//! `cargo xtask bench`: what virtualization costs in instructions, exact and independent of
//! the load of this computer.
//!
//! The same kernel with the same program as init runs in four set-ups on the same emulator
//! (`setup`); each exit's cost is the difference to the bare machine (`table`). The
//! emulator counts instructions on one CPU only, so what happens between CPUs is not here.

mod emulator;
mod facts;
mod probe;
mod setup;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::layout::{Layout, display};
use crate::progress::elapsed;
use setup::{Files, Runner, Setup};
use table::{Results, START_BAR, grouped};

/// Options of `cargo xtask bench`.
#[derive(clap::Args, Debug)]
pub struct Options {
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
    let wanted = |setup: &Setup| options.only.is_empty() || options.only.contains(setup);
    let runner = Runner {
        layout,
        files: Files::build(layout)?,
        runs: options.runs,
        limit: Duration::from_secs(options.limit),
    };
    let mut results = Results::new();
    let mut failed = Vec::new();
    for setup in Setup::ALL.into_iter().filter(wanted) {
        match runner.run(setup) {
            Ok(figures) => {
                results.insert(setup, figures);
            }
            Err(error) => {
                eprintln!("{}: {error:#}", setup.name());
                failed.push(setup);
            }
        }
    }
    let rows = table::rows(&results);
    println!("{}", table::text(&rows));
    let size = print_facts(layout, &results)?;
    let by_name: serde_json::Map<_, _> = results
        .iter()
        .map(|(setup, figures)| Ok((setup.name().to_owned(), serde_json::to_value(figures)?)))
        .collect::<Result<_>>()?;
    let report = json!({
        "unit": "instructions (TSC ticks under QEMU -icount shift=0)",
        "set_ups": by_name,
        "failed": failed,
        "table": rows,
        "hypervisor": size,
    });
    let text = serde_json::to_string_pretty(&report)? + "\n";
    let path = layout.root().join(&options.json);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("figures: {} ({})", display(&path), elapsed(begun.elapsed()));
    let mut missed: Vec<&str> = rows
        .iter()
        .filter(|row| row.bar == Some(false))
        .map(|row| row.title)
        .collect();
    let start = results
        .get(&Setup::Service)
        .and_then(|f| f.hypervisor_start);
    if start.is_some_and(|start| start > START_BAR) {
        missed.push("hypervisor entry to first VM entry");
    }
    if !missed.is_empty() {
        println!("bars missed: {}", missed.join("; "));
    }
    if !failed.is_empty() {
        let names: Vec<&str> = failed.iter().map(|setup| setup.name()).collect();
        println!("set-ups that failed: {}", names.join(", "));
    }
    let open = match options.only.as_slice() {
        [] => table::unmeasured(&rows),
        _ => Vec::new(),
    };
    if !open.is_empty() {
        println!("not measured: {}", open.join("; "));
    }
    let bars_hold = missed.is_empty() && open.is_empty();
    let good = failed.is_empty() && (bars_hold || !options.check);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints how large the hypervisor is and returns it as JSON.
fn print_facts(layout: &Layout, results: &Results) -> Result<serde_json::Value> {
    let code = facts::code(layout)?;
    let sum = |pick: fn(&facts::Code) -> usize| code.iter().map(|(_, c)| pick(c)).sum::<usize>();
    let (lines, blocks) = (sum(|c| c.lines), sum(|c| c.unsafe_blocks));
    let image = layout.images().join("acrn.bin");
    let image = fs::metadata(image).map(|file| file.len()).ok();
    let service = results.get(&Setup::Service);
    let first_entry = service.and_then(|figures| figures.hypervisor_start);
    let memory = service.and_then(|figures| figures.memory.clone());
    let known = |value: Option<u64>| value.map_or("-".into(), grouped);
    println!(
        "hypervisor entry to first VM entry: {} instructions (bar: <= {})",
        known(first_entry),
        grouped(START_BAR)
    );
    println!("image: {} bytes", known(image));
    println!("memory: {}", memory.as_deref().unwrap_or("-"));
    println!("code: {lines} lines, {blocks} unsafe blocks (without tests and comments)");
    for (name, part) in &code {
        println!(
            "  {name:<20}{:>7} lines{:>5} unsafe",
            part.lines, part.unsafe_blocks
        );
    }
    Ok(json!({
        "first_entry": first_entry,
        "image_bytes": image,
        "memory": memory,
        "lines": lines,
        "unsafe_blocks": blocks,
        "parts": code.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    }))
}
