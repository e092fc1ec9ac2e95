//! How long the program takes.

use acrn_config::presets::{PRESETS, preset};
use acrn_config::{BoardFile, ScenarioFile, build};
use std::time::{Duration, Instant};

/// The best of some runs: a busy machine is not what is measured.
fn assert_fast(what: &str, board: &str, scenario: &str) {
    let run = || {
        let start = Instant::now();
        let board = BoardFile::parse("board.xml", board).unwrap();
        let scenario = ScenarioFile::parse("scenario.xml", scenario).unwrap();
        assert!(build(&board, &scenario).is_ok(), "{what}");
        start.elapsed()
    };
    let best = (0..10).map(|_| run()).min().unwrap();
    assert!(best < Duration::from_millis(50), "{what}: {best:?}");
}

#[test]
fn validating_and_building_take_less_than_50_ms() {
    for preset in PRESETS {
        assert_fast(preset.name, preset.board, preset.scenario);
    }
}

#[test]
fn eight_vms_take_less_than_50_ms_too() {
    let shared = preset("shared").unwrap();
    let mut scenario = ScenarioFile::parse("scenario.xml", shared.scenario).unwrap();
    let mut model = scenario.model.clone();
    for id in model.vms.len()..8 {
        let mut vm = model.vms[1].clone();
        (vm.id, vm.name) = (id as i64, format!("VM{id}"));
        vm.memory.size = 64;
        model.vms.push(vm);
    }
    scenario.update(&model);
    assert_fast("8 VMs", shared.board, &scenario.document.to_string());
}
