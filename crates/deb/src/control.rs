//! The file `control`: what a package is, and what it needs.

use std::collections::BTreeMap;

use crate::{DebError, Entry};

/// Fields of `control` (Debian Policy, 5.3).
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Section of the archive.
    pub section: String,
    /// Packages that must be there, and the other relations: name of the field and its value.
    pub relations: Vec<(&'static str, String)>,
    /// What it is, in one line.
    pub summary: String,
    /// What it is, at length: paragraphs, which are broken into lines here.
    pub description: Vec<String>,
}

/// Who answers for packages.
pub const MAINTAINER: &str = "acrn-rs developers <acrn-rs@developers.invalid>";
const LINE: usize = 78;

impl Control {
    /// The file, for a package with these files.
    pub(crate) fn text(&self, files: &BTreeMap<String, Entry>) -> Result<String, DebError> {
        let size = installed_size(files).to_string();
        let mut fields = vec![
            ("Package", self.name.as_str()),
            ("Version", &self.version),
            ("Architecture", &self.architecture),
            ("Maintainer", MAINTAINER),
            ("Installed-Size", &size),
        ];
        let relations = self.relations.iter();
        fields.extend(relations.map(|(field, value)| (*field, value.as_str())));
        fields.extend([
            ("Section", self.section.as_str()),
            ("Priority", "optional"),
            ("Description", &self.summary),
        ]);
        let mut text = String::new();
        for (field, value) in fields {
            if value.is_empty() || value.contains(['\n', '\r']) {
                let value = value.to_owned();
                return Err(DebError::Field { field, value });
            }
            text += &format!("{field}: {value}\n");
        }
        let paragraphs: Vec<String> = self.description.iter().map(|text| broken(text)).collect();
        Ok(text + &paragraphs.join(" .\n"))
    }
}

/// In KiB, each file on whole blocks, as dpkg counts.
fn installed_size(files: &BTreeMap<String, Entry>) -> u64 {
    let size = |entry: &Entry| match entry {
        Entry::File { bytes, .. } => (bytes.len() as u64).div_ceil(1024),
        Entry::Directory | Entry::Link(_) => 1,
    };
    files.values().map(size).sum()
}

/// A paragraph in lines, each after a blank.
fn broken(paragraph: &str) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in paragraph.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < LINE => *line += &format!(" {word}"),
            _ => lines.push(format!(" {word}")),
        }
    }
    lines.join("\n") + "\n"
}
