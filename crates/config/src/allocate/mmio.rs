//! Windows of devices without PCI.

use super::Notes;
use crate::Board;
use crate::board::{Node, Ram};
use crate::scenario::Vm;
use acrn_abi::{Bdf, Gpa, Hpa};
use acrn_config_blob::{LoadOrder, MmioDevice, MmioKind};

/// Where a VM sees the P2SB bridge: below the I/O APIC, where nothing else is.
const P2SB_GPA: u64 = 0xfd00_0000;

/// The window of the board's TPM 2.0.
pub fn tpm2_window(board: &Board) -> Option<Ram> {
    board
        .devices
        .buses
        .iter()
        .find_map(|bus| find(bus, "MSFT0101"))
        .and_then(window)
}

fn find<'a>(node: &'a Node, id: &str) -> Option<&'a Node> {
    if node.id.as_deref() == Some(id) {
        return Some(node);
    }
    node.devices
        .iter()
        .chain(&node.buses)
        .find_map(|below| find(below, id))
}

/// The window of the board's P2SB bridge.
pub fn p2sb_window(board: &Board) -> Option<Ram> {
    board
        .pci_function(Bdf::new(0, 0x1f, 1))
        .and_then(|function| window(function.node))
}

fn window(node: &Node) -> Option<Ram> {
    let memory = node
        .resources
        .iter()
        .find(|resource| resource.kind == "memory")?;
    let (start, size) = (memory.min?.0, memory.len?.0);
    let pages = (start | size) % 0x1000 == 0 && size > 0 && start.checked_add(size).is_some();
    pages.then_some(Ram { start, size })
}

/// The devices without PCI of a VM.
pub(super) fn devices(vm: &Vm, board: &Board, notes: &mut Notes) -> Vec<MmioDevice> {
    let mut devices = Vec::new();
    let mut add = |kind, window: Option<Ram>, gpa: Option<u64>, why: &str| {
        if let Some(window) = window {
            let gpa = gpa.unwrap_or(window.start);
            notes.add(&vm.name, "MMIO device", format!("{kind} at {gpa:#x}"), why);
            devices.push(MmioDevice {
                kind,
                gpa: Gpa(gpa),
                hpa: Hpa(window.start),
                size: window.size,
            });
        }
    };
    if vm.load_order == LoadOrder::PreLaunched && vm.mmio_resources.tpm2 {
        add(
            MmioKind::Tpm2,
            tpm2_window(board),
            None,
            "drivers expect it there",
        );
    }
    if vm.load_order == LoadOrder::PreLaunched && vm.mmio_resources.p2sb {
        add(
            MmioKind::P2sb,
            p2sb_window(board),
            Some(P2SB_GPA),
            "free in every VM",
        );
    }
    devices
}
