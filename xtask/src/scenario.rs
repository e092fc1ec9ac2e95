//! Scenarios: presets of `acrn-config`, built into what the hypervisor reads, and the machine of their
//! board.

use std::path::PathBuf;

use acrn_config::allocate::Plan;
use acrn_config::presets::{BOCHS_BOARD, PRESETS, Preset, QEMU_BOARD, preset};
use acrn_config::{Board, BoardFile, Finding, Scenario, ScenarioFile, build, plan};
use acrn_config_blob::LoadOrder;
use acrn_config_use::SLOTS;
use anyhow::{Context as _, Result, anyhow};

use crate::grub::{self, BootSet};
use crate::layout::Layout;
use crate::machine::{Emulator, Machine};
use crate::rootfs::{self, write};
use crate::stock;

/// Names of the presets for the emulators' boards, without those that are another's for a second board.
pub fn names() -> Vec<&'static str> {
    let ours = PRESETS.iter().filter(|preset| preset.board == QEMU_BOARD);
    ours.map(|preset| preset.name).collect()
}

/// The board of an emulator.
fn board_of(emulator: Emulator) -> &'static str {
    match emulator {
        Emulator::Qemu => QEMU_BOARD,
        Emulator::Bochs => BOCHS_BOARD,
    }
}

/// Builds a preset for an emulator's board; returns the configuration's file.
///
/// # Errors
/// There is no such preset, or the file cannot be written.
pub fn of_preset(layout: &Layout, emulator: Emulator, name: &str) -> Result<PathBuf> {
    of_text(layout, emulator, name, scenario(emulator, name)?)
}

/// Adds the modules that the VMs of presets start from.
///
/// # Errors
/// One cannot be made.
pub fn add_modules(
    layout: &Layout,
    emulator: Emulator,
    name: &str,
    set: &mut BootSet,
) -> Result<()> {
    let scenario = scenario(emulator, name)?;
    let mut add = |tag, make: &dyn Fn() -> Result<PathBuf>| -> Result<()> {
        if scenario.contains(tag) {
            set.modules.push((tag, make()?));
        }
        Ok(())
    };
    add(grub::GUEST_RAMDISK_TAG, &|| rootfs::guest_initrd(layout))?;
    add(grub::RT_RAMDISK_TAG, &|| rootfs::real_time_initrd(layout))?;
    add(grub::RT_KERNEL_TAG, &|| {
        Ok(stock::real_time_kernel(layout)?.image())
    })
}

/// A pre-launched VM of a preset: its slot, and its host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its number in the hypervisor.
    pub slot: u16,
    /// What it calls itself.
    pub host: String,
}

/// The pre-launched VMs of a preset, and whether it has a Service VM.
///
/// # Errors
/// There is no such preset.
pub fn guests(emulator: Emulator, name: &str) -> Result<(Vec<Guest>, bool)> {
    let text = scenario(emulator, name)?;
    let model = ScenarioFile::parse(&format!("{name}.xml"), text)?.model;
    let own = model
        .vms
        .iter()
        .filter(|vm| vm.load_order == LoadOrder::PreLaunched);
    let count = own.clone().count() as u16;
    let hosts = own.filter_map(|vm| {
        let words = vm.os_config.bootargs.split(' ');
        let mut names = words.filter_map(|word| word.strip_prefix("vm_name="));
        names.next().map(str::to_owned)
    });
    let guests = (SLOTS - count..)
        .zip(hosts)
        .map(|(slot, host)| Guest { slot, host })
        .collect();
    let mut vms = model.vms.iter();
    Ok((guests, vms.any(|vm| vm.load_order == LoadOrder::Service)))
}

fn scenario(emulator: Emulator, name: &str) -> Result<&'static str> {
    let board = board_of(emulator);
    let is_meant = |preset: &&Preset| {
        let own = preset.name.strip_prefix(name);
        preset.board == board && own.is_some_and(|rest| rest.is_empty() || rest == "_bochs")
    };
    let preset = PRESETS.iter().find(is_meant).with_context(|| {
        let ours = PRESETS.iter().filter(|preset| preset.board == board);
        let names: Vec<&str> = ours.map(|preset| preset.name).collect();
        format!(
            "there is no scenario {name:?} for the board of {}; there are {}",
            emulator.name(),
            names.join(", ")
        )
    })?;
    Ok(preset.scenario)
}

/// Builds a scenario for the emulator's board; returns the configuration's file.
///
/// # Errors
/// Everything that is wrong with the scenario, or the file cannot be written.
pub fn of_text(layout: &Layout, emulator: Emulator, name: &str, text: &str) -> Result<PathBuf> {
    let scenario = ScenarioFile::parse(&format!("{name}.xml"), text)?;
    let built = build(&board(emulator)?, &scenario).map_err(|findings| {
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        anyhow!("{}", lines.join("\n"))
    })?;
    file(layout, name, &built.blob)
}

/// The emulator's board, a preset for it, and what is decided for that.
///
/// # Errors
/// There is no such preset, or it is not valid.
pub fn planned(name: &str) -> Result<(Board, Scenario, Plan)> {
    let preset = preset(name).with_context(|| format!("there is no scenario {name:?}"))?;
    let board = board(Emulator::Qemu)?;
    let scenario = ScenarioFile::parse(name, preset.scenario)?;
    let (plan, _) = plan(&board, &scenario).map_err(|findings| anyhow!("{findings:?}"))?;
    Ok((board.model, scenario.model, plan))
}

/// Writes bytes that are passed as a configuration.
///
/// # Errors
/// The file cannot be written.
pub fn file(layout: &Layout, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = layout.images().join(format!("{name}.cfg"));
    write(&path, bytes)?;
    Ok(path)
}

fn board(emulator: Emulator) -> Result<BoardFile> {
    Ok(BoardFile::parse("board.xml", board_of(emulator))?)
}

/// Gives the machine the CPUs and the memory of its emulator's board; in QEMU also the IOMMU and the further
/// network card.
///
/// # Errors
/// The board's file is wrong.
pub fn fit(machine: &mut Machine) -> Result<()> {
    let board = board(machine.emulator)?.model;
    machine.cpus = u32::try_from(board.cpus().len())?;
    machine.memory_mib = u32::try_from(board.memory_size().div_ceil(1 << 20))?;
    if machine.emulator != Emulator::Qemu {
        return Ok(());
    }
    let devices = [
        "-device",
        "intel-iommu,intremap=on",
        "-netdev",
        "user,id=further",
        "-device",
        "e1000e,addr=3,netdev=further",
    ];
    machine.extra.extend(devices.map(str::to_owned));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Boot;

    #[test]
    fn every_preset_of_the_emulator_can_be_built() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        assert!(names().contains(&"shared"));
        for name in names() {
            let path = of_preset(&layout, Emulator::Qemu, name).unwrap();
            assert!(std::fs::read(path).unwrap().starts_with(b"ACRNcfg"));
        }
        let bochs = of_preset(&layout, Emulator::Bochs, "hybrid_rt").unwrap();
        assert!(std::fs::read(bochs).unwrap().starts_with(b"ACRNcfg"));
        for (emulator, name, there) in [
            (Emulator::Qemu, "generic", "there are shared, "),
            (Emulator::Bochs, "shared", "there are hybrid_rt_bochs"),
        ] {
            let error = of_preset(&layout, emulator, name).unwrap_err().to_string();
            assert!(error.contains(there), "{error}");
        }
    }

    #[test]
    fn the_guests_of_presets_are_known_by_slot_and_name() {
        let of = |name| {
            let (guests, service) = guests(Emulator::Qemu, name).unwrap();
            let guests: Vec<_> = guests.iter().map(|g| (g.slot, g.host.clone())).collect();
            (guests, service)
        };
        assert_eq!(of("shared"), (vec![], true));
        assert_eq!(of("hybrid"), (vec![(7, "safety-vm".into())], true));
        assert_eq!(of("hybrid_rt"), (vec![(7, "rt-vm".into())], true));
        let both = vec![(6, "vm0".into()), (7, "vm1".into())];
        assert_eq!(of("partitioned"), (both, false));
    }

    #[test]
    fn what_is_wrong_with_a_scenario_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let text = preset("shared").unwrap().scenario;
        let bad = text.replace("<pcpu_id>3</pcpu_id>", "<pcpu_id>9</pcpu_id>");
        let error = of_text(&Layout::at(dir.path()), Emulator::Qemu, "bad", &bad).unwrap_err();
        assert!(error.to_string().contains("CPU 9"), "{error}");
    }

    #[test]
    fn the_machine_gets_what_the_board_has() {
        let mut machine = Machine::new(Boot::Direct(BootSet::default()));
        fit(&mut machine).unwrap();
        assert_eq!((machine.cpus, machine.memory_mib), (4, 4096));
        let mut other = Machine::on(Emulator::Bochs, Boot::Direct(BootSet::default()));
        fit(&mut other).unwrap();
        assert_eq!((other.cpus, other.memory_mib), (4, 2048));
        assert_eq!(other.extra, [""; 0]);
    }
}
