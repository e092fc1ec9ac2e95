//! Bootable images with GRUB, for BIOS and for UEFI in one file, booting the hypervisor
//! by multiboot2 as on a real machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::layout::Layout;
use crate::progress::{Step, output_of};
use crate::rootfs::{fresh_directory, write};
use crate::stamp::{Inputs, digest_bytes};

/// What GRUB loads.
#[derive(Debug, Clone, Default)]
pub struct BootSet {
    /// Flat image of the hypervisor.
    pub hypervisor: PathBuf,
    /// Command line of the hypervisor.
    pub hypervisor_args: String,
    /// bzImage of the Service VM.
    pub kernel: PathBuf,
    /// Command line of the Service VM's kernel.
    pub kernel_args: String,
    /// RAM disk of the Service VM; empty for none.
    pub initrd: PathBuf,
    /// Configuration of the hypervisor; empty for none.
    pub config: PathBuf,
    /// Further modules: their tags, and the files.
    pub modules: Vec<(&'static str, PathBuf)>,
}

impl BootSet {
    /// The files that there are, and their names in an image.
    fn files(&self) -> impl Iterator<Item = (&Path, &'static str)> {
        let files = [
            (&self.hypervisor, "acrn.bin"),
            (&self.kernel, "bzImage"),
            (&self.initrd, "initrd.cpio"),
            (&self.config, "acrn.cfg"),
        ];
        let there = files.into_iter().filter(|(path, _)| is_there(path));
        let there = there.map(|(path, name)| (path.as_path(), name));
        there.chain(
            self.modules
                .iter()
                .map(|(tag, path)| (path.as_path(), *tag)),
        )
    }
}

/// Whether a file belongs to the set.
pub(crate) fn is_there(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// Module tag of the Service VM's kernel, the first word of a module's string.
pub const KERNEL_TAG: &str = "Linux_bzImage";
/// Module tag of the Service VM's RAM disk.
pub const RAMDISK_TAG: &str = "Linux_ramdisk";
/// Module tag of the RAM disk of pre-launched VMs.
pub const GUEST_RAMDISK_TAG: &str = "Guest_ramdisk";
/// Module tag of the kernel of the real-time VM.
pub const RT_KERNEL_TAG: &str = "RT_bzImage";
/// Module tag of its RAM disk.
pub const RT_RAMDISK_TAG: &str = "RT_ramdisk";
/// Module tag of the hypervisor's configuration.
pub const CONFIG_TAG: &str = "acrn_config";

/// Makes an image that boots `set`; each command line has an image of its own.
///
/// # Errors
/// A file is missing, or grub-mkrescue fails.
pub fn image(layout: &Layout, set: &BootSet) -> Result<PathBuf> {
    let config = configuration(set, true);
    let name = format!(
        "boot-{:08x}.iso",
        digest_bytes(config.as_bytes()) & 0xffff_ffff
    );
    let output = layout.images().join(name);
    let mut inputs = Inputs::new().value(
        "config",
        format!("{:032x}", digest_bytes(config.as_bytes())),
    );
    for (path, _) in set.files() {
        inputs = inputs.path(path)?;
    }
    if inputs.match_stamp_of(&output) {
        return Ok(output);
    }
    let step = Step::begin("GRUB image");
    let stage = fresh_directory(&layout.images().join("iso"))?;
    write(&stage.join("boot/grub/grub.cfg"), config.as_bytes())?;
    for (from, to) in set.files() {
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

/// Modules of GRUB that [`bios_image`] needs.
const BIOS_MODULES: &str = "multiboot2 linux normal iso9660 serial terminal biosdisk";

/// Makes a small image for BIOS alone, `boot.iso` in a machine's directory. Without the hypervisor
/// it boots the kernel.
///
/// # Errors
/// A file is missing, or grub-mkrescue fails.
pub(crate) fn bios_image(set: &BootSet, hypervisor: bool, directory: &Path) -> Result<()> {
    let stage = directory.join("iso");
    let boot = stage.join("boot");
    write(
        &boot.join("grub/grub.cfg"),
        configuration(set, hypervisor).as_bytes(),
    )?;
    for (from, to) in set.files() {
        fs::copy(from, boot.join(to)).with_context(|| format!("cannot read {}", from.display()))?;
    }
    let mut mkrescue = Command::new("grub-mkrescue");
    mkrescue
        .arg("--directory=/usr/lib/grub/i386-pc")
        .arg(format!("--install-modules={BIOS_MODULES}"))
        .args(["--fonts=", "--themes=", "--locales=", "-o"])
        .arg(directory.join("boot.iso"))
        .arg(&stage);
    output_of(&mut mkrescue)?;
    fs::remove_dir_all(stage)?;
    Ok(())
}

fn configuration(set: &BootSet, hypervisor: bool) -> String {
    let args = &set.kernel_args;
    let mut commands = if hypervisor {
        format!(
            "multiboot2 /boot/acrn.bin {}\n\
             module2 /boot/bzImage {KERNEL_TAG} {args}\n",
            set.hypervisor_args
        )
    } else {
        format!("linux /boot/bzImage {args}\n")
    };
    match (is_there(&set.initrd), hypervisor) {
        (false, _) => {}
        (true, true) => commands += &format!("module2 /boot/initrd.cpio {RAMDISK_TAG}\n"),
        (true, false) => commands += "initrd /boot/initrd.cpio\n",
    }
    if is_there(&set.config) && hypervisor {
        commands += &format!("module2 /boot/acrn.cfg {CONFIG_TAG}\n");
    }
    for (tag, _) in set.modules.iter().filter(|_| hypervisor) {
        commands += &format!("module2 /boot/{tag} {tag}\n");
    }
    format!(
        "serial --unit=0 --speed=115200\n\
         terminal_input serial\n\
         terminal_output serial\n\
         set timeout=0\n\
         menuentry 'ACRN hypervisor' {{\n\
         {commands}\
         boot\n\
         }}\n",
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

/// The same with Secure Boot, for which QEMU has to emulate system management mode.
#[must_use]
pub fn secure_ovmf() -> (&'static Path, &'static Path) {
    (
        Path::new("/usr/share/OVMF/OVMF_CODE_4M.ms.fd"),
        Path::new("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_carry_their_tags_before_the_command_line() {
        let mut set = BootSet {
            hypervisor: "h".into(),
            hypervisor_args: "loglevel=4".into(),
            kernel: "k".into(),
            kernel_args: "console=ttyS0".into(),
            initrd: "i".into(),
            config: "c".into(),
            modules: vec![("Guest_ramdisk", "g".into())],
        };
        let config = configuration(&set, true);
        assert!(config.contains("module2 /boot/acrn.cfg acrn_config\n"));
        assert!(config.contains("module2 /boot/Guest_ramdisk Guest_ramdisk\n"));
        assert!(!configuration(&set, false).contains("acrn.cfg"));
        assert!(config.contains("multiboot2 /boot/acrn.bin loglevel=4\n"));
        assert!(config.contains("module2 /boot/bzImage Linux_bzImage console=ttyS0\n"));
        assert!(config.contains("module2 /boot/initrd.cpio Linux_ramdisk\n"));
        let config = configuration(&set, false);
        assert!(config.contains("linux /boot/bzImage console=ttyS0\ninitrd /boot/initrd.cpio\n"));
        set.initrd = PathBuf::new();
        assert!(!configuration(&set, true).contains("initrd"));
    }
}
