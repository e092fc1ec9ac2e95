//! Disk images of User VMs: made of Debian's packages, converted, resized, checked; and seeds for cloud-init.
//!
//! The work is done by the tools that Debian has for it, each named when it is missing: [`tools`] runs them
//! with progress. [`create`] makes a tree with debootstrap and a [`disk`] of it: a partition table, an EFI
//! partition that boots it, and an ext4 root, all without mounting anything. [`size`] reads sizes as people write
//! them.

#![forbid(unsafe_code)]

pub mod cli;
mod convert;
mod create;
pub mod disk;
mod resize;
pub mod run;
mod seed;
pub mod size;
mod tools;

use std::path::{Path, PathBuf};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A tool is missing.
    #[error("{program} is not installed; apt install {package}")]
    Missing {
        /// The program.
        program: String,
        /// Debian's package with it.
        package: &'static str,
    },
    /// A tool has failed.
    #[error("{program} failed ({status}):\n{said}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of what it said.
        said: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}; check the path, its permissions, and the free space")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file would be overwritten.
    #[error("{0} is there already; remove it, or choose another name")]
    Exists(PathBuf),
    /// Making a Debian system takes root's rights.
    #[error("debootstrap needs root; use sudo")]
    NotRoot,
    /// The system does not fit.
    #[error("{wanted} are too few: the system needs {needed}; choose a larger --size")]
    TooSmall {
        /// The size asked for.
        wanted: String,
        /// What is needed.
        needed: String,
    },
    /// Shrinking would lose data.
    #[error(
        "{path} has {now}; an image grows only: to make it smaller, create a new one and copy the files"
    )]
    Shrinks {
        /// The image.
        path: String,
        /// Its size.
        now: String,
    },
    /// A format that is not known.
    #[error(
        "{0}: the format of an image is told by the end of its name: .img, .raw, .qcow2, .vmdk, .vhdx or .vdi"
    )]
    Format(PathBuf),
    /// An image that acrn-image has not made.
    #[error(
        "{0} has no partition with a Linux root of acrn-image's; resize it inside the VM instead"
    )]
    Layout(PathBuf),
    /// A name that Linux does not take.
    #[error("{0:?} is no host name: use up to 63 letters, digits and hyphens")]
    HostName(String),
    /// Something is wrong with an image.
    #[error(
        "{path} is damaged:\n{findings}\nrepair it with e2fsck or qemu-img check -r, or restore it"
    )]
    Damaged {
        /// The image.
        path: PathBuf,
        /// What was found.
        findings: String,
    },
    /// The tree has no kernel.
    #[error(
        "the system has no kernel /vmlinuz; choose a package such as linux-image-cloud-amd64 with --kernel"
    )]
    NoKernel,
}

/// The error of an operation on a file.
pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ImageError {
    let path = path.display().to_string();
    move |source| ImageError::Io { path, source }
}
