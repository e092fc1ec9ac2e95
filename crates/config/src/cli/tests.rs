use super::args::Files;
use super::*;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn written(preset: &str) -> (TempDir, Files) {
    let directory = tempfile::tempdir().unwrap();
    let command = Command::Preset {
        name: Some(preset.to_owned()),
        directory: directory.path().to_owned(),
    };
    assert!(run(&command).ok);
    let scenario = directory.path().join(format!("{preset}.xml"));
    let files = Files {
        board: directory.path().join("board.xml"),
        scenario,
    };
    (directory, files)
}

fn built(preset: &str) -> (TempDir, PathBuf) {
    let (directory, files) = written(preset);
    let output = directory.path().join("acrn.cfg");
    let result = run(&Command::Build {
        files,
        output: output.clone(),
    });
    assert!(result.ok, "{}", result.remarks);
    (directory, output)
}

#[test]
fn a_preset_is_valid_and_builds_and_can_be_inspected() {
    for preset in crate::presets::PRESETS {
        let (_directory, files) = written(preset.name);
        let output = run(&Command::Validate { files });
        assert_eq!((output.ok, output.remarks.as_str()), (true, ""));
        let (_directory, config) = built(preset.name);
        let output = run(&Command::Inspect {
            config: config.clone(),
        });
        assert!(
            output.ok && output.text.contains("\n  vms[1]\n"),
            "{}",
            output.text
        );
        assert_eq!(output.json["vms"][0]["id"], 0);
        assert!(run(&Command::Show { file: config }).text.contains("VM 1 "));
    }
}

#[test]
fn an_invalid_scenario_is_refused_with_line_rule_and_remedy() {
    let (directory, files) = written("hybrid");
    let text = std::fs::read_to_string(&files.scenario).unwrap();
    std::fs::write(&files.scenario, text.replace("<pcpu_id>3<", "<pcpu_id>9<")).unwrap();
    let output = directory.path().join("acrn.cfg");
    let result = run(&Command::Build {
        files,
        output: output.clone(),
    });
    assert!(!result.ok && !output.exists());
    let remarks = &result.remarks;
    assert!(
        remarks.contains("hybrid.xml:") && remarks.contains("[cpu-exists]"),
        "{remarks}"
    );
    assert_eq!(result.json["valid"], false);
}

#[test]
fn files_in_the_wrong_order_are_named_as_that() {
    let (_directory, files) = written("hybrid");
    let swapped = Files {
        board: files.scenario,
        scenario: files.board,
    };
    let output = run(&Command::Validate { files: swapped });
    let wanted = "name the board first, then the scenario";
    assert!(!output.ok && output.remarks.contains(wanted));
    assert_eq!(output.remarks.lines().count(), 1, "{}", output.remarks);
}

#[test]
fn allocate_says_why() {
    let (_directory, files) = written("hybrid_rt");
    let output = run(&Command::Allocate { files });
    assert!(
        output
            .text
            .contains("memory: 0x40000000 at 0x100000000 (first free RAM"),
        "{}",
        output.text
    );
    assert_eq!(output.json["decisions"][0]["for"], "hypervisor");
}

#[test]
fn differences_of_scenarios_and_configurations_are_named_with_both_values() {
    let (directory, files) = written("hybrid");
    let changed = directory.path().join("changed.xml");
    let text = std::fs::read_to_string(&files.scenario).unwrap();
    std::fs::write(&changed, text.replace("<size>512<", "<size>514<")).unwrap();
    let diff = |first: &Path, second: &Path| {
        run(&Command::Diff {
            first: first.to_owned(),
            second: second.to_owned(),
        })
        .text
    };
    let scenarios = diff(&files.scenario, &changed);
    assert!(
        scenarios.contains("vm[SAFETY_VM0]/memory/size: 512 | 514\n"),
        "{scenarios}"
    );
    let build = |scenario: &Path, name: &str| {
        let files = Files {
            board: files.board.clone(),
            scenario: scenario.to_owned(),
        };
        let output = directory.path().join(name);
        assert!(
            run(&Command::Build {
                files,
                output: output.clone()
            })
            .ok
        );
        output
    };
    let configs = diff(&build(&files.scenario, "a"), &build(&changed, "b"));
    assert!(
        configs.contains("vms[0].memory_size: 0x20000000 | 0x20200000\n"),
        "{configs}"
    );
    assert_eq!(diff(&files.scenario, &files.scenario), "");
}

#[test]
fn elements_are_explained() {
    let output = run(&Command::Elements {
        path: Some("vm/memory".to_owned()),
        board: false,
    });
    assert!(
        output.text.contains("vm/memory/size: Size\n") && output.text.contains("default: 1024")
    );
    assert!(
        !run(&Command::Elements {
            path: Some("vm/nothing".to_owned()),
            board: false
        })
        .ok
    );
    assert!(
        run(&Command::Elements {
            path: None,
            board: true
        })
        .text
        .contains("processors/die/core")
    );
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    let inspect = || {
        run(&Command::Inspect {
            config: path.clone(),
        })
    };
    assert!(inspect().remarks.contains("No such file"));
    std::fs::write(&path, "hello, this is no configuration at all").unwrap();
    let output = inspect();
    assert!(
        !output.ok && output.remarks.contains("not a configuration"),
        "{}",
        output.remarks
    );
    let preset = Command::Preset {
        name: Some("nothing".to_owned()),
        directory: ".".into(),
    };
    assert!(run(&preset).remarks.contains("there is no preset nothing"));
}

#[test]
fn a_file_of_somebody_else_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("board.xml"), "mine").unwrap();
    let preset = Command::Preset {
        name: Some("shared".to_owned()),
        directory: directory.path().to_owned(),
    };
    assert!(!run(&preset).ok);
    assert_eq!(
        std::fs::read_to_string(directory.path().join("board.xml")).unwrap(),
        "mine"
    );
}

#[test]
fn an_old_scenario_is_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (
        directory.path().join("old.xml"),
        directory.path().join("new.xml"),
    );
    std::fs::write(
        &old,
        "<acrn-config><hv><FEATURES>\n<RELOC>n</RELOC></FEATURES></hv></acrn-config>",
    )
    .unwrap();
    let output = run(&Command::Migrate {
        scenario: old,
        launch: None,
        output: Some(new.clone()),
    });
    assert!(
        output.ok
            && output
                .remarks
                .contains(":2: hv/FEATURES/RELOC: is RELOC_ENABLED n now")
    );
    assert!(
        std::fs::read_to_string(new)
            .unwrap()
            .contains("<RELOC_ENABLED>n</")
    );
}

#[test]
fn a_board_of_an_older_inspector_is_a_board() {
    let directory = tempfile::tempdir().unwrap();
    let board = directory.path().join("old.xml");
    let text = "<acrn-config board=\"old\"><PCI_DEVICE>00:00.0 Host bridge</PCI_DEVICE>\
                <CPU_PROCESSOR_INFO>0, 1</CPU_PROCESSOR_INFO></acrn-config>";
    std::fs::write(&board, text).unwrap();
    let shown = run(&Command::Show {
        file: board.clone(),
    });
    assert!(
        shown.text.starts_with("board old: 2 CPUs"),
        "{}",
        shown.text
    );
    let (_preset, files) = written("shared");
    let files = Files { board, ..files };
    let judged = run(&Command::Validate { files });
    assert!(
        judged.remarks.contains("[board-devices]"),
        "{}",
        judged.remarks
    );
}

#[test]
fn an_old_scenario_that_is_not_valid_comes_with_the_advice_to_migrate_it() {
    let (_directory, files) = written("shared");
    let validate = || {
        let files = files.clone();
        run(&Command::Validate { files }).remarks
    };
    let text = std::fs::read_to_string(&files.scenario).unwrap();
    let wrong = text.replace("POST_LAUNCHED_VM", "NO_SUCH_ORDER");
    std::fs::write(&files.scenario, &wrong).unwrap();
    assert!(!validate().contains("acrn-config migrate"));
    let old = wrong.replace("<FEATURES>", "<FEATURES><RELOC>n</RELOC>");
    std::fs::write(&files.scenario, old).unwrap();
    assert!(
        validate().contains("would change 1 place"),
        "{}",
        validate()
    );
}
