//! The Service VM's serial ports that Linux does not look for, in the form of `setserial`'s
//! `/etc/serial.conf`.

use crate::Scenario;
use acrn_config_blob::{Vuart, VuartKind};
use std::fmt::Write as _;

/// Linux finds these by itself.
const COM_PORTS: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];
/// Ports begin here, as ACRN's do.
const FIRST: usize = 8;

/// The file; nothing where there are no such ports.
pub(super) fn serial_conf(scenario: &Scenario, vuarts: &[Vuart]) -> Option<String> {
    let legacy = vuarts
        .iter()
        .filter(|vuart| vuart.kind == VuartKind::Legacy);
    let mut ports: Vec<&Vuart> = legacy
        .filter(|vuart| !COM_PORTS.contains(&vuart.port))
        .collect();
    ports.sort_by_key(|vuart| vuart.port);
    let mut text = String::new();
    for (number, vuart) in (FIRST..).zip(&ports) {
        let other = vuart.target.map(|target| usize::from(target.vm.0));
        let other = other.and_then(|vm| scenario.vms.get(vm));
        let name = other.map_or("nobody", |vm| vm.name.as_str());
        let (port, irq) = (vuart.port, vuart.irq);
        let _ = writeln!(
            text,
            "# to {name}\n/dev/ttyS{number} port {port:#X} irq {irq} uart 16550A baud_base 115200"
        );
    }
    (!text.is_empty()).then_some(text)
}
