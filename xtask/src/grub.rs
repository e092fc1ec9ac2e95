//! Bootable images with GRUB, for BIOS and for UEFI in one file, booting the hypervisor
//! by multiboot2 as on a real machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::layout::Layout;
use crate::progress::Step;
use crate::rootfs::{fresh_directory, write};
use crate::stamp::{Inputs, digest_bytes};

/// What GRUB loads.
#[derive(Debug, Clone)]
pub struct BootSet {
    /// Flat image of the hypervisor.
    pub hypervisor: PathBuf,
    /// Command line of the hypervisor.
    pub hypervisor_args: String,
    /// bzImage of the Service VM.
    pub kernel: PathBuf,
    /// Command line of the Service VM's kernel.
    pub kernel_args: String,
    /// RAM disk of the Service VM.
    pub initrd: PathBuf,
}

/// Module tag of the Service VM's kernel, the first word of a module's string.
pub const KERNEL_TAG: &str = "Linux_bzImage";
/// Module tag of the Service VM's RAM disk.
pub const RAMDISK_TAG: &str = "Linux_ramdisk";

/// Makes an image that boots `set`; each command line has an image of its own.
///
/// # Errors
/// A file is missing, or grub-mkrescue fails.
pub fn image(layout: &Layout, set: &BootSet) -> Result<PathBuf> {
    let config = configuration(set);
    let name = format!(
        "boot-{:08x}.iso",
        digest_bytes(config.as_bytes()) & 0xffff_ffff
    );
    let output = layout.images().join(name);
    let inputs = Inputs::new()
        .value(
            "config",
            format!("{:032x}", digest_bytes(config.as_bytes())),
        )
        .path(&set.hypervisor)?
        .path(&set.kernel)?
        .path(&set.initrd)?;
    if inputs.match_stamp_of(&output) {
        return Ok(output);
    }
    let step = Step::begin("GRUB image");
    let stage = fresh_directory(&layout.images().join("iso"))?;
    write(&stage.join("boot/grub/grub.cfg"), config.as_bytes())?;
    for (from, to) in [
        (&set.hypervisor, "acrn.bin"),
        (&set.kernel, "bzImage"),
        (&set.initrd, "initrd.cpio"),
    ] {
        fs::copy(from, stage.join("boot").join(to))
            .with_context(|| format!("cannot read {}", from.display()))?;
    }
    let mut mkrescue = Command::new("grub-mkrescue");
    mkrescue.arg("-o").arg(&output).arg(&stage);
    step.run(
        &mut mkrescue,
        &layout.logs().join("grub-mkrescue.log"),
        |_| None,
    )?;
    inputs.write_stamp_of(&output)?;
    step.done("made");
    Ok(output)
}

fn configuration(set: &BootSet) -> String {
    format!(
        "serial --unit=0 --speed=115200\n\
         terminal_input serial\n\
         terminal_output serial\n\
         set timeout=0\n\
         menuentry 'ACRN hypervisor' {{\n\
         \x20 multiboot2 /boot/acrn.bin {}\n\
         \x20 module2 /boot/bzImage {KERNEL_TAG} {}\n\
         \x20 module2 /boot/initrd.cpio {RAMDISK_TAG}\n\
         \x20 boot\n\
         }}\n",
        set.hypervisor_args, set.kernel_args
    )
}

/// UEFI firmware of Debian's `ovmf`: code, and the template of the variables.
#[must_use]
pub fn ovmf() -> (&'static Path, &'static Path) {
    (
        Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd"),
        Path::new("/usr/share/OVMF/OVMF_VARS_4M.fd"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_carry_their_tags_before_the_command_line() {
        let config = configuration(&BootSet {
            hypervisor: "h".into(),
            hypervisor_args: "loglevel=4".into(),
            kernel: "k".into(),
            kernel_args: "console=ttyS0".into(),
            initrd: "i".into(),
        });
        assert!(config.contains("multiboot2 /boot/acrn.bin loglevel=4\n"));
        assert!(config.contains("module2 /boot/bzImage Linux_bzImage console=ttyS0\n"));
        assert!(config.contains("module2 /boot/initrd.cpio Linux_ramdisk\n"));
    }
}
