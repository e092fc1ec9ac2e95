//! `cargo xtask deb`: the Debian packages.
//!
//! Each module makes one package: a list of files with their places. What is not built here is in
//! `packaging/`. `acrn-deb` writes the packages, so that the same commit gives the same bytes.

mod configurator;
mod hypervisor;
mod kernel;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use acrn_config::{BoardFile, LoadError, ScenarioFile, deploy};
use acrn_deb::{Control, MAINTAINER, Package};
use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;

use crate::layout::{Layout, display};
use crate::progress::Step;

/// Packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// `acrn-hypervisor`.
    Hypervisor,
    /// `acrn-tools`.
    Tools,
    /// `acrn-configurator`.
    Configurator,
    /// The Service VM's kernel.
    Kernel,
    /// The demo's kernel instead, which knows the devices of emulated machines only.
    SmallKernel,
}

/// Options of `cargo xtask deb`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// What to pack; what users install unless given.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Pack a scenario too, for the board of this file.
    #[arg(long, value_name = "FILE", requires = "scenario")]
    board: Option<PathBuf>,
    /// The scenario.
    #[arg(long, value_name = "FILE", requires = "board")]
    scenario: Option<PathBuf>,
    /// Which build of this version it is: packages replace those of builds with lower numbers.
    #[arg(long, value_name = "NUMBER")]
    build: Option<u32>,
    /// Judge the packages with lintian.
    #[arg(long)]
    lint: bool,
}

/// Makes the packages and prints where they are.
///
/// # Errors
/// A build that fails, or what lintian finds.
pub fn run(layout: &Layout, options: &Options) -> Result<()> {
    let all = [
        Part::Hypervisor,
        Part::Tools,
        Part::Configurator,
        Part::Kernel,
    ];
    let parts = if options.parts.is_empty() {
        &all[..]
    } else {
        &options.parts
    };
    let version = version(options.build);
    let mut paths = Vec::new();
    if let (Some(board), Some(scenario)) = (&options.board, &options.scenario) {
        // First, since it is quick and what is wrong is often here.
        paths.push(scenario_package(layout, board, scenario, &version)?);
    }
    for &part in parts {
        paths.push(build(layout, part, &version)?);
    }
    if options.lint {
        lint(layout, &paths)?;
    }
    for path in paths {
        println!("{}", display(&path));
    }
    Ok(())
}

/// The version of packages, of builds that are counted or not.
#[must_use]
pub fn version(build: Option<u32>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    build.map_or_else(|| version.to_owned(), |build| format!("{version}+{build}"))
}

/// Makes one package of that [`version`]; returns its path.
///
/// # Errors
/// A build that fails.
pub fn build(layout: &Layout, part: Part, version: &str) -> Result<PathBuf> {
    let package = match part {
        Part::Hypervisor => hypervisor::package(layout, version)?,
        Part::Tools => tools::package(layout, version)?,
        Part::Configurator => configurator::package(layout, version)?,
        Part::Kernel => kernel::package(layout, version)?,
        Part::SmallKernel => kernel::small_package(layout, version)?,
    };
    let step = Step::begin("package");
    step.detail(format!("packing {}", package.file_name()));
    let bytes = package.build(time()?)?;
    let path = write(layout, &package.file_name(), &bytes)?;
    step.done(&format!(
        "{} ({} KiB)",
        package.file_name(),
        bytes.len() / 1024
    ));
    Ok(path)
}

fn scenario_package(
    layout: &Layout,
    board: &Path,
    scenario: &Path,
    version: &str,
) -> Result<PathBuf> {
    // These errors name their causes themselves.
    let whole = |error: LoadError| anyhow!("{error}");
    let board = BoardFile::load(board).map_err(whole)?;
    let scenario = ScenarioFile::load(scenario).map_err(whole)?;
    let (name, bytes, findings) = deploy::package(&board, &scenario, version, time()?)?;
    for finding in findings {
        eprintln!("{finding}");
    }
    write(layout, &name, &bytes)
}

fn write(layout: &Layout, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let directory = layout.target().join("deb");
    fs::create_dir_all(&directory)?;
    let path = directory.join(name);
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// That of the kernel's build, unless the caller says another.
const TIME: u64 = 1_767_225_600;

/// The time of everything in the packages, in seconds since 1970.
fn time() -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH={text} is no number of seconds")),
        Err(_) => Ok(TIME),
    }
}

/// Has packages judged by lintian.
///
/// # Errors
/// What it finds, be it a warning.
pub fn lint(layout: &Layout, paths: &[PathBuf]) -> Result<()> {
    let step = Step::begin("lintian");
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error,warning", "--allow-root"]);
    let log = layout.logs().join("lintian.log");
    step.run(lintian.args(paths), &log, |_| None)?;
    step.done("nothing to complain of");
    Ok(())
}

/// A package with what all of them have: licence and history.
fn new(layout: &Layout, control: Control) -> Result<Package> {
    let licence = fs::read_to_string(layout.source("LICENSE"))?;
    Ok(with_copyright(control, &copyright(&licence)))
}

fn with_copyright(control: Control, copyright: &str) -> Package {
    let changelog = format!(
        "{} ({}) stable; urgency=medium\n\n  * CHANGELOG.md of the source says what has changed.\n\n \
         -- {MAINTAINER}  Thu, 01 Jan 2026 00:00:00 +0000\n",
        control.name, control.version
    );
    let mut package = Package::new(control);
    package.documentation(copyright, &changelog);
    package
}

/// Debian's form of a copyright file.
fn copyright(licence: &str) -> String {
    let text = licence.lines().skip(4).map(|line| match line.trim() {
        "" => " .\n".to_owned(),
        line => format!(" {line}\n"),
    });
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: acrn-rs\n\nFiles: *\nCopyright: 2026 the acrn-rs developers\n\
         License: BSD-3-Clause\n{}",
        text.collect::<String>()
    )
}

/// The content of a file of `packaging/`.
fn source(layout: &Layout, path: &str) -> Result<String> {
    let path = layout.source("packaging").join(path);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads what was built.
fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
