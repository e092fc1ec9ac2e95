//! VMs that the hypervisor starts itself, the Service VM and pre-launched ones: there is no Device Model
//! that switches them off or resets them, so the hypervisor does.
//!
//! A vCPU cannot end the VM that it is part of. What is to happen is noted ([`owe`]), and the CPU of vCPU
//! 0 does it in its loop, where none of its vCPUs is on the CPU ([`poll`]).
//!
//! The machine goes on as long as one of these VMs does. The Service VM, when it is alone, is the machine:
//! its power-off and its reset are the machine's ([`crate::power`]).

use crate::percpu::PerCpu;
use crate::vcpu::{Vcpu, Wait};
use crate::vm::{self, Vm};
use crate::{boot, config, inter_vm, lifecycle, pci, power, prelaunched, run, service, user_vm};
use acrn_config_blob::{LoadOrder, Restart};
use acrn_lifecycle::{Caller, Refused, VmRequest, VmState};
use core::sync::atomic::{AtomicU32, Ordering};

/// What is to happen with a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Owed {
    /// It is switched off.
    Off = 1,
    /// It starts anew.
    Reset = 2,
    /// It starts after it was switched off.
    Start = 3,
}

impl Owed {
    const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Off),
            2 => Some(Self::Reset),
            3 => Some(Self::Start),
            _ => None,
        }
    }
}

/// The VMs that are owed something, as bits.
static WAITING: AtomicU32 = AtomicU32::new(0);

/// Whether there are VMs that go on when this one ends.
pub fn others_run(vm: &Vm) -> bool {
    let mut others = vm::all().iter().filter(|other| other.id != vm.id);
    others.any(|other| other.is_pre_launched() && other.may_run())
}

/// Has something happen to a VM soon.
pub fn owe(vm: &Vm, owed: Owed) {
    vm.owed.store(owed as u8, Ordering::SeqCst);
    WAITING.fetch_or(1 << vm.id.0, Ordering::SeqCst);
    if let Some(vcpu) = vm.vcpus.first() {
        run::kick(crate::percpu::get(vcpu.pcpu()));
    }
}

/// The guest has asked for it: its vCPU does not go on.
pub fn owe_guest(vcpu: &Vcpu, owed: Owed) {
    vcpu.set_wait(Wait::Stopped);
    owe(vcpu.vm(), owed);
}

/// What follows when a VM has switched itself off (`crashed` is false) or cannot go on. `None` when it
/// stays as it is.
pub fn after_end(vm: &Vm, crashed: bool) -> Option<Owed> {
    if !crashed && vm.stays_off.load(Ordering::Relaxed) {
        return Some(Owed::Off);
    }
    let policy = wanted(vm).map_or(Restart::Never, |vm| vm.restart);
    match (policy, crashed) {
        (Restart::Always, _) | (Restart::OnCrash, true) => Some(Owed::Reset),
        (_, false) => Some(Owed::Off),
        (_, true) => None,
    }
}

fn wanted(vm: &Vm) -> Option<acrn_config_blob::Vm<'static>> {
    let setup = config::setup();
    match vm.origin() {
        LoadOrder::Service => setup.service_vm(),
        LoadOrder::PreLaunched => prelaunched::wanted(vm).map(|(_, vm)| vm),
        LoadOrder::PostLaunched => None,
    }
}

/// Does what is owed; called by the run loop of each CPU.
#[inline]
pub fn poll(this: &PerCpu) {
    if WAITING.load(Ordering::Relaxed) != 0 {
        serve(this);
    }
}

#[cold]
fn serve(this: &PerCpu) {
    for vm in vm::all() {
        let bit = 1 << vm.id.0;
        let is_here = vm
            .vcpus
            .first()
            .is_some_and(|vcpu| vcpu.pcpu() == this.id());
        if !is_here || WAITING.load(Ordering::SeqCst) & bit == 0 {
            continue;
        }
        WAITING.fetch_and(!bit, Ordering::SeqCst);
        if let Some(owed) = Owed::from_u8(vm.owed.swap(0, Ordering::SeqCst)) {
            settle(vm, owed);
        }
    }
}

fn settle(vm: &'static Vm, owed: Owed) {
    let mut state = vm.state.lock();
    let steps: &[VmRequest] = match owed {
        Owed::Off => &[VmRequest::Pause, VmRequest::Destroy],
        Owed::Reset => &[VmRequest::Pause, VmRequest::Reset, VmRequest::Start],
        Owed::Start => &[VmRequest::Create, VmRequest::Start],
    };
    let next = match follow(*state, steps, vm) {
        Ok(next) => next,
        Err(refused) => {
            warning!("vm{} ({}): {refused}", vm.id, vm.name());
            return;
        }
    };
    stop(vm);
    if owed != Owed::Off {
        if let Err(error) = start(vm) {
            error!("vm{} ({}) does not start again: {error}", vm.id, vm.name());
            *state = VmState::PoweredOff;
            return;
        }
    }
    *state = next;
    info!("vm{} ({}) is {next}", vm.id, vm.name());
    drop(state);
    if owed == Owed::Off && all_are_off() {
        info!("no VM is left: the machine is switched off");
        power::off();
    }
}

/// The state behind a few steps, each of which the state machine has to allow.
fn follow(state: VmState, steps: &[VmRequest], vm: &Vm) -> Result<VmState, Refused> {
    let step =
        |state: VmState, request: &VmRequest| state.on(*request, Caller::Hypervisor, vm.standing());
    steps.iter().try_fold(state, step)
}

/// Takes the processors and the devices from a VM. Those of its memory that it has lent come back first.
fn stop(vm: &'static Vm) {
    vm.stop_running();
    if vm.is_service() {
        user_vm::end_all();
    }
    pci::take_back(vm);
    inter_vm::leave(vm);
    for vcpu in vm.active_vcpus() {
        vcpu.set_wait(Wait::Stopped);
    }
}

/// From the state after [`stop`] to the first instruction.
fn start(vm: &'static Vm) -> Result<(), crate::os::Error> {
    lifecycle::reset_vm(vm);
    vm.stays_off.store(false, Ordering::Relaxed);
    boot::with_info(|info| match vm.origin() {
        LoadOrder::Service => service::boot(vm, info),
        LoadOrder::PreLaunched | LoadOrder::PostLaunched => prelaunched::boot(vm, info),
    })?;
    vm.let_run();
    Ok(())
}

fn all_are_off() -> bool {
    let mut own = vm::all().iter();
    own.all(|vm| vm.origin() == LoadOrder::PostLaunched || *vm.state.lock() == VmState::PoweredOff)
}
