//! The commands that bring a scenario to its machine.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::args::Files;
use super::commands::{judged, load, write};
use super::{Error, Output};
use crate::deploy::apply::{Target, Wanted, apply as put_in_force};

pub(super) fn package(
    files: &Files,
    directory: &Path,
    version: Option<&str>,
) -> Result<Output, Error> {
    let (board, scenario) = load(files)?;
    let time = time();
    let newer = crate::deploy::version_at(time);
    let version = version.unwrap_or(&newer);
    let (name, bytes, findings) = crate::deploy::package(&board, &scenario, version, time)?;
    let path = directory.join(name);
    write(&path, &bytes)?;
    let path = path.display().to_string();
    let mut output = judged(&findings);
    output.json["output"] = json!(path);
    output.json["version"] = json!(version);
    output.text = format!("{path}\n");
    Ok(output)
}

/// The time of a package, which builds that are to be repeated set.
fn time() -> u64 {
    let set = std::env::var("SOURCE_DATE_EPOCH").ok();
    let set = set.and_then(|text| text.parse().ok());
    set.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    })
}

pub(super) fn apply(
    file: Option<&Path>,
    board: Option<&Path>,
    previous: bool,
) -> Result<Output, Error> {
    let wanted = match file {
        Some(file) => Wanted::File(file.to_owned(), board.map(Path::to_owned)),
        None if previous => Wanted::Previous,
        None => Wanted::Nothing,
    };
    let target = Target {
        root: PathBuf::from("/"),
        inspector: "acrn-board-inspector".into(),
        update_grub: "update-grub".into(),
    };
    eprintln!("inspecting this machine and writing GRUB's menu ...");
    let applied = put_in_force(&target, &wanted)?;
    let mut output = judged(&applied.findings);
    let what = match file {
        Some(file) => file.display().to_string(),
        None if previous => "what was in force before".to_owned(),
        None => "a Service VM alone".to_owned(),
    };
    output.text = format!("{what}: in force from the next boot on\n");
    if !applied.vms.is_empty() {
        output.text += &format!(
            "VMs to start with acrnctl then: {}\n",
            applied.vms.join(", ")
        );
    }
    for path in &applied.foreign {
        let path = path.display();
        output.remarks += &format!(
            "{path} was written by somebody else and stays as it is; compare it with the scenario\n"
        );
    }
    output.json["vms"] = json!(applied.vms);
    output.json["foreign"] = json!(applied.foreign);
    Ok(output)
}
