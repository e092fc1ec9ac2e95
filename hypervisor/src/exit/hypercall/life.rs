//! Making, starting, stopping and ending User VMs.

use super::{Outcome, Refusal, existing, read, slot, write};
use crate::vcpu::{Vcpu, Wait};
use crate::vm::{self, Vm};
use crate::{lifecycle, percpu, user_vm};
use acrn_abi::hypercall::{Errno, VcpuRegs, VmCreation};
use acrn_abi::{Gpa, VmId};
use acrn_lifecycle::validate::{Creation, Start};
use acrn_lifecycle::{Caller, VmRequest, VmState};

/// CREATE_VM.
pub fn create(block: Gpa) -> Result<u64, Refusal> {
    let mut description: VmCreation = read(block)?;
    let creation = Creation::new(&description, percpu::all().len())?;
    user_vm::create(&creation, |vm, creation| {
        description.vmid = vm.id.0;
        description.vcpu_num = creation.vcpus();
        write(block, &description).map(|_| ())
    })?;
    Ok(0)
}

/// Follows the state machine and, when it agrees, carries `act` out under the state's lock.
fn change(id: VmId, request: VmRequest, act: impl FnOnce(&'static Vm)) -> Result<u64, Refusal> {
    let vm = slot(id)?;
    let mut state = vm.state.lock();
    let next = state.on(request, Caller::ServiceVm, vm.standing())?;
    act(vm);
    *state = next;
    crate::debug!("vm{id} is {next}");
    Ok(0)
}

/// START_VM: the first start, or going on after a pause.
pub fn start(id: VmId) -> Result<u64, Refusal> {
    change(id, VmRequest::Start, Vm::let_run)
}

/// PAUSE_VM. What the vCPUs wait for they still wait for afterwards: an answer of the Device
/// Model that comes meanwhile is taken when the VM goes on.
pub fn pause(id: VmId) -> Result<u64, Refusal> {
    change(id, VmRequest::Pause, Vm::stop_running)
}

/// RESET_VM.
pub fn reset(id: VmId) -> Result<u64, Refusal> {
    change(id, VmRequest::Reset, user_vm::reset)
}

/// DESTROY_VM. Linux sends nothing else when a Device Model ends, so a running VM is paused
/// first, if the caller may do that. Its memory goes back in steps; the VM is paused meanwhile.
pub fn destroy(id: VmId) -> Result<Outcome, Refusal> {
    let vm = slot(id)?;
    let mut state = vm.state.lock();
    let ask = |state: VmState, request| state.on(request, Caller::ServiceVm, vm.standing());
    let stopped = match *state {
        VmState::Running => ask(VmState::Running, VmRequest::Pause)?,
        other => other,
    };
    let next = ask(stopped, VmRequest::Destroy)?;
    vm.stop_running();
    *state = stopped;
    // Memory that cannot be given back in steps goes back at once.
    if user_vm::empty(vm).unwrap_or(true) {
        user_vm::dismantle(vm);
        *state = next;
        return Ok(Outcome::Done(0));
    }
    Ok(Outcome::Again)
}

/// SET_VCPU_REGS. Only vCPU 0 starts by itself, the others get a start-up IPI.
pub fn set_registers(id: VmId, block: Gpa) -> Result<u64, Refusal> {
    let request: VcpuRegs = read(block)?;
    let start = Start::new(&request.regs, &user_vm::limits())?;
    let vm = existing(id)?;
    let state = vm.state.lock();
    if matches!(*state, VmState::PoweredOff | VmState::Running) {
        return Err(Refusal::new(Errno::EINVAL, "the VM is running or off"));
    }
    let vcpu = vm.vcpu(request.vcpu_id.into());
    let vcpu = vcpu.ok_or(Refusal::new(Errno::EINVAL, "no such vCPU"))?;
    if vcpu.wait() == Wait::Io {
        let reason = "the vCPU waits for an answer that would belong to another instruction";
        return Err(Refusal::new(Errno::EBUSY, reason));
    }
    user_vm::set_registers(vcpu, &start);
    drop(state);
    Ok(0)
}

/// SERVICE_VM_OFFLINE_CPU: Linux has stopped using a CPU. There is no way back before the Service VM starts
/// anew.
pub fn offline_cpu(caller: &'static Vcpu, apic_id: u64) -> Result<u64, Refusal> {
    let service = vm::service();
    let identities = service.identities.iter();
    let target = service
        .active_vcpus()
        .zip(identities)
        .find(|(_, identity)| u64::from(identity.id()) == apic_id);
    // An id that nobody has is one that is offline already.
    let Some((target, _)) = target else {
        return Ok(0);
    };
    if target.id.0 == 0 || core::ptr::eq(target, caller) {
        let reason = "vCPU 0 and the caller's own stay online";
        return Err(Refusal::new(Errno::EINVAL, reason));
    }
    lifecycle::retire_vcpu(target, Some(caller));
    crate::info!("the Service VM gave CPU {} away", target.pcpu());
    Ok(0)
}
