//! Puts a scenario in force on this machine, to count from the next boot on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use acrn_config_blob::{Config, Mismatch};

use super::entry::entry;
use super::running::Running;
use super::starts::{self, Before, SCRIPTS, below};
use super::store::{BOARD, CONFIG, ENTRY, SCENARIO, Store};
use crate::launch::{LaunchError, launch, serial_conf};
use crate::{BoardFile, Finding, LoadError, ScenarioFile};

/// The machine that is changed, and the programs that know it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its root directory.
    pub root: PathBuf,
    /// The board inspector.
    pub inspector: PathBuf,
    /// What writes GRUB's menu anew.
    pub update_grub: PathBuf,
}

/// What is to be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A scenario, or a configuration that was built of one, with the board file that it is for.
    File(PathBuf, Option<PathBuf>),
    /// What was in force before.
    Previous,
    /// Nothing: a Service VM alone.
    Nothing,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// Names of the post-launched VMs.
    pub vms: Vec<String>,
    /// Warnings and notes about the scenario.
    pub findings: Vec<Finding>,
    /// Files of others that are in the way of ours.
    pub foreign: Vec<PathBuf>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file cannot be looked at.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The scenario is wrong, or wrong for the board.
    #[error("the scenario is not in order:\n{}", lines(.0))]
    Findings(Vec<Finding>),
    /// The configuration is none.
    #[error("{file}: {source}")]
    Config {
        /// The file.
        file: String,
        /// Why.
        source: Box<acrn_config_blob::Error>,
    },
    /// The configuration is for another machine.
    #[error(
        "{0}; inspect this machine with acrn-board-inspector and build the scenario for that board file"
    )]
    Mismatch(#[from] Mismatch),
    /// A VM cannot be started by a script.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The machine cannot be inspected.
    #[error("{program}: {why}; install acrn-tools and run this as root")]
    Inspector {
        /// The inspector.
        program: String,
        /// What went wrong.
        why: String,
    },
    /// There is nothing to go back to.
    #[error("{0} has no configuration: none was in force before; name a scenario")]
    NoPrevious(String),
    /// A file cannot be changed.
    #[error("{path}: {source}; run this as root, with free space on that file system")]
    Io {
        /// The file or directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// GRUB's menu cannot be written.
    #[error("{program}: {why}; everything is as before. Correct what it says and try again")]
    Grub {
        /// The program.
        program: String,
        /// What it said.
        why: String,
    },
}

fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    lines.join("\n")
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ApplyError {
    let path = path.display().to_string();
    move |source| ApplyError::Io { path, source }
}

/// A configuration's directory to be, and what its VMs are started by.
#[derive(Default)]
struct Prepared {
    files: Vec<(&'static str, Vec<u8>)>,
    launches: Vec<crate::launch::Launch>,
    serial: Option<String>,
    /// Whether the scenario is known, and with it how VMs are started.
    has_scenario: bool,
    findings: Vec<Finding>,
}

/// Puts it in force, or changes nothing.
///
/// # Errors
/// The first thing that is not in order.
pub fn apply(target: &Target, wanted: &Wanted) -> Result<Applied, ApplyError> {
    let root = below(&target.root, "/boot/acrn");
    let store = Store::new(&root);
    let prepared = match wanted {
        Wanted::File(file, board) => of_file(target, &store, file, board.as_deref())?,
        Wanted::Previous => of_previous(&store)?,
        Wanted::Nothing => Prepared {
            has_scenario: true,
            ..Prepared::default()
        },
    };
    if let Some((_, bytes)) = prepared.files.iter().find(|(name, _)| *name == CONFIG) {
        check(target, bytes)?;
    }
    let had_current = store.current().exists();
    let mut before = Before::new();
    let done = store
        .replace(&prepared.files)
        .map_err(io(&root))
        .and_then(|()| {
            if !prepared.has_scenario {
                return Ok(Vec::new());
            }
            let serial = prepared.serial.as_deref();
            starts::install(&target.root, &prepared.launches, serial, &mut before)
                .map_err(io(&below(&target.root, SCRIPTS)))
        })
        .and_then(|foreign| update_grub(target).map(|()| foreign));
    let foreign = match done {
        Ok(foreign) => foreign,
        Err(error) => {
            store.undo(had_current).map_err(io(&root))?;
            starts::undo(&before).map_err(io(&root))?;
            // The old menu may be half overwritten; should this fail too, the first error says why.
            let _ = update_grub(target);
            return Err(error);
        }
    };
    store.settle().map_err(io(&root))?;
    Ok(Applied {
        vms: prepared.launches.into_iter().map(|vm| vm.vm).collect(),
        findings: prepared.findings,
        foreign,
    })
}

fn of_file(
    target: &Target,
    store: &Store,
    file: &Path,
    board: Option<&Path>,
) -> Result<Prepared, ApplyError> {
    let bytes = fs::read(file).map_err(io(file))?;
    if bytes.starts_with(&acrn_config_blob::header::MAGIC) {
        return of_blob(&file.display().to_string(), bytes);
    }
    let kept = store.current().join(BOARD);
    let board = match board {
        Some(path) => BoardFile::load(path)?,
        None if hypervisor_runs(target) && kept.exists() => BoardFile::load(&kept)?,
        None => inspect(target)?,
    };
    of_scenario(&board, &ScenarioFile::load(file)?)
}

fn of_blob(name: &str, bytes: Vec<u8>) -> Result<Prepared, ApplyError> {
    let config = Config::parse(&bytes).map_err(|source| ApplyError::Config {
        file: name.to_owned(),
        source: Box::new(source),
    })?;
    let entry = entry(&config).into_bytes();
    Ok(Prepared {
        files: vec![(CONFIG, bytes), (ENTRY, entry)],
        ..Prepared::default()
    })
}

fn of_scenario(board: &BoardFile, scenario: &ScenarioFile) -> Result<Prepared, ApplyError> {
    let built = crate::build(board, scenario).map_err(ApplyError::Findings)?;
    let mut prepared = of_blob(&scenario.name, built.blob)?;
    let texts = [(BOARD, &board.document), (SCENARIO, &scenario.document)];
    let texts = texts.map(|(name, document)| (name, document.to_string().into_bytes()));
    prepared.files.extend(texts);
    prepared.launches = launch(&board.model, &scenario.model, &built.plan, SCRIPTS)?;
    prepared.serial = serial_conf(&scenario.model, &built.plan);
    prepared.has_scenario = true;
    prepared.findings = built.findings;
    Ok(prepared)
}

fn of_previous(store: &Store) -> Result<Prepared, ApplyError> {
    let directory = store.previous();
    let files = store.read_previous().map_err(io(&directory))?;
    let text = |wanted| files.iter().find(|(name, _)| *name == wanted);
    if let (Some((board, board_text)), Some((scenario, scenario_text))) =
        (text(BOARD), text(SCENARIO))
    {
        let board = BoardFile::parse(board, &String::from_utf8_lossy(board_text))?;
        let scenario = ScenarioFile::parse(scenario, &String::from_utf8_lossy(scenario_text))?;
        return of_scenario(&board, &scenario);
    }
    match text(CONFIG) {
        Some((_, bytes)) => of_blob(CONFIG, bytes.clone()),
        None => Err(ApplyError::NoPrevious(directory.display().to_string())),
    }
}

/// Whether the configuration is for the machine that runs.
fn check(target: &Target, bytes: &[u8]) -> Result<(), ApplyError> {
    let expected = Config::parse(bytes).map_err(|source| ApplyError::Config {
        file: CONFIG.to_owned(),
        source: Box::new(source),
    })?;
    let found = inspect(target)?;
    let running = Running {
        found: &found.model,
        expected: &expected,
        partly: hypervisor_runs(target),
    };
    Ok(running.check()?)
}

/// Whether this is the Service VM, which does not see the whole machine.
fn hypervisor_runs(target: &Target) -> bool {
    below(&target.root, "/dev/acrn_hsm").exists()
}

fn inspect(target: &Target) -> Result<BoardFile, ApplyError> {
    let mut command = Command::new(&target.inspector);
    let text = output(command.args(["this-machine", "--out", "-"])).map_err(|why| {
        let program = target.inspector.display().to_string();
        ApplyError::Inspector { program, why }
    })?;
    Ok(BoardFile::parse("this machine", &text)?)
}

fn update_grub(target: &Target) -> Result<(), ApplyError> {
    let done = output(&mut Command::new(&target.update_grub));
    done.map(drop).map_err(|why| {
        let program = target.update_grub.display().to_string();
        ApplyError::Grub { program, why }
    })
}

/// What a program prints, or why it failed.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", output.status, said.trim()))
}
