//! A stock Debian kernel for a User VM: the package that `linux-image-amd64` stands for,
//! downloaded but not installed, with a RAM disk of ours that loads its modules.

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
    let package = cached_package(layout, Flavour::Standard)?;
    if let Some(package) = &package
        && inputs(package, &init)?.match_stamp_of(&output)
    {
        return Ok(output);
    }
    let step = Step::begin("stock Debian kernel");
    let package = match package {
        Some(package) => package,
        None => download(layout, &step, Flavour::Standard)?,
    };
    step.detail("unpacking");
    let unpacked = fresh_directory(&layout.cache().join("debian-kernel"))?;
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("-x").arg(&package).arg(&unpacked);
    step.run(&mut dpkg, &layout.logs().join("stock-unpack.log"), |_| None)?;
    let release = only_entry(&unpacked.join("lib/modules"))?;
    let stage = fresh_directory(&layout.rootfs().join("debian"))?;
    fs::copy(
        unpacked.join(format!("boot/vmlinuz-{release}")),
        stage.join("vmlinuz"),
    )?;
    write(
        &stage.join("initrd.cpio"),
        &initrd(&unpacked, &release, &init)?,
    )?;
    Ext4 {
        label: "acrn-debian",
        size_mib: DISK_MIB,
    }
    .make(layout, &step, &stage, &output)?;
    inputs(&package, &init)?.write_stamp_of(&output)?;
    fs::remove_dir_all(&unpacked)?;
    step.done(&release);
    Ok(output)
}

/// The kernel of the package and some of its modules, for a host rather than a guest.
pub(crate) struct HostKernel {
    /// bzImage.
    pub(crate) kernel: PathBuf,
    /// Modules in the order of loading, with all that they need.
    pub(crate) modules: Vec<PathBuf>,
}

/// Unpacks the stock kernel once for each version of its package.
pub(crate) fn host_kernel(layout: &Layout, wanted: &[&str]) -> Result<HostKernel> {
    let unpacked = layout.cache().join("debian-host");
    let package = cached_package(layout, Flavour::Standard)?;
    if !package.is_some_and(|package| package_stamp(&package).match_stamp_of(&unpacked)) {
        let step = Step::begin("stock Debian kernel for a host");
        let package = match cached_package(layout, Flavour::Standard)? {
            Some(package) => package,
            None => download(layout, &step, Flavour::Standard)?,
        };
        step.detail("unpacking");
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("-x")
            .arg(&package)
            .arg(fresh_directory(&unpacked)?);
        step.run(&mut dpkg, &layout.logs().join("host-unpack.log"), |_| None)?;
        run_depmod(&unpacked, &only_entry(&unpacked.join("lib/modules"))?)?;
        package_stamp(&package).write_stamp_of(&unpacked)?;
        step.done("unpacked");
    }
    let release = only_entry(&unpacked.join("lib/modules"))?;
    let directory = unpacked.join("lib/modules").join(&release);
    let dependencies = fs::read_to_string(directory.join("modules.dep"))?;
    let builtin = fs::read_to_string(directory.join("modules.builtin"))?;
    let order = load_order(&dependencies, &builtin, wanted)?;
    Ok(HostKernel {
        kernel: unpacked.join(format!("boot/vmlinuz-{release}")),
        modules: order.iter().map(|module| directory.join(module)).collect(),
    })
}

/// bzImage of Debian's kernel with PREEMPT_RT.
///
/// # Errors
/// The package cannot be downloaded or unpacked.
pub fn real_time_kernel(layout: &Layout) -> Result<PathBuf> {
    let kernel = layout.cache().join("debian-rt.bzImage");
    let package = cached_package(layout, Flavour::RealTime)?;
    if let Some(package) = &package
        && package_stamp(package).match_stamp_of(&kernel)
    {
        return Ok(kernel);
    }
    let step = Step::begin("Debian's real-time kernel");
    let package = match package {
        Some(package) => package,
        None => download(layout, &step, Flavour::RealTime)?,
    };
    step.detail("unpacking");
    let unpacked = fresh_directory(&layout.cache().join("debian-rt"))?;
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("-x").arg(&package).arg(&unpacked);
    step.run(&mut dpkg, &layout.logs().join("rt-unpack.log"), |_| None)?;
    let release = only_entry(&unpacked.join("lib/modules"))?;
    fs::copy(unpacked.join(format!("boot/vmlinuz-{release}")), &kernel)?;
    package_stamp(&package).write_stamp_of(&kernel)?;
    fs::remove_dir_all(&unpacked)?;
    step.done(&release);
    Ok(kernel)
}

/// The package's name holds its version; reading 70 MB each time would be slow.
fn package_stamp(package: &Path) -> Inputs {
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    Inputs::new().value("package", name)
}

fn inputs(package: &Path, init: &Path) -> Result<Inputs> {
    package_stamp(package)
        .value("recipe", 1)
        .path(init)?
        .path(Path::new("/bin/busybox"))
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
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        flavour.is_package(&name)
    });
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

fn initrd(unpacked: &Path, release: &str, init: &Path) -> Result<Vec<u8>> {
    run_depmod(unpacked, release)?;
    let modules = unpacked.join("lib/modules").join(release);
    let dependencies = fs::read_to_string(modules.join("modules.dep"))?;
    let builtin = fs::read_to_string(modules.join("modules.builtin"))?;
    let order = load_order(&dependencies, &builtin, MODULES)?;
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
    for module in &order {
        archive.copy(&format!("lib/modules/{module}"), &modules.join(module))?;
    }
    let list: String = order.iter().map(|module| format!("{module}\n")).collect();
    archive.file("lib/modules/order", 0o644, list.as_bytes())?;
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
