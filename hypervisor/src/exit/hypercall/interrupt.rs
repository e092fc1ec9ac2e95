//! Interrupts into User VMs, the upcall, and answers to I/O requests. None of these takes a VM's
//! state lock: they come often, some from the Service VM's interrupt handlers.

use super::{Refusal, existing, reachable, read, write};
use crate::exit::ioreq::UPCALL_VECTOR;
use crate::vcpu::request;
use acrn_abi::hypercall::{Errno, IntrMonitor, IrqLine, MsiEntry};
use acrn_abi::{Gpa, Gsi, VcpuId, Vector, VmId, guest_map};
use acrn_vdev::interrupt::{Delivery, DeliveryMode};
use acrn_vdev::pci::MsiMessage;
use core::sync::atomic::Ordering;

/// Vectors below are refused by local APICs.
const FIRST_VECTOR: u8 = 16;

/// SET_CALLBACK_VECTOR.
pub fn callback_vector(vector: Vector) -> Result<u64, Refusal> {
    UPCALL_VECTOR.store(vector.0, Ordering::Relaxed);
    Ok(0)
}

/// INJECT_MSI.
pub fn inject_msi(id: VmId, block: Gpa) -> Result<u64, Refusal> {
    let entry: MsiEntry = read(block)?;
    let vm = reachable(id)?;
    let delivery = decode(&entry).ok_or(Refusal::new(Errno::EINVAL, "not an interrupt message"))?;
    vm.deliver(delivery);
    Ok(0)
}

fn decode(entry: &MsiEntry) -> Option<Delivery> {
    let message = MsiMessage {
        address: entry.address,
        data: u32::try_from(entry.data).ok()?,
    };
    let delivery = message.decode()?;
    let possible = match delivery.mode {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => delivery.vector.0 >= FIRST_VECTOR,
        DeliveryMode::Nmi | DeliveryMode::Init | DeliveryMode::ExtInt => true,
        DeliveryMode::Smi | DeliveryMode::StartUp | DeliveryMode::Reserved => false,
    };
    possible.then_some(delivery)
}

/// SET_IRQLINE.
pub fn set_line(id: VmId, line: IrqLine) -> Result<u64, Refusal> {
    if line.gsi >= guest_map::IOAPIC_PINS {
        return Err(Refusal::new(Errno::EINVAL, "no such interrupt line"));
    }
    let vm = reachable(id)?;
    let gsi = Gsi(line.gsi);
    match line.operation {
        IrqLine::HIGH => vm.set_line(gsi, true),
        IrqLine::LOW => vm.set_line(gsi, false),
        IrqLine::RISING_PULSE => vm.pulse_line(gsi),
        // The line rests high: what counts as an edge is the way back up.
        IrqLine::FALLING_PULSE => {
            vm.set_line(gsi, false);
            vm.set_line(gsi, true);
        }
        _ => return Err(Refusal::new(Errno::EINVAL, "no such operation on a line")),
    }
    Ok(0)
}

/// NOTIFY_REQUEST_FINISH. Of every User VM: a vCPU that has asked waits for the answer.
pub fn request_finished(id: VmId, vcpu: VcpuId) -> Result<u64, Refusal> {
    let vcpu = existing(id)?.vcpu(vcpu.index());
    let vcpu = vcpu.ok_or(Refusal::new(Errno::EINVAL, "no such vCPU"))?;
    vcpu.ask(request::IO_DONE);
    Ok(0)
}

/// VM_INTR_MONITOR. No device of the machine interrupts a User VM, so there is nothing to count
/// and nothing to delay.
pub fn monitor(id: VmId, block: Gpa) -> Result<u64, Refusal> {
    let mut data: IntrMonitor = read(block)?;
    reachable(id)?;
    match data.command {
        IntrMonitor::GET_DATA => {
            data.count = 0;
            write(block, &data)
        }
        IntrMonitor::DELAY => Ok(0),
        _ => Err(Refusal::new(Errno::EINVAL, "no such monitor command")),
    }
}
