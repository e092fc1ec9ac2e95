//! Other formats, by qemu-img.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::ImageError;
use crate::tools::{execute, program, run};

/// The formats by the ends of names.
const FORMATS: &[(&str, &str)] = &[
    ("img", "raw"),
    ("raw", "raw"),
    ("qcow2", "qcow2"),
    ("vmdk", "vmdk"),
    ("vhdx", "vhdx"),
    ("vdi", "vdi"),
];

/// The format of an image.
pub(crate) fn format(path: &Path) -> Result<&'static str, ImageError> {
    let end = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let known = FORMATS.iter().find(|(known, _)| *known == end);
    known
        .map(|(_, format)| *format)
        .ok_or_else(|| ImageError::Format(path.to_owned()))
}

/// Converts an image; says what there is then.
pub(crate) fn convert(from: &PathBuf, to: &PathBuf) -> Result<Value, ImageError> {
    let (source, target) = (format(from)?, format(to)?);
    if to.exists() {
        return Err(ImageError::Exists(to.clone()));
    }
    let mut qemu_img = program("qemu-img", ["convert", "-f", source, "-O", target]);
    run("converting", qemu_img.arg(from).arg(to))?;
    Ok(json!({ "image": to, "format": target }))
}

/// What qemu-img finds wrong with an image that is not raw.
pub(crate) fn check(image: &Path, format: &str) -> Result<Vec<String>, ImageError> {
    let mut qemu_img = program("qemu-img", ["check", "-f", format]);
    let (status, lines) = execute("checking", qemu_img.arg(image), None)?;
    Ok(if status.success() { Vec::new() } else { lines })
}
