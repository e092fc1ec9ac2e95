//! The picture shows what there is, once, and where something is wrong.

use super::*;
use crate::document::Edit;
use acrn_config::presets::{GENERIC_BOARD, QEMU_BOARD, preset};

fn drawn(document: &Document) -> String {
    picture(document, 4).into_string()
}

#[test]
fn every_cpu_device_and_vm_is_drawn_once() {
    let document = Document::new(GENERIC_BOARD, preset("generic").unwrap()).unwrap();
    let picture = drawn(&document);
    let board = &document.board().model;
    for cpu in board.cpus() {
        let kind = if cpu.kind == "Atom" { "E" } else { "P" };
        assert_eq!(
            picture.matches(&format!(">CPU {} {kind}<", cpu.id)).count(),
            1
        );
    }
    for function in board.pci_functions() {
        assert_eq!(picture.matches(&format!(">{}<", function.bdf)).count(), 1);
    }
    for (index, vm) in document.scenario().model.vms.iter().enumerate() {
        assert_eq!(
            picture.matches(&format!(">VM{index} {}<", vm.name)).count(),
            1
        );
    }
    assert!(!picture.contains("conflict"));
}

#[test]
fn a_conflict_is_marked_at_the_cpu_and_device() {
    let mut document = Document::new(QEMU_BOARD, preset("shared").unwrap()).unwrap();
    document
        .apply(
            &Edit::Cpu {
                vm: 1,
                cpu: 3,
                on: true,
            },
            false,
        )
        .unwrap();
    assert!(
        drawn(&document).contains("<g class=\"conflict\""),
        "a real-time VM shares CPU 3"
    );
    document.undo();
    for vm in [1, 3] {
        let edit = Edit::Device {
            vm,
            bdf: "00:03.0".to_owned(),
            on: true,
        };
        document.apply(&edit, false).unwrap();
    }
    let picture = drawn(&document);
    assert!(picture.contains("VM1 VM3") && picture.contains("<g class=\"conflict\""));
}

#[test]
fn blocks_wrap_where_there_is_no_room() {
    let cells = || vec![Block::cell(40.0, vec![Line::new("a")], ""); 4];
    let wide = Block::row(cells()).laid_out(400.0);
    let narrow = Block::row(cells()).laid_out(100.0);
    assert!(narrow.height > wide.height && narrow.width <= 100.0);
}

#[test]
fn sizes_are_read_by_people() {
    let sizes = [0, 1023, 1 << 20, 3 << 29].map(size);
    assert_eq!(sizes, ["0 bytes", "1023 bytes", "1 MiB", "1.5 GiB"]);
}
