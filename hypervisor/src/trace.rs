//! Trace points. Where nobody traces, each is a look at one byte of the CPU's data, at which the run loop
//! looks before an entry anyway.

use crate::arch::cpu::rdtsc;
use crate::percpu::{self, PerCpu};
use crate::rings;
use crate::vcpu::{Local, Vcpu};
use acrn_abi::Vector;
use acrn_trace::{Event, Record, Who};

fn who(vcpu: &Vcpu) -> Who {
    Who {
        vm: vcpu.vm_id(),
        vcpu: vcpu.id,
    }
}

/// An event of the CPU that is executing.
fn write(cpu: &PerCpu, tsc: u64, event: Event) {
    let record = Record {
        tsc,
        cpu: cpu.id().0 as u8,
        event,
    };
    rings::write_trace(cpu, &record);
}

/// This CPU enters a guest now.
#[cold]
pub fn enter(cpu: &PerCpu, vcpu: &Vcpu) {
    write(cpu, rdtsc(), Event::Enter(who(vcpu)));
}

/// This CPU has left a guest at `tsc`.
#[cold]
pub fn exit(cpu: &PerCpu, vcpu: &Vcpu, local: &Local, tsc: u64, reason: usize) {
    let event = Event::Exit {
        who: who(vcpu),
        reason: reason as u32,
        rip: local.registers.rip,
    };
    write(cpu, tsc, event);
}

/// It is a vCPU's turn on this CPU, or nobody's.
#[inline(always)]
pub fn turn(cpu: &PerCpu, vcpu: Option<&Vcpu>) {
    if cpu.is_traced() {
        turned(cpu, vcpu);
    }
}

#[cold]
fn turned(cpu: &PerCpu, vcpu: Option<&Vcpu>) {
    write(cpu, rdtsc(), Event::Turn(vcpu.map(who)));
}

/// An interrupt is made pending for a vCPU.
pub fn interrupt(vcpu: &Vcpu, vector: Vector) {
    let event = Event::Interrupt {
        who: who(vcpu),
        vector,
    };
    write(percpu::current(), rdtsc(), event);
}
