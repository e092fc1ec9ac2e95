//! The kernel of the Service VM and of the User VM: Debian's `linux-source-6.1` with our
//! configuration (`guest/kernel/acrn_defconfig`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::layout::Layout;
use crate::progress::{Step, output_of};
use crate::stamp::Inputs;

const SOURCE_PACKAGE: &str = "linux-source-6.1";
const SOURCE_ARCHIVE: &str = "/usr/src/linux-source-6.1.tar.xz";
const DEFCONFIG: &str = "guest/kernel/acrn_defconfig";

/// Builds the kernel unless its inputs are unchanged; returns the path of the bzImage.
///
/// # Errors
/// The source package is missing, or the build fails: then with the end of its log.
pub fn build(layout: &Layout) -> Result<PathBuf> {
    let objects = layout.cache().join("linux");
    let image = objects.join("arch/x86/boot/bzImage");
    let inputs = inputs(layout)?;
    if inputs.match_stamp_of(&image) {
        return Ok(image);
    }
    let step = Step::begin("kernel");
    let source = unpack(layout, &step)?;
    configure(layout, &source, &objects, &step)?;
    compile(layout, &source, &objects, &step)?;
    inputs.write_stamp_of(&image)?;
    step.done("built");
    Ok(image)
}

fn inputs(layout: &Layout) -> Result<Inputs> {
    let version = source_version()?;
    let defconfig =
        fs::read(layout.source(DEFCONFIG)).with_context(|| format!("cannot read {DEFCONFIG}"))?;
    Ok(Inputs::new().value(SOURCE_PACKAGE, version).value(
        "defconfig",
        format!("{:032x}", crate::stamp::digest_bytes(&defconfig)),
    ))
}

fn source_version() -> Result<String> {
    let version =
        output_of(Command::new("dpkg-query").args(["-W", "-f=${Version}", SOURCE_PACKAGE]))
            .with_context(|| format!("{SOURCE_PACKAGE} is not installed: run cargo xtask setup"))?;
    Ok(version.trim().to_owned())
}

/// Unpacks the source once per version of its package.
fn unpack(layout: &Layout, step: &Step) -> Result<PathBuf> {
    let source = layout.cache().join("linux-source-6.1");
    let inputs = Inputs::new().value(SOURCE_PACKAGE, source_version()?);
    if inputs.match_stamp_of(&source) {
        return Ok(source);
    }
    step.detail("unpacking the source");
    // A tree of another version, or one that was cut short, must not shine through.
    if source.exists() {
        fs::remove_dir_all(&source)?;
    }
    fs::create_dir_all(layout.cache())?;
    let mut tar = Command::new("tar");
    tar.arg("-xf")
        .arg(SOURCE_ARCHIVE)
        .arg("-C")
        .arg(layout.cache());
    step.run(&mut tar, &layout.logs().join("kernel-unpack.log"), |_| None)?;
    inputs.write_stamp_of(&source)?;
    Ok(source)
}

fn configure(layout: &Layout, source: &Path, objects: &Path, step: &Step) -> Result<()> {
    step.detail("configuring");
    fs::create_dir_all(objects)?;
    fs::copy(
        layout.source(DEFCONFIG),
        source.join("arch/x86/configs/acrn_defconfig"),
    )?;
    let log = layout.logs().join("kernel-configure.log");
    step.run(make(source, objects).arg("acrn_defconfig"), &log, |_| None)
}

fn compile(layout: &Layout, source: &Path, objects: &Path, step: &Step) -> Result<()> {
    let mut count = 0_usize;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let log = layout.logs().join("kernel-build.log");
    step.detail("0 objects (about 1,750 from scratch)");
    step.run(
        make(source, objects)
            .arg(format!("-j{jobs}"))
            .arg("bzImage"),
        &log,
        |line| {
            let tool = line.trim_start().split(' ').next().unwrap_or_default();
            matches!(tool, "CC" | "AS" | "AR").then(|| {
                count += 1;
                format!("{count} objects of about 1,750")
            })
        },
    )
}

fn make(source: &Path, objects: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C")
        .arg(source)
        .arg(format!("O={}", objects.display()));
    // Two builds of the same inputs give the same image.
    make.env("KBUILD_BUILD_TIMESTAMP", "2026-01-01 00:00:00 UTC");
    make.env("KBUILD_BUILD_USER", "acrn")
        .env("KBUILD_BUILD_HOST", "acrn");
    make
}
