//! Bochs: the emulator of Intel's VMX, which QEMU's TCG does not have.
//!
//! Debian 12 has a version that is too old, so [`build`] makes a newer one. Bochs reads a
//! configuration file ([`config`]), boots from a CD with GRUB, and connects its serial port to a TCP
//! port of ours. All CPUs share one thread, and time goes by executed instructions: while every CPU
//! waits it jumps to the next timer, so that a guest's `sleep` takes no time at all.

pub mod build;
mod config;
mod source;

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::grub;
use crate::layout::Layout;
use crate::machine::{Boot, DiskBus, Machine, NetModel, tied_to_us};

/// The CPU model of a machine that does not say another: one with everything of VMX that the
/// hypervisor can use.
pub const CPU_MODEL: &str = "tigerlake";
/// The model of a machine without the hypervisor: newer ones name a rate of the TSC in CPUID that is
/// not the emulator's, and Linux would believe them.
pub const CPU_MODEL_WITHOUT_HYPERVISOR: &str = "corei7_haswell_4770";
/// Time for the emulator to connect its serial port.
const CONNECT: Duration = Duration::from_secs(20);

/// Starts Bochs in a directory that has the machine's links; returns it with our end of the
/// serial line.
pub(crate) fn start(
    machine: &Machine,
    layout: &Layout,
    directory: &Path,
    messages: File,
) -> Result<(Child, OwnedFd)> {
    check(machine)?;
    let program = build::program(layout);
    ensure!(
        program.exists(),
        "{} is missing; `cargo xtask setup` builds it",
        program.display()
    );
    match &machine.boot {
        Boot::Direct(set) => grub::bios_image(set, true, directory)?,
        Boot::Bare(set) => grub::bios_image(set, false, directory)?,
        Boot::Grub { .. } | Boot::Disk => {}
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    fs::write(directory.join("bochsrc"), config::bochsrc(machine, port))?;
    fs::write(directory.join("msrs"), config::MSRS)?;
    let mut child = tied_to_us(program)
        .args(["-q", "-f", "bochsrc"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(messages.try_clone()?)
        .stderr(messages)
        .spawn()
        .context("cannot start setpriv, which belongs to util-linux")?;
    match accept(&listener, &mut child) {
        Ok(line) => Ok((child, line)),
        Err(error) => {
            // Both fail only when the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
            let said = crate::progress::tail(&directory.join(crate::machine::MESSAGES), 10);
            Err(error.context(format!("Bochs said:\n{said}")))
        }
    }
}

/// What Bochs cannot emulate.
fn check(machine: &Machine) -> Result<()> {
    let uefi = machine.boot.is_uefi();
    ensure!(!uefi, "there is no UEFI firmware for Bochs; use QEMU");
    ensure!(
        !machine.gdb && machine.uart.is_none() && machine.extra.is_empty(),
        "a debugger, other UARTs and further devices need QEMU"
    );
    for disk in &machine.disks {
        ensure!(
            disk.bus == DiskBus::Piix,
            "Bochs has IDE disks on a PIIX only, no {:?}",
            disk.bus
        );
    }
    ensure!(machine.disks.len() <= 3, "Bochs has room for three disks");
    ensure!(
        machine.net.is_none_or(|model| model == NetModel::E1000),
        "of the network adapters here, Bochs has the e1000 only"
    );
    Ok(())
}

fn accept(listener: &TcpListener, child: &mut Child) -> Result<OwnedFd> {
    let deadline = Instant::now() + CONNECT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream.into());
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            bail!("Bochs ended at once ({status})");
        }
        ensure!(
            Instant::now() < deadline,
            "Bochs did not connect its serial port within {CONNECT:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the last messages tell of a machine that switched itself off. Bochs takes that for an
/// error and ends with status 1.
pub(crate) fn switched_off(messages: &str) -> bool {
    messages.contains("soft power off")
}
