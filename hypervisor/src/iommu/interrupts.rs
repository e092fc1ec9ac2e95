//! Interrupt remapping: a device raises the interrupts that were given to it, and no others.
//!
//! One table serves all units: its entries name the function that may use them, and are numbered as the host's
//! vectors, which one allocator gives out for all devices ([`crate::irq`]). Messages of the older format, which any
//! device can write, pass nowhere.
//!
//! It is all or nothing. Where a unit cannot do it, or an I/O APIC sends under an unknown number, interrupts go as on a
//! machine without remapping.

use super::UNITS;
use super::vtd::{self, Unit};
use crate::arch::{apic, cpu, ioapic};
use crate::boot;
use crate::memory::Frames;
use acrn_abi::{Bdf, Gsi, Hpa, Vector};
use acrn_acpi::dmar::Dmar;
use acrn_memory::FrameStore;
use acrn_vdev::pci::MsiMessage;
use acrn_vtd::{InterruptEntry, Missing, Route};
use core::fmt;

/// The table.
#[derive(Clone, Copy, Debug)]
pub struct Table(Hpa);

impl Table {
    /// Where it is.
    pub fn address(&self) -> Hpa {
        self.0
    }

    /// Writes an entry so that a unit never sees half of it; `false` when it was like that.
    fn set(&self, number: Vector, entry: InterruptEntry) -> bool {
        let (index, [low, high]) = (2 * usize::from(number.0), entry.0);
        if [Frames.read(self.0, index), Frames.read(self.0, index + 1)] == [low, high] {
            return false;
        }
        // Only the lower word changes while an entry is in use: the same sender has it.
        if Frames.read(self.0, index + 1) != high {
            Frames.write(self.0, index, 0);
            Frames.write(self.0, index + 1, high);
        }
        Frames.write(self.0, index, low);
        cpu::write_back(Hpa(self.0.get() + 8 * index as u64));
        true
    }
}

/// Why interrupts are not remapped.
#[derive(Clone, Copy, Debug)]
enum Refused {
    /// The firmware does not want it.
    Firmware,
    /// No unit says who this I/O APIC is.
    IoApic(u8),
    /// A unit lacks something.
    Unit(Hpa, Missing),
    /// A unit does not work.
    Broken(Hpa, vtd::Error),
    /// No frame is left for the table.
    NoFrame,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firmware => f.write_str("the firmware's table DMAR forbids it"),
            Self::IoApic(id) => write!(f, "DMAR does not name I/O APIC {id}"),
            Self::Unit(at, missing) => write!(f, "the IOMMU at {at}: {missing}"),
            Self::Broken(at, error) => write!(f, "the IOMMU at {at}: {error}"),
            Self::NoFrame => f.write_str("no page-table frames are left for it"),
        }
    }
}

/// Lets devices raise no interrupts but those that [`message`] and [`redirection`] allow. Before anything is to
/// interrupt.
pub fn turn_on(dmar: &Dmar) {
    match try_turn_on(dmar) {
        Ok(()) => info!("interrupts of devices are remapped"),
        Err(refused) => warning!("devices can raise any interrupt: {refused}"),
    }
}

fn try_turn_on(dmar: &Dmar) -> Result<(), Refused> {
    let mut units = UNITS.lock();
    if !dmar.interrupts {
        return Err(Refused::Firmware);
    }
    let mut controllers = ioapic::controllers().iter();
    if let Some(unknown) = controllers.find(|c| dmar.ioapic(c.id).is_none()) {
        return Err(Refused::IoApic(unknown.id));
    }
    for unit in &units.list {
        let able = unit.capabilities.remaps(apic::is_x2apic());
        able.map_err(|missing| Refused::Unit(unit.registers, missing))?;
    }
    let table = Table(Frames.alloc().ok_or(Refused::NoFrame)?);
    cpu::wbinvd();
    let start = |unit: &mut Unit| {
        let done = unit.remap_interrupts(table, apic::is_x2apic());
        done.map_err(|error| Refused::Broken(unit.registers, error))
    };
    let done = units.list.iter_mut().try_for_each(start);
    match done {
        Ok(()) => units.interrupts = Some(table),
        // What they still may read is not given back.
        Err(_) => units.list.iter_mut().for_each(Unit::pass_interrupts),
    }
    done
}

/// Whether hardware can interrupt the local APIC with this id. Without remapping there are 8 bits for it, of which
/// one value means all.
pub fn reaches(receiver: u32) -> bool {
    receiver < 0xff || UNITS.lock().interrupts.is_some()
}

/// The message by which `sender` raises the host's `vector`.
pub fn message(vector: Vector, receiver: u32, sender: Bdf) -> MsiMessage {
    match route(vector, receiver, sender, false) {
        true => {
            let (address, data) = acrn_vtd::message(vector);
            MsiMessage { address, data }
        }
        false => MsiMessage::to_apic(receiver as u8, vector),
    }
}

/// The redirection entry by which a pin raises the host's `vector`; `flags` are polarity and trigger mode.
pub fn redirection(gsi: Gsi, vector: Vector, receiver: u32, level: bool, active_low: bool) -> u64 {
    let flags = u64::from(level) << 15 | u64::from(active_low) << 13;
    let dmar = boot::platform().and_then(|platform| platform.dmar.as_ref());
    let sender = dmar
        .zip(ioapic::controller(gsi))
        .and_then(|(dmar, controller)| dmar.ioapic(controller.id));
    match sender.is_some_and(|sender| route(vector, receiver, sender, level)) {
        true => acrn_vtd::redirection(vector, flags),
        false => u64::from(vector.0) | flags | u64::from(receiver) << 56,
    }
}

/// Id of the local APIC that a pin interrupts, where the table says that and not the pin's redirection entry.
pub fn receiver(redirection: u64) -> Option<u32> {
    let entry = acrn_vtd::redirected(redirection)?;
    let table = UNITS.lock().interrupts?;
    let low = Frames.read(table.0, 2 * usize::from(entry.0));
    InterruptEntry([low, 0]).receiver(apic::is_x2apic())
}

/// Blocks an interrupt.
pub fn block(vector: Vector) {
    change(vector, InterruptEntry::ABSENT);
}

fn route(vector: Vector, receiver: u32, sender: Bdf, level: bool) -> bool {
    let route = Route {
        vector,
        receiver,
        x2apic: apic::is_x2apic(),
        level,
        sender,
    };
    change(vector, InterruptEntry::new(&route))
}

/// Whether there is a table; the entry is in force then.
fn change(number: Vector, entry: InterruptEntry) -> bool {
    let mut units = UNITS.lock();
    let Some(table) = units.interrupts else {
        return false;
    };
    if table.set(number, entry) {
        for unit in &mut units.list {
            let done = unit.forget_interrupt(number);
            if let Some(error) = done.err().filter(|_| crate::log::limited()) {
                error!("IOMMU at {}: {error}", unit.registers);
            }
        }
    }
    true
}
