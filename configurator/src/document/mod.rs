//! A scenario on its board while it is edited.
//!
//! The state is the scenario's text. It is judged anew after each edit, from the text, so that what was
//! judged is what is saved. The texts before are kept for undoing.

mod cache;
mod edit;
mod fresh;
mod names;
mod vms;

pub use cache::{DividedCache, Share, divided_caches};
pub use edit::{Edit, Refused};
pub(crate) use fresh::usb_ports;
pub(crate) use vms::neighbour;

use acrn_config::launch::{Launch, LaunchError, launch, serial_conf};
use acrn_config::migrate::{Change, migrate};
use acrn_config::{BoardFile, Built, Finding, LoadError, ScenarioFile, Severity, build, presets};

/// How many edits can be undone.
pub const MAX_UNDO: usize = 500;
/// Where the launch scripts are in the Service VM.
const INSTALLED_IN: &str = "/opt/acrn";
/// Names of the files, which are also those in messages.
pub const BOARD_FILE: &str = "board.xml";

/// A scenario on its board.
#[derive(Clone, Debug)]
pub struct Document {
    board: BoardFile,
    scenario: ScenarioFile,
    text: String,
    judged: Judged,
    past: Vec<String>,
    future: Vec<String>,
    /// The path that is being typed at.
    typing: Option<String>,
    saved: Option<String>,
    changes: Vec<Change>,
}

/// What is known about a scenario.
#[derive(Clone, Debug, Default)]
struct Judged {
    findings: Vec<Finding>,
    made: Option<Made>,
}

/// What is made of a valid scenario.
#[derive(Clone, Debug)]
pub struct Made {
    /// The configuration and what was decided.
    pub built: Built,
    /// How the post-launched VMs are started.
    pub launches: Vec<Launch>,
    /// `/etc/serial.conf` of the Service VM, if it needs one.
    pub serial_conf: Option<String>,
}

impl Document {
    /// A preset, fitted to the board.
    ///
    /// # Errors
    /// The board file is none.
    pub fn new(board: &str, preset: &presets::Preset) -> Result<Self, LoadError> {
        let board = BoardFile::parse(BOARD_FILE, board)?;
        let mut scenario = ScenarioFile::parse(BOARD_FILE, preset.scenario)?;
        let changes = presets::fit(&mut scenario, &board.model);
        Self::of(board, &scenario.document.to_string(), changes)
    }

    /// Files that are there already. An older scenario is brought up to date, with the launch file that
    /// belongs to it.
    ///
    /// # Errors
    /// A file is not what it should be.
    pub fn open(board: &str, scenario: &str, launch: Option<&str>) -> Result<Self, LoadError> {
        let board = BoardFile::parse(BOARD_FILE, board)?;
        let mut scenario = ScenarioFile::parse("scenario.xml", scenario)?;
        let launch = launch.map(|text| ScenarioFile::parse("launch.xml", text));
        let launch = launch.transpose()?.map(|file| file.document);
        let changes = migrate(&mut scenario.document, launch.as_ref());
        Self::of(board, &scenario.document.to_string(), changes)
    }

    fn of(board: BoardFile, text: &str, changes: Vec<Change>) -> Result<Self, LoadError> {
        let scenario = ScenarioFile::parse("scenario.xml", text)?;
        let mut document = Self {
            board,
            scenario,
            text: text.to_owned(),
            judged: Judged::default(),
            past: Vec::new(),
            future: Vec::new(),
            typing: None,
            saved: None,
            changes,
        };
        document.judged = judge(&document.board, &document.scenario);
        Ok(document)
    }

    /// The board.
    pub fn board(&self) -> &BoardFile {
        &self.board
    }

    /// The scenario as it is now.
    pub fn scenario(&self) -> &ScenarioFile {
        &self.scenario
    }

    /// The scenario's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The scenario's name.
    pub fn name(&self) -> &str {
        match self.scenario.model.name.as_deref() {
            Some(name) if !name.is_empty() => name,
            _ => "scenario",
        }
    }

    /// Everything that is wrong.
    pub fn findings(&self) -> &[Finding] {
        &self.judged.findings
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        let errors = self.findings().iter();
        errors.filter(|f| f.severity == Severity::Error).count()
    }

    /// What is made of it, if it is valid.
    pub fn made(&self) -> Option<&Made> {
        self.judged.made.as_ref()
    }

    /// What was changed when it was opened.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether there is something to undo, and something to do again.
    pub fn can_undo_redo(&self) -> (bool, bool) {
        (!self.past.is_empty(), !self.future.is_empty())
    }

    /// Whether it differs from what was saved.
    pub fn is_changed(&self) -> bool {
        self.saved.as_deref() != Some(&self.text)
    }

    /// It was saved as it is now.
    pub fn set_saved(&mut self) {
        self.saved = Some(self.text.clone());
    }

    /// Edits. With `typing`, an edit of the same element just before is continued: both are undone
    /// together.
    ///
    /// # Errors
    /// The edit is impossible; nothing was changed.
    pub fn apply(&mut self, edit: &Edit, typing: bool) -> Result<(), Refused> {
        let mut file = self.scenario.clone();
        edit::edit(&mut file, &self.board.model, edit)?;
        let text = file.document.to_string();
        if text == self.text {
            return Ok(());
        }
        let scenario = ScenarioFile::parse(&self.scenario.name, &text).map_err(Refused::Text)?;
        let path = typing.then(|| edit.path().to_owned());
        let continues = path.is_some() && path == self.typing && !self.past.is_empty();
        if !continues {
            self.past.push(std::mem::take(&mut self.text));
            let excess = self.past.len().saturating_sub(MAX_UNDO);
            self.past.drain(..excess);
        }
        self.typing = path;
        self.future.clear();
        self.show(text, scenario);
        Ok(())
    }

    /// Takes the last edit back. False if there is none.
    pub fn undo(&mut self) -> bool {
        let before = self.past.pop();
        self.go(before, |document| &mut document.future)
    }

    /// Does again what was undone last. False if there is nothing.
    pub fn redo(&mut self) -> bool {
        let next = self.future.pop();
        self.go(next, |document| &mut document.past)
    }

    fn go(&mut self, text: Option<String>, other: fn(&mut Self) -> &mut Vec<String>) -> bool {
        let Some(text) = text else { return false };
        // It was read before, so it can be read.
        let Ok(scenario) = ScenarioFile::parse(&self.scenario.name, &text) else {
            return false;
        };
        let now = std::mem::take(&mut self.text);
        other(self).push(now);
        self.typing = None;
        self.show(text, scenario);
        true
    }

    fn show(&mut self, text: String, scenario: ScenarioFile) {
        self.text = text;
        self.scenario = scenario;
        self.judged = judge(&self.board, &self.scenario);
    }
}

/// Builds everything: a scenario is valid when that succeeds.
fn judge(board: &BoardFile, scenario: &ScenarioFile) -> Judged {
    let built = match build(board, scenario) {
        Ok(built) => built,
        Err(findings) => {
            return Judged {
                findings,
                made: None,
            };
        }
    };
    let mut findings = built.findings.clone();
    match launch(&board.model, &scenario.model, &built.plan, INSTALLED_IN) {
        Ok(launches) => {
            let serial_conf = serial_conf(&scenario.model, &built.plan);
            let made = Some(Made {
                built,
                launches,
                serial_conf,
            });
            Judged { findings, made }
        }
        Err(error) => {
            findings.push(not_launched(&error, scenario));
            Judged {
                findings,
                made: None,
            }
        }
    }
}

fn not_launched(error: &LaunchError, file: &ScenarioFile) -> Finding {
    let (LaunchError::NoSlot { vm } | LaunchError::Quote { vm, .. } | LaunchError::Cpu { vm, .. }) =
        error;
    let index = file.model.vm(vm).map_or(0, |(index, _)| index);
    let element = match error {
        LaunchError::NoSlot { .. } => "virtio_devices",
        LaunchError::Quote { .. } => "customized_parameters",
        LaunchError::Cpu { .. } => "cpu_affinity",
    };
    let path = format!("vm[{}]/{element}", index + 1);
    let text = error.to_string();
    let (message, remedy) = text.rsplit_once(&[':', ';'][..]).unwrap_or((&text, ""));
    Finding {
        severity: Severity::Error,
        file: file.name.clone(),
        line: file.document.line_of(&path),
        path,
        rule: "launch",
        message: message.to_owned(),
        remedy: remedy.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests;
