//! A CPU that the Service VM gives away: it is there for others, and comes back when the Service VM starts anew.

use super::hypercalls::hypercall;
use super::vm::{COUNTING, UserVm, counter};
use crate::apic;
use crate::cpu::{ms, relax, wait_for};
use crate::report::Test;
use crate::smp;
use acrn_abi::hypercall::{Errno, HypercallId as Id};
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

const REFUSED: i64 = -(Errno::EINVAL.0 as i64);
static BEATS: AtomicU64 = AtomicU64::new(0);
static RESULT: AtomicI64 = AtomicI64::new(0);

fn give_away(apic_id: u64) -> i64 {
    hypercall(Id::SERVICE_VM_OFFLINE_CPU, apic_id, 0)
}

fn give_itself_away() {
    RESULT.store(give_away(apic::id().into()), Ordering::SeqCst);
}

fn beat() {
    loop {
        BEATS.fetch_add(1, Ordering::SeqCst);
        relax();
    }
}

fn beats(time: u64) -> bool {
    let before = BEATS.load(Ordering::SeqCst);
    wait_for(time, || BEATS.load(Ordering::SeqCst) != before)
}

pub(super) fn cpu(t: &Test) {
    expect!(t, smp::start_all() == 2, "not two CPUs");
    let first = give_away(0);
    expect!(t, first == REFUSED, "vCPU 0: {first}");
    expect!(t, smp::run_on(1, give_itself_away), "CPU 1 does not work");
    let own = RESULT.load(Ordering::SeqCst);
    expect!(t, own == REFUSED, "the caller's own: {own}");
    smp::begin_on(1, beat);
    expect!(t, beats(ms(5000)), "CPU 1 does not work");
    let given = give_away(1);
    expect!(t, given == 0, "SERVICE_VM_OFFLINE_CPU: {given}");
    expect!(t, !beats(ms(50)), "CPU 1 goes on");
    // Whoever calls twice, or names one that never was, has what he wants.
    for id in [1, 77, u64::MAX] {
        let again = give_away(id);
        expect!(t, again == 0, "id {id}: {again}");
    }
    for command in [apic::INIT, apic::STARTUP | 0x99, apic::STARTUP | 0x99] {
        apic::command(1, command);
    }
    expect!(t, !beats(ms(50)), "CPU 1 comes back");
    heir(t);
}

/// A User VM gets the CPU.
fn heir(t: &Test) {
    let Ok(vm) = UserVm::prepared(b"heir", 0b10, COUNTING) else {
        expect!(t, false, "CREATE_VM");
        return;
    };
    expect!(t, vm.start() == 0, "START_VM");
    let runs = wait_for(ms(5000), || counter() > 1000);
    expect!(t, runs, "the CPU runs nobody");
    expect!(t, vm.destroy() == 0, "DESTROY_VM");
}
