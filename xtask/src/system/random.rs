//! Scenarios by chance: whatever the Configurator saves as valid, the hypervisor boots with.

use std::fs;

use anyhow::{Context as _, Result};

use super::micro::{SOON, without_hypervisor};
use super::scenario::{board, contains, start};
use super::support::test_of_crate;
use super::{Context, Outcome};
use crate::machine::{Disk, DiskBus, NetModel};
use crate::rootfs::fresh_directory;
use crate::scenario;

/// How many scenarios are tried, with and without `--full`.
const COUNT: [usize; 2] = [40, 8];

/// Has scenarios made by edits at random, and boots each. They stay in `target/run` where one fails.
pub(super) fn valid_ones(context: &Context) -> Result<Outcome> {
    if context.bare {
        return Ok(without_hypervisor());
    }
    let directory = fresh_directory(&context.layout.runs().join(context.name))?;
    let count = COUNT[usize::from(!context.full)];
    test_of_crate(
        context.layout,
        &["acrn-configurator", "--lib"],
        "document::tests::valid_scenarios_for_the_emulator_are_written",
        &[
            ("ACRN_SCENARIOS", directory.as_os_str()),
            ("ACRN_COUNT", count.to_string().as_ref()),
        ],
    )?;
    for number in 0..count {
        let name = format!("random-{number}");
        let path = directory.join(format!("{name}.xml"));
        boots(context, &name, &fs::read_to_string(&path)?)
            .with_context(|| format!("with the scenario {}", path.display()))?;
    }
    fs::remove_dir_all(directory)?;
    Ok(Outcome::Passed)
}

fn boots(context: &Context, name: &str, text: &str) -> Result<()> {
    let config = scenario::of_text(context.layout, context.emulator, name, text)?;
    let mut machine = board(context, "loop", config, "config=strict")?;
    // A scenario may pass any device of the board on.
    machine.net = Some(NetModel::Virtio);
    machine.disks = vec![Disk {
        image: context.artefacts.data_disk.clone(),
        bus: DiskBus::Virtio,
        persistent: false,
    }];
    let mut session = start(context, &machine, name)?;
    session.expect("configuration: scenario ", SOON)?;
    session.to_hypervisor()?;
    let answer = session.hypervisor_command("config")?;
    contains(&answer, &["in force: boot module acrn_config, scenario "])
}
