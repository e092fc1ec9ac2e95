//! Commands about VMs.

use super::say;
use super::work::{Answer, Snapshot, Work, ask};
use crate::arch::{cpu, tsc};
use crate::console::Out;
use crate::static_vm::{self, Owed};
use crate::vcpu::{Vcpu, Wait, request};
use crate::virt::Exit;
use crate::vm::{self, Vm};
use crate::{percpu, prelaunched};
use acrn_abi::{VcpuId, VmId};
use acrn_config_blob::LoadOrder;
use acrn_lifecycle::{Caller, VcpuState, VmRequest, VmState};
use core::fmt::Write;
use core::sync::atomic::Ordering;

/// VMs that exist.
pub(super) fn known() -> impl Iterator<Item = &'static Vm> {
    vm::all()
        .iter()
        .filter(|vm| vm.vcpu_count() > 0 && (is_static(vm) || !is_off(vm)))
}

/// Whether the hypervisor starts it, so that it is there when it is off.
fn is_static(vm: &Vm) -> bool {
    vm.origin() != LoadOrder::PostLaunched
}

fn is_off(vm: &Vm) -> bool {
    *vm.state.lock() == VmState::PoweredOff
}

/// The VM of that number; says so when there is none.
pub(super) fn existing(id: VmId) -> Option<&'static Vm> {
    let found = known().find(|vm| vm.id == id);
    if found.is_none() {
        say(format_args!("there is no VM {id}"));
    }
    found
}

fn kind(vm: &Vm) -> &'static str {
    match vm.origin() {
        LoadOrder::Service => "service",
        LoadOrder::PreLaunched => "pre-launched",
        LoadOrder::PostLaunched => "user",
    }
}

pub(super) fn list_vms() {
    say(format_args!(
        "{:<6}{:<18}{:<20}{:<13}VCPUS",
        "VM ID", "NAME", "STATE", "KIND"
    ));
    for vm in known() {
        let state = *vm.state.lock();
        say(format_args!(
            "{:<6}{:<18}{:<20}{:<13}{}",
            vm.id.0,
            vm.name().as_str(),
            state.name(),
            kind(vm),
            vm.vcpu_count()
        ));
    }
}

/// Copies the state of a vCPU of a VM; says why not when that fails.
pub(super) fn snapshot(vm: &Vm, number: VcpuId) -> Option<Snapshot> {
    let Some(vcpu) = vm.vcpu(number.index()) else {
        say(format_args!("vm{} has no vCPU {number}", vm.id));
        return None;
    };
    match ask(vcpu.pcpu(), Work::Snapshot(vcpu)) {
        Answer::Snapshot(snapshot) => return Some(snapshot),
        Answer::Silent => say(format_args!("CPU {} does not answer", vcpu.pcpu())),
        _ => say(format_args!("vm{} is being changed; try again", vm.id)),
    }
    None
}

fn state_of(vcpu: &Vcpu) -> VcpuState {
    if !vcpu.shared.active.load(Ordering::Relaxed) {
        return VcpuState::Offline;
    }
    match vcpu.wait() {
        Wait::StartUp => VcpuState::Init,
        Wait::Stopped => VcpuState::Zombie,
        Wait::Nothing | Wait::Halt | Wait::Io => VcpuState::Running,
    }
}

const fn wait_name(wait: Wait) -> &'static str {
    match wait {
        Wait::Nothing => "-",
        Wait::Halt => "interrupt",
        Wait::Io => "device model",
        Wait::StartUp => "start-up IPI",
        Wait::Stopped => "stopped",
    }
}

pub(super) fn list_vcpus() {
    say(format_args!(
        "{:<7}{:<9}{:<9}{:<11}{:<9}{:<11}WAITS FOR",
        "VM ID", "PCPU ID", "VCPU ID", "ROLE", "STATE", "CPU MS"
    ));
    for vcpu in known().flat_map(Vm::active_vcpus) {
        let role = if vcpu.id.0 == 0 {
            "primary"
        } else {
            "secondary"
        };
        say(format_args!(
            "{:<7}{:<9}{:<9}{role:<11}{:<9}{:<11}{}",
            vcpu.vm_id().0,
            vcpu.pcpu().0,
            vcpu.id.0,
            state_of(vcpu).name(),
            run_ms(vcpu),
            wait_name(vcpu.wait())
        ));
    }
}

/// Time that a vCPU has had its CPU, in milliseconds.
fn run_ms(vcpu: &Vcpu) -> u64 {
    let queue = percpu::get(vcpu.pcpu()).queue();
    let ticks = queue.lock().run_time(vcpu, cpu::rdtsc());
    ticks / tsc::from_ms(1).max(1)
}

pub(super) fn registers(id: VmId, number: VcpuId) {
    let Some(vm) = existing(id) else { return };
    if let Some(snapshot) = snapshot(vm, number) {
        show(&snapshot);
    }
}

fn show(s: &Snapshot) {
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    const SEGMENTS: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"];
    say(format_args!(
        "rip {:016x}  rflags {:08x}  cpl {}  waits for {}",
        s.rip,
        s.rflags,
        s.control.cpl,
        wait_name(s.wait)
    ));
    for (i, (name, value)) in NAMES.iter().zip(&s.gpr).enumerate() {
        let end = if i % 4 == 3 { "\r\n" } else { "  " };
        let _ = write!(Out, "{name:>3} {value:016x}{end}");
    }
    let c = &s.control;
    say(format_args!(
        "cr0 {:x}  cr2 {:x}  cr3 {:x}  cr4 {:x}  efer {:x}",
        c.cr0, c.cr2, c.cr3, c.cr4, c.efer
    ));
    for (name, segment) in SEGMENTS.iter().zip(&s.segments) {
        say(format_args!(
            "{name:>4} {:04x}  base {:016x}  limit {:08x}  access {:05x}",
            segment.selector, segment.base, segment.limit, segment.access
        ));
    }
    say(format_args!("stack from {:#x}:", s.gpr[4]));
    for row in s.stack.chunks(4) {
        for word in row {
            let _ = match word {
                Some(word) => write!(Out, " {word:016x}"),
                None => write!(Out, " {:-<16}", ""),
            };
        }
        let _ = Out.write_str("\r\n");
    }
}

pub(super) fn exits(only: Option<VmId>) {
    if only.is_some_and(|id| existing(id).is_none()) {
        return;
    }
    for vm in known().filter(|vm| only.is_none_or(|id| id == vm.id)) {
        for vcpu in vm.active_vcpus() {
            say(format_args!(
                "vm{} vcpu{}\r\n{:<16}{:>14}{:>18}{:>12}",
                vm.id, vcpu.id, "REASON", "COUNT", "TICKS", "AVERAGE"
            ));
            for (reason, name) in Exit::NAMES.iter().enumerate() {
                let (count, ticks) = vcpu.shared.stats.get(reason);
                if let Some(average) = ticks.checked_div(count) {
                    say(format_args!(
                        "{name:<16}{count:>14}{ticks:>18}{average:>12}"
                    ));
                }
            }
        }
    }
}

/// A VM that the shell may pause: not the Service VM, whose guests depend on it.
fn user(id: VmId) -> Option<&'static Vm> {
    let vm = existing(id)?;
    if vm.is_service() {
        say(format_args!(
            "vm{id} is the Service VM; `vm_reset {id}` restarts it, `reboot` the machine"
        ));
        return None;
    }
    Some(vm)
}

/// Follows the state machine and, when it agrees, carries `act` out under the state's lock.
fn change(vm: &Vm, request: VmRequest, act: impl FnOnce()) {
    let mut state = vm.state.lock();
    match state.on(request, Caller::Hypervisor, vm.standing()) {
        Ok(next) => {
            act();
            *state = next;
            say(format_args!("vm{} is {next}", vm.id));
        }
        Err(refused) => say(format_args!("vm{}: {refused}", vm.id)),
    }
}

pub(super) fn pause(id: VmId) {
    if let Some(vm) = user(id) {
        change(vm, VmRequest::Pause, || vm.stop_running());
    }
}

pub(super) fn resume(id: VmId) {
    if let Some(vm) = user(id) {
        change(vm, VmRequest::Resume, || vm.let_run());
    }
}

/// Resets a VM, or has its Device Model do it.
pub(super) fn reset(id: VmId) {
    let Some(vm) = existing(id) else { return };
    if !is_static(vm) {
        ask_device_model(vm, request::RESET, "reset it");
    } else if is_off(vm) {
        say(format_args!("vm{id} is off; `vm_start {id}` starts it"));
    } else {
        static_vm::owe(vm, Owed::Reset);
        say(format_args!("vm{id} is reset"));
    }
}

/// Switches a VM off as its user would. One that does not run is switched off at once.
pub(super) fn shutdown(id: VmId) {
    let Some(vm) = existing(id) else { return };
    let state = *vm.state.lock();
    vm.stays_off.store(is_static(vm), Ordering::Relaxed);
    match (vm.origin(), state) {
        (LoadOrder::PostLaunched, _) => ask_device_model(vm, request::OFF, "switch it off"),
        (_, VmState::PoweredOff) => say(format_args!("vm{id} is off already")),
        (LoadOrder::Service, VmState::Running) => say(format_args!(
            "vm{id} is the Service VM; say `poweroff` to it, or here for the whole machine"
        )),
        (_, VmState::Running) if prelaunched::press_power_button(vm) => say(format_args!(
            "vm{id}'s power button is pressed; `vm_pause {id}`, then this again, if it does not hear"
        )),
        _ => {
            static_vm::owe(vm, Owed::Off);
            say(format_args!("vm{id} is switched off"));
        }
    }
}

/// Starts a VM that is off.
pub(super) fn start(id: VmId) {
    let Some(vm) = existing(id) else { return };
    if is_off(vm) {
        static_vm::owe(vm, Owed::Start);
        say(format_args!("vm{id} is started"));
    } else {
        let state = *vm.state.lock();
        say(format_args!(
            "vm{id} is {state}; only one that is off starts"
        ));
    }
}

fn ask_device_model(vm: &Vm, bits: u32, what: &str) {
    let state = *vm.state.lock();
    let Some(vcpu) = vm.vcpu(0).filter(|_| state == VmState::Running) else {
        say(format_args!(
            "vm{} is {state}; only a running VM can end",
            vm.id
        ));
        return;
    };
    vcpu.ask(bits);
    say(format_args!(
        "vm{}'s Device Model is asked to {what}",
        vm.id
    ));
}

/// Stops every VM, before the machine ends.
pub(super) fn stop_all() {
    known().for_each(Vm::stop_running);
}
