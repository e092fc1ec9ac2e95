//! The functions and the interrupts that pass through, for the shell's `pt`.

use super::device::{Device, Owner};
use super::{FUNCTIONS, MAX_FUNCTIONS};
use crate::irq::{self, Source};
use acrn_abi::Bdf;
use acrn_vdev::interrupt::Delivery;
use arrayvec::ArrayVec;
use core::fmt::{Result, Write};

/// Vectors of one function that are shown.
const SHOWN: usize = 64;

struct Row {
    bdf: Bdf,
    id: (u16, u16),
    class: u32,
    owner: Owner,
    vectors: ArrayVec<(bool, u8, Option<Delivery>), SHOWN>,
}

impl Row {
    fn of(device: &Device) -> Self {
        Self {
            bdf: device.function.bdf(),
            id: (device.function.vendor(), device.function.device()),
            class: device.function.class(),
            owner: device.owner,
            vectors: device.vectors().take(SHOWN).collect(),
        }
    }
}

/// A copy, so that no lock is held while a slow console writes.
fn row(index: usize) -> Option<Row> {
    FUNCTIONS.lock().list.get(index).map(Row::of)
}

/// Shows every function with its owner, then each interrupt that is passed through: the host's
/// vector, and the guest's with the local APICs that it addresses.
///
/// # Errors
/// Those of `out`.
pub fn list(out: &mut dyn Write) -> Result {
    writeln!(out, "BDF      ID         CLASS   OWNER  VECTORS")?;
    for row in (0..MAX_FUNCTIONS).map_while(row) {
        let (vendor, device) = row.id;
        write!(
            out,
            "{}  {vendor:04x}:{device:04x}  {:06x}  ",
            row.bdf, row.class
        )?;
        match row.owner {
            Owner::Hypervisor => write!(out, "hv     ")?,
            Owner::Vm(id) => write!(out, "vm{:<5}", id.0)?,
        }
        match row.vectors.as_slice() {
            [] => writeln!(out, "-")?,
            [(table, ..), ..] => {
                let kind = if *table { "MSI-X" } else { "MSI" };
                writeln!(out, "{} {kind}", row.vectors.len())?;
            }
        }
    }
    writeln!(out, "\nVM  TYPE   IRQ   VEC   DEST      GSI  BDF")?;
    for row in (0..MAX_FUNCTIONS).map_while(row) {
        let Owner::Vm(vm) = row.owner else { continue };
        for (table, vector, delivery) in &row.vectors {
            let kind = if *table { "MSI-X" } else { "MSI" };
            write!(out, "{:<2}  {kind:5}  {vector:#04x}  ", vm.0)?;
            match delivery {
                Some(guest) => {
                    let mode = if guest.destination.logical { 'L' } else { 'P' };
                    let id = guest.destination.id;
                    write!(out, "{:#04x}  {mode}{id:<7x}  ", guest.vector.0)?;
                }
                None => write!(out, "-     -         ")?,
            }
            writeln!(out, "-    {}", row.bdf)?;
        }
    }
    let mut result = Ok(());
    irq::for_each(|vector, source| {
        if let Source::Pin { gsi, vm, .. } = source {
            let line = writeln!(
                out,
                "{:<2}  PIN    {vector:#04x}  -     -         {:<3}  -",
                vm.0, gsi.0
            );
            result = result.and(line);
        }
    });
    result
}
