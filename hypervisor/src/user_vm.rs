//! Post-launched VMs: made, reset and taken apart for a Device Model in the Service VM.
//!
//! Whoever calls these holds the VM's state lock, and no vCPU of the VM is on a CPU. What a VM
//! takes (run queue places, table frames, lent pages) it gives back in [`dismantle`], to the
//! last byte; a creation that fails half-way is undone by the same function.

use crate::arch::cpu;
use crate::exit::PendingIo;
use crate::exit::hypercall::{self, Refusal};
use crate::memory::{self, OWNERS};
use crate::vcpu::{Vcpu, Wait};
use crate::virt::{ControlState, NestedTable, Segment, StartState, VirtConfig};
use crate::vm::{self, Vm};
use crate::{config, console, inter_vm, lifecycle, log, rings, virtual_pci};
use acrn_abi::hypercall::Errno;
use acrn_abi::ioreq::{IoRequest, SLOT_SIZE, SLOTS};
use acrn_abi::{Gpa, Gsi, Hpa};
use acrn_config_blob::LoadOrder;
use acrn_config_use::Place;
use acrn_lifecycle::validate::{self, Creation, Limits, Start};
use acrn_lifecycle::{Caller, VmRequest, VmState};
use acrn_sched::Params;
use core::sync::atomic::Ordering;
use spin::Mutex;
use zerocopy::IntoBytes;

/// One creation at a time, so that two cannot choose the same name.
static CREATING: Mutex<()> = Mutex::new(());

/// Makes a VM in its slot of the scenario, or in a free one. `tell` hands the result to the caller;
/// when that fails, there is no VM.
pub fn create(
    creation: &Creation,
    tell: impl FnOnce(&Vm, &Creation) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let _one = CREATING.lock();
    if is_taken(&creation.name) {
        return Err(Refusal::new(Errno::EEXIST, "a VM has this name already"));
    }
    let setup = config::setup();
    let place = match creation.is_observer() {
        true => Place::Dynamic,
        false => setup.place(&creation.name),
    };
    let (creation, share) = match place {
        Place::Static { cpus, share, .. } => (creation.within(cpus)?, share),
        Place::Dynamic => (*creation, Params::default()),
    };
    let is_meant = |vm: &&Vm| match place {
        Place::Static { slot, .. } => vm.id.0 == slot,
        Place::Dynamic => !setup.is_reserved(vm.id.0),
    };
    // Observers come last: the first number is for the first VM that runs.
    let mut slots = vm::all().iter().skip(1).filter(is_meant);
    while let Some(vm) = match creation.is_observer() {
        true => slots.next_back(),
        false => slots.next(),
    } {
        let mut state = vm.state.lock();
        if *state != VmState::PoweredOff {
            continue;
        }
        let next = state.on(VmRequest::Create, Caller::ServiceVm, vm.standing())?;
        let (name, flags) = (creation.name.as_bytes(), creation.flags.bits());
        vm.describe(name, LoadOrder::PostLaunched, flags);
        let made = assemble(vm, &creation, share).and_then(|()| tell(vm, &creation));
        if let Err(refusal) = made {
            dismantle(vm);
            return Err(refusal);
        }
        *state = next;
        if log::limited() {
            info!(
                "vm{} ({}) is created with {} vCPUs",
                vm.id,
                creation.name,
                creation.vcpus()
            );
        }
        return Ok(());
    }
    Err(Refusal::new(Errno::ENOSPC, "all VM slots are in use"))
}

fn is_taken(name: &str) -> bool {
    let exists = |vm: &Vm| *vm.state.lock() != VmState::PoweredOff;
    vm::all()
        .iter()
        .any(|vm| exists(vm) && &vm.name()[..] == name)
}

/// Tables, devices and vCPUs of a VM that is described.
fn assemble(vm: &'static Vm, creation: &Creation, share: Params) -> Result<(), Refusal> {
    console::forget(vm.id);
    let table = NestedTable::new()?;
    let config = VirtConfig {
        nested_root: table.root_pointer(),
        io_bitmap: lifecycle::user_io_bitmap(),
        msr_bitmap: lifecycle::msr_bitmap(),
    };
    *vm.nested.lock() = Some(table);
    vm.become_pc();
    if let Some(described) = config::setup().vm_in(vm.id.0) {
        inter_vm::furnish(vm, &described, Some, Gsi);
    }
    for (vcpu, cpu) in vm.vcpus.iter().zip(creation.cpus()) {
        let full = Refusal::new(
            Errno::ENOSPC,
            "a CPU has no room for another vCPU, or would be shared by one with LAPIC pass-through",
        );
        lifecycle::prepare_vcpu(vcpu, &config, cpu, vcpu.id.0.into(), share).ok_or(full)?;
        vm.set_vcpu_count(vcpu.id.index() + 1);
    }
    Ok(())
}

/// Gives a bounded part of a VM's memory back; `true` when that was the last of it. What it has
/// of pages and frames before the first step is what [`dismantle`] will report.
pub fn empty(vm: &Vm) -> Result<bool, Refusal> {
    /// As in a step of SET_MEMORY_REGIONS.
    const STEP: u64 = 2048;
    *vm.batch.lock() = None;
    vm.possessions.lock().get_or_insert_with(|| possessions(vm));
    let whole = 1u64 << cpu::physical_address_bits().min(48);
    let (mut at, mut spent) = (0, 0);
    while at < whole {
        if spent >= STEP {
            return Ok(false);
        }
        at += hypercall::remove(vm, Gpa(at), whole - at, &mut spent)?;
    }
    Ok(true)
}

/// Ends every User VM, whoever looks after it: the Service VM, whose memory they have, ends or begins
/// anew.
pub fn end_all() {
    let users = vm::all().iter();
    for vm in users.filter(|vm| vm.origin() == LoadOrder::PostLaunched) {
        let mut state = vm.state.lock();
        if *state == VmState::PoweredOff {
            continue;
        }
        vm.stop_running();
        dismantle(vm);
        *state = VmState::PoweredOff;
    }
}

/// Pages that are lent to a VM, and frames of its tables.
fn possessions(vm: &Vm) -> (u64, u64) {
    let pages = OWNERS
        .lock()
        .as_ref()
        .map_or(0, |owners| owners.count(acrn_memory::Class::LentTo(vm.id)));
    let table = vm.nested.lock();
    (pages, table.as_ref().map_or(0, NestedTable::frames))
}

/// Takes a VM apart: everything that it has goes back to where it came from.
pub fn dismantle(vm: &'static Vm) {
    if vm.is_observer() {
        rings::withdraw_all(vm.id);
    }
    let had = vm.possessions.lock().take();
    let (pages, frames) = had.unwrap_or_else(|| possessions(vm));
    for vcpu in vm.active_vcpus() {
        lifecycle::retire_vcpu(vcpu, None);
    }
    vm.set_vcpu_count(0);
    vm.ioreq_page.store(0, Ordering::SeqCst);
    *vm.batch.lock() = None;
    let table = vm.nested.lock().take();
    if let Some(table) = table {
        table.destroy();
    }
    if let Some(owners) = OWNERS.lock().as_mut() {
        owners.give_back_all(vm.id);
    }
    vm.ports.clear();
    virtual_pci::clear(vm);
    vm.reset_devices();
    vm.ioapics.lock().clear();
    vm.uart.lock().remove();
    *vm.counters.lock() = None;
    *vm.interval_timer.lock() = None;
    console::forget(vm.id);
    if log::limited() {
        info!(
            "vm{} ({}) is gone: {pages} pages and {frames} table frames are back",
            vm.id,
            vm.name()
        );
    }
}

/// Back to the state after creation; memory and the request page stay.
pub fn reset(vm: &'static Vm) {
    lifecycle::reset_vm(vm);
    let page = vm.ioreq_page.load(Ordering::Acquire);
    if page != 0 {
        free_request_slots(Hpa(page));
    }
}

/// Marks all slots of a request page as free. A page of zeros would be 16 requests.
pub fn free_request_slots(page: Hpa) {
    for slot in 0..SLOTS {
        let at = Hpa(page.0 + (slot * SLOT_SIZE) as u64);
        memory::write_guest(at, IoRequest::FREE.as_bytes());
    }
}

/// What the processor can do for a guest's first state.
pub fn limits() -> Limits {
    let basic = cpu::cpuid(1, 0);
    let more = cpu::cpuid(7, 0);
    let bit = |present: u32, cr4: u64| if present & 1 != 0 { cr4 } else { 0 };
    // VME to OSXMMEXCPT come with every 64-bit processor.
    let cr4 = 0x7ff
        | bit(basic.ecx >> 26, cpu::cr4::OSXSAVE)
        | bit(more.ebx, 1 << 16)
        | bit(more.ebx >> 7, cpu::cr4::SMEP)
        | bit(more.ebx >> 20, cpu::cr4::SMAP)
        | bit(more.ecx >> 2, 1 << 11)
        | bit(more.ecx >> 3, 1 << 22);
    Limits {
        physical_bits: cpu::physical_address_bits(),
        cr4,
    }
}

/// Gives a vCPU of a stopped VM the state to start with.
pub fn set_registers(vcpu: &Vcpu, start: &Start) {
    // SAFETY: the VM is stopped and its state lock is held by the caller.
    let local = unsafe { vcpu.local() };
    local.virt.set_state(&StartState {
        control: ControlState {
            cr0: start.cr0,
            cr2: 0,
            cr3: start.cr3,
            cr4: start.cr4,
            efer: start.efer,
            cpl: 0,
        },
        cs: segment(&start.cs),
        data: start.data.each_ref().map(segment),
        gdt: start.gdt,
        idt: start.idt,
        ldt: start.ldt,
        tr: start.tr,
    });
    local.registers.gpr = start.gprs;
    local.registers.rip = start.rip;
    local.registers.rflags = start.rflags;
    local.pending_io = PendingIo::None;
    // An application processor still waits for its start-up IPI.
    if vcpu.id.0 == 0 || vcpu.wait() != Wait::StartUp {
        vcpu.set_wait(Wait::Nothing);
    }
}

fn segment(from: &validate::Segment) -> Segment {
    Segment {
        selector: from.selector,
        access: from.access,
        limit: from.limit,
        base: from.base,
    }
}
