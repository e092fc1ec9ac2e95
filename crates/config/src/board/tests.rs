use super::*;
use crate::{BoardFile, presets};
use acrn_abi::Bdf;

fn board(text: &str) -> BoardFile {
    let file = BoardFile::parse("board.xml", text).unwrap();
    assert_eq!(file.findings, []);
    file
}

#[test]
fn a_board_is_written_back_byte_for_byte() {
    for text in [
        presets::QEMU_BOARD,
        presets::BOCHS_BOARD,
        presets::GENERIC_BOARD,
    ] {
        let mut file = board(text);
        file.update(&file.model.clone());
        assert_eq!(file.document.to_string(), text);
    }
}

#[test]
fn cpus_memory_and_serial_ports_are_found() {
    let generic = board(presets::GENERIC_BOARD).model;
    let cpus = generic.cpus();
    let kinds: Vec<_> = cpus
        .iter()
        .map(|cpu| (cpu.apic_id, cpu.kind.as_str()))
        .collect();
    assert_eq!(kinds[5..], [(10, "Core"), (16, "Atom"), (18, "Atom")]);
    assert_eq!(
        generic.ram()[2],
        Ram {
            start: 1 << 32,
            size: 14 << 30
        }
    );
    let places: Vec<_> = generic.ttys().into_iter().map(|tty| tty.place).collect();
    assert_eq!(
        places,
        [TtyPlace::Port(0x3f8), TtyPlace::Pci(Bdf::new(0, 0x1e, 0))]
    );
    assert!(generic.has_tpm2() && generic.has_cpu_capability("hwp_supported"));
    assert_eq!(generic.free_irqs()[..2], [3, 5]);
}

#[test]
fn pci_functions_are_found_behind_bridges_too() {
    let generic = board(presets::GENERIC_BOARD).model;
    let nic = generic.pci_function(Bdf::new(3, 0, 0)).unwrap();
    assert_eq!((nic.id(), nic.class()), (Some((0x8086, 0x15f2)), 0x0200));
    let bars: Vec<_> = nic
        .memory_bars()
        .map(|(number, bar)| (number, bar.len))
        .collect();
    assert_eq!(bars, [(0, Some(Hex(0x100000))), (3, Some(Hex(0x4000)))]);
    assert!(nic.has_capability("PTM"));
    assert_eq!(generic.pci_functions().len(), 9);
    assert_eq!(generic.pci_windows()[0], (0x8000_0000, 0xbfff_ffff));
}

#[test]
fn old_boards_have_texts_only() {
    let text = "<acrn-config board=\"old\"><CPU_PROCESSOR_INFO>0, 1</CPU_PROCESSOR_INFO>\
        <IOMEM_INFO>\n00100000-001fffff : System RAM\n  00100000-0010ffff : Kernel code\n\
        00200000-002fffff : Reserved\n</IOMEM_INFO></acrn-config>";
    let old = board(text).model;
    assert_eq!(old.cpus().len(), 2);
    assert_eq!(
        old.ram(),
        [Ram {
            start: 0x10_0000,
            size: 0x10_0000
        }]
    );
    assert_eq!(old.memory_size(), 0x10_0000);
}

#[test]
fn devices_of_the_root_of_the_acpi_namespace_are_known() {
    let outside = "<device id=\"PNP0C14\"><acpi_object>\\AMW0</acpi_object></device>";
    let text = presets::GENERIC_BOARD.replace("<devices>", &format!("<devices>{outside}"));
    let file = BoardFile::parse("board.xml", &text).unwrap();
    assert_eq!(file.findings, []);
    assert_eq!(file.model.devices.devices[0].acpi_object, ["\\AMW0"]);
}

#[test]
fn an_element_that_is_not_known_is_reported_once() {
    let text = presets::GENERIC_BOARD.replace("<core_type>", "<novelty>1</novelty><core_type>");
    let file = BoardFile::parse("board.xml", &text).unwrap();
    let found: Vec<_> = file
        .findings
        .iter()
        .map(|f| (f.rule, f.path.as_str()))
        .collect();
    let thread = "processors/die[1]/core[1]/thread[1]/novelty";
    let model = "processors/model[1]/novelty";
    assert_eq!(
        found,
        [("unknown-element", model), ("unknown-element", thread)]
    );
}
