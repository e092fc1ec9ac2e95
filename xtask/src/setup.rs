//! Debian packages that building and running need, each with its reason.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Options of `cargo xtask setup`.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Options {
    /// Install without asking.
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// A Debian package and why it is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Name in Debian 12.
    pub name: &'static str,
    /// What fails without it.
    pub why: &'static str,
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why }
}

/// Everything that `demo` and `test` use.
pub const PACKAGES: &[Package] = &[
    package(
        "build-essential",
        "compiler and linker for the guests' kernel and programs",
    ),
    package(
        "linux-source-6.1",
        "source of the kernel of Service VM and User VM",
    ),
    package("flex", "the kernel's configuration tool"),
    package("bison", "the kernel's configuration tool"),
    package("bc", "the kernel's build"),
    package("libelf-dev", "the kernel's build"),
    package("libssl-dev", "the kernel's build"),
    package("xz-utils", "unpacks the kernel's source"),
    package("kmod", "orders the modules of a stock Debian kernel"),
    package(
        "busybox-static",
        "programs of the Service VM and of the User VM",
    ),
    package(
        "bash-static",
        "shell of the Service VM; runs the launch scripts",
    ),
    package("e2fsprogs", "makes the ext4 disk images"),
    package("qemu-system-x86", "the emulated machine"),
    package("ovmf", "UEFI firmware of the emulated machine"),
    package(
        "bochsbios",
        "firmware of the other emulator, Bochs, which is built from its source",
    ),
    package("vgabios", "firmware of its graphics adapter"),
    package("grub-pc-bin", "boot loader for BIOS"),
    package("grub-efi-amd64-bin", "boot loader for UEFI"),
    package("grub-common", "makes the bootable image"),
    package("xorriso", "makes the bootable image"),
    package("mtools", "makes the bootable image"),
    package(
        "debootstrap",
        "installs Debian on the disk of the test `journey`",
    ),
    package("fdisk", "makes the partitions of that disk"),
    package("openssh-client", "logs in to the machine of that test"),
    package("qemu-utils", "converts disk images"),
    package("lintian", "judges the Debian packages"),
    package(
        "chromium",
        "the browser in which the Configurator is tested",
    ),
    package("chromium-driver", "lets the tests use the browser"),
    package("openssl", "makes the certificate of such a test"),
];

/// The packages that are not installed.
///
/// # Errors
/// This is no Debian system.
pub fn missing() -> Result<Vec<Package>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${Package} ${db:Status-Status}\n"]);
    query.args(PACKAGES.iter().map(|p| p.name));
    let output = query.stdin(Stdio::null()).output().with_context(|| {
        let names: Vec<_> = PACKAGES.iter().map(|p| p.name).collect();
        format!(
            "dpkg-query is missing, so this is no Debian system; \
             use Debian 12, where these packages exist: {}",
            names.join(" ")
        )
    })?;
    let listing = String::from_utf8_lossy(&output.stdout);
    Ok(missing_in(&listing))
}

fn missing_in(listing: &str) -> Vec<Package> {
    let installed = |name: &str| {
        listing
            .lines()
            .any(|line| line == format!("{name} installed"))
    };
    PACKAGES
        .iter()
        .copied()
        .filter(|p| !installed(p.name))
        .collect()
}

/// Installs what is missing, after asking where there is somebody to ask.
///
/// # Errors
/// Not Debian, the person declined, or apt-get failed.
pub fn run(options: &Options) -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("These Debian packages are missing and will be installed:");
    for package in &missing {
        eprintln!("  {:<20} {}", package.name, package.why);
    }
    if !options.yes && std::io::stdin().is_terminal() && !agreed()? {
        let names: Vec<_> = missing.iter().map(|p| p.name).collect();
        bail!(
            "not installed; to do it by hand: apt-get install {}",
            names.join(" ")
        );
    }
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(missing.iter().map(|p| p.name));
    apt_get(&arguments)
}

fn agreed() -> Result<bool> {
    eprint!("Go on? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let root = nix::unistd::geteuid().is_root();
    let mut command = Command::new(if root { "env" } else { "sudo" });
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .args(arguments);
    let status = command
        .status()
        .context("cannot start sudo; install sudo, or run `cargo xtask setup` as root")?;
    if !status.success() {
        bail!(
            "apt-get {} failed ({status}); its messages are above",
            arguments.join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_whose_files_were_removed_counts_as_missing() {
        let mut listing: String = PACKAGES
            .iter()
            .map(|p| format!("{} installed\n", p.name))
            .collect();
        assert!(missing_in(&listing).is_empty());
        listing = listing.replace("ovmf installed", "ovmf config-files");
        let names: Vec<_> = missing_in(&listing).iter().map(|p| p.name).collect();
        assert_eq!(names, ["ovmf"]);
    }
}
