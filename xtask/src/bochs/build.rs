//! Builds Bochs once and keeps it in `target/cache`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::source;
use crate::layout::Layout;
use crate::progress::Step;
use crate::stamp::Inputs;

const PACKAGE: &str = "bochs";
/// Our changes, each with its reason at its beginning.
const PATCHES: [&str; 7] = [
    "xtask/bochs/apic-enable.patch",
    "xtask/bochs/idle.patch",
    "xtask/bochs/interrupts.patch",
    "xtask/bochs/virtual-interrupt.patch",
    "xtask/bochs/exceptions.patch",
    "xtask/bochs/posted.patch",
    "xtask/bochs/ticks.patch",
];
/// Both vendors' virtualization, the devices that our machine has, and none that it has not.
const CONFIGURE: &str = "--enable-x86-64 --enable-smp --enable-cpu-level=6 --enable-vmx=2 \
    --enable-svm --enable-avx --enable-evex --enable-cet --enable-memtype \
    --enable-protection-keys --enable-pci --enable-e1000 --enable-all-optimizations --enable-fpu \
    --enable-a20-pin --enable-cdrom --disable-usb --disable-sb16 --disable-es1370 \
    --disable-plugins --disable-debugger --disable-docbook --without-x11 --without-wx \
    --with-nogui";
const OPTIMIZATION: &str = "-O3";
const OBJECTS: usize = 500;

/// Where the program is once it has been built.
#[must_use]
pub fn program(layout: &Layout) -> PathBuf {
    layout.cache().join("bochs")
}

/// Builds the program unless its inputs are unchanged.
///
/// # Errors
/// The source cannot be fetched or does not build: then with the end of the log.
pub fn build(layout: &Layout) -> Result<PathBuf> {
    let program = program(layout);
    let mut inputs = Inputs::new()
        .value("configure", CONFIGURE)
        .value("optimization", OPTIMIZATION);
    for patch in PATCHES {
        let text =
            fs::read(layout.source(patch)).with_context(|| format!("cannot read {patch}"))?;
        let digest = crate::stamp::digest_bytes(&text);
        inputs = inputs.value(patch, format!("{digest:032x}"));
    }
    if inputs.match_stamp_of(&program) {
        return Ok(program);
    }
    let step = Step::begin("Bochs");
    let archives = source::download(layout, &step, PACKAGE)?;
    let patches = PATCHES.map(|patch| layout.source(patch));
    let source = source::unpack(layout, &step, &archives, &patches)?;
    compile(layout, &step, &source)?;
    fs::rename(source.join("bochs"), &program)?;
    inputs.write_stamp_of(&program)?;
    for directory in ["bochs-source", "bochs-build"] {
        fs::remove_dir_all(layout.cache().join(directory))?;
    }
    step.done("built");
    Ok(program)
}

fn compile(layout: &Layout, step: &Step, source: &Path) -> Result<()> {
    step.detail("configuring");
    let mut configure = Command::new("./configure");
    configure
        .current_dir(source)
        .args(CONFIGURE.split_whitespace())
        .env("CFLAGS", OPTIMIZATION)
        .env("CXXFLAGS", OPTIMIZATION);
    let log = layout.logs().join("bochs-configure.log");
    step.run(&mut configure, &log, |_| None)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    make.current_dir(source)
        .arg(format!("-j{jobs}"))
        .arg("bochs");
    let mut count = 0_usize;
    step.run(&mut make, &layout.logs().join("bochs-build.log"), |line| {
        line.contains(" -c ").then(|| {
            count += 1;
            format!("{count} objects of about {OBJECTS}")
        })
    })
}
