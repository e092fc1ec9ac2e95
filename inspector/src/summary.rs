//! What was found, in short, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::inspect::Inspection;

const MIB: u64 = 1 << 20;

pub(crate) fn text(inspection: &Inspection) -> String {
    let board = &inspection.board.model;
    let word = |text: &str| text.trim().trim_matches('"').to_owned();
    let mut summary = String::new();
    let rows = [
        ("processor", word(&board.cpu_brand)),
        ("CPUs", board.cpus().len().to_string()),
        ("memory", format!("{} MiB", board.memory_size() / MIB)),
        ("caches", board.caches.list.len().to_string()),
        ("I/O APICs", board.ioapics.list.len().to_string()),
        ("IOMMUs", inspection.iommus.count().to_string()),
        ("PCI functions", board.pci_functions().len().to_string()),
        ("serial ports", board.ttys().len().to_string()),
    ];
    for (name, value) in rows {
        let _ = writeln!(summary, "{name:<14} {value}");
    }
    for gap in &inspection.gaps {
        let _ = writeln!(
            summary,
            "not read: {}: {}\n    {}",
            gap.what, gap.reason, gap.meaning
        );
    }
    summary
}

pub(crate) fn json(inspection: &Inspection) -> Value {
    let board = &inspection.board.model;
    let functions = board.pci_functions();
    let functions = functions.iter().map(|function| {
        json!({ "place": function.bdf.to_string(), "description": function.node.description })
    });
    json!({
        "processor": board.cpu_brand.trim().trim_matches('"'),
        "cpus": board.cpus().iter().map(|cpu| json!({ "id": cpu.id, "apic_id": cpu.apic_id })).collect::<Vec<_>>(),
        "memory": board.memory_size(),
        "caches": board.caches.list.len(),
        "io_apics": board.ioapics.list.len(),
        "iommus": inspection.iommus.count(),
        "pci_functions": functions.collect::<Vec<_>>(),
        "serial_ports": board.ttys().iter().map(|tty| tty.path.clone()).collect::<Vec<_>>(),
        "not_read": inspection.gaps,
    })
}
