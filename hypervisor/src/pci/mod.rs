//! PCI: the Service VM owns the machine's functions, but for what the hypervisor keeps.
//!
//! Configuration accesses, by port or by the memory-mapped window, and the pages with MSI-X
//! tables are emulated; everything else of a function is the VM's directly. What the guest
//! programs as a message becomes a host interrupt that is forwarded ([`crate::irq`]).
//!
//! | module | job |
//! |---|---|
//! | [`host`] | the machine's configuration space |
//! | [`assigned`] | functions of pre-launched VMs |
//! | [`device`] | one function: messages, BARs |
//! | [`mediated`] | pages that are not mapped, addresses that BARs may have |
//! | [`storage`] | room for MSI-X tables |
//! | [`mod@list`] | what the shell shows |
//!
//! A BAR of the guest may be written with any address, but the function decodes memory only while
//! all of them are where device memory may be. A table's new pages are taken from the guest,
//! on all its CPUs, before the function decodes there.

mod assigned;
mod chipset;
mod device;
mod host;
mod list;
mod mediated;
mod storage;

use crate::arch::{device as registers, uart};
use crate::vcpu::Vcpu;
use crate::virt::NestedTable;
use crate::virtual_pci;
use crate::vm::Vm;
use crate::withheld::Withheld;
use acrn_abi::{Bdf, Gpa, Hpa, PAGE_SIZE, VmId};
use acrn_acpi::Platform;
use acrn_vdev::pci::{
    CONFIG_ADDRESS_PORT, CONFIG_DATA_PORT, ConfigAccess, ConfigAction, ConfigAddress, ConfigSpace,
    EcamWindow, all_ones, enumerate,
};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU32, Ordering};
use device::{Device, Owner};
use host::Host;
use spin::Mutex;

pub use assigned::for_each as for_each_assigned;
pub use assigned::{
    assign, for_each_withheld_port, is_withheld_port, port_access as assigned_port, withhold_hidden,
};
pub use list::list;

/// Most functions of the machine; others stay hidden.
pub const MAX_FUNCTIONS: usize = 128;

const VENDOR: u16 = 0x00;
const COMMAND: u16 = 0x04;
const BAR0: u16 = 0x10;
const BUS_NUMBERS: u16 = 0x18;

/// All functions, sorted.
struct Functions {
    list: ArrayVec<Device, MAX_FUNCTIONS>,
}

static FUNCTIONS: Mutex<Functions> = Mutex::new(Functions {
    list: ArrayVec::new_const(),
});

/// The function with the hypervisor's UART; [`NO_FUNCTION`] for none.
static UART: AtomicU32 = AtomicU32::new(NO_FUNCTION);
const NO_FUNCTION: u32 = u32::MAX;

impl Functions {
    fn position(&self, bdf: Bdf) -> Result<usize, usize> {
        self.list
            .binary_search_by_key(&bdf.0, |device| device.function.bdf().0)
    }

    fn get(&mut self, bdf: Bdf) -> Option<&mut Device> {
        let index = self.position(bdf).ok()?;
        self.list.get_mut(index)
    }

    /// The function, when a VM owns it.
    fn owned(&mut self, bdf: Bdf, vm: VmId) -> Option<&mut Device> {
        self.get(bdf).filter(|device| device.owner == Owner::Vm(vm))
    }

    /// Looks at a function that is new here.
    fn add(&mut self, bdf: Bdf) -> Option<&mut Device> {
        let Err(index) = self.position(bdf) else {
            return None;
        };
        if self.list.is_full() {
            return None;
        }
        let withheld = crate::config::setup().hides(bdf);
        let owner = if withheld || UART.load(Ordering::Relaxed) == bdf.0.into() {
            Owner::Hypervisor
        } else {
            Owner::Vm(crate::vm::service().id)
        };
        let mut device = Device::new(bdf, owner)?;
        device.sender = self.shared_sender(bdf).unwrap_or(bdf);
        self.list.try_insert(index, device).ok()?;
        self.list.get_mut(index)
    }

    /// The number that a function makes its requests under, if it shares one with others: that of the
    /// conventional bridge next to the root.
    fn shared_sender(&self, bdf: Bdf) -> Option<Bdf> {
        let leads = |device: &&Device| {
            let buses = device.function.bus_numbers();
            buses.is_some_and(|buses| bdf.bus() != 0 && buses.contains(bdf.bus()))
        };
        let bridges = self.list.iter().filter(leads);
        let shared = bridges.filter_map(|bridge| {
            let secondary = bridge.function.bus_numbers()?.secondary;
            Some((secondary, bridge.common_sender()?))
        });
        shared
            .min_by_key(|(secondary, _)| *secondary)
            .map(|(_, sender)| sender)
    }

    /// Whether a bridge leads to a function of another VM than the Service VM. What is written to it could
    /// take that function from its VM.
    fn leads_elsewhere(&self, bridge: Bdf) -> bool {
        let Ok(index) = self.position(bridge) else {
            return false;
        };
        let Some(buses) = self.list[index].function.bus_numbers() else {
            return false;
        };
        let service = Owner::Vm(crate::vm::service().id);
        let mut list = self.list.iter();
        list.any(|device| {
            matches!(device.owner, Owner::Vm(_))
                && device.owner != service
                && buses.contains(device.function.bdf().bus())
        })
    }

    /// A bridge is about to be renumbered: functions that cannot be reached under their numbers
    /// any more disappear, and are found again when the guest looks for them.
    fn forget_behind(&mut self, bridge: Bdf, vm: VmId, register: u16, size: u8, value: u32) {
        let numbers = |device: &mut Device| device.function.bus_numbers();
        let Some(old) = self.get(bridge).and_then(numbers) else {
            return;
        };
        let Some(new) = self
            .get(bridge)
            .and_then(|d| d.bus_numbers_after(register, size, value))
        else {
            return;
        };
        let behind = |device: &Device| {
            let bus = device.function.bdf().bus();
            let stays = old.secondary == new.secondary && new.contains(bus);
            bus != bridge.bus() && old.contains(bus) && !stays && device.owner == Owner::Vm(vm)
        };
        while let Some(index) = self.list.iter().position(behind) {
            let device = self.list.remove(index);
            mediated::settle(crate::vm::get(vm), device.function.bdf(), None);
            if let Some(piece) = device.retire() {
                storage::give_back(piece);
            }
        }
    }
}

/// Finds the configuration windows and the functions. Returns the window that paging is to map.
pub fn initialise(platform: &Platform) -> Option<(Hpa, u64)> {
    let window = host::initialise(platform);
    let mut found: ArrayVec<Bdf, MAX_FUNCTIONS> = ArrayVec::new();
    let mut lost = 0;
    // Other root buses are discovered when the Service VM looks at them.
    enumerate(&[0], &Host, &mut |bdf| {
        lost += u32::from(found.try_push(bdf).is_err());
    });
    let mut functions = FUNCTIONS.lock();
    storage::open();
    for bdf in found {
        let Some(device) = functions.add(bdf) else {
            continue;
        };
        if device.owner == Owner::Hypervisor {
            let memory = device.function.bars().iter().filter(|bar| bar.is_memory());
            memory
                .filter_map(|bar| mediated::Pages::around(bar.address, bar.size))
                .for_each(mediated::hide);
        } else if let (true, Some(pages)) = (device.decodes(), device.pages()) {
            mediated::add_at_boot(bdf, pages);
        }
    }
    let count = functions.list.len();
    drop(functions);
    match window {
        Some((base, _)) => crate::info!("{count} PCI functions, configuration at {base}"),
        None => crate::info!("{count} PCI functions, configuration by ports"),
    }
    if lost > 0 {
        crate::warning!("{lost} more PCI functions are hidden: the table is full");
    }
    window
}

/// Hides registers of the hypervisor's own from every VM. Before the Service VM is made.
pub fn hide(start: Hpa, size: u64) {
    if let Some(pages) = mediated::Pages::around(start.get(), size) {
        mediated::hide(pages);
    }
}

/// Vendor and device of a function that is known; `None` when there is none.
pub fn id(bdf: Bdf) -> Option<(u16, u16)> {
    let mut functions = FUNCTIONS.lock();
    let function = &functions.get(bdf)?.function;
    Some((function.vendor(), function.device()))
}

/// A place for a virtual function on the bus of the Service VM, where the machine has no device: the
/// wanted one, or else another on bus 0.
pub fn free_place(vm: &Vm, wanted: Bdf) -> Option<Bdf> {
    let is_free = |bdf: &Bdf| {
        let hardware = Host.read(*bdf, VENDOR, 2) != 0xffff;
        bdf.function() == 0 && !hardware && !virtual_pci::is_there(vm, *bdf)
    };
    let others = (1..32).map(|device| Bdf::new(0, device, 0));
    core::iter::once(wanted).chain(others).find(is_free)
}

/// Before the machine's sleep: notes what firmware and guests have programmed.
pub fn save() {
    chipset::save();
    let mut functions = FUNCTIONS.lock();
    functions.list.iter_mut().for_each(Device::save);
}

/// After it: every function is where it was, and sends its messages to where it did.
pub fn restore() {
    chipset::restore();
    let mut functions = FUNCTIONS.lock();
    functions.list.iter_mut().for_each(Device::restore);
}

/// A UART behind a PCI function: its first BAR. No VM sees the function from now on.
pub fn find_uart(bdf: Bdf) -> Option<uart::Location> {
    let mut config = Host;
    if config.read(bdf, VENDOR, 2) == 0xffff {
        return None;
    }
    let bar = config.read(bdf, BAR0, 4);
    let location = if bar & 1 != 0 {
        uart::Location::Port(u16::try_from(bar & !3).ok()?)
    } else if bar & 6 == 4 && config.read(bdf, BAR0 + 4, 4) != 0 {
        // Not reachable this early.
        return None;
    } else {
        uart::Location::Memory(u64::from(bar & !0xf), 4)
    };
    if matches!(
        location,
        uart::Location::Port(0) | uart::Location::Memory(0, _)
    ) {
        return None;
    }
    let command = config.read(bdf, COMMAND, 2);
    config.write(bdf, COMMAND, 2, command | 3);
    UART.store(bdf.0.into(), Ordering::Relaxed);
    Some(location)
}

/// Access to ports 0xCF8 to 0xCFF.
pub fn port_access(vcpu: &Vcpu, port: u16, size: u8, write: Option<u32>) -> u32 {
    let latch = &vcpu.vm().config_address;
    match port {
        CONFIG_ADDRESS_PORT if size == 4 => {
            let mut guard = latch.lock();
            let mut address = ConfigAddress::new();
            address.set(write.unwrap_or(*guard));
            *guard = address.get();
            *guard
        }
        CONFIG_DATA_PORT.. => {
            let mut address = ConfigAddress::new();
            address.set(*latch.lock());
            match (address.decode(port, size), write) {
                (Some(access), Some(value)) => {
                    config_write(vcpu, access, value);
                    0
                }
                (Some(access), None) => config_read(vcpu, access),
                (None, _) => all_ones(size),
            }
        }
        // The reset control register, which `lifecycle` looks at first, and nothing else.
        0xcf9 => crate::exit::io::host_port(port, size, write),
        _ => all_ones(size),
    }
}

fn config_read(vcpu: &Vcpu, access: ConfigAccess) -> u32 {
    if let Some(value) = virtual_pci::config_access(vcpu, access, None) {
        return value;
    }
    let ConfigAccess {
        bdf,
        register,
        size,
    } = access;
    let vm = vcpu.vm();
    if vm.is_pre_launched() {
        return assigned::config_read(vm, access);
    }
    let mut functions = FUNCTIONS.lock();
    if let Some(device) = functions.owned(bdf, vm.id) {
        return device.function.read(register, size, &Host);
    }
    // Behind another root bus, behind a bridge that was renumbered, or plugged in just now.
    let new =
        vm.is_service() && functions.get(bdf).is_none() && Host.read(bdf, VENDOR, 2) != 0xffff;
    if new {
        if let Some(device) = functions.add(bdf) {
            if device.pages().is_some() {
                // Its table is taken from the guest when the guest turns decoding on.
                device.stop_decoding();
            }
            if device.owner == Owner::Vm(vm.id) {
                return device.function.read(register, size, &Host);
            }
        }
    }
    all_ones(size)
}

fn config_write(vcpu: &Vcpu, access: ConfigAccess, value: u32) {
    if virtual_pci::config_access(vcpu, access, Some(value)).is_some() {
        return;
    }
    let ConfigAccess {
        bdf,
        register,
        size,
    } = access;
    let vm = vcpu.vm();
    if vm.is_pre_launched() {
        return assigned::config_write(vcpu, access, value);
    }
    if FUNCTIONS.lock().leads_elsewhere(bdf) {
        return;
    }
    // Normally twice at most; more only if CPUs of the guest move the same BAR at a time.
    for _ in 0..4 {
        let mut functions = FUNCTIONS.lock();
        let Some(device) = functions.owned(bdf, vm.id) else {
            return;
        };
        let plan = device.plan(register, size, value);
        if let Some(pages) = plan.pages.filter(|pages| !mediated::is_added(bdf, *pages)) {
            drop(functions);
            if !mediated::add(vm, vcpu, bdf, pages) {
                break;
            }
            continue;
        }
        if register & !3 == BUS_NUMBERS && device.function.bus_numbers().is_some() {
            functions.forget_behind(bdf, vm.id, register, size, value);
        }
        let Some(device) = functions.owned(bdf, vm.id) else {
            return;
        };
        let action = device.write(&plan, register, size, value);
        if plan.pages.is_some() {
            mediated::settle(vm, bdf, plan.pages);
        }
        if action == ConfigAction::FunctionReset && crate::log::limited() {
            crate::debug!("PCI {bdf} is reset by vm{}", vm.id);
        }
        return;
    }
    if crate::log::limited() {
        crate::error!("PCI {bdf}: write to register {register:#x} refused: its table cannot move");
    }
}

/// Access to the configuration window or a page with an MSI-X table; `None` when the address is
/// neither.
pub fn memory_access(vcpu: &Vcpu, gpa: Gpa, size: u8, write: Option<u64>) -> Option<u64> {
    if vcpu.vm().is_pre_launched() {
        if assigned::WINDOW.contains(gpa) {
            return Some(window_access(vcpu, &assigned::WINDOW, gpa, size, write));
        }
        return assigned::memory_access(vcpu.vm(), gpa, size, write);
    }
    if let Some(window) = host::window_at(gpa) {
        let range = &window.range;
        return match window.first_segment {
            true => Some(window_access(vcpu, range, gpa, size, write)),
            false => Some(u64::MAX),
        };
    }
    if mediated::is_hidden(gpa) {
        return Some(u64::MAX);
    }
    mediated::holds_table(gpa).then(|| table_access(vcpu, gpa, size, write))
}

/// Configuration accesses of up to four bytes each.
fn window_access(vcpu: &Vcpu, window: &EcamWindow, gpa: Gpa, size: u8, write: Option<u64>) -> u64 {
    let mut value = 0;
    let mut done = 0;
    while done < size.min(8) {
        let at = Gpa(gpa.0.wrapping_add(done.into()));
        let left = size.min(8) - done;
        let part = match at.0 % 4 {
            0 if left >= 4 => 4,
            0 | 2 if left >= 2 => 2,
            _ => 1,
        };
        let access = window.decode(at, part);
        let read = match (access, write) {
            (Some(access), Some(value)) => {
                config_write(vcpu, access, (value >> (8 * done)) as u32);
                0
            }
            (Some(access), None) => config_read(vcpu, access),
            (None, _) => all_ones(part),
        };
        value |= u64::from(read) << (8 * done);
        done += part;
    }
    value
}

/// The page is not mapped because of a table; what else is on it goes to the hardware.
fn table_access(vcpu: &Vcpu, gpa: Gpa, size: u8, write: Option<u64>) -> u64 {
    if gpa.page_offset() + u64::from(size) > PAGE_SIZE {
        return u64::MAX;
    }
    let mut functions = FUNCTIONS.lock();
    let mut owned = false;
    for bdf in mediated::functions_at(gpa) {
        if let Some(device) = functions.owned(bdf, vcpu.vm_id()) {
            owned = true;
            if let Some(value) = device.access_table(gpa, size, write) {
                return value;
            }
        }
    }
    drop(functions);
    match write {
        _ if !owned => u64::MAX,
        Some(value) => {
            registers::write(Hpa(gpa.0), size, value);
            0
        }
        None => registers::read(Hpa(gpa.0), size),
    }
}

/// Whether an address is one that the Service VM may reach only through this module.
pub fn is_mediated(gpa: Gpa) -> bool {
    mediated::is_mediated(gpa)
}

/// Takes what is mediated out of a table that no CPU uses yet. `false` when there is no memory
/// for the tables that this takes.
pub fn exclude_mediated(table: &mut NestedTable, start: Gpa, size: u64) -> bool {
    mediated::exclude(table, start, size, &mut Withheld::new())
}

/// BARs of a virtual function of the Service VM are at `now` and nowhere else: takes these pages from
/// the VM, whose address space is the machine's, and gives it others back. The translations have to be
/// flushed before `freed` is dropped.
pub fn move_virtual(vm: &Vm, bdf: Bdf, now: &[(u64, u64)], freed: &mut Withheld) {
    mediated::move_virtual(vm, bdf, now, freed);
}

/// Whether a BAR of the Service VM may be there: neither over memory nor over the hypervisor's devices.
pub fn may_decode(start: u64, size: u64) -> bool {
    mediated::may_decode(start, size)
}

/// Shows the parts of `start..end` that the Service VM may have mapped. The caller holds the lock
/// of its nested tables.
pub fn for_each_unmediated(start: u64, end: u64, show: impl FnMut(u64, u64)) {
    mediated::for_each_other(start, end, show);
}

/// Takes the functions of a VM that is stopped back: they do no more DMA and send no more messages.
pub fn take_back(vm: &Vm) {
    let mut freed = Withheld::new();
    let mut functions = FUNCTIONS.lock();
    let own = functions.list.iter_mut();
    for device in own.filter(|device| device.owner == Owner::Vm(vm.id)) {
        device.quiesce();
        assigned::unmap(device, vm, &mut freed);
    }
    drop(functions);
    vm.flush_translations(None);
    drop(freed);
}
