//! Accesses to guest addresses without memory: the interrupt controllers, PCI configuration by
//! ECAM, MSI-X tables, device memory of the Service VM that is mapped on first use, and for User
//! VMs the Device Model.

use super::ioreq::{self, PendingIo};
use super::{Next, fetch, general_protection, io};
use crate::vcpu::{Local, Vcpu, guest_tsc};
use crate::virt::NestedFault;
use crate::{device_memory, irq, lifecycle, pci, prelaunched, virtual_pci};
use acrn_abi::{Gpa, Gva, guest_map};
use acrn_emulate::paging::Access;
use acrn_emulate::{Emulation, Instruction, PlainMov, Step};
use acrn_vdev::ioapic::IoApicAction;
use acrn_vdev::lapic::{APIC_BASE_ADDRESS, Mode};
use acrn_vdev::pci::EcamWindow;

/// Answer to one access.
pub enum Answer {
    /// Done; a read gives this value.
    Done(u64),
    /// The Device Model has to answer.
    Forward,
}

/// Nested page fault.
pub fn handle(vcpu: &'static Vcpu, local: &mut Local, fault: NestedFault) -> Next {
    if vcpu.vm().is_service() && device_memory::map(vcpu, &fault)
        || virtual_pci::map(vcpu.vm(), &fault)
    {
        return Next::Continue;
    }
    if fault.fetch || fault.page_walk {
        return lifecycle::fatal(
            vcpu,
            local,
            "code or page tables where the VM has no memory",
            crate::virt::Exit::NestedFault,
        );
    }
    // The instruction at RIP has nothing to do with it, and delivering it again would not end.
    if local.virt.event_pending() {
        return lifecycle::fatal(
            vcpu,
            local,
            "interrupt tables or stack where the VM has no memory",
            crate::virt::Exit::NestedFault,
        );
    }
    let mut bytes = [0; fetch::LENGTH];
    let count = fetch::instruction(vcpu, local, &mut bytes);
    let bytes_here = &bytes[..count];
    if let Some(mov) = PlainMov::decode(bytes_here, fetch::mode(local)) {
        if plain(vcpu, local, &mov, fault.gpa) {
            return Next::Continue;
        }
    }
    let instruction = match Instruction::decode(bytes_here, fetch::mode(local)) {
        Ok(instruction) => instruction,
        Err(error) => {
            if crate::log::limited() {
                crate::warning!(
                    "vm{} vcpu{} rip {:#x}: cannot emulate {:02x?} for {}: {error:?}; #GP",
                    vcpu.vm_id(),
                    vcpu.id,
                    local.registers.rip,
                    &bytes[..count.min(8)],
                    fault.gpa
                );
            }
            return general_protection(local);
        }
    };
    let (emulation, step) = Emulation::start(instruction, &fetch::View(local));
    // With two operands in memory the exit does not say which of them faulted.
    let known = emulation
        .instruction()
        .has_one_operand()
        .then_some(fault.gpa);
    proceed(vcpu, local, emulation, step, known)
}

/// The short way for the instructions that drivers use; `false` when it is not possible.
#[inline]
fn plain(vcpu: &'static Vcpu, local: &mut Local, mov: &PlainMov, gpa: Gpa) -> bool {
    if gpa.page_offset() + u64::from(mov.size()) > acrn_abi::PAGE_SIZE {
        return false;
    }
    let stored = mov.stored(&fetch::View(local));
    let Answer::Done(value) = access(vcpu, local, gpa, mov.size(), stored) else {
        return false;
    };
    mov.complete(&mut fetch::View(local), value);
    local
        .virt
        .advance(&mut local.registers, mov.length().into());
    true
}

/// Carries steps out until the instruction is complete or one has to wait.
pub fn proceed(
    vcpu: &'static Vcpu,
    local: &mut Local,
    mut emulation: Emulation,
    mut step: Step,
    known: Option<Gpa>,
) -> Next {
    loop {
        let (address, size, write) = match step {
            Step::Load { address, size } => (address, size, None),
            Step::Store {
                address,
                size,
                value,
            } => (address, size, Some(value)),
            Step::Done { advance_rip } => {
                if advance_rip {
                    let length = emulation.instruction().length();
                    local.virt.advance(&mut local.registers, length.into());
                } else {
                    // Between two repetitions an interrupt is possible.
                    local.virt.finish_instruction(&mut local.registers);
                }
                return Next::Continue;
            }
        };
        let gpa = match locate(vcpu, local, address, write.is_some(), known) {
            Ok(gpa) => gpa,
            Err(next) => return next,
        };
        let value = match access(vcpu, local, gpa, size, write) {
            Answer::Done(value) => value,
            Answer::Forward => {
                local.pending_io = PendingIo::Memory(emulation);
                return ioreq::memory(vcpu, gpa, size, write);
            }
        };
        step = emulation.resume(&mut fetch::View(local), value);
    }
}

/// Guest physical address of an operand. The exit tells the one that faulted; others are walked.
#[inline]
fn locate(
    vcpu: &Vcpu,
    local: &mut Local,
    address: Gva,
    write: bool,
    known: Option<Gpa>,
) -> Result<Gpa, Next> {
    if let Some(gpa) = known {
        if gpa.page_offset() == address.page_offset() {
            return Ok(gpa);
        }
    }
    let kind = if write { Access::Write } else { Access::Read };
    fetch::translate(vcpu.vm(), local, address, kind).map_err(|e| io::walk_failed(local, e))
}

/// One access of `size` bytes.
pub fn access(
    vcpu: &'static Vcpu,
    local: &mut Local,
    gpa: Gpa,
    size: u8,
    write: Option<u64>,
) -> Answer {
    let page = gpa.align_down(acrn_abi::PAGE_SIZE);
    if page.0 == APIC_BASE_ADDRESS && local.lapic.mode() == Mode::XApic {
        return Answer::Done(local_apic(vcpu, local, gpa, size, write));
    }
    if let Some(value) = ioapic(vcpu, gpa, size, write) {
        return Answer::Done(value);
    }
    if let Some(value) = memory_operand(vcpu, gpa, size, write) {
        return Answer::Done(value);
    }
    let vm = vcpu.vm();
    if let Some(value) = virtual_pci::memory_access(vm, gpa, size, write) {
        return Answer::Done(value);
    }
    if vm.is_pre_launched() {
        return Answer::Done(prelaunched::memory(vcpu, gpa, size, write));
    }
    if !vm.is_service() {
        return user_device(vcpu, gpa, size, write);
    }
    if let Some(value) = pci::memory_access(vcpu, gpa, size, write) {
        return Answer::Done(value);
    }
    refused(vcpu, local, gpa, write)
}

/// Configuration space of a User VM.
const USER_ECAM: EcamWindow = EcamWindow {
    base: Gpa(guest_map::PCI_ECAM.start),
    first_bus: 0,
    last_bus: 0xff,
};

/// Registers of the Device Model; of the HPET, the hypervisor may answer reads of the counter, and it
/// has the configuration of its own PCI functions.
fn user_device(vcpu: &Vcpu, gpa: Gpa, size: u8, write: Option<u64>) -> Answer {
    if guest_map::PCI_ECAM.contains(&gpa.0) {
        let access = USER_ECAM.decode(gpa, size);
        let value = access.and_then(|access| {
            virtual_pci::config_access(vcpu, access, write.map(|value| value as u32))
        });
        return value.map_or(Answer::Forward, |value| Answer::Done(value.into()));
    }
    let offset = gpa.0.wrapping_sub(guest_map::HPET_BASE.0);
    if offset < guest_map::HPET_SIZE {
        if let Some(counters) = vcpu.vm().counters.lock().as_mut() {
            let now = crate::arch::cpu::rdtsc();
            match write {
                Some(value) => counters.hpet_write(offset, size, value, now),
                None => {
                    if let Some(value) = counters.hpet_read(offset, size, now) {
                        return Answer::Done(value);
                    }
                }
            }
        }
    }
    Answer::Forward
}

#[cold]
fn refused(vcpu: &Vcpu, local: &Local, gpa: Gpa, write: Option<u64>) -> Answer {
    if crate::log::limited() {
        let what = if write.is_some() {
            "write to"
        } else {
            "read of"
        };
        crate::warning!(
            "vm{} vcpu{} rip {:#x}: {what} {gpa} refused: not the VM's",
            vcpu.vm_id(),
            vcpu.id,
            local.registers.rip
        );
    }
    Answer::Done(u64::MAX)
}

/// An operand in the guest's own memory, as the other side of a MOVS.
fn memory_operand(vcpu: &Vcpu, gpa: Gpa, size: u8, write: Option<u64>) -> Option<u64> {
    vcpu.vm().translate(gpa)?;
    let size = usize::from(size.min(8));
    let mut bytes = write.unwrap_or(0).to_le_bytes();
    let done = match write {
        Some(_) => vcpu.vm().write(gpa, &bytes[..size]),
        None => vcpu.vm().read(gpa, &mut bytes[..size]),
    };
    done.then(|| u64::from_le_bytes(bytes))
}

fn local_apic(
    vcpu: &'static Vcpu,
    local: &mut Local,
    gpa: Gpa,
    size: u8,
    write: Option<u64>,
) -> u64 {
    let offset = gpa.page_offset() as u16;
    let now = guest_tsc(local);
    match write {
        // Registers are written as aligned 32-bit words; hardware leaves the rest undefined.
        Some(value) if offset & 0xf == 0 && size >= 4 => {
            let action = local.lapic.write(offset, value as u32, now);
            irq::act(vcpu, local, action);
            0
        }
        Some(_) => 0,
        None => {
            let word = local.lapic.read(offset & !3, now);
            u64::from(word) >> (8 * (offset & 3))
        }
    }
}

fn ioapic(vcpu: &Vcpu, gpa: Gpa, size: u8, write: Option<u64>) -> Option<u64> {
    let vm = vcpu.vm();
    let mut guard = vm.ioapics.lock();
    let (_, device) = guard
        .iter_mut()
        .find(|(base, _)| gpa.0.wrapping_sub(base.0) < 4096)?;
    let offset = gpa.page_offset() as u16;
    let Some(value) = write else {
        let word = device.read(offset & !3);
        return Some(u64::from(word) >> (8 * (offset & 3)));
    };
    if offset & 3 != 0 || size < 1 {
        return Some(0);
    }
    let action = device.write(offset, value as u32);
    let base = device.gsi_base().0;
    if let IoApicAction::RteChanged { pin, delivery, .. } = action {
        let rte = device.rte(pin);
        drop(guard);
        if let Some(delivery) = delivery {
            vm.deliver(delivery);
        }
        if let (true, Some(rte)) = (vm.is_service(), rte) {
            irq::pin_changed(vm, acrn_abi::Gsi(base + u32::from(pin)), rte);
        }
    }
    Some(0)
}
