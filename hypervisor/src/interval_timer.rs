//! The interval timers of pre-launched VMs, and of User VMs whose Device Model asks for one:
//! `acrn_vdev::pit` at the ports of a PC, with the TSC for a clock.
//!
//! A timer's interrupts are sent by one CPU's run loop ([`poll`]): that of the VM's first vCPU, unless
//! that CPU's own timer is the guest's; then by the first CPU.

use crate::arch::{cpu, tsc};
use crate::percpu::{self, PerCpu};
use crate::run;
use crate::vm::{self, Vm};
use acrn_abi::{PcpuId, guest_map};
use acrn_vdev::pit::Pit;
use core::sync::atomic::{AtomicU32, Ordering};

/// A timer, and when it is to interrupt.
pub struct IntervalTimer {
    pit: Pit,
    due: Option<u64>,
}

impl IntervalTimer {
    /// One that stands.
    pub fn new() -> Self {
        Self {
            pit: Pit::new(tsc::khz() * 1000),
            due: None,
        }
    }

    /// As after power-up.
    pub fn reset(&mut self) {
        self.pit.reset();
        self.due = None;
    }
}

/// The VMs whose timers run, as bits.
static RUNNING: AtomicU32 = AtomicU32::new(0);

/// An access to one of its ports ([`Pit::owns`]); `None` when the VM has no timer here.
pub fn access(vm: &Vm, port: u16, write: Option<u8>) -> Option<u8> {
    let mut guard = vm.interval_timer.lock();
    let timer = guard.as_mut()?;
    let now = cpu::rdtsc();
    let Some(value) = write else {
        return Some(timer.pit.read(port, now));
    };
    if timer.pit.write(port, value, now) {
        timer.due = timer.pit.next_rise(now);
        if timer.due.is_some() {
            RUNNING.fetch_or(1 << vm.id.0, Ordering::SeqCst);
            run::kick(percpu::get(home(vm)));
        }
    }
    Some(0)
}

/// The CPU that looks after a VM's timer.
fn home(vm: &Vm) -> PcpuId {
    match vm.vcpus.first() {
        Some(vcpu) if !vm.owns_apics() => vcpu.pcpu(),
        _ => PcpuId(0),
    }
}

/// Sends the interrupts that are due; called by the run loop of each CPU. Returns when to look again, at
/// the latest.
#[inline]
pub fn poll(this: &PerCpu) -> u64 {
    match RUNNING.load(Ordering::Relaxed) {
        0 => u64::MAX,
        running => serve(this, running),
    }
}

#[cold]
fn serve(this: &PerCpu, running: u32) -> u64 {
    let timers = vm::all().iter().filter(|vm| running >> vm.id.0 & 1 != 0);
    let own = timers.filter(|vm| home(vm) == this.id());
    own.map(tick).min().unwrap_or(u64::MAX)
}

/// Interrupts if it is due; returns when it is the next time.
fn tick(vm: &Vm) -> u64 {
    let mut guard = vm.interval_timer.lock();
    let timer = guard.as_mut();
    let now = cpu::rdtsc();
    let Some((timer, due)) = timer.and_then(|timer| timer.due.map(|due| (timer, due))) else {
        // With the lock, so that it is not forgotten when it has just begun.
        RUNNING.fetch_and(!(1 << vm.id.0), Ordering::SeqCst);
        return u64::MAX;
    };
    if now < due {
        return due;
    }
    // A guest that asks for more than 10,000 interrupts a second gets as many.
    timer.due = timer
        .pit
        .next_rise(now.saturating_add(tsc::from_ms(1) / 10));
    let next = timer.due.unwrap_or(u64::MAX);
    drop(guard);
    vm.pulse_line(guest_map::TIMER_GSI);
    next
}
