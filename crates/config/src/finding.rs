//! What is wrong with a file, in a form that people and programs can act on.

use serde_json::{Value, json};
use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Probably not what was meant; the file can be used.
    Warning,
    /// The file cannot be used.
    Error,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// The element, such as `vm[2]/memory/size`.
    pub path: String,
    /// Id of the rule that is broken.
    pub rule: &'static str,
    /// What is wrong, with the offending values.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Severity {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            severity,
            path,
            rule,
            message,
            remedy,
        } = self;
        let severity = severity.name();
        write!(f, "{file}:{line}: {severity}: ")?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        write!(f, "{message} [{rule}]\n    {remedy}")
    }
}

impl Finding {
    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "severity": self.severity.name(),
            "file": self.file,
            "line": self.line,
            "path": self.path,
            "rule": self.rule,
            "message": self.message,
            "remedy": self.remedy,
        })
    }
}

/// Whether none of them is an error.
pub fn usable(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.severity < Severity::Error)
}
