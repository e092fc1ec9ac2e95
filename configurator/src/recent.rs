//! The files that were worked on, the last first, remembered from one run of the program to the next.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How many are remembered.
const MAX: usize = 12;

/// A scenario and its board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path of the scenario.
    pub scenario: PathBuf,
    /// Path of the board.
    pub board: PathBuf,
}

/// The entries, the last first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Recent {
    /// Of what a file says; nothing is remembered if it says something else.
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Remembers an entry.
    pub fn add(&mut self, entry: Entry) {
        self.entries
            .retain(|other| other.scenario != entry.scenario);
        self.entries.insert(0, entry);
        self.entries.truncate(MAX);
    }
}

/// Where that is kept: below `XDG_STATE_HOME`, or else `~/.local/state`. Nothing without a home.
pub fn path(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(variable("HOME")?.join(".local/state")))?;
    Some(state.join("acrn-configurator/recent.json"))
}

/// Reads it. A file that is not there is the first run.
pub fn load(path: Option<&Path>) -> Recent {
    let text = path.and_then(|path| std::fs::read_to_string(path).ok());
    text.map(|text| Recent::parse(&text)).unwrap_or_default()
}

/// Writes it.
///
/// # Errors
/// The file cannot be written.
pub fn store(path: &Path, recent: &Recent) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(recent)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            scenario: name.into(),
            board: "board.xml".into(),
        }
    }

    #[test]
    fn the_last_is_the_first_and_nothing_is_there_twice() {
        let mut recent = Recent::default();
        for name in ["a", "b", "a"] {
            recent.add(entry(name));
        }
        assert_eq!(recent.entries, [entry("a"), entry("b")]);
        (0..20).for_each(|number| recent.add(entry(&number.to_string())));
        assert_eq!(recent.entries.len(), MAX);
    }

    #[test]
    fn what_is_stored_is_loaded_and_rubbish_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/recent.json");
        let mut recent = Recent::default();
        recent.add(entry("a"));
        store(&path, &recent).unwrap();
        assert_eq!(load(Some(&path)), recent);
        assert_eq!(Recent::parse("{"), Recent::default());
    }

    #[test]
    fn the_state_directory_is_the_one_of_the_environment() {
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/me"));
        let expected = "/home/me/.local/state/acrn-configurator/recent.json";
        assert_eq!(path(home), Some(expected.into()));
        let state = |name: &str| (name == "XDG_STATE_HOME").then(|| PathBuf::from("/state"));
        assert_eq!(
            path(state),
            Some("/state/acrn-configurator/recent.json".into())
        );
        assert_eq!(path(|_| None), None);
    }
}
