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
        assert!(says_what_was_meant(&board.model, &scenario.model, &built));
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

#[test]
fn boot_arguments_that_were_broken_into_lines_are_one_line() {
    let preset = crate::presets::preset("hybrid").unwrap();
    let (board, _) = files(preset);
    let text = preset
        .scenario
        .replace("115200 quiet<", "115200\n\t  quiet<");
    let scenario = ScenarioFile::parse("s", &text).unwrap();
    let built = build(&board, &scenario).unwrap();
    let config = Config::parse(&built.blob).unwrap();
    assert_eq!(
        &*config.vms.get(1).unwrap().os.bootargs,
        "console=ttyS0,115200 quiet"
    );
}
