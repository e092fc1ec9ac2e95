//! Reuse of results: an output is made again only when a digest of its inputs has changed.
//!
//! The digest (FNV-1a, 128 bits) is no protection against malice, only against stale
//! files. It is kept beside the output as `NAME.stamp` in readable lines, so that a
//! person can see what the output was made from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const FNV_OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// Collects the inputs of one output.
#[derive(Debug, Default, Clone)]
pub struct Inputs {
    lines: String,
}

impl Inputs {
    /// No inputs yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value such as a version or an option.
    #[must_use]
    pub fn value(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.lines.push_str(&format!("{name} {value}\n"));
        self
    }

    /// Adds the content of a file, or of every file below a directory, and the mode
    /// bits that decide whether it is executable.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        let digest = digest_path(path)?;
        self.lines
            .push_str(&format!("{} {digest:032x}\n", path.display()));
        Ok(self)
    }

    /// Whether `output` exists and was made from exactly these inputs.
    #[must_use]
    pub fn match_stamp_of(&self, output: &Path) -> bool {
        output.exists() && fs::read_to_string(stamp_of(output)).is_ok_and(|s| s == self.lines)
    }

    /// Notes that `output` has been made from these inputs.
    ///
    /// # Errors
    /// The stamp cannot be written.
    pub fn write_stamp_of(&self, output: &Path) -> Result<()> {
        let stamp = stamp_of(output);
        fs::write(&stamp, &self.lines).with_context(|| format!("cannot write {}", stamp.display()))
    }
}

fn stamp_of(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".stamp");
    PathBuf::from(name)
}

/// Digest of some bytes.
#[must_use]
pub fn digest_bytes(bytes: &[u8]) -> u128 {
    bytes.iter().fold(FNV_OFFSET, |hash, &byte| {
        (hash ^ u128::from(byte)).wrapping_mul(FNV_PRIME)
    })
}

fn digest_path(path: &Path) -> Result<u128> {
    use std::os::unix::fs::PermissionsExt;
    let unreadable = || format!("cannot read {}", path.display());
    let metadata = fs::symlink_metadata(path).with_context(unreadable)?;
    if !metadata.is_dir() {
        let bytes = fs::read(path).with_context(unreadable)?;
        let executable = u128::from(metadata.permissions().mode() & 0o111 != 0);
        return Ok(digest_bytes(&bytes) ^ executable);
    }
    let mut names: Vec<_> = fs::read_dir(path)?
        .map(|e| e.map(|e| e.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    let mut summary = Vec::new();
    for name in names {
        summary.extend_from_slice(name.as_encoded_bytes());
        summary.extend_from_slice(&digest_path(&path.join(&name))?.to_le_bytes());
    }
    Ok(digest_bytes(&summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_input_outdates_the_output_and_an_equal_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        fs::write(&input, "one").unwrap();
        fs::write(&output, "made").unwrap();
        let inputs = Inputs::new().value("version", 1).path(&input).unwrap();
        assert!(!inputs.match_stamp_of(&output));
        inputs.write_stamp_of(&output).unwrap();
        assert!(inputs.match_stamp_of(&output));
        fs::write(&input, "two").unwrap();
        let changed = Inputs::new().value("version", 1).path(&input).unwrap();
        assert!(!changed.match_stamp_of(&output));
    }

    #[test]
    fn a_deleted_output_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out");
        Inputs::new().write_stamp_of(&output).unwrap();
        assert!(!Inputs::new().match_stamp_of(&output));
    }

    #[test]
    fn the_digest_is_the_published_fnv_1a() {
        assert_eq!(digest_bytes(b""), FNV_OFFSET);
        assert_eq!(
            digest_bytes(b"a"),
            0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964
        );
    }
}
