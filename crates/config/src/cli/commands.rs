//! The commands that do something with files.

use super::args::Files;
use super::{Error, Output};
use crate::diff::{Difference, leaves};
use crate::model::Item;
use crate::tree::Tree;
use crate::validate::is_valid;
use crate::xml::Document;
use crate::{Board, BoardFile, Finding, Scenario, ScenarioFile, presets};
use acrn_config_blob::{Config, header};
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

pub(super) fn load(files: &Files) -> Result<(BoardFile, ScenarioFile), Error> {
    let board = BoardFile::load(&files.board)?;
    let scenario = ScenarioFile::load(&files.scenario)?;
    match is_board(&scenario.document) && !is_board(&board.document) {
        true => Err(Error::Swapped {
            first: board.name,
            second: scenario.name,
        }),
        false => Ok((board, scenario)),
    }
}

/// Whether a file says what a machine has. Both kinds have the same outermost element; older boards have
/// no element in common but those that a scenario cannot have.
pub(super) fn is_board(document: &Document) -> bool {
    let has = |schema: &[Item]| {
        let mut items = schema.iter();
        items.any(|item| document.root.child(item.name).is_some())
    };
    has(Board::schema()) && !has(Scenario::schema())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Io {
        file: path.display().to_string(),
        source,
    })
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|source| Error::Io {
        file: path.display().to_string(),
        source,
    })
}

/// Whether bytes are a binary configuration and not a text.
pub(super) fn is_config(bytes: &[u8]) -> bool {
    bytes.starts_with(&header::MAGIC)
}

pub(super) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Config<'a>, Error> {
    Config::parse(bytes).map_err(|source| Error::Config {
        file: path.display().to_string(),
        source: Box::new(source),
    })
}

fn text(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect()
}

pub(super) fn judged(findings: &[Finding]) -> Output {
    let list: Vec<_> = findings.iter().map(Finding::json).collect();
    let ok = is_valid(findings);
    Output {
        remarks: text(findings),
        json: json!({ "valid": ok, "findings": list }),
        ok,
        ..Output::default()
    }
}

/// Also allocates: that memory does not suffice is known only then.
pub(super) fn validate(files: &Files) -> Result<Output, Error> {
    let (board, scenario) = load(files)?;
    let findings = match crate::plan(&board, &scenario) {
        Ok((_, findings)) | Err(findings) => findings,
    };
    let mut output = judged(&findings);
    output.text = match output.ok {
        true => format!("{} is valid on {}\n", scenario.name, board.name),
        false => format!("{} is not valid on {}\n", scenario.name, board.name),
    };
    if !output.ok {
        output.remarks += &advice(scenario);
    }
    Ok(output)
}

/// What to do first about a scenario that is not valid because an older release wrote it.
fn advice(mut scenario: ScenarioFile) -> String {
    match crate::migrate::migrate(&mut scenario.document, None).len() {
        0 => String::new(),
        old => format!(
            "{name}: written for an older release of ACRN (a migration would change {old} places); \
             bring it up to date first: acrn-config migrate {name} --output NEW.xml\n",
            name = scenario.name
        ),
    }
}

pub(super) fn migrate(
    scenario: &Path,
    launch: Option<&Path>,
    output: Option<&Path>,
) -> Result<Output, Error> {
    let mut file = ScenarioFile::load(scenario)?;
    let launch = launch.map(ScenarioFile::load).transpose()?;
    let changes = crate::migrate::migrate(
        &mut file.document,
        launch.as_ref().map(|file| &file.document),
    );
    let name = output.map_or_else(|| file.name.clone(), |path| path.display().to_string());
    let new = file.document.to_string();
    let findings = ScenarioFile::parse(&name, &new)?.findings;
    if let Some(path) = output {
        write(path, new.as_bytes())?;
    }
    let mut remarks = String::new();
    for change in &changes {
        let _ = writeln!(
            remarks,
            "{}:{}: {}: {}",
            file.name, change.line, change.path, change.what
        );
    }
    let list: Vec<_> = changes
        .iter()
        .map(|change| json!({ "path": change.path, "line": change.line, "what": change.what }))
        .collect();
    let left: Vec<_> = findings.iter().map(Finding::json).collect();
    let text = if output.is_some() {
        format!("{} changes\n", changes.len())
    } else {
        new.clone()
    };
    let json = json!({ "changes": list, "findings": left, "scenario": new });
    Ok(Output {
        text,
        remarks: remarks + &self::text(&findings),
        json,
        ok: true,
    })
}

pub(super) fn allocate(files: &Files) -> Result<Output, Error> {
    let (board, scenario) = load(files)?;
    let (plan, findings) = match crate::plan(&board, &scenario) {
        Ok(planned) => planned,
        Err(findings) => return Ok(judged(&findings)),
    };
    let mut printed = String::new();
    let mut names: Vec<&str> = vec![crate::allocate::HYPERVISOR];
    names.extend(scenario.model.vms.iter().map(|vm| vm.name.as_str()));
    for name in names {
        let _ = writeln!(printed, "{name}");
        for decision in plan
            .decisions
            .iter()
            .filter(|decision| decision.who == name)
        {
            let _ = writeln!(
                printed,
                "  {}: {} ({})",
                decision.what, decision.value, decision.why
            );
        }
    }
    let list: Vec<_> = plan
        .decisions
        .iter()
        .map(|d| json!({ "for": d.who, "what": d.what, "value": d.value, "why": d.why }))
        .collect();
    Ok(Output {
        text: printed,
        json: json!({ "decisions": list }),
        ..judged(&findings)
    })
}

pub(super) fn build(files: &Files, output: &Path) -> Result<Output, Error> {
    let (board, scenario) = load(files)?;
    let built = match crate::build(&board, &scenario) {
        Ok(built) => built,
        Err(findings) => return Ok(judged(&findings)),
    };
    write(output, &built.blob)?;
    let path = output.display().to_string();
    let mut result = judged(&built.findings);
    result.text = format!(
        "{path}: {} bytes for {} VMs\n",
        built.blob.len(),
        scenario.model.vms.len()
    );
    result.json["output"] = json!(path);
    result.json["bytes"] = json!(built.blob.len());
    Ok(result)
}

pub(super) fn launch(files: &Files, directory: &Path, installed_in: &str) -> Result<Output, Error> {
    let (board, scenario) = load(files)?;
    let (plan, findings) = match crate::plan(&board, &scenario) {
        Ok(planned) => planned,
        Err(findings) => return Ok(judged(&findings)),
    };
    let all = crate::launch::launch(&board.model, &scenario.model, &plan, installed_in)?;
    let mut paths = Vec::new();
    for vm in &all {
        let script = directory.join(vm.script_name());
        write(&script, vm.script.as_bytes())?;
        make_executable(&script)?;
        let definition = directory.join(vm.definition_name());
        write(&definition, vm.definition.as_bytes())?;
        paths.extend([script, definition].map(|path| path.display().to_string()));
    }
    if let Some(ports) = crate::launch::serial_conf(&scenario.model, &plan) {
        let path = directory.join("serial.conf");
        write(&path, ports.as_bytes())?;
        paths.push(path.display().to_string());
    }
    let text = paths.iter().map(|path| format!("{path}\n")).collect();
    let mut output = judged(&findings);
    output.json["files"] = json!(paths);
    Ok(Output { text, ..output })
}

fn make_executable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|source| Error::Io {
        file: path.display().to_string(),
        source,
    })
}

pub(super) fn completion(shell: clap_complete::Shell) -> Output {
    let mut script = Vec::new();
    let mut command = <super::args::Args as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "acrn-config", &mut script);
    let text = String::from_utf8_lossy(&script).into_owned();
    Output {
        json: json!({ "script": text }),
        text,
        ok: true,
        ..Output::default()
    }
}

pub(super) fn inspect(path: &Path) -> Result<Output, Error> {
    let bytes = read(path)?;
    let tree = Tree::of_config(&parse(path, &bytes)?);
    Ok(Output {
        text: tree.lines(),
        json: tree.json(),
        ok: true,
        ..Output::default()
    })
}

/// Names and values of whatever a file is.
fn values(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let bytes = read(path)?;
    if is_config(&bytes) {
        return Ok(Tree::of_config(&parse(path, &bytes)?).leaves());
    }
    let document = ScenarioFile::load(path)?.document;
    let schema = match is_board(&document) {
        true => Board::schema(),
        false => Scenario::schema(),
    };
    Ok(leaves(&document.root, schema))
}

pub(super) fn diff(first: &Path, second: &Path) -> Result<Output, Error> {
    let differences = crate::diff::diff(&values(first)?, &values(second)?);
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".to_owned());
    let line = |d: &Difference| format!("{}: {} | {}\n", d.path, shown(&d.first), shown(&d.second));
    let list: Vec<_> = differences
        .iter()
        .map(|d| json!({ "path": d.path, "first": d.first, "second": d.second }))
        .collect();
    let text = differences.iter().map(line).collect();
    Ok(Output {
        text,
        json: json!({ "differences": list }),
        ok: true,
        ..Output::default()
    })
}

pub(super) fn preset(name: Option<&str>, directory: &Path) -> Result<Output, Error> {
    let Some(name) = name else {
        return Ok(list_presets());
    };
    let preset = presets::preset(name).ok_or_else(|| Error::NoPreset(name.to_owned()))?;
    let files = [
        (directory.join("board.xml"), preset.board),
        (directory.join(format!("{name}.xml")), preset.scenario),
    ];
    for (path, contents) in &files {
        // A board that is there already may be the same: several presets are for one.
        let there = fs::read(path).is_ok_and(|old| old != contents.as_bytes());
        if there {
            return Err(Error::Exists(path.display().to_string()));
        }
    }
    for (path, contents) in &files {
        write(path, contents.as_bytes())?;
    }
    let paths: Vec<_> = files
        .iter()
        .map(|(path, _)| path.display().to_string())
        .collect();
    Ok(Output {
        text: paths.join("\n") + "\n",
        json: json!({ "files": paths }),
        ok: true,
        ..Output::default()
    })
}

fn list_presets() -> Output {
    let line = |preset: &presets::Preset| format!("{:<16} {}\n", preset.name, preset.help);
    let list: Vec<_> = presets::PRESETS
        .iter()
        .map(|p| json!({ "name": p.name, "help": p.help }))
        .collect();
    let text = presets::PRESETS.iter().map(line).collect();
    Output {
        text,
        json: json!({ "presets": list }),
        ok: true,
        ..Output::default()
    }
}
