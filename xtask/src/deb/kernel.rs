//! The Service VM's kernel: Debian's source with our configuration.

use std::fs;
use std::path::Path;

use acrn_deb::{Control, Package};
use anyhow::Result;

use super::{read, source, with_copyright};
use crate::kernel::{self, Parts};
use crate::layout::Layout;

const COPYRIGHT: &str = "\
    Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
    Upstream-Name: Linux\n\nFiles: *\n\
    Copyright: 1991-2026 Linus Torvalds and many others\n\
    License: GPL-2\n \
    This is Linux as Debian distributes it in the package linux-source-6.1, whose copyright file names all\n \
    authors, with another configuration. On Debian systems the license is in\n \
    /usr/share/common-licenses/GPL-2.\n";

pub(super) fn package(layout: &Layout, version: &str) -> Result<Package> {
    let kernel = kernel::parts(layout, &kernel::SERVICE)?;
    let drivers = "Drivers are those of common PCs: SATA, NVMe, MMC and USB disks, Ethernet controllers of Intel \
                   and Realtek, USB keyboards.";
    packed(layout, &kernel, control(&kernel, version, drivers))
}

/// The kernel that demo and tests have anyway. The other replaces it.
pub(super) fn small_package(layout: &Layout, version: &str) -> Result<Package> {
    let kernel = kernel::parts(layout, &kernel::SMALL)?;
    let drivers = "Drivers are those of emulated machines only: for tests.";
    packed(
        layout,
        &kernel,
        control(&kernel, &format!("{version}~small"), drivers),
    )
}

fn packed(layout: &Layout, kernel: &Parts, control: Control) -> Result<Package> {
    let release = &kernel.release;
    let mut package = with_copyright(control, COPYRIGHT);
    for (name, path) in [
        ("vmlinuz", &kernel.image),
        ("config", &kernel.config),
        ("System.map", &kernel.symbols),
    ] {
        package.file(&format!("/boot/{name}-{release}"), 0o644, read(path)?);
    }
    let modules = format!("lib/modules/{release}");
    let needs_ramdisk = match &kernel.modules {
        Some(installed) => {
            add(&mut package, &installed.join(&modules), &modules)?;
            "Yes"
        }
        // Whoever makes RAM disks for all kernels wants the directory.
        None => {
            package.directory(&format!("/{modules}"));
            "No"
        }
    };
    for name in ["postinst", "prerm", "postrm"] {
        let script = source(layout, &format!("kernel/{name}"))?;
        let script = script.replace("@RELEASE@", release);
        package.script(name, &script.replace("@INITRD@", needs_ramdisk));
    }
    Ok(package)
}

/// Adds the modules, without links to the tree that they were built in and without what depmod makes.
fn add(package: &mut Package, directory: &Path, path: &str) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (kind, path) = (entry.file_type()?, format!("{path}/{name}"));
        if kind.is_dir() {
            add(package, &entry.path(), &path)?;
        } else if kind.is_file() {
            package.file(&path, 0o644, read(&entry.path())?);
        }
    }
    Ok(())
}

fn control(kernel: &Parts, version: &str, drivers: &str) -> Control {
    let (release, source) = (&kernel.release, &kernel.source);
    Control {
        name: format!("linux-image-{release}"),
        version: format!("{source}+acrn{version}"),
        architecture: "amd64".into(),
        section: "kernel".into(),
        relations: vec![
            ("Provides", "linux-image, linux-image-acrn".into()),
            ("Depends", "kmod".into()),
            ("Recommends", "initramfs-tools".into()),
        ],
        summary: format!("Linux {release} for the Service VM of the ACRN hypervisor"),
        description: vec![
            format!(
                "Built of Debian's linux-source-6.1 {source} with CONFIG_ACRN_HSM, which Debian's own \
                 kernels lack. It boots with and without the hypervisor."
            ),
            drivers.into(),
        ],
    }
}
