//! The board inspector in the Service VM: from there to a configuration that can be built.

use acrn_config::{BoardFile, ScenarioFile, build, presets};
use anyhow::{Context as _, Result, anyhow, ensure};

use super::support::{COMMAND, POWER_OFF, machine, receiver, service_vm};
use super::{Context, Outcome};
use crate::demo::Options;

/// Inspects the emulator's board and builds a preset for that with the result.
pub(super) fn board(context: &Context) -> Result<Outcome> {
    let options = Options {
        scenario: Some("shared".to_owned()),
        ..Options::default()
    };
    let machine = machine(context, &options)?;
    let mut session = service_vm(context, &machine, "inspector")?;
    session.check("cd /tmp && acrn-board-inspector qemu", COMMAND)?;
    let file = receiver(COMMAND)?;
    session.check(
        &format!("nc 10.0.2.2 {} </tmp/qemu.xml", file.port),
        COMMAND,
    )?;
    let text = String::from_utf8(file.join()?)?;
    let advice = session.run("acrn-board-inspector --doctor", COMMAND)?;
    ensure!(
        advice.text.contains("this is a virtual machine") && advice.text.contains("CPUs: 4"),
        "the doctor says:\n{}",
        advice.text
    );
    let memory = session.check("awk '/MemTotal/ { print $2 }' /proc/meminfo", COMMAND)?;
    session.power_off(POWER_OFF)?;
    judge(&text, memory.trim().parse::<u64>()? << 10)?;
    Ok(Outcome::Passed)
}

fn judge(text: &str, memory: u64) -> Result<()> {
    let board = BoardFile::parse("qemu.xml", text)?;
    let model = &board.model;
    ensure!(
        model.cpus().len() == 4,
        "it has found CPUs {:?}",
        model.cpus()
    );
    ensure!(
        model.memory_size() >= memory,
        "it has found {} bytes of RAM",
        model.memory_size()
    );
    let card =
        |function: &acrn_config::board::PciFunction<'_>| function.id() == Some((0x8086, 0x10d3));
    ensure!(
        model.pci_functions().iter().any(card),
        "the network card is not among the PCI functions"
    );
    ensure!(
        model.ttys().iter().any(|tty| tty.path == "/dev/ttyS0"),
        "there is no serial port"
    );
    ensure!(!model.ioapics.list.is_empty(), "there is no I/O APIC");
    let preset = presets::preset("shared").context("the preset has gone")?;
    let scenario = ScenarioFile::parse("shared.xml", preset.scenario)?;
    let built = build(&board, &scenario).map_err(|findings| anyhow!("{findings:#?}"))?;
    ensure!(
        built.blob.starts_with(b"ACRNcfg"),
        "this is no configuration"
    );
    Ok(())
}
