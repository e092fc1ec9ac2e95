//! Devices of User VMs and facts about the machine.

use super::{Refusal, existing, read, write};
use crate::arch::{cpu, tsc};
use crate::vm::Vm;
use crate::{console, percpu};
use acrn_abi::hypercall::{CpuStateQuery, Errno, HwInfo, MmioDev, PciDev, PtdevIrq, Vdev};
use acrn_abi::{Gpa, VmId};
use acrn_lifecycle::VmState;
use acrn_lifecycle::validate::{Emulated, PassThrough, UartPlace, VdevChange};
use acrn_vdev::counters::Counters;
use acrn_vdev::uart::VUart;

/// CREATE_VDEV and DESTROY_VDEV: the serial port of `vm_console`, and the counters.
pub fn change_vdev(id: VmId, block: Gpa, change: VdevChange) -> Result<u64, Refusal> {
    let description: Vdev = read(block)?;
    let device = Emulated::new(&description)?;
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
    match (device, change) {
        (Emulated::Uart(place), VdevChange::Create) => add_uart(vm, place),
        (Emulated::Uart(place), VdevChange::Destroy) => remove_uart(vm, place),
        (Emulated::Counters, VdevChange::Create) => {
            *vm.counters.lock() = Some(Counters::new(tsc::khz(), cpu::rdtsc()));
            Ok(0)
        }
        (Emulated::Counters, VdevChange::Destroy) => {
            *vm.counters.lock() = None;
            Ok(0)
        }
    }
}

fn add_uart(vm: &Vm, place: UartPlace) -> Result<u64, Refusal> {
    let mut uart = vm.uart.lock();
    if uart.port != 0 {
        return Err(Refusal::new(Errno::EBUSY, "the VM has its serial port"));
    }
    uart.device = VUart::new();
    uart.gsi = place.gsi;
    uart.port = place.port;
    Ok(0)
}

fn remove_uart(vm: &Vm, place: UartPlace) -> Result<u64, Refusal> {
    {
        let mut uart = vm.uart.lock();
        if (uart.port, uart.gsi) != (place.port, place.gsi) {
            return Err(Refusal::new(Errno::ENODEV, "no serial port is there"));
        }
        uart.port = 0;
    }
    vm.set_line(place.gsi, false);
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
