//! Launch scripts and definitions of a scenario's post-launched VMs, in their places in the Service VM.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::launch::Launch;

/// Where the scripts are.
pub(super) const SCRIPTS: &str = "/var/lib/acrn/launch";
/// Where `acrnd` looks for definitions.
pub(super) const DEFINITIONS: &str = "/etc/acrn/vms";
const SERIAL: &str = "/etc/serial.conf";
/// A file with these words is ours to change and to remove; see `launch::definition` and `launch::script`.
const MARK: &str = "acrn-config launch has written it";

/// What was at each path before: its bytes, or nothing.
pub(super) type Before = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Puts the files into place below `root`, and removes those of VMs that are no longer there. A definition
/// that somebody else has written stays as it is and is among the second result.
pub(super) fn install(
    root: &Path,
    launches: &[Launch],
    serial: Option<&str>,
    before: &mut Before,
) -> io::Result<Vec<PathBuf>> {
    let scripts = below(root, SCRIPTS);
    let definitions = below(root, DEFINITIONS);
    let mut wanted: BTreeMap<PathBuf, (&str, u32)> = BTreeMap::new();
    for launch in launches {
        wanted.insert(scripts.join(launch.script_name()), (&launch.script, 0o755));
        let definition = definitions.join(launch.definition_name());
        wanted.insert(definition, (&launch.definition, 0o644));
    }
    if let Some(serial) = serial {
        wanted.insert(below(root, SERIAL), (serial, 0o644));
    }
    for path in ours(&scripts)?.into_iter().chain(ours(&definitions)?) {
        if !wanted.contains_key(&path) {
            before.insert(path.clone(), Some(fs::read(&path)?));
            fs::remove_file(&path)?;
        }
    }
    let mut foreign = Vec::new();
    for (path, (text, mode)) in wanted {
        let old = fs::read(&path).ok();
        if old.as_ref().is_some_and(|old| !is_ours(old)) {
            if old.as_deref() != Some(text.as_bytes()) {
                foreign.push(path);
            }
            continue;
        }
        before.insert(path.clone(), old);
        put(&path, text.as_bytes(), mode)?;
    }
    Ok(foreign)
}

/// Puts back what was there.
pub(super) fn undo(before: &Before) -> io::Result<()> {
    for (path, bytes) in before {
        let mode = if path.extension().is_some_and(|kind| kind == "sh") {
            0o755
        } else {
            0o644
        };
        match bytes {
            Some(bytes) => put(path, bytes, mode)?,
            None if path.exists() => fs::remove_file(path)?,
            None => {}
        }
    }
    Ok(())
}

/// Writes a file so that it is there completely or not at all.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, bytes)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, path)
}

/// Files in a directory that an earlier scenario has left there.
fn ours(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() && is_ours(&fs::read(&path)?) {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_ours(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(bytes);
    head.lines().take(3).any(|line| line.contains(MARK))
}

pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
