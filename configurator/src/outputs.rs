//! The files that are made of a document.

use crate::document::{BOARD_FILE, Document};
use crate::pages::summary;

/// Name of the configuration's file.
pub const CONFIG_FILE: &str = "acrn.cfg";
/// Name of the summary's file.
pub const SUMMARY_FILE: &str = "summary.html";

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub what: String,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Whether it is a program.
    pub executable: bool,
}

fn file(name: impl Into<String>, what: impl Into<String>, bytes: impl Into<Vec<u8>>) -> OutputFile {
    OutputFile {
        name: name.into(),
        what: what.into(),
        bytes: bytes.into(),
        executable: false,
    }
}

/// All files of a document. One that is not valid has only its board and a draft of its scenario.
pub fn outputs(document: &Document) -> Vec<OutputFile> {
    let board = document.board().document.to_string();
    let scenario = scenario_name(document);
    let mut files = vec![file(BOARD_FILE, "The board.", board)];
    let Some(made) = document.made() else {
        let what = "The scenario as it is, with its errors: nothing can be built of it.";
        files.push(file(scenario, what, document.text()));
        return files;
    };
    files.push(file(scenario, "The scenario.", document.text()));
    let what =
        "The configuration: the boot loader passes it to the hypervisor as module acrn_config.";
    files.push(file(CONFIG_FILE, what, made.built.blob.clone()));
    for launch in &made.launches {
        let vm = &launch.vm;
        let script = format!("Starts {vm} in the Service VM.");
        files.push(OutputFile {
            executable: true,
            ..file(launch.script_name(), script, launch.script.as_str())
        });
        let definition = format!("{vm} for acrnd: acrnctl add takes it.");
        files.push(file(
            launch.definition_name(),
            definition,
            launch.definition.as_str(),
        ));
    }
    if let Some(text) = &made.serial_conf {
        let what = "Serial lines of the Service VM, for /etc/serial.conf there.";
        files.push(file("serial.conf", what, text.as_str()));
    }
    let what = "Everything on one page, for the record.";
    files.push(file(SUMMARY_FILE, what, summary::standalone(document)));
    files
}

/// Name of the scenario's file: that of a draft says so.
pub fn scenario_name(document: &Document) -> String {
    let stem = stem(document.name());
    match document.made() {
        Some(_) => format!("{stem}.xml"),
        None => format!("{stem}.draft.xml"),
    }
}

/// A file name of a scenario's name.
pub fn stem(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let stem: String = name
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(64)
        .collect();
    // The board's file has that name.
    if stem == "board" {
        "board_scenario".to_owned()
    } else {
        stem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Edit;
    use acrn_config::presets::{QEMU_BOARD, preset};

    fn names(document: &Document) -> Vec<String> {
        outputs(document)
            .into_iter()
            .map(|file| file.name)
            .collect()
    }

    #[test]
    fn a_valid_scenario_has_everything_and_another_one_is_a_draft() {
        let mut document = Document::new(QEMU_BOARD, preset("shared").unwrap()).unwrap();
        let all = names(&document);
        let wanted = [
            "board.xml",
            "shared.xml",
            CONFIG_FILE,
            "launch_user_vm_id1.sh",
            "POST_STD_VM1.toml",
            SUMMARY_FILE,
        ];
        assert!(
            wanted
                .iter()
                .all(|name| all.iter().any(|found| found == name)),
            "{all:?}"
        );
        let path = "vm[2]/memory/size".to_owned();
        document
            .apply(
                &Edit::Set {
                    path,
                    text: "3".to_owned(),
                },
                false,
            )
            .unwrap();
        assert_eq!(names(&document), ["board.xml", "shared.draft.xml"]);
    }

    #[test]
    fn a_name_is_no_path() {
        assert_eq!(stem("../a b/ü"), "___a_b__");
        assert_ne!(stem("board"), "board");
    }
}
