//! Everything on one page, for the record: to be printed, or kept beside the configuration.

use super::editor::{COLUMNS_WIDE, kind};
use super::layout::{Theme, page};
use crate::document::Document;
use crate::picture::{picture, size};
use acrn_config::Scenario;
use acrn_config::allocate::Decision;
use acrn_config::board::Board;
use acrn_config::diff::leaves;
use acrn_config::scenario::Vm;
use acrn_config::validate::megabytes;
use acrn_config_blob::LoadOrder;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// As a page of the editor.
pub fn summary(document: &Document, id: u32) -> Markup {
    let body = html! {
        header.bar.no-print { a.button href={ "/d/" (id) "/outputs" } { "Back" } span.spacer {} button #print.primary type="button" { "Print" } }
        main.summary { (contents(document)) }
    };
    page(document.name(), Theme::Light, &body)
}

/// As a file that needs nothing else.
pub fn standalone(document: &Document) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" data-theme="light" {
            head {
                meta charset="utf-8";
                title { (document.name()) }
                style { (PreEscaped(crate::server::STYLE)) }
            }
            body { main.summary { (contents(document)) } }
        }
    };
    page.into_string()
}

fn contents(document: &Document) -> Markup {
    let scenario = &document.scenario().model;
    html! {
        h1 { (document.name()) }
        p.quiet { "Configuration for the ACRN hypervisor, made by acrn-configurator " (env!("CARGO_PKG_VERSION")) }
        dl.facts {
            @for (name, value) in identity(&document.board().model) { dt { (name) } dd { (value) } }
            @if let Some(made) = document.made() {
                dt { "Configuration" } dd { (size(made.built.blob.len() as u64)) ", FNV-1a " code { (format!("{:016x}", digest(&made.built.blob))) } }
            }
        }
        (picture(document, COLUMNS_WIDE))
        h2 { "Virtual machines" }
        (vms(scenario))
        @if !document.findings().is_empty() {
            h2 { "Remarks" }
            ul { @for finding in document.findings() { li { (finding.message) " (" code { (finding.rule) } ")" } } }
        }
        @if let Some(made) = document.made() {
            h2 { "What was decided" }
            (decisions(&made.built.plan.decisions))
        }
        h2 { "All settings" }
        (settings(document))
    }
}

/// What a board is called, and its main figures.
pub fn identity(board: &Board) -> Vec<(&'static str, String)> {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let model = board
        .processors
        .models
        .first()
        .and_then(|model| model.description.clone());
    let brand = Some(words(&board.cpu_brand)).filter(|brand| !brand.is_empty());
    let facts = [
        ("Board", board.name.clone().unwrap_or_default()),
        ("Processor", model.or(brand).unwrap_or_default()),
        ("CPUs", board.cpus().len().to_string()),
        ("Memory", size(board.memory_size())),
        ("Base board", words(&board.base_board_info)),
        ("Firmware", words(&board.bios_info)),
    ];
    facts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn vms(scenario: &Scenario) -> Markup {
    html! {
        table.grid {
            thead { tr { th { "VM" } th { "Name" } th { "Kind" } th { "CPUs" } th { "Memory" } th { "Devices" } } }
            tbody {
                @for (index, vm) in scenario.vms.iter().enumerate() {
                    tr {
                        td { span class={ "swatch vm-" (index) } {} " " (index) }
                        td { (vm.name) }
                        td { (kind(vm)) }
                        td { (cpus(vm)) }
                        td { (memory(vm)) }
                        td { @for device in devices(vm) { div { (device) } } }
                    }
                }
            }
        }
    }
}

fn cpus(vm: &Vm) -> String {
    if vm.load_order == LoadOrder::Service {
        return "all that are left".to_owned();
    }
    let pcpu = |pcpu: &acrn_config::scenario::Pcpu| match pcpu.real_time {
        true => format!("{} (real-time)", pcpu.id),
        false => pcpu.id.to_string(),
    };
    vm.cpu_affinity
        .pcpus
        .iter()
        .map(pcpu)
        .collect::<Vec<_>>()
        .join(", ")
}

fn memory(vm: &Vm) -> String {
    match vm.load_order {
        LoadOrder::Service => "all that is left".to_owned(),
        _ => size(u64::try_from(megabytes(vm)).unwrap_or(0) << 20),
    }
}

fn devices(vm: &Vm) -> Vec<String> {
    let virtio = &vm.virtio_devices;
    let passed = vm.pci_devs.list.iter().map(|device| device.text.clone());
    let disks = virtio.blocks.iter().map(|path| format!("disk {path}"));
    let cards = virtio
        .networks
        .iter()
        .map(|card| format!("network {}", card.interface));
    let consoles = virtio.consoles.iter().map(|_| "virtio console".to_owned());
    let graphics = virtio.gpu.iter().map(|_| "graphics".to_owned());
    passed
        .chain(disks)
        .chain(cards)
        .chain(consoles)
        .chain(graphics)
        .collect()
}

/// What was decided, for whom, and why.
pub fn decisions(decisions: &[Decision]) -> Markup {
    html! {
        table.grid {
            thead { tr { th { "For" } th { "What" } th { "Decision" } th { "Why" } } }
            tbody {
                @for decision in decisions {
                    tr { td { (decision.who) } td { (decision.what) } td { code { (decision.value) } } td.quiet { (decision.why) } }
                }
            }
        }
    }
}

/// Every value that is in the scenario's file.
fn settings(document: &Document) -> Markup {
    let leaves = leaves(&document.scenario().document.root, Scenario::schema());
    html! {
        table.grid.settings {
            tbody { @for (path, value) in &leaves { tr { td { code { (path) } } td { (value) } } } }
        }
    }
}

/// Tells one configuration from another.
fn digest(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}
