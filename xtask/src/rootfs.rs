//! The root of the Service VM (a RAM disk), the root of a User VM (an ext4 image), and
//! the data disk that carries the User VMs' images and kernel into the Service VM.
//!
//! All are made without privileges: the RAM disk by [`crate::cpio`], ext4 by `mke2fs -d`.
//! The programs are Debian's busybox-static and bash-static; configuration and scripts
//! come from `guest/rootfs` and `guest/launch`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::image;
use crate::layout::Layout;
use crate::progress::{Step, output_of};
use crate::stamp::Inputs;
use crate::stock;

const BUSYBOX: &str = "/bin/busybox";
const BASH: &str = "/bin/bash-static";
/// Descriptions of terminals, without which the shell cannot edit long lines.
const TERMINFO: &str = "/lib/terminfo";
const TERMINALS: &[&str] = &[
    "l/linux",
    "s/screen",
    "v/vt100",
    "v/vt102",
    "x/xterm",
    "x/xterm-256color",
];
const USER_IMAGE_MIB: u64 = 64;
const DATA_DISK_MIB: u64 = 384;
/// User VMs whose disks are on the data disk.
const USER_VMS: u32 = 2;

/// Makes the Service VM's RAM disk with these `programs`; without any it can only boot.
///
/// # Errors
/// A source file is missing.
pub fn service_initrd(layout: &Layout, programs: &[PathBuf]) -> Result<PathBuf> {
    let name = if !programs.is_empty() {
        "service.cpio"
    } else {
        "service-bare.cpio"
    };
    let output = layout.rootfs().join(name);
    let (files, scripts) = (
        layout.source("guest/rootfs/service"),
        layout.source("guest/launch"),
    );
    let mut inputs = Inputs::new()
        .value("recipe", 3)
        .path(&files)?
        .path(&scripts)?
        .path(Path::new(BUSYBOX))?
        .path(Path::new(BASH))?;
    for program in programs {
        inputs = inputs.path(program)?;
    }
    if inputs.match_stamp_of(&output) {
        return Ok(output);
    }
    let step = Step::begin("Service VM root");
    let mut archive = Archive::new();
    for directory in [
        "proc", "sys", "dev", "run", "tmp", "root", "mnt", "data", "debian", "var/log", "var/run",
    ] {
        archive.directory(directory)?;
    }
    add_busybox(&mut archive)?;
    archive.copy("bin/bash", Path::new(BASH))?;
    for terminal in TERMINALS {
        let path = Path::new(TERMINFO).join(terminal);
        if path.exists() {
            archive.copy(&format!("{TERMINFO}/{terminal}"), &path)?;
        }
    }
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.copy(&format!("usr/bin/{name}"), program)?;
    }
    archive.copy_tree("opt/acrn", &scripts)?;
    archive.copy_tree("", &files)?;
    write(&output, &archive.finish()?)?;
    inputs.write_stamp_of(&output)?;
    step.done("made");
    Ok(output)
}

/// RAM disk of pre-launched VMs.
///
/// # Errors
/// It cannot be made.
pub fn guest_initrd(layout: &Layout) -> Result<PathBuf> {
    ramdisk_of_guests(layout, "RAM disk of pre-launched VMs", "guest.cpio", None)
}

/// RAM disk of real-time VMs.
///
/// # Errors
/// It cannot be made.
pub fn real_time_initrd(layout: &Layout) -> Result<PathBuf> {
    let parts = RealTime {
        program: image::rt_latency(layout)?,
        kernel: stock::real_time_kernel(layout)?,
    };
    ramdisk_of_guests(layout, "RAM disk of real-time VMs", "rt.cpio", Some(&parts))
}

/// What real-time VMs have besides.
struct RealTime {
    /// Measures latencies.
    program: PathBuf,
    kernel: stock::Kernel,
}

/// The driver of the network card that is passed through.
const REAL_TIME_MODULES: &[&str] = &["e1000e"];

fn ramdisk_of_guests(
    layout: &Layout,
    what: &str,
    name: &str,
    real_time: Option<&RealTime>,
) -> Result<PathBuf> {
    let output = layout.rootfs().join(name);
    let files = layout.source("guest/rootfs/user");
    let mut inputs = Inputs::new()
        .value("recipe", 2)
        .path(&files)?
        .path(Path::new(BUSYBOX))?;
    if let Some(parts) = real_time {
        inputs = inputs
            .path(&parts.program)?
            .value("kernel", &parts.kernel.package);
    }
    if inputs.match_stamp_of(&output) {
        return Ok(output);
    }
    let step = Step::begin(what);
    let mut archive = Archive::new();
    for directory in [
        "proc", "sys", "dev", "run", "tmp", "root", "mnt", "var/log", "var/run",
    ] {
        archive.directory(directory)?;
    }
    add_busybox(&mut archive)?;
    archive.copy_tree("", &files)?;
    if let Some(parts) = real_time {
        archive.copy("usr/bin/rt-latency", &parts.program)?;
        parts.kernel.add_modules(&mut archive, REAL_TIME_MODULES)?;
    }
    write(&output, &archive.finish()?)?;
    inputs.write_stamp_of(&output)?;
    step.done("made");
    Ok(output)
}

/// BusyBox, its names and what the kernel needs before there is a `/dev`.
fn add_busybox(archive: &mut Archive) -> Result<()> {
    archive.character_device("dev/console", 5, 1)?;
    archive.character_device("dev/null", 1, 3)?;
    archive.copy("bin/busybox", Path::new(BUSYBOX))?;
    for link in busybox_links()? {
        archive.link(&link, "/bin/busybox")?;
    }
    archive.link("init", "/bin/busybox")
}

/// Makes the ext4 image that is a User VM's disk, with this program.
///
/// # Errors
/// A source file is missing, or mke2fs fails.
pub fn user_image(layout: &Layout, program: &Path) -> Result<PathBuf> {
    let output = layout.rootfs().join("user.img");
    let files = layout.source("guest/rootfs/user");
    let inputs = Inputs::new()
        .value("recipe", 1)
        .value("size", USER_IMAGE_MIB)
        .path(&files)?
        .path(program)?
        .path(Path::new(BUSYBOX))?;
    if inputs.match_stamp_of(&output) {
        return Ok(output);
    }
    let step = Step::begin("User VM root");
    let stage = fresh_directory(&layout.rootfs().join("user"))?;
    for directory in [
        "proc", "sys", "dev", "run", "tmp", "mnt", "var/log", "var/run", "root", "bin", "usr/bin",
    ] {
        fs::create_dir_all(stage.join(directory))?;
    }
    copy_tree(&files, &stage)?;
    copy(Path::new(BUSYBOX), &stage.join("bin/busybox"))?;
    let name = program.file_name().unwrap_or_default();
    copy(program, &stage.join("usr/bin").join(name))?;
    for link in busybox_links()? {
        let path = stage.join(&link);
        fs::create_dir_all(path.parent().unwrap_or(&stage))?;
        symlink("/bin/busybox", path)?;
    }
    Ext4 {
        label: "acrn-user",
        size_mib: USER_IMAGE_MIB,
    }
    .make(layout, &step, &stage, &output)?;
    inputs.write_stamp_of(&output)?;
    step.done("made");
    Ok(output)
}

/// Makes the disk that the Service VM mounts on `/data`.
///
/// # Errors
/// As for [`user_image`].
pub fn data_disk(layout: &Layout, kernel: &Path, program: &Path) -> Result<PathBuf> {
    let user_image = user_image(layout, program)?;
    let output = layout.rootfs().join("data.img");
    let inputs = Inputs::new()
        .value("recipe", 1)
        .value("size", DATA_DISK_MIB)
        .path(&user_image)?
        .path(kernel)?;
    if inputs.match_stamp_of(&output) {
        return Ok(output);
    }
    let step = Step::begin("data disk");
    let stage = fresh_directory(&layout.rootfs().join("data"))?;
    copy(kernel, &stage.join("bzImage"))?;
    for id in 1..=USER_VMS {
        let to = stage.join(format!("user_vm{id}.img"));
        copy_image(&user_image, &to)?;
    }
    Ext4 {
        label: "acrn-data",
        size_mib: DATA_DISK_MIB,
    }
    .make(layout, &step, &stage, &output)?;
    fs::remove_dir_all(&stage)?;
    inputs.write_stamp_of(&output)?;
    step.done("made");
    Ok(output)
}

/// An ext4 file system to be made.
pub(crate) struct Ext4 {
    /// Name by which the guest finds it.
    pub(crate) label: &'static str,
    /// Size of the image.
    pub(crate) size_mib: u64,
}

impl Ext4 {
    /// Makes the image from the content of `stage`; everything in it belongs to root.
    pub(crate) fn make(
        &self,
        layout: &Layout,
        step: &Step,
        stage: &Path,
        output: &Path,
    ) -> Result<()> {
        // A fixed identity and date: the same content gives nearly the same image.
        const IDENTITY: &str = "6163726e-7273-4d6f-8000-000000000001";
        let unfinished = output.with_extension("unfinished");
        let _ = fs::remove_file(&unfinished);
        let mut mke2fs = Command::new("mke2fs");
        mke2fs
            .env("PATH", path_with_sbin())
            .env("E2FSPROGS_FAKE_TIME", "1767225600");
        mke2fs.args([
            "-q", "-F", "-t", "ext4", "-m", "0", "-L", self.label, "-U", IDENTITY, "-E",
        ]);
        mke2fs.arg(format!(
            "hash_seed={IDENTITY},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
        ));
        mke2fs
            .arg("-d")
            .arg(stage)
            .arg(&unfinished)
            .arg(format!("{}M", self.size_mib));
        let log = layout.logs().join(format!("mke2fs-{}.log", self.label));
        step.run(&mut mke2fs, &log, |_| None)?;
        if !nix::unistd::geteuid().is_root() {
            self.give_to_root(layout, step, stage, &unfinished)?;
        }
        fs::rename(&unfinished, output)?;
        Ok(())
    }

    /// `mke2fs -d` keeps the builder's user id; the guests expect root's.
    fn give_to_root(&self, layout: &Layout, step: &Step, stage: &Path, image: &Path) -> Result<()> {
        let mut commands = String::new();
        let mut pending = vec![stage.to_path_buf()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                let path = entry.path();
                let inside = path.strip_prefix(stage)?.display();
                commands.push_str(&format!(
                    "sif \"/{inside}\" uid 0\nsif \"/{inside}\" gid 0\n"
                ));
                if entry.file_type()?.is_dir() {
                    pending.push(path);
                }
            }
        }
        let script = layout.rootfs().join(format!("{}.debugfs", self.label));
        fs::write(&script, commands)?;
        let mut debugfs = Command::new("debugfs");
        debugfs
            .env("PATH", path_with_sbin())
            .arg("-w")
            .arg("-f")
            .arg(&script)
            .arg(image);
        step.run(&mut debugfs, &layout.logs().join("debugfs.log"), |_| None)
    }
}

/// Ordinary users of Debian have no `/usr/sbin` in their path.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

/// Where busybox wants to be found, as paths without the leading slash.
pub(crate) fn busybox_links() -> Result<Vec<String>> {
    let list = output_of(Command::new(BUSYBOX).arg("--list-full"))
        .context("busybox-static is not installed: run cargo xtask setup")?;
    let links = list
        .lines()
        .map(|line| line.trim_start_matches('/').to_owned());
    Ok(links
        .filter(|link| link != "bin/busybox" && link != "bin/bash")
        .collect())
}

pub(crate) fn fresh_directory(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot empty {}", path.display()))?;
    }
    fs::create_dir_all(path)?;
    Ok(path.to_path_buf())
}

pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a disk image; what is zero takes no room in the copy.
///
/// # Errors
/// It cannot be read or written.
pub fn copy_image(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    output_of(cp.args(["--sparse=always", "--"]).arg(from).arg(to)).map(drop)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            copy(&entry.path(), &target)?;
            let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}
