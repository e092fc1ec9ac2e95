//! The book's chapter on disk images: its commands are run as they stand there.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Context, Outcome, support};
use crate::cpio::Archive;
use crate::grub::{self, BootSet};
use crate::image;
use crate::progress::{Step, output_of};
use crate::rootfs::{self, fresh_directory};
use crate::target::Debian;

const CHAPTER: &str = include_str!("../../../docs/src/images.md");
/// What a machine of the chapter needs to run where nobody sees it.
const UNSEEN: &str = "-display none -serial stdio -no-reboot";
/// The installer of our ISO: puts what it came with on the disk.
const INSTALLER: &str = "\
    #!/bin/sh\n\
    mount -t devtmpfs dev /dev\n\
    mkdir /iso /disk\n\
    mount -t iso9660 -o ro /dev/sr0 /iso && mke2fs /dev/vda && mount -t ext4 /dev/vda /disk || exit\n\
    touch /iso/file || cp /iso/boot/bzImage /disk/installed\n\
    umount /disk\n\
    poweroff -f\n";

/// Runs the commands of all blocks but the first, which makes the Debian that is here already.
pub(super) fn chapter(context: &Context) -> Result<Outcome> {
    if let Some(skipped) = support::unless_root() {
        return Ok(skipped);
    }
    let directory = fresh_directory(&context.layout.runs().join(context.name))?;
    prepare(context, &directory)?;
    let program = image::disk_images(context.layout)?;
    let programs = program.parent().context("it lies in a directory")?;
    let step = Step::begin("commands of the book");
    let blocks = CHAPTER.split("```sh\n").skip(2);
    let blocks: Vec<&str> = blocks.filter_map(|text| text.split("```").next()).collect();
    ensure!(
        blocks.len() == 3,
        "the chapter has other blocks than it had"
    );
    for line in blocks.iter().flat_map(|block| block.lines()) {
        step.detail(line);
        let mut shell = command(&directory, programs, line);
        step.run(&mut shell, &context.log("commands"), |_| None)
            .with_context(|| format!("`{line}` of the book's chapter on images"))?;
        if line.contains("-cdrom") {
            // Any image that can be converted does for a cloud's.
            fs::copy(
                directory.join("installed.qcow2"),
                directory.join("debian-12-generic-amd64.qcow2"),
            )?;
        }
    }
    is_installed(context, &directory)?;
    ensure!(
        fs::metadata(directory.join("debian.img"))?.len() == 8 << 30,
        "the disk has not grown to 8 GiB"
    );
    fs::remove_dir_all(directory)?;
    step.done("all of them work");
    Ok(Outcome::Passed)
}

/// What the chapter takes to be there: an ISO, a Debian, a key.
fn prepare(context: &Context, directory: &Path) -> Result<()> {
    let debian = Debian::build(context.layout)?;
    rootfs::copy_image(&debian.image, &directory.join("debian.img"))?;
    fs::write(directory.join("id_ed25519.pub"), "ssh-ed25519 AAAA test\n")?;
    let mut installer = Archive::new();
    installer.file("install", 0o755, INSTALLER.as_bytes())?;
    let system = fs::read(rootfs::guest_initrd(context.layout)?)?;
    let ramdisk = directory.join("installer.cpio");
    fs::write(&ramdisk, [system, installer.finish()?].concat())?;
    let set = BootSet {
        kernel: context.artefacts.kernel.clone(),
        kernel_args: "console=ttyS0 rdinit=/install".into(),
        initrd: ramdisk,
        ..BootSet::default()
    };
    grub::bios_image(&set, false, directory)?;
    fs::rename(directory.join("boot.iso"), directory.join("debian.iso"))?;
    Ok(())
}

/// A line for the shell, with the directory in place of those that the chapter names.
fn command(directory: &Path, programs: &Path, line: &str) -> Command {
    let mut line = line.replace("/srv/", "").replace("/root/.ssh/", "");
    if line.starts_with("qemu-system") {
        line = format!("{line} {UNSEEN}");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell.current_dir(directory).args(["-ec", &line]);
    shell.env("PATH", format!("{}:{path}:/usr/sbin", programs.display()));
    shell
}

/// Whether the converted disk has what the installer has put on it.
fn is_installed(context: &Context, directory: &Path) -> Result<()> {
    let file = directory.join("found");
    let mut debugfs = Command::new("/usr/sbin/debugfs");
    debugfs.arg("-R");
    debugfs.arg(format!("dump /installed {}", file.display()));
    output_of(debugfs.arg(directory.join("installed.img")))?;
    let found = fs::read(&file).context("the installer's disk has no file")?;
    let wanted = fs::read(&context.artefacts.kernel)?;
    ensure!(found == wanted, "the installer's disk has another file");
    Ok(())
}
