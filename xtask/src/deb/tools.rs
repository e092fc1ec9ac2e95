//! `acrn-tools`: programs of the Service VM, with their manual pages, completions and units.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use acrn_deb::{Control, Package};
use anyhow::{Context, Result};

use super::{configurator, new, read, source};
use crate::image;
use crate::layout::Layout;
use crate::progress::output_of;

/// How a program prints its completion script.
enum Completes {
    Never,
    ByCommand,
    ByOption,
}

pub(super) fn package(layout: &Layout, version: &str) -> Result<Package> {
    let mut package = new(layout, control(version))?;
    for path in programs(layout)? {
        add_program(layout, &mut package, &path)?;
    }
    add_manual_pages(layout, &mut package, |page| {
        !page.starts_with(configurator::NAME)
    })?;
    for name in ["acrnd", "acrn-vms", "life_mngr"] {
        let unit = layout.source(&format!("manager/systemd/{name}.service"));
        package.file(&unit_path(name), 0o644, read(&unit)?);
    }
    let bridge = source(layout, "tools/acrn-bridge.service")?;
    package.file(&unit_path("acrn-bridge"), 0o644, bridge);
    let script = source(layout, "tools/acrn-bridge")?;
    package.file("/usr/lib/acrn/acrn-bridge", 0o755, script);
    let settings = source(layout, "tools/acrn-bridge.default")?;
    package.conffile("/etc/default/acrn-bridge", 0o644, settings);
    package.directory("/etc/acrn/vms");
    package.directory("/var/lib/acrn");
    for name in ["postinst", "prerm", "postrm"] {
        package.script(name, &source(layout, &format!("tools/{name}"))?);
    }
    package.lintian(&[
        "# The same programs run in any Service VM, whatever its C library: one of BusyBox, too.",
        "acrn-tools: shared-library-lacks-prerequisites",
    ]);
    Ok(package)
}

fn programs(layout: &Layout) -> Result<Vec<PathBuf>> {
    let mut programs = vec![
        image::device_model(layout)?,
        image::config(layout)?,
        image::inspector(layout)?,
        image::disk_images(layout)?,
    ];
    programs.extend(image::manager(layout)?);
    programs.extend(image::tools(layout)?);
    Ok(programs)
}

fn unit_path(name: &str) -> String {
    format!("/lib/systemd/system/{name}.service")
}

pub(super) fn add_manual_pages(
    layout: &Layout,
    package: &mut Package,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    for entry in fs::read_dir(layout.source("docs/man"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_wanted(&name) {
            package.manual_page(&name, &fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

pub(super) fn add_program(layout: &Layout, package: &mut Package, path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stripped = layout.target().join("deb").join(name.as_ref());
    if let Some(directory) = stripped.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut strip = Command::new("strip");
    strip.args(["--strip-all", "--remove-section=.comment", "-o"]);
    output_of(strip.arg(&stripped).arg(path))?;
    package.file(&format!("/usr/bin/{name}"), 0o755, read(&stripped)?);
    fs::remove_file(&stripped)?;
    for (shell, place) in [
        ("bash", format!("bash-completion/completions/{name}")),
        ("zsh", format!("zsh/vendor-completions/_{name}")),
        ("fish", format!("fish/vendor_completions.d/{name}.fish")),
    ] {
        let mut program = Command::new(path);
        match completes(&name) {
            Completes::Never => continue,
            Completes::ByCommand => program.args(["completion", shell]),
            Completes::ByOption => program.args(["--completion", shell]),
        };
        let script = output_of(&mut program).with_context(|| format!("{name} for {shell}"))?;
        package.file(&format!("/usr/share/{place}"), 0o644, script);
    }
    Ok(())
}

fn completes(program: &str) -> Completes {
    match program {
        "acrn-dm" => Completes::Never,
        "acrnlog" | "acrn-board-inspector" | configurator::NAME => Completes::ByOption,
        _ => Completes::ByCommand,
    }
}

fn control(version: &str) -> Control {
    Control {
        name: "acrn-tools".into(),
        version: version.into(),
        architecture: "amd64".into(),
        section: "admin".into(),
        relations: vec![
            ("Depends", "iproute2, kmod".into()),
            ("Recommends", "acrn-hypervisor".into()),
            // What acrn-image works with.
            (
                "Suggests",
                "debootstrap, e2fsprogs, fdisk, mtools, qemu-utils, setserial".into(),
            ),
        ],
        summary: "programs for User VMs of the ACRN hypervisor".into(),
        description: vec![
            "The Device Model (acrn-dm), the manager of User VMs (acrnd, acrnctl), the life-cycle manager \
             (life_mngr), the board inspector, the configuration tool (acrn-config), disk images (acrn-image), and \
             readers of the hypervisor's log and trace."
                .into(),
            "In a Service VM there is a bridge for User VMs besides, which no interface of the machine is \
             connected to. Without the hypervisor, inspecting and configuring is what these programs do."
                .into(),
        ],
    }
}
