//! The documents that are open, and their files.

use crate::document::{BOARD_FILE, Document};
use crate::outputs::{OutputFile, outputs, scenario_name, stem};
use crate::recent::{self, Entry, Recent};
use acrn_config::{LoadError, presets};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Largest file that is read.
pub const MAX_FILE: u64 = 16 << 20;

/// A file: its text, its path on this machine, or a board that comes with the program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Its text.
    Text(String),
    /// Its path.
    Path(PathBuf),
    /// Its name among the boards to try.
    Sample(String),
}

/// What shall be opened.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "open", rename_all = "lowercase")]
pub enum Request {
    /// A preset on a board.
    New {
        /// The board.
        board: Source,
        /// Name of the preset.
        preset: String,
    },
    /// Files that are there.
    Files {
        /// The scenario.
        scenario: Source,
        /// The board.
        board: Source,
        /// The launch file.
        launch: Option<Source>,
    },
    /// Recent work.
    Recent {
        /// Its place in the list.
        recent: usize,
    },
}

/// Why something cannot be opened or saved.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// A file is not what it should be.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file cannot be read or written.
    #[error("{}: {source}; check the path and its permissions", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is too large.
    #[error("{}: {size} bytes, a board or scenario has at most {MAX_FILE}; check which file this is", .path.display())]
    Large {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// There is no such preset.
    #[error("there is no preset {0}; reload the page")]
    Preset(String),
    /// There is no such board to try.
    #[error("there is no board {0} to try; reload the page")]
    Sample(String),
    /// There is no such recent work.
    #[error("there is no recent work number {0}; reload the page")]
    Recent(usize),
    /// There is no such document.
    #[error("configuration {0} is not open any more; open it again from the start page")]
    Closed(u32),
    /// The directory has no path that means the same everywhere.
    #[error("{} is no absolute path; begin it with /", .0.display())]
    Relative(PathBuf),
    /// Something else would be overwritten.
    #[error("{} is there already and is not of this configuration; choose another directory or another name", .0.display())]
    Exists(PathBuf),
}

/// An open document.
#[derive(Debug)]
pub struct Open {
    /// The document.
    pub document: Document,
    /// Where it is saved.
    pub directory: PathBuf,
    /// The files that are its own: where it came from, or was saved before.
    own: Vec<PathBuf>,
}

/// All open documents.
#[derive(Debug, Default)]
pub struct Work {
    documents: BTreeMap<u32, Open>,
    last: u32,
    /// Recent work.
    pub recent: Recent,
    recent_file: Option<PathBuf>,
    /// Below which new work is saved.
    home: PathBuf,
}

impl Work {
    /// With what is remembered in `recent_file`; new work goes below `home`.
    pub fn new(recent_file: Option<PathBuf>, home: PathBuf) -> Self {
        Self {
            recent: recent::load(recent_file.as_deref()),
            recent_file,
            home,
            ..Self::default()
        }
    }

    /// The open documents.
    pub fn all(&self) -> impl Iterator<Item = (u32, &Open)> {
        self.documents.iter().map(|(id, open)| (*id, open))
    }

    /// A document.
    ///
    /// # Errors
    /// It is not open.
    pub fn get(&mut self, id: u32) -> Result<&mut Open, WorkError> {
        self.documents.get_mut(&id).ok_or(WorkError::Closed(id))
    }

    /// Opens something; the result is its number.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn open(&mut self, request: &Request) -> Result<u32, WorkError> {
        match request {
            Request::New { board, preset } => self.begin(&read(board)?, preset),
            Request::Files {
                scenario,
                board,
                launch,
            } => {
                let launch = launch.as_ref().map(read).transpose()?;
                let document = Document::open(&read(board)?, &read(scenario)?, launch.as_deref())?;
                Ok(self.add(document, scenario, board))
            }
            Request::Recent { recent } => {
                let entry = self.recent.entries.get(*recent).cloned();
                let Entry { scenario, board } = entry.ok_or(WorkError::Recent(*recent))?;
                let (scenario, board) = (Source::Path(scenario), Source::Path(board));
                self.open(&Request::Files {
                    scenario,
                    board,
                    launch: None,
                })
            }
        }
    }

    fn begin(&mut self, board: &str, preset: &str) -> Result<u32, WorkError> {
        let preset = presets::preset(preset).ok_or_else(|| WorkError::Preset(preset.to_owned()))?;
        let document = Document::new(board, preset)?;
        let nowhere = Source::Text(String::new());
        Ok(self.add(document, &nowhere, &nowhere))
    }

    fn add(&mut self, mut document: Document, scenario: &Source, board: &Source) -> u32 {
        let mut own = Vec::new();
        let mut directory = self.home.join("acrn").join(stem(document.name()));
        if let Source::Path(path) = scenario {
            directory = path.parent().unwrap_or(Path::new("/")).to_owned();
            own.push(path.clone());
            if document.changes().is_empty() {
                document.set_saved();
            }
        }
        if let Source::Path(path) = board {
            own.push(path.clone());
        }
        if let (Source::Path(scenario), Source::Path(board)) = (scenario, board) {
            self.remember(scenario.clone(), board.clone());
        }
        self.last += 1;
        self.documents.insert(
            self.last,
            Open {
                document,
                directory,
                own,
            },
        );
        self.last
    }

    /// That work is remembered is a convenience: a disk that is full does not stop the work.
    fn remember(&mut self, scenario: PathBuf, board: PathBuf) {
        self.recent.add(Entry { scenario, board });
        if let Some(path) = &self.recent_file {
            if let Err(error) = recent::store(path, &self.recent) {
                eprintln!(
                    "acrn-configurator: {}: {error}; recent work is not remembered",
                    path.display()
                );
            }
        }
    }

    /// Writes all files of a document; a draft if it is not valid. The result is the path of its scenario.
    ///
    /// # Errors
    /// A file cannot be written, or would overwrite another one.
    pub fn save(&mut self, id: u32, directory: &Path) -> Result<PathBuf, WorkError> {
        if !directory.is_absolute() {
            return Err(WorkError::Relative(directory.to_owned()));
        }
        let open = self.get(id)?;
        let files = outputs(&open.document);
        let place = |file: &OutputFile| directory.join(&file.name);
        if let Some(file) = files.iter().find(|file| !open.may_replace(directory, file)) {
            return Err(WorkError::Exists(place(file)));
        }
        std::fs::create_dir_all(directory).map_err(|source| io_error(directory, source))?;
        for file in &files {
            write(&place(file), file)?;
        }
        let scenario = directory.join(scenario_name(&open.document));
        if open.document.made().is_some() {
            open.drop_draft(directory);
        }
        open.own.extend(files.iter().map(place));
        directory.clone_into(&mut open.directory);
        open.document.set_saved();
        self.remember(scenario.clone(), directory.join(BOARD_FILE));
        Ok(scenario)
    }
}

impl Open {
    /// Whether a file may be written. Where this configuration is, what was made of it is replaced; other
    /// boards and scenarios are not, nor anything elsewhere.
    fn may_replace(&self, directory: &Path, file: &OutputFile) -> bool {
        let path = directory.join(&file.name);
        let is_at_home = self.own.iter().any(|own| own.parent() == Some(directory));
        let is_made = !file.name.ends_with(".xml");
        let is_other = || std::fs::read(&path).is_ok_and(|old| old != file.bytes);
        is_at_home && is_made || self.own.contains(&path) || !is_other()
    }

    /// A draft of it is not needed any more.
    fn drop_draft(&mut self, directory: &Path) {
        let draft = directory.join(format!("{}.draft.xml", stem(self.document.name())));
        if self.own.contains(&draft) {
            // It is no harm if it stays.
            let _ = std::fs::remove_file(draft);
        }
    }
}

fn read(source: &Source) -> Result<String, WorkError> {
    let path = match source {
        Source::Text(text) => return Ok(text.clone()),
        Source::Path(path) => path,
        Source::Sample(name) => return sample(name),
    };
    let metadata = std::fs::metadata(path).map_err(|source| io_error(path, source))?;
    if metadata.len() > MAX_FILE {
        let (path, size) = (path.clone(), metadata.len());
        return Err(WorkError::Large { path, size });
    }
    std::fs::read_to_string(path).map_err(|source| io_error(path, source))
}

fn sample(name: &str) -> Result<String, WorkError> {
    let board = presets::SAMPLE_BOARDS
        .iter()
        .find(|(known, _)| *known == name);
    let board = board.map(|(_, board)| (*board).to_owned());
    board.ok_or_else(|| WorkError::Sample(name.to_owned()))
}

/// Writes a file so that it is there as a whole or not at all.
fn write(path: &Path, file: &OutputFile) -> Result<(), WorkError> {
    let temporary = path.with_file_name(format!(".{}.new", file.name));
    let mode = if file.executable { 0o755 } else { 0o644 };
    let written = std::fs::write(&temporary, &file.bytes)
        .and_then(|()| std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode)))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> WorkError {
    WorkError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Edit;
    use acrn_config::presets::QEMU_BOARD;
    use acrn_config_blob::Config;

    fn new() -> Request {
        Request::New {
            board: Source::Text(QEMU_BOARD.to_owned()),
            preset: "shared".to_owned(),
        }
    }

    fn set(work: &mut Work, id: u32, path: &str, text: &str) {
        let (path, text) = (path.to_owned(), text.to_owned());
        let document = &mut work.get(id).unwrap().document;
        document.apply(&Edit::Set { path, text }, false).unwrap();
    }

    #[test]
    fn what_is_saved_is_opened_again_and_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state/recent.json");
        let place = directory.path().join("work");
        let mut work = Work::new(Some(state.clone()), directory.path().to_owned());
        let id = work.open(&new()).unwrap();
        let scenario = work.save(id, &place).unwrap();
        assert!(!work.get(id).unwrap().document.is_changed());
        let blob = std::fs::read(place.join("acrn.cfg")).unwrap();
        assert!(Config::parse(&blob).is_ok());
        let script = std::fs::metadata(place.join("launch_user_vm_id1.sh")).unwrap();
        assert_eq!(script.permissions().mode() & 0o777, 0o755);

        let mut work = Work::new(Some(state), directory.path().to_owned());
        assert_eq!(work.recent.entries[0].scenario, scenario);
        let id = work.open(&Request::Recent { recent: 0 }).unwrap();
        let open = work.get(id).unwrap();
        assert!(open.directory == place && !open.document.is_changed());
    }

    #[test]
    fn an_invalid_scenario_is_saved_as_a_draft_that_goes_when_it_is_repaired() {
        let directory = tempfile::tempdir().unwrap();
        let mut work = Work::new(None, directory.path().to_owned());
        let id = work.open(&new()).unwrap();
        set(&mut work, id, "vm[2]/memory/size", "3");
        let draft = work.save(id, directory.path()).unwrap();
        assert!(draft.ends_with("shared.draft.xml") && draft.exists());
        assert!(!directory.path().join("acrn.cfg").exists());
        set(&mut work, id, "vm[2]/memory/size", "512");
        work.save(id, directory.path()).unwrap();
        assert!(!draft.exists() && directory.path().join("shared.xml").exists());
    }

    #[test]
    fn files_of_others_are_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("shared.xml"), "mine").unwrap();
        let mut work = Work::new(None, directory.path().to_owned());
        let id = work.open(&new()).unwrap();
        let refused = work.save(id, directory.path()).unwrap_err();
        assert!(matches!(refused, WorkError::Exists(path) if path.ends_with("shared.xml")));
        assert!(!directory.path().join("acrn.cfg").exists());
        assert!(matches!(
            work.save(id, Path::new("here")),
            Err(WorkError::Relative(_))
        ));
    }
}
