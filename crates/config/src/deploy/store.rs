//! The directories of configurations: in force, before that, and in the making.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// `/boot/acrn`.
pub(super) struct Store {
    root: PathBuf,
}

/// Names of files in a configuration's directory.
pub(super) const CONFIG: &str = "acrn.cfg";
pub(super) const ENTRY: &str = "entry";
pub(super) const BOARD: &str = "board.xml";
pub(super) const SCENARIO: &str = "scenario.xml";

impl Store {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// What is in force.
    pub(super) fn current(&self) -> PathBuf {
        self.root.join("current")
    }

    /// What was in force before.
    pub(super) fn previous(&self) -> PathBuf {
        self.root.join("previous")
    }

    /// Writes a configuration's files and makes them the current ones, and those that were so the previous
    /// ones. Without files nothing is in force any more.
    pub(super) fn replace(&self, files: &[(&str, Vec<u8>)]) -> io::Result<()> {
        let new = self.root.join("new");
        let (current, previous) = (self.current(), self.previous());
        remove(&new)?;
        fs::create_dir_all(&new)?;
        for (name, bytes) in files {
            let path = new.join(name);
            fs::write(&path, bytes)?;
            File::open(&path)?.sync_all()?;
        }
        File::open(&new)?.sync_all()?;
        // The previous ones are kept until the new ones have proved themselves; see `undo`.
        let older = self.root.join("older");
        remove(&older)?;
        if current.exists() {
            move_if_there(&previous, &older)?;
            fs::rename(&current, &previous)?;
        }
        if files.is_empty() {
            fs::remove_dir(&new)?;
        } else {
            fs::rename(&new, &current)?;
        }
        File::open(&self.root)?.sync_all()
    }

    /// Takes `replace` back, given whether there was something in force before it.
    pub(super) fn undo(&self, had_current: bool) -> io::Result<()> {
        remove(&self.current())?;
        if had_current {
            move_if_there(&self.previous(), &self.current())?;
            move_if_there(&self.root.join("older"), &self.previous())?;
        }
        Ok(())
    }

    /// Forgets what `undo` would need.
    pub(super) fn settle(&self) -> io::Result<()> {
        remove(&self.root.join("older"))
    }

    /// Files of the configuration that was in force before.
    pub(super) fn read_previous(&self) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
        let mut files = Vec::new();
        for name in [CONFIG, ENTRY, BOARD, SCENARIO] {
            let path = self.previous().join(name);
            if path.exists() {
                files.push((name, fs::read(path)?));
            }
        }
        Ok(files)
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    if from.exists() {
        fs::rename(from, to)
    } else {
        Ok(())
    }
}
