//! Functions of pre-launched VMs. The guest sees them at other places on its bus, and their BARs at other
//! addresses, than the machine has them: the hardware stays where firmware put it.
//!
//! What a BAR covers is mapped while the function decodes there, but for pages with an MSI-X table and
//! BARs smaller than a page, whose accesses are carried out one by one. Extended configuration space,
//! wired interrupts, expansion ROMs and function-level reset are not there.

use super::device::{Device, NO_PLAN, Owner};
use super::host::Host;
use super::{FUNCTIONS, Functions};
use crate::arch::device as registers;
use crate::config;
use crate::exit::io::host_port;
use crate::vcpu::Vcpu;
use crate::vm::Vm;
use crate::withheld::Withheld;
use acrn_abi::{Bdf, Gpa, Hpa, PAGE_SIZE, guest_map};
use acrn_config_blob::{DeviceKind, PciDevice};
use acrn_memory::{Access, MemType};
use acrn_vdev::pci::{
    BAR_COUNT, BarKind, ConfigAccess, ConfigAction, EcamWindow, Header, HostBridge, all_ones,
};
use arrayvec::ArrayVec;
use core::fmt;
use core::ops::Range;
use spin::Mutex;

const COMMAND: u16 = 4;
const COMMAND_PORTS: u16 = 1;
const COMMAND_NO_INTX: u32 = 1 << 10;
/// The doubleword with line and pin of the wired interrupt; the pin is in bits 8 to 15.
const INTERRUPT: u16 = 0x3c;
/// First register of extended configuration space.
const EXTENDED: u16 = 0x100;
/// The capability for function-level reset, and its start, in the doublewords at 4 and 8 of the PCI Express
/// capability.
const RESET_CAPABLE: u32 = 1 << 28;
const START_RESET: u32 = 1 << 15;

/// Host ports that the Service VM must not use.
static PORTS: Mutex<ArrayVec<Range<u16>, 16>> = Mutex::new(ArrayVec::new_const());

/// Why a VM does not get a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The machine has no such function, or another VM has it.
    Absent,
    /// It is a bridge, or of an unknown kind.
    NoEndpoint,
    /// Without an IOMMU it would reach all memory.
    NoIommu,
    /// Behind a conventional bridge, which makes its requests under a number of its own.
    SharedId,
    /// A BAR is not as the configuration says.
    Bar(usize),
    /// There are too many ranges of ports.
    Ports,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("the machine has no such function, or another VM has it"),
            Self::NoEndpoint => f.write_str("only endpoints can be passed through"),
            Self::NoIommu => f.write_str(
                "without an IOMMU in use its DMA would reach all memory; nobody has it now",
            ),
            Self::SharedId => f.write_str(
                "it is behind a conventional PCI bridge, so the IOMMU cannot tell it from its \
                 neighbours; nobody has it now",
            ),
            Self::Bar(number) => write!(
                f,
                "its BAR {number} is not as the configuration says; make the board file anew"
            ),
            Self::Ports => f.write_str("too many ranges of ports are passed through"),
        }
    }
}

impl Functions {
    /// The function that a pre-launched VM sees at this place.
    fn assigned(&mut self, bdf: Bdf, vm: &Vm) -> Option<&mut Device> {
        let mut list = self.list.iter_mut();
        list.find(|device| device.owner == Owner::Vm(vm.id) && device.place == bdf)
    }
}

/// Takes the functions that the configuration hides from all VMs. Before any VM is made.
pub fn withhold_hidden() {
    for device in &mut FUNCTIONS.lock().list {
        let bdf = device.function.bdf();
        if !config::setup().hides(bdf) {
            continue;
        }
        match withhold(device) {
            Ok(()) => info!("PCI {bdf} is hidden from all VMs"),
            Err(refused) => warning!("PCI {bdf} is hidden, but not its ports: {refused}"),
        }
    }
}

/// Silences a function, which is nobody's from now on.
fn withhold(device: &mut Device) -> Result<(), Refused> {
    device.quiesce();
    device.owner = Owner::Hypervisor;
    hide(device)
}

/// Gives the functions of the configuration to a VM that does not run yet, and takes them from the Service
/// VM, which does not exist yet. One that the VM cannot have is nobody's.
pub fn assign(vm: &Vm, devices: impl Iterator<Item = PciDevice>, confined: bool) {
    for wanted in devices.filter(|device| device.kind == DeviceKind::PassThrough) {
        let mut functions = FUNCTIONS.lock();
        let shares_id = functions.shared_sender(wanted.pbdf).is_some();
        let device = functions.get(wanted.pbdf);
        let done = device
            .filter(|device| device.owner != Owner::Hypervisor)
            .ok_or(Refused::Absent)
            .and_then(|device| {
                withhold(device)?;
                if !confined {
                    return Err(Refused::NoIommu);
                }
                if shares_id {
                    return Err(Refused::SharedId);
                }
                give(device, vm, &wanted)
            });
        drop(functions);
        match done {
            Ok(()) => info!("vm{}: PCI {} is its {}", vm.id, wanted.pbdf, wanted.vbdf),
            Err(refused) => {
                warning!("vm{} does not get PCI {}: {refused}", vm.id, wanted.pbdf);
            }
        }
    }
}

/// Keeps BARs from the Service VM.
fn hide(device: &Device) -> Result<(), Refused> {
    for bar in device.function.bars().iter().filter(|bar| bar.size != 0) {
        if bar.kind == BarKind::Io {
            let (start, end) = (bar.address as u16, (bar.address + bar.size) as u16);
            let added = PORTS.lock().try_push(start..end);
            added.map_err(|_| Refused::Ports)?;
        } else if bar.is_memory() && bar.address != 0 {
            super::hide(Hpa(bar.address), bar.size);
        }
    }
    Ok(())
}

fn give(device: &mut Device, vm: &Vm, wanted: &PciDevice) -> Result<(), Refused> {
    if device.function.header() != Header::Endpoint {
        return Err(Refused::NoEndpoint);
    }
    let mut addresses = [0; BAR_COUNT];
    for (number, bar) in device.function.bars().iter().enumerate() {
        let Some(place) = wanted.bars.get(number) else {
            continue;
        };
        if (bar.size, bar.kind == BarKind::Io) != (place.size, place.io && place.size != 0) {
            return Err(Refused::Bar(number));
        }
        addresses[number] = place.gpa.0;
    }
    device.function.use_virtual_bars(&addresses);
    device.owner = Owner::Vm(vm.id);
    device.place = wanted.vbdf;
    Ok(())
}

/// Whether a port belongs to a function that the Service VM does not have.
pub fn is_withheld_port(port: u16) -> bool {
    PORTS.lock().iter().any(|range| range.contains(&port))
}

/// Shows the ports of such functions.
pub fn for_each_withheld_port(mut show: impl FnMut(u16)) {
    PORTS.lock().iter().cloned().flatten().for_each(&mut show);
}

/// The window of configuration space that the tables of pre-launched VMs name.
pub const WINDOW: EcamWindow = EcamWindow {
    base: Gpa(guest_map::PCI_ECAM.start),
    first_bus: 0,
    last_bus: 0,
};

/// A read of configuration space.
pub fn config_read(vm: &Vm, access: ConfigAccess) -> u32 {
    let ConfigAccess {
        bdf,
        register,
        size,
    } = access;
    if bdf == Bdf::new(0, 0, 0) {
        let (vendor, device) = guest_map::HOST_BRIDGE_ID;
        return HostBridge::new(vendor, device).read(register, size);
    }
    let mut functions = FUNCTIONS.lock();
    let Some(device) = functions.assigned(bdf, vm).filter(|_| register < EXTENDED) else {
        return all_ones(size);
    };
    let value = device.function.read(register, size, &Host);
    value & !hidden_bits(device, register)
}

/// Bits of a register that read as zero, in the lane of an access there.
fn hidden_bits(device: &Device, register: u16) -> u32 {
    let bits = match register & !3 {
        INTERRUPT => 0xff00,
        dword if device.function.express().is_some_and(|at| dword == at + 4) => RESET_CAPABLE,
        _ => 0,
    };
    bits >> (8 * (register & 3))
}

/// A write of configuration space.
pub fn config_write(vcpu: &Vcpu, access: ConfigAccess, value: u32) {
    let ConfigAccess {
        bdf,
        register,
        size,
    } = access;
    let vm = vcpu.vm();
    let mut freed = Withheld::new();
    let moved = {
        let mut functions = FUNCTIONS.lock();
        let Some(device) = functions.assigned(bdf, vm).filter(|_| register < EXTENDED) else {
            return;
        };
        let value = allowed(device, register, value);
        let action = device.write(&NO_PLAN, register, size, value);
        let moves = matches!(
            action,
            ConfigAction::BarChanged { .. } | ConfigAction::CommandChanged { .. }
        );
        moves && remap(device, vm, &mut freed)
    };
    if moved {
        vm.flush_translations(Some(vcpu));
    }
    drop(freed);
}

/// What is written instead of a guest's value: wired interrupts stay off, and no reset begins.
fn allowed(device: &Device, register: u16, value: u32) -> u32 {
    let lane = 8 * (register & 3);
    match register & !3 {
        COMMAND if lane < 16 => value | COMMAND_NO_INTX >> lane,
        dword if device.function.express().is_some_and(|at| dword == at + 8) => {
            value & !(START_RESET >> lane)
        }
        _ => value,
    }
}

/// Maps what the function decodes now, and nothing else of it. Whether something was unmapped, so that
/// translations have to be flushed before `freed` is dropped.
fn remap(device: &mut Device, vm: &Vm, freed: &mut Withheld) -> bool {
    let wanted = decoded_pages(device);
    let mut guard = vm.nested.lock();
    let Some(table) = guard.as_mut() else {
        return false;
    };
    let before = core::mem::take(&mut device.mapped);
    for (gpa, _, size) in &before {
        let _ = table.unmap_later(Gpa(*gpa), *size, freed);
    }
    for (gpa, hpa, size) in wanted {
        let (access, kind) = (Access::RW, MemType::Uncacheable);
        if table.map(Gpa(gpa), Hpa(hpa), size, access, kind).is_ok() {
            let _ = device.mapped.try_push((gpa, hpa, size));
        }
    }
    !before.is_empty()
}

/// Guest address, host address and size of the pieces that are mapped.
type Pieces = ArrayVec<(u64, u64, u64), { super::device::MAX_PIECES }>;

fn decoded_pages(device: &Device) -> Pieces {
    let mut pieces = Pieces::new();
    if !device.decodes() {
        return pieces;
    }
    let table = device.pages();
    for (number, bar) in device.function.bars().iter().enumerate() {
        let physical = device.function.physical_bar(number);
        let whole = bar.size % PAGE_SIZE == 0 && bar.address % PAGE_SIZE == 0;
        let is_there = bar.is_memory() && bar.kind != BarKind::Rom && bar.size != 0;
        if !is_there || !whole || physical % PAGE_SIZE != 0 || !in_window(bar.address, bar.size) {
            continue;
        }
        let end = bar.address + bar.size;
        let (from, to) = table.map_or((end, end), |pages| pages.within(bar.address, end));
        for (start, stop) in [(bar.address, from), (to, end)] {
            if start < stop {
                let hpa = physical + (start - bar.address);
                let _ = pieces.try_push((start, hpa, stop - start));
            }
        }
    }
    pieces
}

/// Whether a BAR lies where the VM's tables say that BARs are.
fn in_window(start: u64, size: u64) -> bool {
    let inside = |window: Range<u64>| {
        start >= window.start && start.checked_add(size).is_some_and(|end| end <= window.end)
    };
    inside(guest_map::PCI_MMIO32) || inside(guest_map::PCI_MMIO64)
}

/// An access to a BAR that is not mapped; `None` when there is none at the address.
pub fn memory_access(vm: &Vm, gpa: Gpa, size: u8, write: Option<u64>) -> Option<u64> {
    let mut functions = FUNCTIONS.lock();
    let mut own = functions.list.iter_mut();
    let (device, number) = own.find_map(|device| {
        let is_own = device.owner == Owner::Vm(vm.id) && device.decodes();
        let number = is_own.then(|| bar_at(device, gpa.0, size)).flatten()?;
        Some((device, number))
    })?;
    if let Some(value) = device.access_table(gpa, size, write) {
        return Some(value);
    }
    let bar = &device.function.bars()[number];
    let at = Hpa(device.function.physical_bar(number) + (gpa.0 - bar.address));
    drop(functions);
    match write {
        Some(value) => registers::write(at, size, value),
        None => return Some(registers::read(at, size)),
    }
    Some(0)
}

/// The memory BAR of a function that holds all of an access.
fn bar_at(device: &Device, gpa: u64, size: u8) -> Option<usize> {
    let bars = device.function.bars().iter();
    bars.enumerate().find_map(|(number, bar)| {
        let offset = gpa.checked_sub(bar.address)?;
        let is_memory = bar.is_memory() && bar.kind != BarKind::Rom;
        let inside = offset.checked_add(size.into())? <= bar.size;
        (is_memory && inside && in_window(bar.address, bar.size)).then_some(number)
    })
}

/// An access to a port of a function; `None` when it is no function's.
pub fn port_access(vm: &Vm, port: u16, size: u8, write: Option<u32>) -> Option<u32> {
    let mut functions = FUNCTIONS.lock();
    let host = functions.list.iter_mut().find_map(|device| {
        let is_own = device.owner == Owner::Vm(vm.id);
        let is_on = is_own && device.function.command() & COMMAND_PORTS != 0;
        let mut bars = device.function.bars().iter().enumerate();
        bars.find_map(|(number, bar)| {
            let offset = u64::from(port).checked_sub(bar.address)?;
            let inside = offset + u64::from(size) <= bar.size;
            let host = device.function.physical_bar(number) + offset;
            (is_on && bar.kind == BarKind::Io && inside).then_some(host as u16)
        })
    })?;
    drop(functions);
    Some(host_port(host, size, write))
}

/// The functions of pre-launched VMs, with their owners.
pub fn for_each(mut show: impl FnMut(Bdf, &'static Vm)) {
    for device in &FUNCTIONS.lock().list {
        if let Some(vm) = device.vm().filter(|vm| vm.is_pre_launched()) {
            show(device.function.bdf(), vm);
        }
    }
}

/// Takes what the functions of a stopped VM have mapped.
pub fn unmap(device: &mut Device, vm: &Vm, freed: &mut Withheld) {
    if let Some(table) = vm.nested.lock().as_mut() {
        for (gpa, _, size) in core::mem::take(&mut device.mapped) {
            let _ = table.unmap_later(Gpa(gpa), size, freed);
        }
    }
}
