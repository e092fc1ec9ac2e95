//! VMs that the hypervisor starts itself, the Service VM and pre-launched ones: there is no Device Model
//! that switches them off or resets them, so the hypervisor does.
//!
//! A vCPU cannot end the VM that it is part of. What is to happen is noted ([`owe`]), and the CPU of vCPU
//! 0 does it in its loop, where none of its vCPUs is on the CPU ([`poll`]).
//!
//! The machine goes on as long as one of these VMs does. The Service VM, when it is alone, is the machine:
//! its power-off and its reset are the machine's ([`crate::power`]).

use crate::arch::{cpu, tsc};
use crate::percpu::PerCpu;
use crate::vcpu::{Vcpu, Wait};
use crate::vm::{self, Vm};
use crate::{
    boot, config, inter_vm, lifecycle, pci, power, prelaunched, run, service, sleep, user_vm,
};
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
    /// It starts anew by its policy, unless the operator has switched it off meanwhile.
    Restart = 4,
    /// It goes on after a sleep that was none.
    Wake = 5,
}

impl Owed {
    const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Off),
            2 => Some(Self::Reset),
            3 => Some(Self::Start),
            4 => Some(Self::Restart),
            5 => Some(Self::Wake),
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
    owe_at(vm, owed, 0);
}

/// The same, but not before this TSC.
fn owe_at(vm: &Vm, owed: Owed, due: u64) {
    vm.owed_at.store(due, Ordering::SeqCst);
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

/// What follows when a VM has switched itself off.
pub fn after_power_off(vm: &Vm) -> Owed {
    let again = !vm.stays_off.load(Ordering::Relaxed) && policy(vm) == Restart::Always;
    if again { Owed::Reset } else { Owed::Off }
}

/// A VM cannot go on: it starts again, now or later, unless its policy is against it. A triple fault of a
/// pre-launched VM is a PC's reset, but not one after the other.
pub fn restart(vm: &Vm, triple_fault: bool) -> bool {
    let again = policy(vm) != Restart::Never;
    let first = again || triple_fault && vm.is_pre_launched();
    let now = cpu::rdtsc();
    let ended = vm
        .restarts
        .lock()
        .ended(now / tsc::khz().max(1), first, again);
    let Some(pause) = ended else { return false };
    warning!("vm{} ({}) starts again in {pause} ms", vm.id, vm.name());
    owe_at(vm, Owed::Restart, now.saturating_add(tsc::from_ms(pause)));
    true
}

fn policy(vm: &Vm) -> Restart {
    wanted(vm).map_or(Restart::Never, |vm| vm.restart)
}

fn wanted(vm: &Vm) -> Option<acrn_config_blob::Vm<'static>> {
    let setup = config::setup();
    match vm.origin() {
        LoadOrder::Service => setup.service_vm(),
        LoadOrder::PreLaunched => prelaunched::wanted(vm).map(|(_, vm)| vm),
        LoadOrder::PostLaunched => None,
    }
}

/// Does what is owed; called by the run loop of each CPU. Returns when to look again, at the latest.
#[inline]
pub fn poll(this: &PerCpu) -> u64 {
    match WAITING.load(Ordering::Relaxed) {
        0 => u64::MAX,
        _ => serve(this),
    }
}

#[cold]
fn serve(this: &PerCpu) -> u64 {
    let mut next = u64::MAX;
    for vm in vm::all() {
        let bit = 1 << vm.id.0;
        let is_here = vm
            .vcpus
            .first()
            .is_some_and(|vcpu| vcpu.pcpu() == this.id());
        if !is_here || WAITING.load(Ordering::SeqCst) & bit == 0 {
            continue;
        }
        let due = vm.owed_at.load(Ordering::SeqCst);
        if due > cpu::rdtsc() {
            next = next.min(due);
            continue;
        }
        WAITING.fetch_and(!bit, Ordering::SeqCst);
        if let Some(owed) = Owed::from_u8(vm.owed.swap(0, Ordering::SeqCst)) {
            settle(vm, owed);
        }
    }
    next
}

fn settle(vm: &'static Vm, owed: Owed) {
    let owed = match owed {
        Owed::Restart if vm.stays_off.load(Ordering::Relaxed) => Owed::Off,
        owed => owed,
    };
    let mut state = vm.state.lock();
    let steps: &[VmRequest] = match owed {
        Owed::Off => &[VmRequest::Pause, VmRequest::Destroy],
        Owed::Reset | Owed::Restart => &[VmRequest::Pause, VmRequest::Reset, VmRequest::Start],
        Owed::Start => &[VmRequest::Create, VmRequest::Start],
        Owed::Wake => {
            vm.stop_running();
            return sleep::wake_service(vm);
        }
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
    if vm.is_service() {
        service::recall_cpus(vm);
    }
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
