//! LAPIC pass-through: a vCPU of a real-time VM, alone on its CPU, has that CPU's local APIC to itself.
//!
//! It begins when the guest turns its virtual local APIC to x2APIC mode, and ends when the vCPU gets INIT,
//! its VM is reset or the guest turns it off. Meanwhile interrupts, EOIs, the timer and HLT cost
//! no exit. What stays virtual is who the guest is and whom it interrupts (`acrn_vdev::lapic::handover`).
//!
//! The hypervisor lets no interrupts in on such a CPU, whose vectors would be the guest's. Others
//! call it by NMI ([`crate::run::kick`]) and have it deliver a virtual interrupt by an ordinary IPI with the
//! guest's vector ([`forward`]). Interrupts of the VM's devices go through the first CPU, which no VM has to
//! itself.
//!
//! A level-triggered pin of the virtual I/O APIC acts as an edge: nobody hears of the EOI.

use crate::arch::cpu::{self, msr};
use crate::arch::{apic, tsc};
use crate::percpu::{self, PerCpu};
use crate::vcpu::{Local, Vcpu, guest_tsc};
use crate::{irq, run, virt};
use acrn_abi::PcpuId;
use acrn_vdev::lapic::{FIRST_LEGAL_VECTOR, GpFault, Mode, handover};
use core::sync::atomic::Ordering;

/// What this machine lacks for it.
pub fn lacks() -> Option<&'static str> {
    let needs = [
        (apic::is_x2apic(), "x2APIC mode"),
        (cpu::has_tsc_deadline(), "the TSC-deadline timer"),
        (virt::gives_apic(), "VMX that can leave interrupts alone"),
    ];
    let missing = needs.into_iter().find(|(is_there, _)| !is_there);
    missing.map(|(_, what)| what)
}

/// It looks after the console, and interrupts go to it when no other CPU is meant.
const FIRST: PcpuId = PcpuId(0);

/// Brings the CPU in step with what the vCPU, whose state is loaded, wants of it.
#[cold]
#[inline(never)]
pub fn reconcile(vcpu: &Vcpu, local: &mut Local) {
    let this = percpu::current();
    let wants = vcpu.vm().owns_apics() && vcpu.is_ready() && local.lapic.mode() == Mode::X2Apic;
    let gets = wants && this.id() != FIRST;
    match (gets, this.is_apic_given()) {
        (true, false) => begin(this, vcpu, local),
        (false, true) => take_back(this),
        _ => {}
    }
    if local.virt.has_apic() != this.is_apic_given() {
        local.virt.give_apic(this.is_apic_given());
    }
}

fn begin(this: &PerCpu, vcpu: &Vcpu, local: &mut Local) {
    this.nmi_is_call.store(true, Ordering::SeqCst);
    this.apic_given.store(true, Ordering::SeqCst);
    run::forget_timer(this);
    local.virt.use_deadline(false);
    vcpu.shared.deadline.store(u64::MAX, Ordering::Relaxed);
    let _ = vcpu.shared.posted.end_listening();
    grace(cpu::accept_interrupts);
    local.lapic.absorb(&vcpu.shared.posted);
    let handover = local.lapic.hand_over(guest_tsc(local));
    local.lapic.forget_service();
    apic::give(&handover, to_host(local, handover.tsc_deadline));
    deliver_requested(local);
    debug!(
        "vm{} vcpu{} has the local APIC of CPU {}",
        vcpu.vm_id(),
        vcpu.id,
        this.id()
    );
}

/// The CPU's local APIC is the hypervisor's again.
fn take_back(this: &PerCpu) {
    apic::take_back();
    run::forget_timer(this);
    this.apic_given.store(false, Ordering::SeqCst);
    grace(core::hint::spin_loop);
    this.nmi_is_call.store(false, Ordering::SeqCst);
}

/// CPUs that have seen the old state still act on it. They are in the hypervisor, between two
/// instructions, and need less than a microsecond.
fn grace(wait: impl Fn()) {
    let end = cpu::rdtsc() + tsc::from_ms(1) / 10;
    while cpu::rdtsc() < end {
        wait();
    }
}

/// Whether an NMI of this CPU is another CPU's call.
pub fn is_call(this: &PerCpu) -> bool {
    this.nmi_is_call.load(Ordering::SeqCst)
}

/// Waits on a CPU whose local APIC is a guest's, and which has no vCPU to run: it is paused, or there will
/// be none.
pub fn idle(this: &PerCpu) {
    if this.queue().lock().waits_for_nobody() {
        take_back(this);
    } else {
        core::hint::spin_loop();
    }
}

/// Sends on what was posted for the vCPU of such a CPU.
#[cold]
pub fn forward(vcpu: &Vcpu, cpu: &PerCpu) {
    let id = cpu.apic_id.load(Ordering::Relaxed);
    vcpu.shared.posted.drain(|word, vectors, _| {
        for bit in (0..64).filter(|bit| vectors >> bit & 1 != 0) {
            send(id, (64 * word + bit) as u8);
        }
    });
}

/// Has the hardware deliver what the virtual local APIC has requested.
fn deliver_requested(local: &mut Local) {
    let id = apic::id();
    while let Some(vector) = local.lapic.take_requested() {
        send(id, vector);
    }
}

fn send(id: u32, vector: u8) {
    // Lower ones are the exceptions': a sender's mistake.
    if vector >= FIRST_LEGAL_VECTOR {
        apic::send_fixed(id, vector);
    }
}

/// A write of an MSR of the local APIC that the guest cannot make itself.
///
/// # Errors
/// #GP(0), as the virtual local APIC says.
#[cold]
pub fn write_msr(
    vcpu: &'static Vcpu,
    local: &mut Local,
    index: u32,
    value: u64,
) -> Result<(), GpFault> {
    if index == msr::TSC_DEADLINE {
        write_deadline(local, value);
        return Ok(());
    }
    let action = local.lapic.write_msr(index, value, guest_tsc(local))?;
    if index == handover::SVR_MSR {
        apic::write_svr(value as u32);
    }
    irq::act(vcpu, local, action);
    // Unless it has just lost it.
    if local.virt.has_apic() {
        deliver_requested(local);
    }
    Ok(())
}

/// Guest TSC at which the timer is due; 0 for off.
#[cold]
pub fn deadline(local: &Local) -> u64 {
    match apic::deadline() {
        0 => 0,
        host => host.wrapping_add(local.virt.tsc_offset()),
    }
}

/// Sets [`deadline`].
#[cold]
pub fn write_deadline(local: &Local, value: u64) {
    apic::write_deadline(to_host(local, value));
}

fn to_host(local: &Local, deadline: u64) -> u64 {
    match deadline {
        0 => 0,
        guest => guest.wrapping_sub(local.virt.tsc_offset()).max(1),
    }
}
