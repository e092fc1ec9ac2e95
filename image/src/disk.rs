//! A disk of a directory tree: a GUID partition table with an EFI partition and an ext4 root.
//!
//! Nothing is mounted: `mke2fs` and mtools write at offsets of the image.

use std::fs::{self, File};
use std::path::Path;

use crate::size::{MIB, Size};
use crate::tools::{program, run, run_with};
use crate::{ImageError, io};

/// Where the EFI partition begins, and its size.
const EFI_START: u64 = MIB;
const EFI_SIZE: u64 = 32 * MIB;
/// Where the root begins. It ends a MiB before the disk does, where the copy of the table is.
pub(crate) const ROOT_START: u64 = EFI_START + EFI_SIZE;
pub(crate) const TAIL: u64 = MIB;

/// Makes the disk of the files below `tree`; `boot` is the program for the EFI partition.
///
/// # Errors
/// The image is there already, or a tool fails.
pub fn write(
    image: &Path,
    size: Size,
    tree: &Path,
    root_uuid: &str,
    boot: &Path,
) -> Result<(), ImageError> {
    let file = File::create_new(image).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => ImageError::Exists(image.to_owned()),
        _ => io(image)(error),
    })?;
    file.set_len(size.0).map_err(io(image))?;
    drop(file);
    partition(image, size)?;
    let root_size = size.0 - ROOT_START - TAIL;
    let mut mke2fs = program(
        "mke2fs",
        ["-q", "-F", "-t", "ext4", "-L", "root", "-m", "1"],
    );
    mke2fs.args(["-U", root_uuid, "-E", &format!("offset={ROOT_START}")]);
    mke2fs.arg("-d").arg(tree).arg(image);
    run(
        "writing the file system",
        mke2fs.arg(format!("{}k", root_size >> 10)),
    )?;
    // mtools write at an offset, too.
    let efi = format!("{}@@{EFI_START}", image.display());
    let step = "EFI partition";
    let sectors = (EFI_SIZE / 512).to_string();
    let geometry = ["-T", &sectors, "-h", "64", "-s", "32", "::"];
    run(step, program("mformat", ["-i", &efi]).args(geometry))?;
    run(
        step,
        &mut program("mmd", ["-i", &efi, "::/EFI", "::/EFI/BOOT"]),
    )?;
    let mut mcopy = program("mcopy", ["-i", &efi]);
    run(step, mcopy.arg(boot).arg("::/EFI/BOOT/BOOTX64.EFI")).map(drop)
}

/// Writes the table.
fn partition(image: &Path, size: Size) -> Result<(), ImageError> {
    let sector = |bytes: u64| bytes / 512;
    let table = format!(
        "label: gpt\nstart={}, size={}, type=uefi, name=efi\nstart={}, size={}, type=linux, name=root\n",
        sector(EFI_START),
        sector(EFI_SIZE),
        sector(ROOT_START),
        sector(size.0 - ROOT_START - TAIL)
    );
    let mut sfdisk = program("sfdisk", ["--quiet", "--no-reread", "--no-tell-kernel"]);
    run_with("partition table", sfdisk.arg(image), Some(&table)).map(drop)
}

/// The least size for a tree: half again as much as its files, since a system wants to breathe.
pub(crate) fn least(tree: &Path) -> Result<Size, ImageError> {
    let bytes = usage(tree).map_err(io(tree))?;
    let whole = (bytes / 2 * 3 + ROOT_START + TAIL).next_multiple_of(MIB);
    Ok(Size(whole))
}

fn usage(directory: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        sum += if kind.is_dir() {
            usage(&entry.path())?
        } else {
            4096
        };
        if kind.is_file() {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}
