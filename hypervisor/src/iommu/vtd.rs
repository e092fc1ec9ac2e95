//! A remapping unit of Intel's kind: its registers, its queue, its fault records.
//!
//! All functions are in the first domain unless another VM has them, so the root entries of a unit name
//! one context table, all of whose entries are alike, but for buses with functions of other VMs. A
//! function that is plugged in later, or that makes its requests under another number, is confined with
//! the rest.
//!
//! These tables are written before the unit reads them for the first time, and caches are written back
//! in between, for units that do not look into them. The table of interrupts changes later.

use super::domain::Domain;
use super::interrupts::Table;
use super::{Assigned, Domains, at, memory_bits, own_message};
use crate::arch::{apic, cpu, device, tsc};
use crate::memory::Frames;
use acrn_abi::{Hpa, PAGE_SIZE, Vector};
use acrn_acpi::dmar;
use acrn_memory::FrameStore;
use acrn_vtd::register::{self, command, fault_status};
use acrn_vtd::{
    Capabilities, ContextEntry, Descriptor, Fault, Missing, Queue, RootEntry, Width, table_register,
};
use arrayvec::ArrayVec;
use core::fmt;

/// Entries of a root table and of a context table.
const ENTRIES: usize = 256;
/// How often a unit is asked for further faults at a time.
const ROUNDS: usize = 16;
/// Most buses with functions of VMs other than the Service VM.
const MAX_BUSES: usize = 16;
/// Milliseconds after which a unit is given up.
const PATIENCE: u64 = 100;

/// Why a unit does not do its work.
#[derive(Clone, Copy, Debug)]
pub enum Error {
    /// It lacks something.
    Missing(Missing),
    /// No frame is left for its tables.
    NoFrame,
    /// It has not done what it was told.
    Stuck(&'static str),
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(missing) => write!(f, "{missing}"),
            Self::NoFrame => f.write_str("no page-table frames are left for it"),
            Self::Stuck(what) => write!(f, "it does not {what}"),
        }
    }
}

/// By which a unit is made to forget what it knows.
#[derive(Clone, Debug)]
struct Invalidations {
    queue: Queue,
    place: Hpa,
    /// A word that the unit writes when it is done.
    status: Hpa,
}

/// A unit.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its registers.
    pub registers: Hpa,
    /// What it can do.
    pub capabilities: Capabilities,
    size: u64,
    /// Levels of the tables that it walks, once it does, and where they begin.
    tables: Option<(Width, Hpa)>,
    invalidations: Option<Invalidations>,
    remaps: bool,
}

impl Unit {
    /// A unit as firmware left it.
    pub fn new(description: &dmar::Unit) -> Self {
        let registers = description.registers;
        let read = |offset, size| device::read(at(registers, offset), size);
        let capabilities = Capabilities::new(
            read(register::VERSION, 4) as u32,
            read(register::CAPABILITY, 8),
            read(register::EXTENDED, 8),
        );
        Self {
            registers,
            capabilities,
            size: description.size,
            tables: None,
            invalidations: None,
            remaps: false,
        }
    }

    /// Ends what firmware may have begun.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn take_over(&mut self) -> Result<(), Error> {
        self.command(command::TRANSLATE, false, "stop translating")?;
        let interrupts = command::REMAP_INTERRUPTS;
        self.command(interrupts, false, "stop remapping interrupts")?;
        self.command(command::QUEUE, false, "leave its queue")?;
        if self.capabilities.queue {
            self.open_queue()?;
        }
        Ok(())
    }

    fn open_queue(&mut self) -> Result<(), Error> {
        let frame = || Frames.alloc().ok_or(Error::NoFrame);
        let (place, status) = match &self.invalidations {
            Some(earlier) => (earlier.place, earlier.status),
            None => (frame()?, frame()?),
        };
        self.set(register::QUEUE_TAIL, 0);
        self.set(register::QUEUE_ADDRESS, place.get());
        self.command(command::QUEUE, true, "use its queue")?;
        self.invalidations = Some(Invalidations {
            queue: Queue::new(),
            place,
            status,
        });
        Ok(())
    }

    /// Lets interrupts pass by this table only.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn remap_interrupts(&mut self, table: Table, x2apic: bool) -> Result<(), Error> {
        self.set(
            register::INTERRUPT_TABLE,
            table_register(table.address(), x2apic),
        );
        let what = "take the table of interrupts";
        self.command(command::SET_INTERRUPT_TABLE, true, what)?;
        self.forget(&[Descriptor::all_interrupts()])?;
        self.command(
            command::PASS_COMPATIBLE,
            false,
            "block the older interrupts",
        )?;
        self.command(command::REMAP_INTERRUPTS, true, "remap interrupts")?;
        self.remaps = true;
        Ok(())
    }

    /// Lets all interrupts pass.
    pub fn pass_interrupts(&mut self) {
        let what = "stop remapping interrupts";
        self.remaps = self
            .command(command::REMAP_INTERRUPTS, false, what)
            .is_err();
    }

    /// An entry of the table of interrupts has changed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn forget_interrupt(&mut self, entry: Vector) -> Result<(), Error> {
        self.forget(&[Descriptor::interrupt(entry)])
    }

    /// Whether it translates.
    pub fn is_on(&self) -> bool {
        self.tables.is_some()
    }

    /// Puts all functions behind the unit into the domains of their VMs. Faults interrupt the CPU whose local APIC
    /// has the id `receiver`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn turn_on(
        &mut self,
        domains: &Domains,
        assigned: &Assigned,
        receiver: u32,
    ) -> Result<(), Error> {
        let width = self.capabilities.choose(memory_bits())?;
        let root = build_tables(domains, assigned, width)?;
        cpu::wbinvd();
        self.walk(root, receiver)?;
        self.tables = Some((width, root));
        Ok(())
    }

    /// Goes on after the machine's sleep, in which the unit has forgotten everything, with its own tables and
    /// this one of interrupts.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn go_on(
        &mut self,
        interrupts: Option<Table>,
        x2apic: bool,
        receiver: u32,
    ) -> Result<(), Error> {
        self.take_over()?;
        if let Some(table) = interrupts {
            self.remap_interrupts(table, x2apic)?;
        }
        match self.tables {
            Some((_, root)) => self.walk(root, receiver),
            None => Ok(()),
        }
    }

    fn walk(&mut self, root: Hpa, receiver: u32) -> Result<(), Error> {
        self.write_back()?;
        self.set(register::ROOT_TABLE, root.get());
        self.command(command::SET_ROOT, true, "take the root table")?;
        self.forget(&[
            Descriptor::all_contexts(),
            Descriptor::all_translations(&self.capabilities),
        ])?;
        self.report_to(receiver);
        self.command(command::TRANSLATE, true, "translate")?;
        self.open_protected_memory();
        Ok(())
    }

    /// Makes the unit forget, and waits until it has.
    fn forget(&mut self, what: &[Descriptor]) -> Result<(), Error> {
        self.write_back()?;
        let Some(Invalidations {
            queue,
            place,
            status,
        }) = &mut self.invalidations
        else {
            return Err(Error::Missing(Missing::Queue));
        };
        let (place, status) = (*place, *status);
        Frames.write(status, 0, 0);
        let done = Descriptor::wait(status, 1);
        for descriptor in what.iter().chain([&done]) {
            put(place, queue.take(), descriptor.0);
        }
        let tail = queue.tail_register();
        self.set(register::QUEUE_TAIL, tail);
        let done = wait_for(|| Frames.read(status, 0) as u32 == 1);
        done.then_some(()).ok_or(Error::Stuck("empty its queue"))
    }

    /// Writes of the processor to memory are there for the unit to see.
    fn write_back(&self) -> Result<(), Error> {
        if !self.capabilities.flush_writes {
            return Ok(());
        }
        let bit = command::FLUSH_WRITES;
        let kept = self.get32(register::STATUS) & command::STICKY;
        self.set32(register::COMMAND, kept | bit);
        let done = wait_for(|| self.get32(register::STATUS) & bit == 0);
        done.then_some(()).ok_or(Error::Stuck("flush its writes"))
    }

    fn report_to(&mut self, receiver: u32) {
        // Of the time before.
        self.take_faults(|_| {});
        let Some((address, data)) = own_message(receiver, apic::IOMMU_VECTOR) else {
            warning!(
                "faults of the IOMMU at {} are seen by the shell only",
                self.registers
            );
            return;
        };
        self.set32(register::FAULT_DATA, data);
        self.set32(register::FAULT_ADDRESS, address);
        self.set32(register::FAULT_UPPER_ADDRESS, 0);
        let control = self.get32(register::FAULT_CONTROL);
        self.set32(register::FAULT_CONTROL, control & !register::FAULT_MASK);
    }

    /// Firmware may have closed regions to all DMA until there is translation.
    fn open_protected_memory(&self) {
        if self.capabilities.protected_memory {
            let value = self.get32(register::PROTECTED_MEMORY);
            self.set32(register::PROTECTED_MEMORY, value & !register::PROTECT);
        }
    }

    /// Shows and clears the recorded faults; `true` when there were more than there is room for.
    ///
    /// A fault that comes while another is pending does not interrupt, so this looks again until none
    /// is. It does not look without end: a unit whose device faults faster than that is left alone, and
    /// does not interrupt any more until the shell's `iommu` has looked.
    pub fn take_faults(&mut self, mut show: impl FnMut(Fault)) -> bool {
        let mut lost = false;
        for _ in 0..ROUNDS {
            let status = self.get32(register::FAULT_STATUS);
            if status & (fault_status::PENDING | fault_status::OVERFLOW) == 0 {
                break;
            }
            if status & fault_status::OVERFLOW != 0 {
                lost = true;
                self.set32(register::FAULT_STATUS, fault_status::OVERFLOW);
            }
            self.take_records(&mut show);
        }
        lost
    }

    fn take_records(&mut self, show: &mut impl FnMut(Fault)) {
        let first = self.capabilities.fault_offset;
        for index in 0..u64::from(self.capabilities.fault_records) {
            let offset = first + index * 16;
            if offset + 16 > self.size {
                break;
            }
            let low = device::read(at(self.registers, offset), 8);
            let high = device::read(at(self.registers, offset + 8), 8);
            if let Some(fault) = Fault::decode(low, high) {
                show(fault);
                self.set32(offset + 12, Fault::PENDING);
            }
        }
    }

    /// Turns something on or off and waits for it.
    fn command(&self, bit: u32, on: bool, what: &'static str) -> Result<(), Error> {
        let status = self.get32(register::STATUS);
        let wanted = if on { bit } else { 0 };
        if !on && status & bit == 0 {
            return Ok(());
        }
        self.set32(register::COMMAND, status & command::STICKY & !bit | wanted);
        let done = wait_for(|| self.get32(register::STATUS) & bit == wanted);
        done.then_some(()).ok_or(Error::Stuck(what))
    }

    fn get32(&self, offset: u64) -> u32 {
        device::read(at(self.registers, offset), 4) as u32
    }

    fn set32(&self, offset: u64, value: u32) {
        device::write(at(self.registers, offset), 4, value.into());
    }

    fn set(&self, offset: u64, value: u64) {
        device::write(at(self.registers, offset), 8, value);
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capabilities.version;
        write!(f, "VT-d {major}.{minor}, ")?;
        match self.tables {
            Some((width, _)) => write!(f, "translates {} address bits", width.bits())?,
            None => f.write_str("does not translate")?,
        }
        match self.remaps {
            true => f.write_str(", remaps interrupts"),
            false => f.write_str(", passes interrupts"),
        }
    }
}

/// Root table and context tables: each function of each bus is in a domain.
fn build_tables(domains: &Domains, assigned: &Assigned, width: Width) -> Result<Hpa, Error> {
    let frame = || Frames.alloc().ok_or(Error::NoFrame);
    let (_, first) = domains.first().ok_or(Error::NoFrame)?;
    let common = context_table(first, width)?;
    let root = frame()?;
    for index in 0..ENTRIES {
        put(root, index, RootEntry::new(common).0);
    }
    let mut own: ArrayVec<(u8, Hpa), MAX_BUSES> = ArrayVec::new();
    for (bdf, vm) in assigned {
        let entered = domains.iter().find(|(id, _)| id == vm);
        let Some((_, domain)) = entered else { continue };
        let bus = bdf.bus();
        let known = own.iter().find(|(number, _)| *number == bus);
        let table = match known {
            Some((_, table)) => *table,
            None => {
                let table = context_table(first, width)?;
                own.try_push((bus, table)).map_err(|_| Error::NoFrame)?;
                put(root, bus.into(), RootEntry::new(table).0);
                table
            }
        };
        let index = usize::from(bdf.0 & 0xff);
        put(table, index, context(domain, width).0);
    }
    Ok(root)
}

fn context(domain: &Domain, width: Width) -> ContextEntry {
    ContextEntry::new(domain.id(), domain.root(width), width)
}

/// A table all of whose functions are in one domain.
fn context_table(domain: &Domain, width: Width) -> Result<Hpa, Error> {
    let table = Frames.alloc().ok_or(Error::NoFrame)?;
    for index in 0..ENTRIES {
        put(table, index, context(domain, width).0);
    }
    Ok(table)
}

const _: () = assert!(ENTRIES * size_of::<ContextEntry>() == PAGE_SIZE as usize);

/// Writes an entry of two words.
fn put(table: Hpa, index: usize, [low, high]: [u64; 2]) {
    Frames.write(table, 2 * index + 1, high);
    Frames.write(table, 2 * index, low);
}

fn wait_for(done: impl Fn() -> bool) -> bool {
    let (start, limit) = (cpu::rdtsc(), tsc::from_ms(PATIENCE));
    while !done() {
        if cpu::rdtsc().wrapping_sub(start) > limit {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}
