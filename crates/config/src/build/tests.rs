use super::*;
use crate::presets::PRESETS;

fn files(preset: &crate::presets::Preset) -> (BoardFile, ScenarioFile) {
    let board = BoardFile::parse("board.xml", preset.board).unwrap();
    (
        board,
        ScenarioFile::parse("scenario.xml", preset.scenario).unwrap(),
    )
}

#[test]
fn every_preset_builds_without_a_warning_and_parses_back() {
    for preset in PRESETS {
        let (board, scenario) = files(preset);
        let built = build(&board, &scenario)
            .unwrap_or_else(|findings| panic!("{}: {findings:#?}", preset.name));
        assert_eq!(built.findings, [], "{}", preset.name);
        let config = Config::parse(&built.blob).unwrap();
        assert_eq!(config.vms.len(), scenario.model.vms.len());
        let parts = parts(&board.model, &scenario.model, &built.plan).unwrap();
        assert_eq!(
            config,
            parts
                .config(&board.model, &scenario.model, &built.plan)
                .unwrap()
        );
        assert_eq!(
            build(&board, &scenario).unwrap().blob,
            built.blob,
            "the same input, the same output"
        );
    }
}

#[test]
fn every_preset_is_written_back_byte_for_byte() {
    for preset in PRESETS {
        let (_, mut scenario) = files(preset);
        scenario.update(&scenario.model.clone());
        assert_eq!(scenario.document.to_string(), preset.scenario);
    }
}
