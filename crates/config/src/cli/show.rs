//! The commands that show and explain.

use super::{Error, Output};
use crate::model::{Choice, Item, Kind, Occurs, OptionsFrom, Place, View};
use crate::validate::megabytes;
use crate::{Board, BoardFile, Scenario, ScenarioFile};
use acrn_config_blob::LoadOrder;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

pub(super) fn show(path: &Path) -> Result<Output, Error> {
    let bytes = super::commands::read(path)?;
    if super::commands::is_config(&bytes) {
        let config = super::commands::parse(path, &bytes)?;
        return Ok(config_summary(&config));
    }
    let file = ScenarioFile::load(path)?;
    if super::commands::is_board(&file.document) {
        return Ok(board_summary(&BoardFile::load(path)?.model));
    }
    Ok(scenario_summary(&file.model))
}

fn board_summary(board: &Board) -> Output {
    let name = board.name.clone().unwrap_or_default();
    let (cpus, functions, ttys) = (board.cpus(), board.pci_functions(), board.ttys());
    let mut text = format!(
        "board {name}: {} CPUs, {} MiB of RAM\n",
        cpus.len(),
        board.memory_size() >> 20
    );
    for cpu in &cpus {
        let _ = writeln!(
            text,
            "  CPU {}: APIC {:#x} {}",
            cpu.id, cpu.apic_id, cpu.kind
        );
    }
    for ram in board.ram() {
        let _ = writeln!(text, "  RAM {:#x} to {:#x}", ram.start, ram.end());
    }
    for tty in &ttys {
        let _ = writeln!(text, "  serial port {}", tty.path);
    }
    for function in &functions {
        let description = function.node.description.as_deref().unwrap_or_default();
        let _ = writeln!(text, "  PCI {description}");
    }
    let cpus: Vec<_> = cpus
        .iter()
        .map(|cpu| json!({ "id": cpu.id, "apic_id": cpu.apic_id, "kind": cpu.kind }))
        .collect();
    let pci: Vec<_> = functions
        .iter()
        .map(|f| json!({ "bdf": f.bdf.to_string(), "id": f.id(), "description": f.node.description }))
        .collect();
    let ttys: Vec<_> = ttys.into_iter().map(|tty| tty.path).collect();
    let json = json!({
        "board": name, "cpus": cpus, "memory": board.memory_size(), "pci_devices": pci, "serial_ports": ttys,
    });
    Output {
        text,
        json,
        ok: true,
        ..Output::default()
    }
}

fn scenario_summary(scenario: &Scenario) -> Output {
    let (name, board) = (
        scenario.name.clone().unwrap_or_default(),
        scenario.board.clone(),
    );
    let mut text = format!(
        "scenario {name} for board {}\n",
        board.clone().unwrap_or_default()
    );
    let mut vms = Vec::new();
    for vm in &scenario.vms {
        let cpus: Vec<_> = vm.cpu_affinity.pcpus.iter().map(|pcpu| pcpu.id).collect();
        let service = vm.load_order == LoadOrder::Service;
        let memory = (!service).then(|| megabytes(vm));
        let _ = write!(
            text,
            "  VM {} {}: {}, {}",
            vm.id, vm.name, vm.load_order, vm.kind
        );
        let _ = match memory {
            Some(memory) => writeln!(text, ", CPUs {cpus:?}, {memory} MiB"),
            None => writeln!(text, ", what the others leave"),
        };
        vms.push(json!({
            "id": vm.id, "name": vm.name, "load_order": vm.load_order.name(), "type": vm.kind.name(),
            "cpus": cpus, "memory_mib": memory,
        }));
    }
    let json = json!({ "scenario": name, "board": board, "vms": vms });
    Output {
        text,
        json,
        ok: true,
        ..Output::default()
    }
}

fn config_summary(config: &acrn_config_blob::Config<'_>) -> Output {
    let (scenario, board) = (config.board.scenario.as_str(), config.board.name.as_str());
    let mut text = format!("configuration of scenario {scenario} for board {board}\n");
    let mut vms = Vec::new();
    for vm in config.vms.iter() {
        let cpus: Vec<_> = vm.vcpus.iter().map(|vcpu| vcpu.pcpu.0).collect();
        let memory = vm.memory_size >> 20;
        let _ = writeln!(
            text,
            "  VM {} {}: {}, {}, CPUs {cpus:?}, {memory} MiB",
            vm.id, vm.name, vm.load_order, vm.kind
        );
        vms.push(json!({
            "id": vm.id.0, "name": vm.name.as_str(), "load_order": vm.load_order.name(),
            "type": vm.kind.name(), "cpus": cpus, "memory_mib": memory,
        }));
    }
    let json = json!({ "scenario": scenario, "board": board, "vms": vms });
    Output {
        text,
        json,
        ok: true,
        ..Output::default()
    }
}

/// The elements at and below `path`, or all.
pub(super) fn elements(path: Option<&str>, board: bool) -> Output {
    let items = if board {
        Board::schema()
    } else {
        Scenario::schema()
    };
    let mut found = Vec::new();
    // The devices of a board are within each other without end.
    let depth = if board { 4 } else { 16 };
    collect(items, "", depth, &mut found);
    let wanted = path.map(|path| path.trim_matches('/'));
    let is_wanted = |path: &str| match wanted {
        Some(wanted) => {
            path == wanted
                || path
                    .strip_prefix(wanted)
                    .is_some_and(|rest| rest.starts_with(['/', '@']))
        }
        None => true,
    };
    found.retain(|(path, _)| is_wanted(path));
    let text = found
        .iter()
        .map(|(path, item)| explain(path, item))
        .collect();
    let list: Vec<_> = found
        .iter()
        .map(|(path, item)| describe(path, item))
        .collect();
    let ok = !found.is_empty();
    let remarks = if ok {
        String::new()
    } else {
        format!("error: there is no element {}\n", path.unwrap_or_default())
    };
    Output {
        text,
        remarks,
        json: json!({ "elements": list }),
        ok,
    }
}

fn collect(
    items: &'static [Item],
    path: &str,
    depth: usize,
    found: &mut Vec<(String, &'static Item)>,
) {
    for item in items
        .iter()
        .filter(|item| depth > 0 && (!item.name.is_empty() || item.place == Place::Text))
    {
        let path = match (item.place, path) {
            (Place::Attribute, _) => format!("{path}@{}", item.name),
            (Place::Text, _) => format!("{path}/text()"),
            (Place::Element, "") => item.name.to_owned(),
            (Place::Element, _) => format!("{path}/{}", item.name),
        };
        found.push((path.clone(), item));
        collect(item.children(), &path, depth - 1, found);
    }
}

fn explain(path: &str, item: &Item) -> String {
    let mut text = format!("{path}: {}\n    {}\n", item.title, item.help);
    let facts = [
        ("values", values(item)),
        ("default", item.default.to_owned()),
        ("unit", item.unit.to_owned()),
        ("for", vms(item)),
        ("note", notes(item)),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "    {name}: {value}");
    }
    text
}

fn values(item: &Item) -> String {
    match (item.kind, item.range) {
        (Kind::Flag, _) => "y or n".to_owned(),
        (Kind::Number, Some((least, greatest))) => format!("{least} to {greatest}"),
        (Kind::Hex, _) => "hexadecimal, such as 0x2000".to_owned(),
        (Kind::Choice(choices), _) => choices
            .iter()
            .map(|choice| choice.word)
            .collect::<Vec<_>>()
            .join(", "),
        (Kind::Bdf, _) => "bus:device.function, such as 00:1f.3".to_owned(),
        _ => item.pattern.check("\n\n").err().unwrap_or_default(),
    }
}

fn vms(item: &Item) -> String {
    let applies = item.applies;
    let names = [
        (applies.pre, "pre-launched"),
        (applies.service, "service"),
        (applies.post, "post-launched"),
    ];
    if names.iter().all(|(has, _)| *has) {
        return String::new();
    }
    let names: Vec<_> = names
        .iter()
        .filter(|(has, _)| *has)
        .map(|(_, name)| *name)
        .collect();
    format!("{} VMs", names.join(" and "))
}

fn notes(item: &Item) -> String {
    let notes = [
        (item.required, "required"),
        (item.occurs == Occurs::Many, "any number of times"),
        (item.view == View::Advanced, "advanced"),
        (item.view == View::Hidden, "rarely needed"),
        (item.ours, "an extension of this project"),
    ];
    let notes: Vec<_> = notes
        .iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, note)| *note)
        .collect();
    notes.join(", ")
}

fn describe(path: &str, item: &Item) -> Value {
    let kind = match item.kind {
        Kind::Flag => "flag",
        Kind::Number => "number",
        Kind::Hex => "hex",
        Kind::Text => "text",
        Kind::Choice(_) => "choice",
        Kind::Bdf => "bdf",
        Kind::Device => "device",
        Kind::Group(_) => "group",
        Kind::Anything => "anything",
    };
    let choices: Vec<_> = match item.kind {
        Kind::Choice(choices) => choices
            .iter()
            .map(|Choice { word, title }| json!({ "word": word, "title": title }))
            .collect(),
        _ => Vec::new(),
    };
    let options = match item.options {
        OptionsFrom::Kind => Value::Null,
        other => json!(format!("{other:?}")),
    };
    json!({
        "path": path, "title": item.title, "help": item.help, "kind": kind, "choices": choices,
        "options_from": options, "default": item.default, "unit": item.unit, "range": item.range,
        "occurs": format!("{:?}", item.occurs), "view": format!("{:?}", item.view),
        "required": item.required, "extension": item.ours,
        "vms": { "pre_launched": item.applies.pre, "service": item.applies.service, "post_launched": item.applies.post },
    })
}

/// The rules.
pub(super) fn rules() -> Output {
    let all: Vec<_> = crate::validate::rules().collect();
    let line = |rule: &&crate::validate::Rule| {
        format!(
            "{} ({}): {}\n    {}\n",
            rule.id,
            rule.severity.name(),
            rule.text,
            rule.remedy
        )
    };
    let list: Vec<_> = all
        .iter()
        .map(|r| json!({ "id": r.id, "severity": r.severity.name(), "text": r.text, "remedy": r.remedy }))
        .collect();
    let text = all.iter().map(line).collect();
    Output {
        text,
        json: json!({ "rules": list }),
        ok: true,
        ..Output::default()
    }
}
