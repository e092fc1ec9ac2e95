//! Kernels: Debian's `linux-source-6.1` with our configuration. A small one (`guest/kernel/acrn_defconfig`)
//! for the machines of demo and tests, and one for PCs, with what `guest/kernel/service.config` adds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::layout::Layout;
use crate::progress::{Step, output_of};
use crate::stamp::{Inputs, digest_bytes};

const SOURCE_PACKAGE: &str = "linux-source-6.1";
const SOURCE: &str = "linux-source-6.1";
const SOURCE_ARCHIVE: &str = "/usr/src/linux-source-6.1.tar.xz";

/// What a kernel is built for.
pub struct Flavour {
    /// What its step is called.
    name: &'static str,
    /// Directory of its objects, below the cache.
    objects: &'static str,
    /// Its configuration: files that are read one after the other.
    config: &'static [&'static str],
    /// What `make` makes.
    targets: &'static [&'static str],
    /// About how many objects that are.
    objects_expected: usize,
}

/// The kernel of the tests' Service VM and User VMs: small, since they have few devices.
pub const SMALL: Flavour = Flavour {
    name: "kernel",
    objects: "linux",
    config: &["guest/kernel/acrn_defconfig"],
    targets: &["bzImage"],
    objects_expected: 1750,
};

/// The kernel for PCs with systemd.
pub const SERVICE: Flavour = Flavour {
    name: "Service VM kernel",
    objects: "linux-service",
    config: &["guest/kernel/acrn_defconfig", "guest/kernel/service.config"],
    targets: &["bzImage", "modules"],
    objects_expected: 2900,
};

/// Builds the kernel unless its inputs are unchanged; returns the path of the bzImage.
///
/// # Errors
/// The source package is missing, or the build fails: then with the end of its log.
pub fn build(layout: &Layout) -> Result<PathBuf> {
    build_flavour(layout, &SMALL).map(|objects| objects.join(IMAGE))
}

/// What a kernel's package is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What `uname -r` says.
    pub release: String,
    /// Version of Debian's source package.
    pub source: String,
    /// bzImage.
    pub image: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its symbols.
    pub symbols: PathBuf,
    /// A directory whose `lib/modules` has the modules, if the kernel has any.
    pub modules: Option<PathBuf>,
}

/// Builds a kernel for a Debian package, with its modules.
///
/// # Errors
/// As for [`build`].
pub fn parts(layout: &Layout, flavour: &Flavour) -> Result<Parts> {
    let objects = build_flavour(layout, flavour)?;
    let has_modules = flavour.targets.contains(&"modules");
    let modules = has_modules
        .then(|| install_modules(layout, &objects))
        .transpose()?;
    let release = fs::read_to_string(objects.join("include/config/kernel.release"))?;
    Ok(Parts {
        release: release.trim().to_owned(),
        source: source_version()?,
        image: objects.join(IMAGE),
        config: objects.join(".config"),
        symbols: objects.join("System.map"),
        modules,
    })
}

fn install_modules(layout: &Layout, objects: &Path) -> Result<PathBuf> {
    let modules = objects.join("installed");
    if !modules.exists() {
        let step = Step::begin("Service VM modules");
        let mut make = make(&layout.cache().join(SOURCE), objects);
        make.arg(format!("INSTALL_MOD_PATH={}", modules.display()));
        make.args(["INSTALL_MOD_STRIP=1", "DEPMOD=true", "modules_install"]);
        step.run(&mut make, &layout.logs().join("modules.log"), |_| None)?;
    }
    Ok(modules)
}

const IMAGE: &str = "arch/x86/boot/bzImage";

fn build_flavour(layout: &Layout, flavour: &Flavour) -> Result<PathBuf> {
    let objects = layout.cache().join(flavour.objects);
    let image = objects.join(IMAGE);
    let config = config(layout, flavour)?;
    let inputs = Inputs::new()
        .value(SOURCE_PACKAGE, source_version()?)
        .value("defconfig", format!("{:032x}", digest_bytes(&config)));
    if inputs.match_stamp_of(&image) {
        return Ok(objects);
    }
    let step = Step::begin(flavour.name);
    let source = unpack(layout, &step)?;
    configure(layout, flavour, &config, &source, &objects, &step)?;
    compile(layout, flavour, &source, &objects, &step)?;
    inputs.write_stamp_of(&image)?;
    step.done("built");
    Ok(objects)
}

fn config(layout: &Layout, flavour: &Flavour) -> Result<Vec<u8>> {
    let mut config = Vec::new();
    for path in flavour.config {
        let part = fs::read(layout.source(path)).with_context(|| format!("cannot read {path}"))?;
        config.extend(part);
    }
    Ok(config)
}

fn source_version() -> Result<String> {
    let version =
        output_of(Command::new("dpkg-query").args(["-W", "-f=${Version}", SOURCE_PACKAGE]))
            .with_context(|| format!("{SOURCE_PACKAGE} is not installed: run cargo xtask setup"))?;
    Ok(version.trim().to_owned())
}

/// Unpacks the source once per version of its package.
fn unpack(layout: &Layout, step: &Step) -> Result<PathBuf> {
    let source = layout.cache().join(SOURCE);
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

fn configure(
    layout: &Layout,
    flavour: &Flavour,
    config: &[u8],
    source: &Path,
    objects: &Path,
    step: &Step,
) -> Result<()> {
    step.detail("configuring");
    fs::create_dir_all(objects)?;
    let name = format!("acrn_{}_defconfig", flavour.objects);
    fs::write(source.join("arch/x86/configs").join(&name), config)?;
    let log = layout
        .logs()
        .join(format!("{}-configure.log", flavour.objects));
    step.run(make(source, objects).arg(name), &log, |_| None)
}

fn compile(
    layout: &Layout,
    flavour: &Flavour,
    source: &Path,
    objects: &Path,
    step: &Step,
) -> Result<()> {
    let mut count = 0_usize;
    let expected = flavour.objects_expected;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let log = layout.logs().join(format!("{}-build.log", flavour.objects));
    step.detail(format!("0 objects (about {expected} from scratch)"));
    // What was installed of an earlier build is outdated.
    let _ = fs::remove_dir_all(objects.join("installed"));
    step.run(
        make(source, objects)
            .arg(format!("-j{jobs}"))
            .args(flavour.targets),
        &log,
        |line| {
            let tool = line.trim_start().split(' ').next().unwrap_or_default();
            matches!(tool, "CC" | "AS" | "AR").then(|| {
                count += 1;
                format!("{count} objects of about {expected}")
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
