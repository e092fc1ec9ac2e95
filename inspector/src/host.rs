//! The machine that is inspected: its files below a root directory, and CPUID.
//!
//! Nothing fails here. What cannot be read is noted as a gap, and whoever asked goes on without it.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cpuid::Cpuid;

/// Longest file that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// What.
    pub what: String,
    /// Why.
    pub reason: String,
    /// What follows from it, and what can be done.
    pub meaning: String,
}

/// The machine.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    /// CPUID.
    pub cpuid: Cpuid,
    gaps: RefCell<Vec<Gap>>,
}

impl Host {
    /// The machine with these files; that of another one has a recording of CPUID in `cpuid`.
    pub fn new(root: &Path) -> Self {
        let recording = fs::read_to_string(root.join("cpuid")).ok();
        let cpuid = match recording {
            Some(text) => Cpuid::recording(&text),
            None if root == Path::new("/") => Cpuid::Processor,
            None => Cpuid::recording(""),
        };
        Self {
            root: root.to_owned(),
            cpuid,
            gaps: RefCell::default(),
        }
    }

    /// Where a file of the machine is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.path(path))?;
        file.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The text of a file that need not be there.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = self.bytes(path).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    /// A number in a file that need not be there: decimal, or hexadecimal behind `0x`.
    pub fn number(&self, path: &str) -> Option<u64> {
        number(&self.text(path)?)
    }

    /// The bytes of a file that should be there; a gap where they are not.
    pub fn wanted(&self, path: &str, meaning: &str) -> Option<Vec<u8>> {
        match self.bytes(path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.gap(path, &error.to_string(), meaning);
                None
            }
        }
    }

    /// The text of such a file.
    pub fn wanted_text(&self, path: &str, meaning: &str) -> Option<String> {
        let bytes = self.wanted(path, meaning)?;
        Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    /// Names in a directory, in the order of the numbers in them; none where it is not there.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        names
    }

    /// The last part of where a link leads.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Whether something is there.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Notes what could not be read.
    pub fn gap(&self, what: &str, reason: &str, meaning: &str) {
        self.gaps.borrow_mut().push(Gap {
            what: what.to_owned(),
            reason: reason.to_owned(),
            meaning: meaning.to_owned(),
        });
    }

    /// What could not be read so far.
    pub fn gaps(&self) -> Vec<Gap> {
        self.gaps.borrow().clone()
    }
}

/// A number: decimal, or hexadecimal behind `0x`.
pub fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The numbers of a list such as `0-3,8`; nothing of a part that is none, and 4096 at most.
pub fn list(text: &str) -> Vec<u64> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        Some(first..=last.min(first.saturating_add(4095)))
    };
    text.split(',')
        .filter_map(range)
        .flatten()
        .take(4096)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_a_gap_and_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::new(folder.path());
        assert_eq!(host.wanted("/proc/iomem", "no memory"), None);
        assert_eq!(host.number("/sys/x"), None);
        assert!(host.names("/sys").is_empty() && host.link("/sys").is_none());
        let gaps = host.gaps();
        assert_eq!(
            (gaps[0].what.as_str(), gaps[0].meaning.as_str()),
            ("/proc/iomem", "no memory")
        );
    }

    #[test]
    fn lists_of_numbers_are_read() {
        assert_eq!(list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(list("x,2,3-,-1,5-4"), [2]);
        assert_eq!(list("0-18446744073709551615").len(), 4096);
        assert_eq!(number(" 0x1F "), Some(31));
    }
}
