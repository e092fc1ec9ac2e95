//! Cargo builds with flags of their own: the bare-metal images and the programs that are
//! linked statically for guests.
//!
//! `--target` is given although it is the host's: only then do `RUSTFLAGS` leave build
//! scripts and procedural macros alone. Each kind has its own target directory, so that
//! the flags do not invalidate what a plain `cargo build` has made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::elf;
use crate::layout::Layout;
use crate::progress::Step;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A bare-metal image: the flat file that is booted and the ELF file for the debugger.
#[derive(Debug, Clone)]
pub struct Image {
    /// Flat binary.
    pub flat: PathBuf,
    /// Linked file with symbols.
    pub elf: PathBuf,
    /// Address that the ELF file's first byte was linked to.
    pub base: u64,
}

/// Builds the hypervisor.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn hypervisor(layout: &Layout) -> Result<Image> {
    bare_metal(
        layout,
        "hypervisor",
        "acrn-hypervisor",
        "acrn",
        "hypervisor/link.ld",
    )
}

/// Builds the micro-guests, which share one image.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn micro_guest(layout: &Layout) -> Result<Image> {
    bare_metal(
        layout,
        "micro-guest",
        "acrn-micro-guest",
        "micro-guest",
        "guest/micro/link.ld",
    )
}

/// Builds `acrn-dm`, linked statically.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn device_model(layout: &Layout) -> Result<PathBuf> {
    static_program(layout, "device model", "acrn-dm", "acrn-dm")
}

/// Builds `acrnd`, `acrnctl` and `life_mngr`, linked statically.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn manager(layout: &Layout) -> Result<[PathBuf; 3]> {
    Ok([
        static_program(layout, "manager daemon", "acrn-manager", "acrnd")?,
        static_program(layout, "manager command", "acrn-manager", "acrnctl")?,
        life_mngr(layout)?,
    ])
}

/// Builds `life_mngr`, which User VMs have too.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn life_mngr(layout: &Layout) -> Result<PathBuf> {
    static_program(layout, "life-cycle manager", "acrn-manager", "life_mngr")
}

/// Builds `acrn-board-inspector`, linked statically.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn inspector(layout: &Layout) -> Result<PathBuf> {
    let name = "acrn-board-inspector";
    static_program(layout, "board inspector", "acrn-inspector", name)
}

/// Builds `acrn-config`, linked statically.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn config(layout: &Layout) -> Result<PathBuf> {
    static_program(layout, "configuration tool", "acrn-config", "acrn-config")
}

/// Builds `acrn-configurator`, linked statically.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn configurator(layout: &Layout) -> Result<PathBuf> {
    let name = "acrn-configurator";
    static_program(layout, "Configurator", name, name)
}

/// Builds `acrn-image`, linked statically.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn disk_images(layout: &Layout) -> Result<PathBuf> {
    static_program(layout, "image tool", "acrn-image", "acrn-image")
}

/// Builds `acrnlog` and `acrntrace`, linked statically.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn tools(layout: &Layout) -> Result<[PathBuf; 2]> {
    Ok([
        static_program(layout, "log tool", "acrn-tools", "acrnlog")?,
        static_program(layout, "trace tool", "acrn-tools", "acrntrace")?,
    ])
}

/// Builds the program by which the system tests speak to a running `acrn-dm`.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn vm_command(layout: &Layout) -> Result<PathBuf> {
    static_program(layout, "test program", "acrn-tests", "vm-command")
}

/// Builds the benchmark program that a guest's kernel starts as init.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn bench_init(layout: &Layout) -> Result<PathBuf> {
    static_program(
        layout,
        "benchmark program",
        "acrn-guest-bench",
        "bench-init",
    )
}

/// Builds the program that measures latencies in real-time VMs.
///
/// # Errors
/// The compiler's, with the end of the log.
pub fn rt_latency(layout: &Layout) -> Result<PathBuf> {
    static_program(layout, "latency program", "acrn-guest-bench", "rt-latency")
}

fn bare_metal(
    layout: &Layout,
    name: &str,
    package: &str,
    binary: &str,
    script: &str,
) -> Result<Image> {
    let script = layout.source(script);
    ensure!(
        script.exists(),
        "the linker script {} is missing",
        script.display()
    );
    let flags = [
        "--cfg=bare_image".into(),
        "-Crelocation-model=pie".into(),
        "-Cno-redzone=yes".into(),
        "-Cforce-frame-pointers=yes".into(),
        "-Clink-arg=-nostartfiles".into(),
        "-Clink-arg=-nostdlib".into(),
        "-Clink-arg=-static-pie".into(),
        "-Clink-arg=-Wl,--build-id=none,-z,norelro,--no-dynamic-linker".into(),
        format!("-Clink-arg=-Wl,-T,{}", script.display()),
    ];
    let step = Step::begin(name);
    let elf = cargo(
        layout,
        &step,
        package,
        binary,
        "image",
        &layout.images(),
        &flags,
    )?;
    let bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let flat = elf::flatten(&bytes).with_context(|| format!("cannot use {}", elf.display()))?;
    let path = layout.images().join(format!("{binary}.bin"));
    fs::write(&path, &flat.bytes)?;
    step.done(&format!("{} KiB", flat.bytes.len().div_ceil(1024)));
    Ok(Image {
        flat: path,
        elf,
        base: flat.base,
    })
}

/// Builds a program for a guest, linked statically.
pub(crate) fn static_program(
    layout: &Layout,
    name: &str,
    package: &str,
    binary: &str,
) -> Result<PathBuf> {
    let flags = [
        "-Ctarget-feature=+crt-static".into(),
        "-Cstrip=debuginfo".into(),
    ];
    let step = Step::begin(name);
    let path = cargo(
        layout,
        &step,
        package,
        binary,
        "release",
        &layout.guest_programs(),
        &flags,
    )?;
    let size = fs::metadata(&path).map_or(0, |m| m.len());
    step.done(&format!("{} KiB", size.div_ceil(1024)));
    Ok(path)
}

fn cargo(
    layout: &Layout,
    step: &Step,
    package: &str,
    binary: &str,
    profile: &str,
    target_dir: &Path,
    flags: &[String],
) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(layout.root());
    cargo.args([
        "build",
        "--package",
        package,
        "--bin",
        binary,
        "--profile",
        profile,
    ]);
    cargo
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir);
    cargo
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let log = layout.logs().join(format!("{binary}.log"));
    let mut compiled = 0_usize;
    step.detail("compiling");
    step.run(&mut cargo, &log, |line| {
        let what = line.trim_start().strip_prefix("Compiling ")?;
        compiled += 1;
        Some(format!(
            "compiling {} (crate {compiled})",
            what.split(' ').next().unwrap_or(what)
        ))
    })?;
    Ok(target_dir.join(TARGET).join(profile).join(binary))
}
