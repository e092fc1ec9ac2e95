//! Larger images, and images that may be damaged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::convert;
use crate::create::parent;
use crate::disk::{ROOT_START, TAIL};
use crate::size::{MIB, Size};
use crate::tools::{execute, program, run, run_with};
use crate::{ImageError, io};

/// Grows an image that `create` has made; says what there is then.
pub(crate) fn resize(image: &Path, size: Size) -> Result<Value, ImageError> {
    let file = File::options().write(true).open(image).map_err(io(image))?;
    let now = file.metadata().map_err(io(image))?.len();
    if size.0 < now {
        return Err(ImageError::Shrinks {
            path: image.display().to_string(),
            now: Size(now).to_string(),
        });
    }
    if !has_our_layout(image)? {
        return Err(ImageError::Layout(image.to_owned()));
    }
    // The file system grows in a file of its own: resize2fs cuts what it takes for the whole file.
    let near = parent(image);
    let scratch = tempfile::tempdir_in(near).map_err(io(near))?;
    let apart = scratch.path().join("root");
    let old = now.saturating_sub(ROOT_START + TAIL);
    File::create(&apart).map_err(io(&apart))?;
    copy(image, ROOT_START, &apart, 0, old)?;
    let (status, lines) = file_system_check(&apart, 0, "-fp")?;
    if status > 1 {
        return Err(ImageError::Failed {
            program: "e2fsck".to_owned(),
            status: status.to_string(),
            said: lines.join("\n"),
        });
    }
    let root = size.0 - ROOT_START - TAIL;
    let mut resize2fs = program("resize2fs", [&apart]);
    run("file system", resize2fs.arg(format!("{}K", root >> 10)))?;
    file.set_len(size.0).map_err(io(image))?;
    drop(file);
    let quiet = ["--quiet", "--no-reread", "--no-tell-kernel"];
    let mut sfdisk = program("sfdisk", quiet);
    run(
        "partition table",
        sfdisk.args(["--relocate", "gpt-bak-std"]).arg(image),
    )?;
    let mut sfdisk = program("sfdisk", quiet);
    let line = format!("start={}, size={}\n", ROOT_START / 512, root / 512);
    run_with(
        "partition",
        sfdisk.args(["-N", "2"]).arg(image),
        Some(&line),
    )?;
    let grown = fs::metadata(&apart).map_err(io(&apart))?.len();
    copy(&apart, 0, image, ROOT_START, grown.min(root))?;
    Ok(json!({ "image": image, "size": size.0 }))
}

/// Copies a range of one file into another and leaves holes where both have only zeros.
fn copy(from: &Path, at: u64, to: &Path, to_at: u64, size: u64) -> Result<(), ImageError> {
    let source = File::open(from).map_err(io(from))?;
    let target = File::options().read(true).write(true).open(to);
    let target = target.map_err(io(to))?;
    let least = to_at + size;
    if target.metadata().map_err(io(to))?.len() < least {
        target.set_len(least).map_err(io(to))?;
    }
    let mut new = vec![0; MIB as usize];
    let mut old = vec![0; MIB as usize];
    let mut done = 0;
    while done < size {
        let part = usize::try_from((size - done).min(MIB)).unwrap_or(new.len());
        let (new, old) = (&mut new[..part], &mut old[..part]);
        source.read_exact_at(new, at + done).map_err(io(from))?;
        target.read_exact_at(old, to_at + done).map_err(io(to))?;
        if new != old {
            target.write_all_at(new, to_at + done).map_err(io(to))?;
        }
        done += part as u64;
    }
    target.sync_all().map_err(io(to))
}

/// What is wrong with an image; nothing if it is in order.
pub(crate) fn check(image: &Path) -> Result<Vec<String>, ImageError> {
    let format = convert::format(image)?;
    if format != "raw" {
        return convert::check(image, format);
    }
    let mut sfdisk = program("sfdisk", ["--verify"]);
    let (status, lines) = execute("partition table", sfdisk.arg(image), None)?;
    if !status.success() {
        return Ok(lines);
    }
    if !has_our_layout(image)? {
        return Ok(Vec::new());
    }
    let (status, lines) = file_system_check(image, ROOT_START, "-fn")?;
    Ok(if status == 0 { Vec::new() } else { lines })
}

/// e2fsck of the file system at an offset of a file: its exit status, and what it says.
fn file_system_check(
    file: &Path,
    offset: u64,
    how: &str,
) -> Result<(i32, Vec<String>), ImageError> {
    let place = format!("{}?offset={offset}", file.display());
    let mut e2fsck = program("e2fsck", [how, &place]);
    let (status, lines) = execute("file system", &mut e2fsck, None)?;
    Ok((status.code().unwrap_or(8), lines))
}

/// Whether the second partition is the root that `create` makes.
fn has_our_layout(image: &Path) -> Result<bool, ImageError> {
    let mut sfdisk = program("sfdisk", ["--dump"]);
    let (_, lines) = execute("partition table", sfdisk.arg(image), None)?;
    let start = format!("start={:>12}", ROOT_START / 512);
    let root = |line: &String| line.contains(&start) && line.contains("name=\"root\"");
    Ok(lines.iter().any(root))
}
