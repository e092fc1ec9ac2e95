//! Devices of User VMs and facts about the machine.

use super::{Refusal, existing, read, slot, write};
use crate::arch::{cpu, tsc};
use crate::interval_timer::IntervalTimer;
use crate::vm::{self, CONSOLE_SOURCE, ConsolePlace, Vm};
use crate::{config, console, inter_vm, percpu, rings, shared_memory, virtual_pci};
use acrn_abi::hypercall::{CpuStateQuery, Errno, HwInfo, MmioDev, PciDev, PtdevIrq, Vdev};
use acrn_abi::{Gpa, VmId};
use acrn_config_blob::{DeviceKind, PciDevice, VuartKind};
use acrn_config_use::LineEnd;
use acrn_lifecycle::VmState;
use acrn_lifecycle::validate::{
    Emulated, PassThrough, PciPlace, RegionName, Removal, RingRequest, UartPlace, VdevChange,
};
use acrn_vdev::counters::Counters;

/// CREATE_VDEV and DESTROY_VDEV: the serial port of `vm_console`, timers, and the devices by which
/// VMs reach each other.
pub fn change_vdev(id: VmId, block: Gpa, change: VdevChange) -> Result<u64, Refusal> {
    let description: Vdev = read(block)?;
    if let Some(request) = RingRequest::of_device(&description)? {
        return change_ring(slot(id)?, request, change);
    }
    let vm = existing(id)?;
    let state = vm.state.lock();
    let stopped = match change {
        VdevChange::Create => *state == VmState::Created,
        VdevChange::Destroy => matches!(*state, VmState::Created | VmState::Paused),
    };
    if !stopped {
        let reason = "devices come before the first start and go while the VM is stopped";
        return Err(Refusal::new(Errno::EINVAL, reason));
    }
    match change {
        VdevChange::Create => create(vm, Emulated::new(&description)?),
        VdevChange::Destroy => destroy(vm, Emulated::to_remove(&description)?),
    }
}

/// A ring of an observer, which is no device: upstream Linux has no other ioctl that could bring it.
fn change_ring(vm: &Vm, request: RingRequest, change: VdevChange) -> Result<u64, Refusal> {
    let at = request.at.filter(|_| change == VdevChange::Create);
    rings::change(vm, &RingRequest { at, ..request })
}

/// SETUP_SBUF.
pub fn set_up_ring(id: VmId, block: Gpa) -> Result<u64, Refusal> {
    let request = RingRequest::new(&read(block)?)?;
    let vm = match id {
        VmId(0) => vm::service(),
        _ => slot(id)?,
    };
    rings::change(vm, &request)
}

fn create(vm: &Vm, device: Emulated) -> Result<u64, Refusal> {
    match device {
        Emulated::Uart(place) => add_uart(vm, place),
        Emulated::Counters => {
            *vm.counters.lock() = Some(Counters::new(tsc::khz(), cpu::rdtsc()));
            Ok(0)
        }
        Emulated::IntervalTimer => {
            *vm.interval_timer.lock() = Some(IntervalTimer::new());
            Ok(0)
        }
        Emulated::SerialCard(place, vuart) => add_serial_card(vm, &place, vuart),
        Emulated::SharedMemory(place, name, size) => add_shared_memory(vm, &place, &name, size),
    }
}

fn destroy(vm: &Vm, device: Removal) -> Result<u64, Refusal> {
    match device {
        Removal::Function(place) => {
            let none = Refusal::new(Errno::ENODEV, "no such device is there");
            virtual_pci::remove(vm, place.bdf, place.id).ok_or(none)?;
            Ok(0)
        }
        Removal::Other(Emulated::Uart(place)) => remove_uart(vm, place),
        Removal::Other(Emulated::IntervalTimer) => {
            *vm.interval_timer.lock() = None;
            Ok(0)
        }
        Removal::Other(_) => {
            *vm.counters.lock() = None;
            Ok(0)
        }
    }
}

/// The end of a serial line that the scenario has for the VM.
fn add_serial_card(vm: &Vm, place: &PciPlace, vuart: u16) -> Result<u64, Refusal> {
    let described = config::setup().vm_in(vm.id.0);
    let connected = described.filter(|vm| {
        let found = vm.vuart(vuart);
        found.is_some_and(|found| found.kind == VuartKind::Pci)
    });
    let reason = "the scenario has no serial card for this VM and vUART";
    let vm_id = connected.ok_or(Refusal::new(Errno::ENODEV, reason))?.id;
    let end = LineEnd { vm: vm_id, vuart };
    inter_vm::add_card(vm, end, place.bdf, &place.bars)?;
    Ok(0)
}

/// Shared memory of the scenario, if the VM is one of those that it names.
fn add_shared_memory(
    vm: &Vm,
    place: &PciPlace,
    name: &RegionName,
    size: u64,
) -> Result<u64, Refusal> {
    let setup = config::setup();
    let unknown = Refusal::new(
        Errno::ENODEV,
        "the scenario has no shared memory of this name",
    );
    let (region, its_size) = shared_memory::find(name.as_str()).ok_or(unknown)?;
    let member = setup.vm_in(vm.id.0).is_some_and(|described| {
        let devices = described.pci_devices.iter();
        let shared = |device: &PciDevice| device.kind == DeviceKind::SharedMemory;
        devices
            .filter(shared)
            .any(|device| device.number == region.into())
    });
    if !member {
        let reason = "the scenario does not name this VM for this shared memory";
        return Err(Refusal::new(Errno::EACCES, reason));
    }
    if size != its_size {
        let reason = "the shared memory has another size in the scenario";
        return Err(Refusal::new(Errno::EINVAL, reason));
    }
    if virtual_pci::member(vm, region).is_some() {
        return Err(Refusal::new(Errno::EBUSY, "the VM has this shared memory"));
    }
    inter_vm::add_shared_memory(vm, region, place.bdf, &place.bars)?;
    Ok(0)
}

fn add_uart(vm: &Vm, place: UartPlace) -> Result<u64, Refusal> {
    let mut uart = vm.uart.lock();
    if uart.is_there() {
        return Err(Refusal::new(Errno::EBUSY, "the VM has its serial port"));
    }
    uart.put(ConsolePlace::Ports(place));
    Ok(0)
}

fn remove_uart(vm: &Vm, place: UartPlace) -> Result<u64, Refusal> {
    {
        let mut uart = vm.uart.lock();
        if uart.place != ConsolePlace::Ports(place) {
            return Err(Refusal::new(Errno::ENODEV, "no serial port is there"));
        }
        uart.remove();
    }
    vm.set_shared_line(place.gsi, CONSOLE_SOURCE, false);
    console::forget(vm.id);
    Ok(0)
}

/// Devices of the machine for a User VM: none is given. All are in the Service VM's domain for DMA, and
/// a device there would let the User VM read and write the Service VM's memory.
pub fn pass_through(id: VmId, block: Gpa, what: PassThrough) -> Result<u64, Refusal> {
    match what {
        PassThrough::SetInterrupt | PassThrough::ResetInterrupt => {
            read::<PtdevIrq>(block).map(|_| ())
        }
        PassThrough::AssignPci | PassThrough::DeassignPci => read::<PciDev>(block).map(|_| ()),
        PassThrough::AssignMmio | PassThrough::DeassignMmio => read::<MmioDev>(block).map(|_| ()),
    }?;
    existing(id)?;
    Err(match what {
        PassThrough::AssignPci | PassThrough::AssignMmio | PassThrough::SetInterrupt => {
            Refusal::new(Errno::EACCES, "devices of the machine are the Service VM's")
        }
        PassThrough::DeassignPci | PassThrough::DeassignMmio | PassThrough::ResetInterrupt => {
            Refusal::new(Errno::ENODEV, "the VM has no device of the machine")
        }
    })
}

/// GET_HW_INFO.
pub fn hardware(block: Gpa) -> Result<u64, Refusal> {
    let info = HwInfo {
        cpu_num: percpu::all().len() as u16,
        ..HwInfo::default()
    };
    write(block, &info)
}

/// PM_GET_CPU_STATE: User VMs are offered neither P-states nor C-states.
pub fn cpu_state(query: CpuStateQuery, block: Gpa) -> Result<u64, Refusal> {
    existing(VmId(query.vmid().into()))?;
    match query.kind() {
        CpuStateQuery::PX_COUNT | CpuStateQuery::CX_COUNT => write(block, &0u64),
        CpuStateQuery::PX_DATA | CpuStateQuery::CX_DATA => {
            Err(Refusal::new(Errno::ENODEV, "there is no such power state"))
        }
        _ => Err(Refusal::new(Errno::EINVAL, "no such power query")),
    }
}
