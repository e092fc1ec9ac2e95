//! One function of the machine in the hands of a VM: its messages become host interrupts, and its
//! BARs stay away from what is not the VM's.

use super::host::{Host, Nowhere};
use super::mediated::{self, Pages};
use super::storage::{self, Piece};
use crate::arch::device;
use crate::iommu;
use crate::irq::{self, Source};
use crate::vm::{self, Vm};
use acrn_abi::{Bdf, Gpa, Hpa, Vector, VmId};
use acrn_vdev::interrupt::Delivery;
use acrn_vdev::pci::{
    BAR_COUNT, Bar, BarKind, BusNumbers, ConfigAction, ConfigSpace, Function, MsiMessage, MsixEntry,
};
use arrayvec::ArrayVec;

/// Kind of a function with PCI Express on one side and conventional PCI on the other (PCI Express 7.5.3.2).
const EXPRESS_TO_PCI: u32 = 7;
const COMMAND: u16 = 4;
const COMMAND_MEMORY: u16 = 2;
/// Doublewords of a header.
const HEADER: usize = 16;
/// Offset of the mask in an entry of an MSI-X table.
const ENTRY_CONTROL: u64 = 12;

/// Whose a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The hypervisor's: no VM sees it.
    Hypervisor,
    /// A VM's.
    Vm(VmId),
}

/// A function's MSI-X table.
struct Table {
    piece: Piece,
    bar: usize,
    offset: u64,
    size: u64,
}

/// A function.
pub struct Device {
    /// Its configuration space.
    pub function: Function,
    /// Whose it is.
    pub owner: Owner,
    /// Where its VM sees it.
    pub place: Bdf,
    /// The number under which it makes its requests: its own, or one that it shares with all behind the same
    /// conventional bridge.
    pub sender: Bdf,
    /// What of its BARs is mapped for a VM that sees them elsewhere than the machine has them: guest
    /// address, host address, size.
    pub mapped: ArrayVec<(u64, u64, u64), MAX_PIECES>,
    /// Where firmware put the BARs. That is never wrong, even where it is an IOAPIC.
    firmware: [u64; BAR_COUNT],
    /// The guest wants memory decoding, which is off because of where a BAR is.
    suspended: bool,
    /// Host vector of its MSI, 0 for none.
    msi_vector: u8,
    /// The hardware's header, over the machine's sleep.
    header: [u32; HEADER],
    table: Option<Table>,
}

/// What a write of a guest leads to.
pub struct Plan {
    /// Memory decoding afterwards; `None` when the write does not bear on it.
    decode: Option<bool>,
    suspended: bool,
    /// The table's pages afterwards, when it decodes.
    pub pages: Option<Pages>,
}

/// Of a write that does not bear on memory decoding, or whose BARs are not the machine's.
pub const NO_PLAN: Plan = Plan {
    decode: None,
    suspended: false,
    pages: None,
};

/// Pieces of BARs: each may have a table in its middle.
pub const MAX_PIECES: usize = 2 * BAR_COUNT;

impl Device {
    /// Takes a function over from firmware.
    pub fn new(bdf: Bdf, owner: Owner) -> Option<Self> {
        let function = Function::scan(bdf, &mut Host)?;
        function.program_msi(None, &mut Host);
        function.program_msix(false, false, &mut Host);
        let place = function.msix().and_then(|msix| {
            let bar = usize::from(msix.table_bar());
            let (offset, size) = (u64::from(msix.table_offset()), u64::from(msix.table_size()));
            let found = function.bars().get(bar)?;
            let fits = matches!(found.kind, BarKind::Memory32 | BarKind::Memory64)
                && offset + size <= found.size;
            fits.then_some((bar, offset, size, msix.entries()))
        });
        let table = place.map(|(bar, offset, size, entries)| Table {
            piece: storage::take(entries),
            bar,
            offset,
            size,
        });
        Some(Self {
            firmware: function.bars().map(|bar| bar.address),
            function,
            owner,
            place: bdf,
            sender: bdf,
            mapped: ArrayVec::new(),
            suspended: false,
            msi_vector: 0,
            header: [0; HEADER],
            table,
        })
    }

    /// The VM that owns it.
    pub fn vm(&self) -> Option<&'static Vm> {
        match self.owner {
            Owner::Vm(id) => Some(vm::get(id)),
            Owner::Hypervisor => None,
        }
    }

    /// Whether it answers to memory accesses.
    pub fn decodes(&self) -> bool {
        self.function.command() & COMMAND_MEMORY != 0
    }

    /// Lets it answer to no memory access.
    pub fn stop_decoding(&mut self) {
        self.set_decoding(false);
    }

    fn set_decoding(&mut self, on: bool) {
        let command = self.function.command() & !COMMAND_MEMORY;
        let command = command | if on { COMMAND_MEMORY } else { 0 };
        // Tells no news: the caller knows.
        let _ = self.function.write(COMMAND, 2, command.into(), &mut Host);
    }

    /// The pages with its table, at the addresses that the BARs have in `function`.
    fn pages_in(&self, function: &Function) -> Option<Pages> {
        let table = self.table.as_ref()?;
        let start = function.bars()[table.bar]
            .address
            .checked_add(table.offset)?;
        Pages::around(start, table.size)
    }

    /// The pages with its table.
    pub fn pages(&self) -> Option<Pages> {
        self.pages_in(&self.function)
    }

    /// The first BAR that lies where it may not.
    fn misplaced<'a>(&self, function: &'a Function) -> Option<&'a Bar> {
        let bars = function.bars().iter().zip(&self.firmware);
        let mut active = bars.filter(|(bar, firmware)| {
            let on = bar.is_memory() && (bar.kind != BarKind::Rom || bar.is_rom_enabled());
            // 0 means that nobody has assigned an address.
            on && bar.size != 0 && bar.address != 0 && bar.address != **firmware
        });
        let found = active.find(|(bar, _)| !mediated::may_decode(bar.address, bar.size));
        found.map(|(bar, _)| bar)
    }

    /// The number under which everything behind a bridge makes its requests, unless it is one of PCI Express
    /// on both sides.
    pub fn common_sender(&self) -> Option<Bdf> {
        let buses = self.function.bus_numbers()?;
        match self.function.express() {
            None => Some(self.function.bdf()),
            Some(at) => {
                let kind = Host.read(self.function.bdf(), at + 2, 2) >> 4 & 15;
                (kind == EXPRESS_TO_PCI).then(|| Bdf::new(buses.secondary, 0, 0))
            }
        }
    }

    /// A bridge's bus numbers after a guest's write to their doubleword.
    pub fn bus_numbers_after(&self, register: u16, size: u8, value: u32) -> Option<BusNumbers> {
        let old = self.function.bus_numbers()?;
        let mut bytes = [old.primary, old.secondary, old.subordinate, 0];
        let written = value.to_le_bytes();
        for (at, byte) in (register & 3..).zip(&written[..usize::from(size.min(4))]) {
            *bytes.get_mut(usize::from(at))? = *byte;
        }
        let [primary, secondary, subordinate, _] = bytes;
        Some(BusNumbers {
            primary,
            secondary,
            subordinate,
        })
    }

    /// Looks ahead at a guest's write.
    pub fn plan(&self, register: u16, size: u8, value: u32) -> Plan {
        let dword = register & !3;
        if !matches!(dword, COMMAND | 0x10..=0x24 | 0x30 | 0x38) {
            return Plan {
                decode: None,
                suspended: self.suspended,
                pages: None,
            };
        }
        let mut next = self.function.clone();
        let _ = next.write(register, size, value, &mut Nowhere);
        let kept = self.suspended && register != COMMAND;
        let wanted = next.command() & COMMAND_MEMORY != 0 || kept;
        let misplaced = if wanted { self.misplaced(&next) } else { None };
        if let Some(bar) = misplaced.filter(|_| !self.suspended && crate::log::limited()) {
            crate::warning!(
                "PCI {}: BAR at {:#x} + {:#x} lies over memory or an interrupt controller; the \
                 function does not decode memory there",
                self.function.bdf(),
                bar.address,
                bar.size
            );
        }
        let decode = wanted && misplaced.is_none();
        Plan {
            decode: Some(decode),
            suspended: wanted && !decode,
            pages: if decode { self.pages_in(&next) } else { None },
        }
    }

    /// Carries a guest's write out. The pages of the plan have been taken from the VM.
    pub fn write(&mut self, plan: &Plan, register: u16, size: u8, value: u32) -> ConfigAction {
        let before = self.decodes();
        self.suspended = plan.suspended;
        let action = match plan.decode {
            Some(decode) if register == COMMAND => {
                let on = if decode { COMMAND_MEMORY.into() } else { 0 };
                let value = value & !u32::from(COMMAND_MEMORY) | on;
                self.function.write(register, size, value, &mut Host)
            }
            Some(decode) => {
                if before && !decode {
                    self.set_decoding(false);
                }
                let action = self.function.write(register, size, value, &mut Host);
                if decode && !before {
                    self.set_decoding(true);
                }
                action
            }
            None => self.function.write(register, size, value, &mut Host),
        };
        match action {
            ConfigAction::MsiChanged => self.follow_msi(),
            ConfigAction::MsixChanged => self.follow_msix(),
            ConfigAction::FunctionReset => {
                self.suspended = false;
                self.release_vectors();
            }
            _ => {}
        }
        // What the hardware's table holds is known only while it decodes.
        if self.decodes() && !before {
            self.follow_msix();
        }
        action
    }

    /// The guest changed the MSI capability.
    fn follow_msi(&mut self) {
        let Some(vm) = self.vm() else { return };
        let wanted = self.function.msi_message().and_then(MsiMessage::decode);
        let message = wanted
            .and_then(|delivery| host_message(self.sender, vm, delivery, &mut self.msi_vector));
        self.function.program_msi(message, &mut Host);
        if wanted.is_none() {
            release(&mut self.msi_vector);
        }
    }

    /// The guest changed the control register of the MSI-X capability.
    fn follow_msix(&mut self) {
        let Some(msix) = self.function.msix() else {
            return;
        };
        let (enabled, masked) = (msix.is_enabled(), msix.is_masked());
        let Some(table) = &self.table else {
            // Without a usable table, messages could go anywhere.
            return;
        };
        let (count, reachable) = (table.size / u64::from(MsixEntry::SIZE), self.decodes());
        if enabled && reachable {
            (0..count as u16).for_each(|index| self.follow_entry(index));
        }
        let masked = masked || !reachable;
        self.function.program_msix(enabled, masked, &mut Host);
        if !enabled {
            self.release_table_vectors();
        }
    }

    /// Brings an entry of the physical table in step with the guest's. A masked one keeps its
    /// host vector: it will be back.
    fn follow_entry(&mut self, index: u16) {
        let (Some(vm), sender) = (self.vm(), self.sender) else {
            return;
        };
        let enabled = self.function.msix().is_some_and(|msix| msix.is_enabled());
        let Some(table) = self.table.as_mut() else {
            return;
        };
        let base = self.function.physical_bar(table.bar);
        let address = base + table.offset + u64::from(index) * 16;
        let store = |offset: u64, value: u32| device::write(Hpa(address + offset), 4, value.into());
        store(ENTRY_CONTROL, 1);
        let entry = table
            .piece
            .shadow
            .entry(index)
            .filter(|entry| !entry.masked);
        let wanted = entry.and_then(|entry| entry.message.decode());
        let vector = table.piece.vectors.get_mut(usize::from(index));
        let (true, Some(delivery), Some(vector)) = (enabled, wanted, vector) else {
            return;
        };
        if let Some(message) = host_message(sender, vm, delivery, vector) {
            store(0, message.address as u32);
            store(4, (message.address >> 32) as u32);
            store(8, message.data);
            store(ENTRY_CONTROL, 0);
        }
    }

    /// The guest's access to its table, when that is what is at the address.
    pub fn access_table(&mut self, gpa: Gpa, size: u8, write: Option<u64>) -> Option<u64> {
        if !self.decodes() {
            return None;
        }
        let table = self.table.as_mut()?;
        let start = self.function.bars()[table.bar].address + table.offset;
        let offset = gpa.0.checked_sub(start).filter(|at| *at < table.size)? as u32;
        let Some(value) = write else {
            return Some(table.piece.shadow.read(offset, size));
        };
        let _ = table.piece.shadow.write(offset, size, value);
        if self.function.msix().is_some_and(|msix| msix.is_enabled()) {
            self.follow_entry((offset / MsixEntry::SIZE) as u16);
        }
        Some(0)
    }

    fn release_table_vectors(&mut self) {
        if let Some(table) = &mut self.table {
            table.piece.vectors.iter_mut().for_each(release);
        }
    }

    /// Forgets what the guest programmed; the hardware does not send messages any more.
    fn release_vectors(&mut self) {
        release(&mut self.msi_vector);
        self.release_table_vectors();
        if let Some(table) = &mut self.table {
            table.piece.shadow.reset();
        }
    }

    /// Notes the header of the hardware.
    pub fn save(&mut self) {
        let bdf = self.function.bdf();
        self.header = core::array::from_fn(|index| Host.read(bdf, 4 * index as u16, 4));
    }

    /// Writes the header back to hardware that has lost it, and then the messages of its guest.
    pub fn restore(&mut self) {
        let bdf = self.function.bdf();
        // Addresses before the command by which it answers to them.
        for (index, value) in self.header.iter().enumerate().skip(1).rev() {
            Host.write(bdf, 4 * index as u16, 4, *value);
        }
        self.follow_msi();
        self.follow_msix();
    }

    /// Silences the function, which stays where it is.
    pub fn quiesce(&mut self) {
        self.function.quiesce(&mut Host);
        self.release_vectors();
    }

    /// Silences the function and gives up what it has, before it disappears from its place.
    pub fn retire(mut self) -> Option<Piece> {
        self.function.program_msi(None, &mut Host);
        self.function.program_msix(false, false, &mut Host);
        self.release_vectors();
        self.table.map(|table| table.piece)
    }

    /// Host vectors in use, with the guest's message behind each.
    pub fn vectors(&self) -> impl Iterator<Item = (bool, u8, Option<Delivery>)> {
        let msi = self.function.msi_message().and_then(MsiMessage::decode);
        let entries = self.table.iter().flat_map(|table| {
            let guest = table.piece.shadow.entries().iter();
            let pairs = table.piece.vectors.iter().zip(guest);
            pairs.map(|(vector, entry)| (true, *vector, entry.message.decode()))
        });
        core::iter::once((false, self.msi_vector, msi))
            .chain(entries)
            .filter(|(_, vector, _)| *vector != 0)
    }
}

fn release(vector: &mut u8) {
    if *vector != 0 {
        irq::release(*vector);
        *vector = 0;
    }
}

/// The message that the hardware is to send for a guest's, under the host vector in `vector`,
/// which is allocated when it is 0. `None` when there is none left.
fn host_message(sender: Bdf, vm: &Vm, delivery: Delivery, vector: &mut u8) -> Option<MsiMessage> {
    let source = Source::Message {
        vm: vm.id,
        delivery,
    };
    if *vector == 0 {
        let Some(new) = irq::allocate(source) else {
            if crate::log::limited() {
                crate::error!("PCI {sender}: no host vector left; an interrupt stays masked");
            }
            return None;
        };
        *vector = new;
    } else {
        irq::update(*vector, source);
    }
    let receiver = irq::receiver(vm, delivery.destination);
    Some(iommu::message(Vector(*vector), receiver, sender))
}
