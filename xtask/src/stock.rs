//! Stock Debian kernels for guests and hosts: the packages that `linux-image-amd64` and
//! `linux-image-rt-amd64` stand for, downloaded but not installed; for a User VM, with a RAM disk of ours that
//! loads its modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cpio::Archive;
use crate::layout::Layout;
use crate::progress::{Step, output_of};
use crate::rootfs::{Ext4, busybox_links, fresh_directory, write};
use crate::stamp::Inputs;

/// Debian's kernels, by the package that stands for the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    Standard,
    /// With PREEMPT_RT.
    RealTime,
}

impl Flavour {
    fn meta_package(self) -> &'static str {
        match self {
            Self::Standard => "linux-image-amd64",
            Self::RealTime => "linux-image-rt-amd64",
        }
    }

    /// Where it is unpacked.
    fn directory(self) -> &'static str {
        match self {
            Self::Standard => "debian-host",
            Self::RealTime => "debian-rt",
        }
    }

    /// Whether a file is a package of this kernel.
    fn is_package(self, name: &str) -> bool {
        let real_time = name.contains("-rt-amd64_");
        name.starts_with("linux-image-")
            && name.ends_with(".deb")
            && real_time == (self == Self::RealTime)
    }
}

const DISK_MIB: u64 = 96;

/// Modules that a User VM needs before and after its root is mounted.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "crc32c_generic",
    "virtio_net",
    "virtio_rng",
    "virtio_console",
    "button",
    "evdev",
];

/// Makes the disk that the Service VM mounts on `/debian`.
///
/// # Errors
/// The package cannot be downloaded or unpacked.
pub fn disk(layout: &Layout) -> Result<PathBuf> {
    let output = layout.rootfs().join("debian.img");
    let init = layout.source("guest/rootfs/stock/init");
    let kernel = standard_kernel(layout)?;
    let inputs = Inputs::new()
        .value("package", &kernel.package)
        .value("recipe", 2)
        .path(&init)?
        .path(Path::new("/bin/busybox"))?;
    if inputs.match_stamp_of(&output) {
        return Ok(output);
    }
    let step = Step::begin("disk with the stock Debian kernel");
    let stage = fresh_directory(&layout.rootfs().join("debian"))?;
    fs::copy(kernel.image(), stage.join("vmlinuz"))?;
    write(&stage.join("initrd.cpio"), &initrd(&kernel, &init)?)?;
    Ext4 {
        label: "acrn-debian",
        size_mib: DISK_MIB,
    }
    .make(layout, &step, &stage, &output)?;
    inputs.write_stamp_of(&output)?;
    step.done(&kernel.release);
    Ok(output)
}

/// Debian's kernel.
///
/// # Errors
/// The package cannot be downloaded or unpacked.
pub fn standard_kernel(layout: &Layout) -> Result<Kernel> {
    unpacked(layout, Flavour::Standard)
}

/// Debian's kernel with PREEMPT_RT.
///
/// # Errors
/// The package cannot be downloaded or unpacked.
pub fn real_time_kernel(layout: &Layout) -> Result<Kernel> {
    unpacked(layout, Flavour::RealTime)
}

/// An unpacked package.
pub struct Kernel {
    root: PathBuf,
    /// As `uname -r` says it.
    release: String,
    /// Name of the package's file, which holds its version.
    pub package: String,
}

impl Kernel {
    /// bzImage.
    pub fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Adds modules to a RAM disk, with all that they need, and the order in which they are loaded
    /// (`lib/modules/order`).
    ///
    /// # Errors
    /// There is no such module.
    pub fn add_modules(&self, archive: &mut Archive, wanted: &[&str]) -> Result<()> {
        let order = self.order(wanted)?;
        for module in &order {
            archive.copy(
                &format!("lib/modules/{module}"),
                &self.modules().join(module),
            )?;
        }
        let list: String = order.iter().map(|module| format!("{module}\n")).collect();
        archive.file("lib/modules/order", 0o644, list.as_bytes())
    }

    /// Modules with all that they need, in the order of loading.
    ///
    /// # Errors
    /// There is no such module.
    pub fn find_modules(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let order = self.order(wanted)?;
        let paths = order.iter().map(|module| self.modules().join(module));
        Ok(paths.collect())
    }

    fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    fn order(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let dependencies = fs::read_to_string(self.modules().join("modules.dep"))?;
        let builtin = fs::read_to_string(self.modules().join("modules.builtin"))?;
        load_order(&dependencies, &builtin, wanted)
    }
}

/// Unpacks a kernel once for each version of its package.
fn unpacked(layout: &Layout, flavour: Flavour) -> Result<Kernel> {
    let root = layout.cache().join(flavour.directory());
    let stamp = |package: &Path| Inputs::new().value("package", file_name(package));
    let package = match cached_package(layout, flavour)? {
        Some(package) if stamp(&package).match_stamp_of(&root) => package,
        cached => {
            let step = Step::begin(flavour.meta_package());
            let package = match cached {
                Some(package) => package,
                None => download(layout, &step, flavour)?,
            };
            step.detail("unpacking");
            let mut dpkg = Command::new("dpkg-deb");
            dpkg.arg("-x").arg(&package).arg(fresh_directory(&root)?);
            step.run(&mut dpkg, &layout.logs().join("stock-unpack.log"), |_| None)?;
            run_depmod(&root, &only_entry(&root.join("lib/modules"))?)?;
            stamp(&package).write_stamp_of(&root)?;
            step.done("unpacked");
            package
        }
    };
    Ok(Kernel {
        release: only_entry(&root.join("lib/modules"))?,
        package: file_name(&package),
        root,
    })
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn packages(layout: &Layout) -> PathBuf {
    layout.cache().join("debs")
}

fn cached_package(layout: &Layout, flavour: Flavour) -> Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(packages(layout)) else {
        return Ok(None);
    };
    let mut found: Vec<_> = entries
        .map(|e| e.map(|e| e.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    found.retain(|path| flavour.is_package(&file_name(path)));
    found.sort();
    Ok(found.pop())
}

fn download(layout: &Layout, step: &Step, flavour: Flavour) -> Result<PathBuf> {
    let meta_package = flavour.meta_package();
    step.detail("downloading (about 70 MB)");
    let listing = output_of(Command::new("apt-cache").args(["depends", meta_package]))?;
    let name = listing
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("apt knows no {meta_package}: run apt-get update"))?
        .to_owned();
    fs::create_dir_all(packages(layout))?;
    let mut apt = Command::new("apt-get");
    apt.current_dir(packages(layout)).args(["download", &name]);
    step.run(&mut apt, &layout.logs().join("stock-download.log"), |_| {
        None
    })?;
    cached_package(layout, flavour)?
        .with_context(|| format!("apt-get download {name} left no package"))
}

fn only_entry(directory: &Path) -> Result<String> {
    let mut names = fs::read_dir(directory)?;
    let first = names
        .next()
        .with_context(|| format!("{} is empty", directory.display()))??;
    ensure!(
        names.next().is_none(),
        "{} has more than one kernel",
        directory.display()
    );
    Ok(first.file_name().to_string_lossy().into_owned())
}

fn run_depmod(unpacked: &Path, release: &str) -> Result<()> {
    let sbin = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    output_of(
        Command::new("depmod")
            .env("PATH", sbin)
            .arg("-b")
            .arg(unpacked)
            .arg(release),
    )
    .map(drop)
}

fn initrd(kernel: &Kernel, init: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in ["proc", "sys", "dev", "newroot"] {
        archive.directory(directory)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.copy("bin/busybox", Path::new("/bin/busybox"))?;
    for link in busybox_links()? {
        archive.link(&link, "/bin/busybox")?;
    }
    archive.copy("init", init)?;
    kernel.add_modules(&mut archive, MODULES)?;
    archive.finish()
}

/// The wanted modules and what they need, each after its own needs, from the content of
/// `modules.dep` (which lists the needs of a module with the furthest last).
fn load_order(dependencies: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let lines: BTreeMap<String, (&str, Vec<&str>)> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| {
            (
                module_name(path),
                (path, needs.split_whitespace().collect()),
            )
        })
        .collect();
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some((path, needs)) = lines.get(*name) else {
            if builtin.lines().any(|line| module_name(line) == *name) {
                continue;
            }
            bail!("the stock kernel has no module {name}");
        };
        for module in needs.iter().rev().chain([path]) {
            if !order.iter().any(|known| known == module) {
                order.push((*module).to_owned());
            }
        }
    }
    Ok(order)
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/virtio.ko:\n\
        kernel/virtio_ring.ko: kernel/virtio.ko\n\
        kernel/net/virtio-net.ko: kernel/virtio_ring.ko kernel/virtio.ko\n\
        kernel/virtio_blk.ko: kernel/virtio_ring.ko kernel/virtio.ko\n";

    #[test]
    fn each_module_comes_after_its_needs_and_once() {
        let order = load_order(DEPENDENCIES, "", &["virtio_net", "virtio_blk"]).unwrap();
        let expected = [
            "kernel/virtio.ko",
            "kernel/virtio_ring.ko",
            "kernel/net/virtio-net.ko",
            "kernel/virtio_blk.ko",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn what_is_built_in_is_left_out_and_what_is_unknown_is_an_error() {
        assert!(
            load_order(DEPENDENCIES, "kernel/ext4.ko\n", &["ext4"])
                .unwrap()
                .is_empty()
        );
        assert!(load_order(DEPENDENCIES, "", &["ext4"]).is_err());
    }
}
