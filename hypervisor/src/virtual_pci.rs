//! PCI functions that the hypervisor itself puts on the bus of a VM.
//!
//! A VM has a list of them. [`add`] puts one there: a [`VirtualFunction`] with its configuration space,
//! and the [`Device`] that answers for its BARs. Configuration accesses of every VM come here first
//! ([`config_access`]), and whoever owns the rest of the bus gets the others: the machine
//! for the Service VM, the Device Model for a User VM. Accesses to BARs come as exits
//! ([`memory_access`]); a BAR that is memory is mapped at its first use ([`map`]).
//!
//! The Service VM sees the machine's address space one to one, so what its BARs cover is taken from it
//! ([`pci::move_virtual`]).
//!
//! Locks are taken in the order functions of the VM, its nested tables. A device is called without
//! either, but for [`raise`], which may be called with the lock of the device.

use crate::shared_memory::Member;
use crate::vcpu::Vcpu;
use crate::virt::NestedFault;
use crate::vm::Vm;
use crate::withheld::Withheld;
use crate::{console, pci, serial, shared_memory};
use acrn_abi::{Bdf, Gpa};
use acrn_memory::{Access, MapError, MemType};
use acrn_vdev::interrupt::Delivery;
use acrn_vdev::pci::{ConfigAccess, MAX_VECTORS, VirtualFunction};
use acrn_vdev::{ivshmem, serial_card};
use arrayvec::ArrayVec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

/// Most such functions of a VM.
pub const MAX_FUNCTIONS: usize = 16;

/// What answers for the BARs of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The UART of the VM's console.
    Console,
    /// The end of a serial line.
    Serial(serial::End),
    /// Memory that VMs share.
    SharedMemory(Member),
}

struct Slot {
    bdf: Bdf,
    function: VirtualFunction,
    device: Device,
    /// Address and size of the device's memory, where it is mapped.
    mapped: Option<(u64, u64)>,
}

/// The functions of a VM.
pub struct Functions {
    list: Mutex<ArrayVec<Slot, MAX_FUNCTIONS>>,
    /// So that exits of a VM without any need no lock.
    any: AtomicBool,
}

impl Functions {
    /// None.
    pub const fn new() -> Self {
        Self {
            list: Mutex::new(ArrayVec::new_const()),
            any: AtomicBool::new(false),
        }
    }

    #[inline]
    fn none(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// Works on the function at this place.
    fn with<R>(&self, bdf: Bdf, work: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        if self.none() {
            return None;
        }
        let mut list = self.list.lock();
        list.iter_mut().find(|slot| slot.bdf == bdf).map(work)
    }
}

/// Why a VM does not get a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It has one there.
    Taken(Bdf),
    /// It has as many as there can be.
    Full,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(bdf) => write!(f, "the VM has a virtual function at {bdf} already"),
            Self::Full => write!(f, "a VM has {MAX_FUNCTIONS} virtual functions at most"),
        }
    }
}

/// Puts a function on the bus of a VM that does not run yet.
pub fn add(vm: &Vm, bdf: Bdf, function: VirtualFunction, device: Device) -> Result<(), Refused> {
    let mut list = vm.functions.list.lock();
    if list.iter().any(|slot| slot.bdf == bdf) {
        return Err(Refused::Taken(bdf));
    }
    let slot = Slot {
        bdf,
        function,
        device,
        mapped: None,
    };
    list.try_push(slot).map_err(|_| Refused::Full)?;
    vm.functions.any.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether a VM has any.
pub fn any(vm: &Vm) -> bool {
    !vm.functions.none()
}

/// Whether a VM has a function there.
pub fn is_there(vm: &Vm, bdf: Bdf) -> bool {
    vm.functions.with(bdf, |_| ()).is_some()
}

/// Takes a function from a VM that does not run; `None` when there is no such function.
pub fn remove(vm: &Vm, bdf: Bdf, id: (u16, u16)) -> Option<()> {
    let wanted = |slot: &Slot| slot.bdf == bdf && slot.function.id() == id;
    let mut freed = Withheld::new();
    let slot = {
        let mut list = vm.functions.list.lock();
        let index = list.iter().position(wanted)?;
        let mut slot = list.remove(index);
        unmap(vm, &mut slot, &mut freed);
        slot
    };
    vm.flush_translations(None);
    drop(freed);
    match slot.device {
        Device::Console => {
            vm.uart.lock().remove();
            console::forget(vm.id);
        }
        Device::Serial(end) => serial::unplug(end),
        Device::SharedMemory(_) => {}
    }
    Some(())
}

/// Forgets all functions of a VM, whose nested tables are gone.
pub fn clear(vm: &Vm) {
    let ends = ends(vm);
    vm.functions.list.lock().clear();
    vm.functions.any.store(false, Ordering::Relaxed);
    ends.into_iter().for_each(serial::unplug);
}

/// Puts all functions of a stopped VM back to their state after creation.
pub fn reset(vm: &Vm) {
    if vm.functions.none() {
        return;
    }
    let mut freed = Withheld::new();
    for slot in vm.functions.list.lock().iter_mut() {
        unmap(vm, slot, &mut freed);
        slot.function.reset();
        if vm.is_service() {
            pci::move_virtual(vm, slot.bdf, &[], &mut freed);
        }
        if let Device::SharedMemory(member) = &mut slot.device {
            member.registers.reset();
        }
    }
    vm.flush_translations(None);
    drop(freed);
    ends(vm).into_iter().for_each(serial::reset);
}

/// The VM is off for a while.
pub fn leave(vm: &Vm) {
    ends(vm).into_iter().for_each(serial::leave);
}

/// The ends of serial lines among the functions of a VM.
fn ends(vm: &Vm) -> ArrayVec<serial::End, MAX_FUNCTIONS> {
    let list = vm.functions.list.lock();
    list.iter().filter_map(Slot::end).collect()
}

/// A guest's access to configuration space, a read unless there is a value to write; `None` when there
/// is no such function here.
pub fn config_access(vcpu: &Vcpu, access: ConfigAccess, write: Option<u32>) -> Option<u32> {
    match write {
        Some(value) => config_write(vcpu, access, value),
        None => config_read(vcpu.vm(), access),
    }
}

fn config_read(vm: &Vm, access: ConfigAccess) -> Option<u32> {
    vm.functions.with(access.bdf, |slot| {
        slot.function.read(access.register, access.size)
    })
}

fn config_write(vcpu: &Vcpu, access: ConfigAccess, value: u32) -> Option<u32> {
    let vm = vcpu.vm();
    let mut freed = Withheld::new();
    let done = vm.functions.with(access.bdf, |slot| {
        let before = ranges(&slot.function);
        slot.function.write(access.register, access.size, value);
        if vm.is_service() {
            slot.keep_off_memory();
        }
        let after = ranges(&slot.function);
        if before != after {
            unmap(vm, slot, &mut freed);
            if vm.is_service() {
                pci::move_virtual(vm, access.bdf, &after, &mut freed);
            }
        }
        (before != after, due(&mut slot.function))
    });
    let (moved, messages) = done?;
    if moved {
        vm.flush_translations(Some(vcpu));
    }
    drop(freed);
    messages.into_iter().for_each(|message| vm.deliver(message));
    Some(0)
}

/// Where the BARs of a function are.
type Ranges = ArrayVec<(u64, u64), 6>;

fn ranges(function: &VirtualFunction) -> Ranges {
    function.decoded().map(|(_, at, size)| (at, size)).collect()
}

/// Unmaps the device's memory where it was mapped. The translations have to be flushed before `freed`
/// is dropped.
fn unmap(vm: &Vm, slot: &mut Slot, freed: &mut Withheld) {
    if let (Some((start, size)), Some(table)) = (slot.mapped.take(), vm.nested.lock().as_mut()) {
        let _ = table.unmap_later(Gpa(start), size, freed);
    }
}

/// Messages that a function can have to send at a time.
type Messages = ArrayVec<Delivery, MAX_VECTORS>;

fn due(function: &mut VirtualFunction) -> Messages {
    core::iter::from_fn(|| function.take_due())
        .take(MAX_VECTORS)
        .collect()
}

/// The device behind a function wants to interrupt.
pub fn raise(vm: &Vm, bdf: Bdf, vector: u16) {
    let messages = vm.functions.with(bdf, |slot| {
        slot.function.raise(vector);
        due(&mut slot.function)
    });
    for message in messages.into_iter().flatten() {
        vm.deliver(message);
    }
}

/// The function of a VM that shares this region, when it has one.
pub fn member(vm: &Vm, region: u8) -> Option<Bdf> {
    if vm.functions.none() {
        return None;
    }
    let list = vm.functions.list.lock();
    let shares =
        |slot: &&Slot| matches!(slot.device, Device::SharedMemory(m) if m.region == region);
    list.iter().find(shares).map(|slot| slot.bdf)
}

/// What an access to a BAR leads to, once the lock of the functions is free again.
enum Effect {
    /// This is the value of a read.
    Done(u64),
    /// The guest changed its interrupts.
    Send(Messages),
    /// It is a register of the console's UART.
    Console(u8),
    /// It is a register of this UART.
    Serial(serial::End, u8),
    /// It is memory of this region.
    Memory(u8, u64),
    /// The guest rings.
    Ring(u8, ivshmem::Ring),
}

/// Access to a BAR; `None` when there is none at the address.
pub fn memory_access(vm: &Vm, gpa: Gpa, size: u8, write: Option<u64>) -> Option<u64> {
    if vm.functions.none() {
        return None;
    }
    let effect = {
        let mut list = vm.functions.list.lock();
        list.iter_mut().find_map(|slot| {
            let (bar, offset) = slot.function.locate(gpa.0, size)?;
            Some(slot.access(bar, offset, size, write))
        })?
    };
    match effect {
        Effect::Done(value) => return Some(value),
        Effect::Send(messages) => messages.into_iter().for_each(|message| vm.deliver(message)),
        Effect::Console(register) => return Some(console::access(vm, register, size, write)),
        Effect::Serial(end, register) => return Some(serial::access(end, register, size, write)),
        Effect::Memory(region, offset) => {
            return Some(shared_memory::access(region, offset, size, write));
        }
        Effect::Ring(region, ring) => shared_memory::ring(region, ring),
    }
    Some(0)
}

impl Slot {
    /// In the Service VM, whose address space is the machine's, a BAR decodes nothing over memory.
    fn keep_off_memory(&mut self) {
        let misplaced = |(_, at, size): (u8, u64, u64)| !pci::may_decode(at, size);
        if self.function.decoded().any(misplaced) {
            self.function.stop_decoding();
            if crate::log::limited() {
                warning!(
                    "PCI {}: a BAR lies over memory or an interrupt controller; the function does \
                     not decode memory there",
                    self.bdf
                );
            }
        }
    }

    fn end(&self) -> Option<serial::End> {
        match self.device {
            Device::Serial(end) => Some(end),
            Device::Console | Device::SharedMemory(_) => None,
        }
    }

    fn access(&mut self, bar: u8, offset: u64, size: u8, write: Option<u64>) -> Effect {
        if self.function.is_table(bar) {
            return self.table(offset, size, write);
        }
        match (&mut self.device, bar) {
            (Device::Console | Device::Serial(_), serial_card::REGISTERS)
                if offset >= serial_card::REGISTER_COUNT =>
            {
                Effect::Done(u64::MAX)
            }
            (Device::Console, serial_card::REGISTERS) => Effect::Console(offset as u8),
            (Device::Serial(end), serial_card::REGISTERS) => Effect::Serial(*end, offset as u8),
            (Device::SharedMemory(member), ivshmem::MEMORY) => {
                Effect::Memory(member.region, offset)
            }
            (Device::SharedMemory(member), ivshmem::REGISTERS) => {
                let Some(value) = write else {
                    return Effect::Done(member.registers.read(offset, size).into());
                };
                match member.registers.write(offset, size, value as u32) {
                    Some(ring) => Effect::Ring(member.region, ring),
                    None => Effect::Done(0),
                }
            }
            _ => Effect::Done(u64::MAX),
        }
    }

    fn table(&mut self, offset: u64, size: u8, write: Option<u64>) -> Effect {
        match write {
            None => Effect::Done(self.function.table_read(offset, size)),
            Some(value) => {
                self.function.table_write(offset, size, value);
                Effect::Send(due(&mut self.function))
            }
        }
    }
}

/// Maps memory of a device that a guest has touched; `false` when there is none at the address, or it
/// cannot be mapped: accesses are carried out one by one then.
#[inline]
pub fn map(vm: &Vm, fault: &NestedFault) -> bool {
    !vm.functions.none() && !fault.fetch && map_memory(vm, fault.gpa).is_some()
}

#[cold]
fn map_memory(vm: &Vm, gpa: Gpa) -> Option<()> {
    let mut list = vm.functions.list.lock();
    let (slot, region) = list.iter_mut().find_map(|slot| match slot.device {
        Device::SharedMemory(member) => {
            let (bar, _) = slot.function.locate(gpa.0, 1)?;
            (bar == ivshmem::MEMORY).then_some((slot, member.region))
        }
        Device::Console | Device::Serial(_) => None,
    })?;
    let (start, size) = slot.function.bar(ivshmem::MEMORY)?;
    let memory = shared_memory::start(region)?;
    let mut guard = vm.nested.lock();
    let table = guard.as_mut()?;
    // Another CPU was faster.
    if table.translate(gpa).is_some() {
        return Some(());
    }
    // Not over memory that the VM has there.
    let free = table.visit(Gpa(start), size, |_| Err(Occupied));
    free.ok()?;
    table
        .map(Gpa(start), memory, size, Access::RW, MemType::WriteBack)
        .ok()?;
    slot.mapped = Some((start, size));
    Some(())
}

/// Something is mapped where a BAR is, or nothing can be.
struct Occupied;

impl From<MapError> for Occupied {
    fn from(_: MapError) -> Self {
        Self
    }
}
