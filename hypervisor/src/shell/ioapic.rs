//! Redirection entries of I/O APICs: a VM's, and the host's.

use super::say;
use crate::arch::ioapic;
use crate::iommu;
use acrn_abi::{Gsi, VmId};
use acrn_vdev::interrupt::Destination;
use acrn_vdev::ioapic::Rte;
use core::fmt::Write;

fn heading(last: &str) {
    say(format_args!(
        "GSI  VECTOR  MODE             TRIGGER  POLARITY  IRR  MASK  {last}DESTINATION"
    ));
}

/// One line; `line` is whether the pin is asserted, where that is known.
fn entry(gsi: u32, rte: Rte, destination: Destination, line: Option<bool>) {
    let mut mode = arrayvec::ArrayString::<16>::new();
    let _ = write!(mode, "{:?}", rte.mode());
    let mut level = arrayvec::ArrayString::<8>::new();
    if let Some(asserted) = line {
        let _ = write!(level, "{:<6}", u8::from(asserted));
    }
    say(format_args!(
        "{gsi:<5}{:#04x}    {mode:<17}{:<9}{:<10}{:<5}{:<6}{level}{:?}",
        rte.vector().0,
        if rte.level() { "level" } else { "edge" },
        if rte.active_low() { "low" } else { "high" },
        u8::from(rte.remote_irr()),
        u8::from(rte.masked()),
        destination
    ));
}

/// A VM's. One pin at a time under the lock, which the VM's CPUs need too.
pub(super) fn guest(id: VmId) {
    let Some(vm) = super::guests::existing(id) else {
        return;
    };
    heading("LINE  ");
    for number in 0..ioapic::MAX_IOAPICS {
        for pin in 0..=u8::MAX {
            let found = vm.ioapics.lock().get(number).and_then(|(_, device)| {
                let gsi = device.gsi_base().0 + u32::from(pin);
                Some((gsi, device.rte(pin)?, device.is_asserted(pin)))
            });
            let Some((gsi, rte, asserted)) = found else {
                break;
            };
            entry(gsi, rte, rte.destination(), Some(asserted));
        }
    }
}

/// The host's. Where interrupts are remapped, the destination is in the IOMMU's table.
pub(super) fn host() {
    heading("");
    for controller in ioapic::controllers() {
        for gsi in controller.gsi_base..controller.gsi_base + controller.pins {
            if let Some(raw) = ioapic::read_entry(Gsi(gsi)) {
                let remapped = iommu::receiver(raw).map(|id| Destination { id, logical: false });
                let rte = Rte(raw);
                entry(gsi, rte, remapped.unwrap_or(rte.destination()), None);
            }
        }
    }
}
