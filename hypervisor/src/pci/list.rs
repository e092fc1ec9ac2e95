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
/// vector, and the guest's with the local APICs that it addresses. Lines end as a terminal wants.
///
/// # Errors
/// Those of `out`.
pub fn list(out: &mut dyn Write) -> Result {
    write!(out, "BDF      ID         CLASS   OWNER  VECTORS\r\n")?;
    for row in (0..MAX_FUNCTIONS).map_while(row) {
        function(out, &row)?;
    }
    write!(out, "VM  TYPE   IRQ   VEC   DEST      GSI  BDF\r\n")?;
    for row in (0..MAX_FUNCTIONS).map_while(row) {
        messages(out, &row)?;
    }
    let mut result = Ok(());
    irq::for_each(|vector, source| {
        if let Source::Pin { gsi, vm, .. } = source {
            let line = write!(
                out,
                "{:<2}  PIN    {vector:#04x}  -     -         {:<3}  -\r\n",
                vm.0, gsi.0
            );
            result = result.and(line);
        }
    });
    result
}

fn function(out: &mut dyn Write, row: &Row) -> Result {
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
    match row.vectors.first() {
        None => write!(out, "-\r\n"),
        Some((table, ..)) => write!(out, "{} {}\r\n", row.vectors.len(), kind(*table)),
    }
}

fn kind(table: bool) -> &'static str {
    if table { "MSI-X" } else { "MSI" }
}

fn messages(out: &mut dyn Write, row: &Row) -> Result {
    let Owner::Vm(vm) = row.owner else {
        return Ok(());
    };
    for (table, vector, delivery) in &row.vectors {
        write!(out, "{:<2}  {:5}  {vector:#04x}  ", vm.0, kind(*table))?;
        match delivery {
            Some(guest) => {
                let mode = if guest.destination.logical { 'L' } else { 'P' };
                let id = guest.destination.id;
                write!(out, "{:#04x}  {mode}{id:<7x}  ", guest.vector.0)?;
            }
            None => write!(out, "-     -         ")?,
        }
        write!(out, "-    {}\r\n", row.bdf)?;
    }
    Ok(())
}
