//! A Debian system on a disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::Create;
use crate::disk;
use crate::tools::{program, run, run_with};
use crate::{ImageError, io};

/// What every image has: an init with a network, and a boot loader for machines with UEFI.
const PACKAGES: &[&str] = &[
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "iproute2",
    "iputils-ping",
    "initramfs-tools",
    "zstd",
    "grub-efi-amd64-bin",
    "grub2-common",
];
/// Modules that GRUB has without reading files.
const GRUB_MODULES: &[&str] = &[
    "part_gpt",
    "ext2",
    "search",
    "search_fs_uuid",
    "normal",
    "configfile",
    "linux",
    "test",
    "echo",
    "serial",
    "terminal",
];

/// Makes the image; says what there is then.
pub(crate) fn create(options: &Create) -> Result<Value, ImageError> {
    host_name(&options.hostname)?;
    if options.image.exists() {
        return Err(ImageError::Exists(options.image.clone()));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(ImageError::NotRoot);
    }
    let password = options.password_file.as_deref().map(read).transpose()?;
    let key = options.ssh_key.as_deref().map(read).transpose()?;
    let near = parent(&options.image);
    let scratch = tempfile::tempdir_in(near).map_err(io(near))?;
    let tree = scratch.path().join("tree");
    bootstrap(options, &tree, key.is_some())?;
    settle(&tree, &options.hostname)?;
    if let Some(key) = &key {
        put(&tree, "root/.ssh/authorized_keys", key, 0o600)?;
    }
    if let Some(password) = &password {
        let line = format!("root:{}\n", password.trim_end());
        run_with(
            "password",
            program("chroot", [&tree]).arg("chpasswd"),
            Some(&line),
        )?;
    }
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(io(&tree))?;
    let uuid = uuid.trim();
    put(
        &tree,
        "etc/fstab",
        &format!("UUID={uuid} / ext4 errors=remount-ro 0 1\n"),
        0o644,
    )?;
    let boot = boot_program(&tree, uuid)?;
    let least = disk::least(&tree)?;
    if options.size < least {
        return Err(ImageError::TooSmall {
            wanted: options.size.to_string(),
            needed: least.to_string(),
        });
    }
    let kernel = export(&tree, "vmlinuz", &options.image)?;
    let ramdisk = export(&tree, "initrd.img", &options.image)?;
    let boot = {
        let outside = scratch.path().join("boot.efi");
        fs::rename(&boot, &outside).map_err(io(&boot))?;
        outside
    };
    disk::write(&options.image, options.size, &tree, uuid, &boot)?;
    Ok(json!({
        "image": options.image, "size": options.size.0, "kernel": kernel, "ramdisk": ramdisk,
        "root": format!("UUID={uuid}"),
    }))
}

fn bootstrap(options: &Create, tree: &Path, ssh: bool) -> Result<(), ImageError> {
    let mut packages: Vec<&str> = PACKAGES.to_vec();
    packages.push(&options.kernel);
    packages.extend(options.include.iter().map(String::as_str));
    if ssh {
        packages.push("openssh-server");
    }
    let mut debootstrap = program("debootstrap", ["--variant=minbase"]);
    debootstrap.arg(format!("--include={}", packages.join(",")));
    debootstrap
        .args([&options.suite])
        .arg(tree)
        .arg(&options.mirror);
    run("installing Debian", &mut debootstrap)?;
    Ok(())
}

/// Name, network, and what must not be the same on two machines.
fn settle(tree: &Path, name: &str) -> Result<(), ImageError> {
    put(tree, "etc/hostname", &format!("{name}\n"), 0o644)?;
    put(
        tree,
        "etc/hosts",
        &format!("127.0.0.1 localhost\n127.0.1.1 {name}\n"),
        0o644,
    )?;
    let network = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\nLinkLocalAddressing=yes\n";
    put(tree, "etc/systemd/network/80-dhcp.network", network, 0o644)?;
    put(tree, "etc/machine-id", "", 0o444)?;
    let wants = tree.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).map_err(io(&wants))?;
    let link = wants.join("systemd-networkd.service");
    if !link.exists() {
        symlink("/lib/systemd/system/systemd-networkd.service", &link).map_err(io(&link))?;
    }
    let grub = "# The serial port is a console, too.\nGRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"\n";
    put(tree, "etc/default/grub.d/50-acrn-image.cfg", grub, 0o644)?;
    let archives = tree.join("var/cache/apt/archives");
    fs::remove_dir_all(&archives).map_err(io(&archives))?;
    fs::create_dir_all(archives.join("partial")).map_err(io(&archives))
}

/// GRUB for UEFI, which reads the menu of the system, or boots its newest kernel where there is none yet.
fn boot_program(tree: &Path, uuid: &str) -> Result<PathBuf, ImageError> {
    if !tree.join("vmlinuz").exists() {
        return Err(ImageError::NoKernel);
    }
    let modules = tree.join("boot/grub/x86_64-efi");
    fs::create_dir_all(&modules).map_err(io(&modules))?;
    let source = tree.join("usr/lib/grub/x86_64-efi");
    for entry in fs::read_dir(&source).map_err(io(&source))? {
        let path = entry.map_err(io(&source))?.path();
        if path
            .extension()
            .is_some_and(|kind| kind == "mod" || kind == "lst")
        {
            let to = modules.join(path.file_name().unwrap_or_default());
            fs::copy(&path, &to).map_err(io(&to))?;
        }
    }
    let early = format!(
        "search --no-floppy --fs-uuid --set=root {uuid}\nset prefix=($root)/boot/grub\n\
         if [ -e $prefix/grub.cfg ]; then\n  configfile $prefix/grub.cfg\nfi\n\
         linux /vmlinuz root=UUID={uuid} ro console=tty0 console=ttyS0,115200\ninitrd /initrd.img\nboot\n"
    );
    put(tree, "boot/grub/early.cfg", &early, 0o644)?;
    let mut mkimage = program("chroot", [tree]);
    mkimage.args(["grub-mkimage", "-O", "x86_64-efi", "-p", "/boot/grub"]);
    mkimage.args(["-c", "/boot/grub/early.cfg", "-o", "/boot/boot.efi"]);
    run("boot loader", mkimage.args(GRUB_MODULES))?;
    Ok(tree.join("boot/boot.efi"))
}

/// Copies what a Device Model without firmware loads to a place beside the image.
fn export(tree: &Path, name: &str, image: &Path) -> Result<PathBuf, ImageError> {
    // A link within the tree, such as boot/vmlinuz-6.1.0.
    let link = fs::read_link(tree.join(name)).unwrap_or_else(|_| name.into());
    let from = tree.join(link.strip_prefix("/").unwrap_or(&link));
    let to = image.with_extension(if name == "vmlinuz" {
        "vmlinuz"
    } else {
        "initrd"
    });
    fs::copy(&from, &to).map_err(io(&from))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).map_err(io(&to))?;
    Ok(to)
}

/// Refuses what is no host name.
pub(crate) fn host_name(name: &str) -> Result<(), ImageError> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (1..=63).contains(&name.len()) && name.chars().all(good) && !name.starts_with('-') {
        Ok(())
    } else {
        Err(ImageError::HostName(name.to_owned()))
    }
}

fn put(tree: &Path, path: &str, text: &str, mode: u32) -> Result<(), ImageError> {
    let path = tree.join(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(io(directory))?;
    }
    fs::write(&path, text).map_err(io(&path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io(&path))
}

pub(crate) fn read(path: &Path) -> Result<String, ImageError> {
    fs::read_to_string(path).map_err(io(path))
}

pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
