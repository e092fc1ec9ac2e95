//! How long the program takes.

use acrn_config::presets::PRESETS;
use acrn_config::{BoardFile, ScenarioFile, build};
use std::time::{Duration, Instant};

/// The best of some runs: a busy machine is not what is measured.
#[test]
fn validating_and_building_take_less_than_50_ms() {
    for preset in PRESETS {
        let run = || {
            let start = Instant::now();
            let board = BoardFile::parse("board.xml", preset.board).unwrap();
            let scenario = ScenarioFile::parse("scenario.xml", preset.scenario).unwrap();
            assert!(build(&board, &scenario).is_ok());
            start.elapsed()
        };
        let best = (0..10).map(|_| run()).min().unwrap();
        assert!(
            best < Duration::from_millis(50),
            "{}: {best:?}",
            preset.name
        );
    }
}
