//! The boot loader of most PCs with Debian: the shim that Microsoft has signed, and the GRUB that Debian has signed.
//! The firmware starts both with Secure Boot on or off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::layout::Layout;
use crate::progress::{Step, output_of};
use crate::rootfs::fresh_directory;

/// Packages that have them. They are not installed here: that would change how this computer boots.
const PACKAGES: [&str; 2] = ["shim-signed", "grub-efi-amd64-signed"];
/// What the packages have, and where it is on the EFI system partition.
const FILES: [(&str, &str); 2] = [
    ("usr/lib/shim/shimx64.efi.signed", "::/EFI/BOOT/BOOTX64.EFI"),
    (
        "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
        "::/EFI/BOOT/grubx64.efi",
    ),
];
/// Where that GRUB looks for its configuration, and one that hands on to that of a disk of `acrn-image`.
const CONFIGURATION: (&str, &str) = (
    "::/EFI/debian/grub.cfg",
    "search --no-floppy --file --set=root /boot/grub/early.cfg\nconfigfile ($root)/boot/grub/early.cfg\n",
);
/// Where the EFI system partition of such a disk begins.
const PARTITION: &str = "@@1M";

/// Puts them on a disk that `acrn-image` has made.
///
/// # Errors
/// The packages cannot be downloaded, or the disk is another one.
pub fn put_on(layout: &Layout, image: &Path) -> Result<()> {
    let signed = unpacked(layout)?;
    let configuration = layout.cache().join("shim.cfg");
    fs::write(&configuration, CONFIGURATION.1)?;
    let mut partition = image.as_os_str().to_owned();
    partition.push(PARTITION);
    let mut mmd = Command::new("mmd");
    output_of(mmd.arg("-i").arg(&partition).arg("::/EFI/debian"))?;
    let files = FILES.map(|(from, to)| (signed.join(from), to));
    for (from, to) in files.into_iter().chain([(configuration, CONFIGURATION.0)]) {
        let mut mcopy = Command::new("mcopy");
        output_of(mcopy.arg("-o").arg("-i").arg(&partition).arg(from).arg(to))?;
    }
    Ok(())
}

/// The files of the packages, which are downloaded once.
fn unpacked(layout: &Layout) -> Result<PathBuf> {
    let root = layout.cache().join("shim");
    if FILES.iter().all(|(file, _)| root.join(file).is_file()) {
        return Ok(root);
    }
    let step = Step::begin("signed boot loader");
    let packages = fresh_directory(&layout.cache().join("shim-packages"))?;
    let mut apt = Command::new("apt-get");
    apt.current_dir(&packages).arg("download").args(PACKAGES);
    step.run(&mut apt, &layout.logs().join("shim-download.log"), |_| None)?;
    fresh_directory(&root)?;
    for package in fs::read_dir(&packages)? {
        let mut dpkg = Command::new("dpkg-deb");
        output_of(dpkg.arg("-x").arg(package?.path()).arg(&root))?;
    }
    fs::remove_dir_all(&packages)?;
    step.done("unpacked");
    Ok(root)
}
