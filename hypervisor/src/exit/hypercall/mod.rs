//! Hypercalls of the Service VM.
//!
//! Three steps: [`Call::decode`] makes a typed request of the registers, the functions of
//! `acrn_lifecycle::validate` judge its parameter block, and the modules below act. The block is
//! copied out once and only the copy is looked at, since the memory may change at any time. The
//! result is in RAX, all other registers stay as they are.
//!
//! Every operation that changes what a VM is (state, vCPUs, memory, devices) holds its state's
//! lock; interrupts and answers to I/O requests do not, they only post to vCPUs that exist. Locks
//! are taken in this order: state, nested tables of the Service VM, nested tables of the User VM,
//! page ownership, frames.

mod batch;
mod device;
mod interrupt;
mod life;
mod memory;
mod refusal;

pub use batch::Batch;
pub use memory::remove;
pub use refusal::Refusal;

use super::Next;
use crate::vcpu::{Local, Vcpu};
use crate::virt::{exception, gpr};
use crate::vm::{self, MAX_VMS, Vm};
use acrn_abi::hypercall::{API_VERSION, Errno, HypercallId};
use acrn_abi::{Gpa, VmId};
use acrn_config_blob::LoadOrder;
use acrn_lifecycle::validate::Call;
use acrn_lifecycle::{Caller, Reason};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Length of VMCALL and VMMCALL.
const INSTRUCTION_LENGTH: u64 = 3;

/// VMCALL or VMMCALL.
pub fn handle(vcpu: &'static Vcpu, local: &mut Local) -> Next {
    if !vcpu.vm().is_service() {
        return super::inject(local, exception::UD, None);
    }
    if local.virt.control().cpl != 0 {
        return super::general_protection(local);
    }
    let g = &local.registers.gpr;
    let (id, first, second) = (g[gpr::R8], g[gpr::RDI], g[gpr::RSI]);
    let done = Call::decode(id, first, second)
        .map_err(Refusal::from)
        .and_then(|call| act(vcpu, call));
    local.registers.gpr[gpr::RAX] = match done {
        Ok(Outcome::Done(value)) => value,
        Ok(Outcome::Again) => return Next::Continue,
        Err(refusal) => {
            report(id, &refusal);
            refusal.errno().to_register()
        }
    };
    local.virt.advance(&mut local.registers, INSTRUCTION_LENGTH);
    Next::Continue
}

/// What came of a call that was not refused.
pub enum Outcome {
    /// The result.
    Done(u64),
    /// There is more to do: the caller makes the same call again after its interrupts.
    Again,
}

fn act(vcpu: &'static Vcpu, call: Call) -> Result<Outcome, Refusal> {
    match call {
        Call::SetMemoryRegions { block } => batch::set_regions(block),
        Call::DestroyVm(vm) => life::destroy(vm),
        call => act_at_once(vcpu, call).map(Outcome::Done),
    }
}

fn act_at_once(vcpu: &'static Vcpu, call: Call) -> Result<u64, Refusal> {
    match call {
        Call::ApiVersion { block } => write(block, &API_VERSION),
        Call::OfflineCpu { apic_id } => life::offline_cpu(vcpu, apic_id),
        Call::CallbackVector(vector) => interrupt::callback_vector(vector),
        Call::CreateVm { block } => life::create(block),
        Call::StartVm(vm) => life::start(vm),
        Call::PauseVm(vm) => life::pause(vm),
        Call::ResetVm(vm) => life::reset(vm),
        Call::CreateVcpu => Ok(0),
        Call::SetVcpuRegs { vm, block } => life::set_registers(vm, block),
        Call::InjectMsi { vm, block } => interrupt::inject_msi(vm, block),
        Call::IntrMonitor { vm, block } => interrupt::monitor(vm, block),
        Call::SetIrqLine { vm, line } => interrupt::set_line(vm, line),
        Call::SetIoreqBuffer { vm, block } => memory::set_request_page(vm, block),
        Call::RequestFinished { vm, vcpu } => interrupt::request_finished(vm, vcpu),
        Call::SetupRing { vm, block } => device::set_up_ring(vm, block),
        Call::Vdev { vm, block, change } => device::change_vdev(vm, block, change),
        Call::PassThrough { vm, block, what } => device::pass_through(vm, block, what),
        Call::HwInfo { block } => device::hardware(block),
        Call::CpuState { query, block } => device::cpu_state(query, block),
        Call::SetMemoryRegions { .. } | Call::DestroyVm(_) | Call::NotProvided(_) => {
            Err(Refusal::new(Errno::ENOSYS, "not provided"))
        }
    }
}

#[cold]
fn report(id: u64, refusal: &Refusal) {
    if crate::log::limited() {
        let name = HypercallId::from_register(id).and_then(HypercallId::name);
        crate::debug!("hypercall {} refused: {refusal}", name.unwrap_or("?"));
    }
}

/// Copies a parameter block out of the Service VM.
fn read<T: FromBytes + IntoBytes>(block: Gpa) -> Result<T, Refusal> {
    let mut value = T::new_zeroed();
    if vm::service().read(block, value.as_mut_bytes()) {
        Ok(value)
    } else {
        Err(Refusal::Unmapped(block))
    }
}

/// Copies a parameter block into the Service VM; the result of a call that succeeded.
fn write<T: IntoBytes + Immutable>(block: Gpa, value: &T) -> Result<u64, Refusal> {
    if vm::service().write(block, value.as_bytes()) {
        Ok(0)
    } else {
        Err(Refusal::Unmapped(block))
    }
}

/// The slot of a User VM, whether or not there is one in it. Numbers in calls are relative to the
/// Service VM, whose number is 0, so they are the hypervisor's own; pre-launched VMs have none.
fn slot(id: VmId) -> Result<&'static Vm, Refusal> {
    let vm = (id.index() < MAX_VMS).then(|| vm::get(id));
    vm.filter(|vm| vm.origin() == LoadOrder::PostLaunched)
        .ok_or(Refusal::NoVm(id))
}

/// A User VM that exists and into which the Service VM may reach while it runs.
fn reachable(id: VmId) -> Result<&'static Vm, Refusal> {
    let vm = existing(id)?;
    may_reach(vm).map(|()| vm)
}

/// Whether the Service VM may reach into a VM that runs.
fn may_reach(vm: &Vm) -> Result<(), Refusal> {
    let refused = |reason| match reason {
        Reason::Severity => Refusal::new(Errno::EACCES, "the VM outranks the Service VM"),
        _ => Refusal::new(Errno::EACCES, "the VM is not the Service VM's"),
    };
    vm.standing().may_reach(Caller::ServiceVm).map_err(refused)
}

/// A User VM that exists.
fn existing(id: VmId) -> Result<&'static Vm, Refusal> {
    slot(id).and_then(|vm| match vm.vcpu_count() {
        0 => Err(Refusal::NoVm(id)),
        _ => Ok(vm),
    })
}
