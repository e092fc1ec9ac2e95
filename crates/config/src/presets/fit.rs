//! Fitting a scenario to another board than the one that it was written for.

use crate::migrate::Change;
use crate::model::Device;
use crate::scenario::{Pcpu, Scenario, Vm};
use crate::validate::vm_path;
use crate::{Board, ScenarioFile};
use acrn_config_blob::{LoadOrder, VmKind};
use std::collections::BTreeMap;

/// Changes what names parts of a board to parts that `board` has, and says what was changed. Whether the
/// board suffices is for validation to say.
pub fn fit(file: &mut ScenarioFile, board: &Board) -> Vec<Change> {
    if board.name.is_some() && file.model.board == board.name {
        return Vec::new();
    }
    let mut scenario = file.model.clone();
    let mut fitting = Fitting {
        board,
        changes: Vec::new(),
    };
    scenario.board = Some(board.name.clone().unwrap_or_default());
    fitting.console(&mut scenario);
    fitting.cpus(&mut scenario);
    for (index, vm) in scenario.vms.iter_mut().enumerate() {
        let path = vm_path(index);
        fitting.memory(&path, vm);
        fitting.devices(&path, vm);
    }
    file.update(&scenario);
    fitting.changes
}

struct Fitting<'a> {
    board: &'a Board,
    changes: Vec<Change>,
}

impl Fitting<'_> {
    fn note(&mut self, path: String, what: String) {
        self.changes.push(Change {
            path,
            line: 0,
            what,
        });
    }

    /// The board's first serial port, if it has one.
    fn console(&mut self, scenario: &mut Scenario) {
        let ports = self.board.ttys();
        let console = &mut scenario.hv.debug.serial_console;
        if ports.iter().any(|port| port.path == *console) {
            return;
        }
        *console = match ports.first() {
            Some(port) => port.path.clone(),
            None => "None".to_owned(),
        };
        let what = format!("{console}: the first serial port of the board");
        self.note("hv/DEBUG_OPTIONS/SERIAL_CONSOLE".to_owned(), what);
    }

    fn cpus(&mut self, scenario: &mut Scenario) {
        let map = cpu_map(scenario, self.board);
        let new = |cpu: i64| map.get(&cpu).copied();
        scenario
            .hv
            .features
            .cpu_schedulers
            .list
            .retain_mut(|entry| new(entry.pcpu).map(|cpu| entry.pcpu = cpu).is_some());
        for index in 0..scenario.vms.len() {
            let vm = &mut scenario.vms[index];
            let before = vm.cpu_affinity.pcpus.clone();
            let after = self.mapped(&before, &map);
            if after != before {
                let path = format!("{}/cpu_affinity", vm_path(index));
                let what = format!("CPUs {} instead of {}", ids(&after), ids(&before));
                vm.cpu_affinity.pcpus = after;
                self.note(path, what);
            }
        }
    }

    /// The new CPUs of a VM: each once, and all of the first one's kind.
    fn mapped(&self, pcpus: &[Pcpu], map: &BTreeMap<i64, i64>) -> Vec<Pcpu> {
        let cpus = self.board.cpus();
        let kind = |id: i64| {
            let cpu = cpus.iter().find(|cpu| i64::from(cpu.id) == id);
            cpu.map(|cpu| cpu.kind.as_str())
        };
        let mut mapped: Vec<Pcpu> = Vec::new();
        for pcpu in pcpus {
            let Some(&id) = map.get(&pcpu.id) else {
                continue;
            };
            let fits = mapped
                .first()
                .is_none_or(|first| kind(first.id) == kind(id));
            if fits && mapped.iter().all(|other| other.id != id) {
                mapped.push(Pcpu { id, ..*pcpu });
            }
        }
        mapped
    }

    /// Named host memory becomes memory of the same size anywhere.
    fn memory(&mut self, path: &str, vm: &mut Vm) {
        if vm.memory.regions.is_empty() {
            return;
        }
        vm.memory.size = vm.memory.regions.iter().map(|region| region.size).sum();
        vm.memory.regions.clear();
        let what = format!("{} MiB at a place that is chosen", vm.memory.size);
        self.note(format!("{path}/memory"), what);
    }

    /// Devices that the board does not have are left out.
    fn devices(&mut self, path: &str, vm: &mut Vm) {
        let is_there = |device: &Device| self.board.pci_function(device.bdf).is_some();
        let (there, absent): (Vec<_>, Vec<_>) = vm.pci_devs.list.drain(..).partition(is_there);
        vm.pci_devs.list = there;
        for device in absent {
            let what = format!("{} left out: the board does not have it", device.text);
            self.note(format!("{path}/pci_devs"), what);
        }
    }
}

/// A CPU of the board for each CPU of the scenario: those of real-time VMs and of pre-launched ones from
/// the last one down, each for one; the others share those that are left.
fn cpu_map(scenario: &Scenario, board: &Board) -> BTreeMap<i64, i64> {
    let is_alone =
        |vm: &&Vm| vm.kind == VmKind::RealTime || vm.load_order == LoadOrder::PreLaunched;
    let cpus_of = |vm: &Vm| {
        vm.cpu_affinity
            .pcpus
            .iter()
            .map(|pcpu| pcpu.id)
            .collect::<Vec<_>>()
    };
    let mut alone: Vec<i64> = scenario
        .vms
        .iter()
        .filter(is_alone)
        .flat_map(cpus_of)
        .collect();
    alone.sort_unstable();
    alone.dedup();
    let cpus = board.cpus();
    let all = cpus.len();
    let apart = alone.len().min(all.saturating_sub(1));
    let shared = (all - apart).max(1);
    let id = |place: usize| cpus.get(place).map(|cpu| i64::from(cpu.id));
    let mut map = BTreeMap::new();
    for (place, &cpu) in alone.iter().rev().take(apart).enumerate() {
        map.extend(id(all - 1 - place).map(|new| (cpu, new)));
    }
    let others = scenario
        .vms
        .iter()
        .filter(|vm| !is_alone(vm))
        .flat_map(cpus_of);
    for cpu in others {
        let place = usize::try_from(cpu).unwrap_or(0) % shared;
        if !map.contains_key(&cpu) {
            map.extend(id(place).map(|new| (cpu, new)));
        }
    }
    map
}

fn ids(pcpus: &[Pcpu]) -> String {
    let ids: Vec<String> = pcpus.iter().map(|pcpu| pcpu.id.to_string()).collect();
    if ids.is_empty() {
        "none".to_owned()
    } else {
        ids.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::{GENERIC_BOARD, PRESETS, preset};
    use crate::{BoardFile, build};

    #[test]
    fn presets_fitted_to_another_board_are_valid_there() {
        let board = BoardFile::parse("board.xml", GENERIC_BOARD).unwrap();
        for preset in PRESETS {
            let mut file = ScenarioFile::parse("scenario.xml", preset.scenario).unwrap();
            let changes = fit(&mut file, &board.model);
            assert_eq!(changes.is_empty(), preset.name == "generic");
            let file = ScenarioFile::parse("scenario.xml", &file.document.to_string()).unwrap();
            let built = build(&board, &file);
            assert!(built.is_ok(), "{}: {:#?}", preset.name, built.err());
        }
    }

    #[test]
    fn a_board_with_two_cpus_keeps_one_for_the_service_vm() {
        let preset = preset("hybrid_rt").unwrap();
        let mut board = BoardFile::parse("board.xml", GENERIC_BOARD).unwrap().model;
        board.processors.dies[0].cores.truncate(2);
        board.processors.dies[0].modules.clear();
        let cpus = board.cpus().len();
        let mut file = ScenarioFile::parse("scenario.xml", preset.scenario).unwrap();
        fit(&mut file, &board);
        let used = &file.model.vms[0].cpu_affinity.pcpus;
        assert!(!used.is_empty() && used.len() < cpus, "{used:?} of {cpus}");
        assert!(used.iter().all(|pcpu| pcpu.id != 0));
    }
}
