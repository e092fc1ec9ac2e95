//! Cases about getting started: the demo itself, each firmware, each number of CPUs.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::support::{COMMAND, POWER_OFF, machine, service_vm};
use super::{Context, Outcome};
use crate::demo::{Firmware, Options};
use crate::grub;
use crate::layout::display;

/// Runs the very command, as a newcomer without a terminal would.
pub(super) fn demo_headless(context: &Context) -> Result<Outcome> {
    let log = context.log("console");
    // The host tests may have built this program anew: its path then names another file.
    let output = Command::new("/proc/self/exe")
        .args(["demo", "--headless", "--yes", "--log"])
        .arg(&log)
        .args(context.bare.then_some("--bare"))
        .output()?;
    ensure!(
        output.status.success(),
        "demo --headless failed ({}), console log {}:\n{}",
        output.status,
        display(&log),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Outcome::Passed)
}

pub(super) fn grub_bios(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    boots(
        context,
        &Options {
            firmware: Firmware::Bios,
            ..Options::default()
        },
        "bios",
    )?;
    Ok(Outcome::Passed)
}

pub(super) fn grub_uefi(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let (code, _) = grub::ovmf();
    if !code.exists() {
        return Ok(Outcome::Skipped(format!("{} is missing", code.display())));
    }
    boots(
        context,
        &Options {
            firmware: Firmware::Uefi,
            ..Options::default()
        },
        "uefi",
    )?;
    Ok(Outcome::Passed)
}

fn without_hypervisor() -> Outcome {
    Outcome::Skipped("there is no hypervisor to boot (--bare)".into())
}

pub(super) fn smp_1_to_16(context: &Context) -> Result<Outcome> {
    for cpus in [1, 2, 4, 8, 16] {
        boots(
            context,
            &Options {
                cpus,
                ..Options::default()
            },
            &format!("{cpus}cpus"),
        )
        .with_context(|| format!("with {cpus} CPUs"))?;
    }
    Ok(Outcome::Passed)
}

/// To the Service VM's shell, all CPUs at work, and off again.
fn boots(context: &Context, options: &Options, name: &str) -> Result<()> {
    let machine = machine(context, options)?;
    let mut session = service_vm(context, &machine, name)?;
    let online = session.check("nproc", COMMAND)?;
    ensure!(
        online == options.cpus.to_string(),
        "{online} CPUs are on line instead of {}",
        options.cpus
    );
    // Each CPU must run programs and take timer interrupts.
    session.check(
        "for cpu in $(seq 0 $(($(nproc) - 1))); do taskset -c $cpu sleep 0.1 || exit 1; done",
        COMMAND,
    )?;
    if !context.bare {
        ensure!(options.memory == 2048, "the promise is about 2 GiB");
        let taken = taken(&session.vm.console.transcript())
            .context("the hypervisor does not tell what memory it takes")?;
        ensure!(
            (1..=16).contains(&taken),
            "the hypervisor takes {taken} MiB of 2 GiB"
        );
    }
    session.power_off(POWER_OFF)
}

/// What the hypervisor says at boot that it takes of the machine's memory, in MiB.
fn taken(transcript: &str) -> Option<u64> {
    let (before, _) = transcript.split_once(" are the hypervisor's")?;
    let (_, taken) = before.rsplit_once("memory; ")?;
    taken.split_once(" MiB at ")?.0.parse().ok()
}
