//! The local APIC's timer in its three modes, and TSC_ADJUST.

use crate::apic::{self, reg};
use crate::cpu::{self, ms, rdmsr, rdtsc, wait_for, wrmsr};
use crate::report::Test;
use crate::trap::count;

const VECTOR: u8 = 0x41;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DEADLINE_MODE: u32 = 2 << 17;
const TSC_DEADLINE: u32 = 0x6e0;
/// What an emulator that shares its host with others may be late, in milliseconds.
const LATE: u64 = 2000;

pub(super) fn xapic(t: &Test) {
    all_modes(t);
}

pub(super) fn x2apic(t: &Test) {
    apic::enter_x2apic();
    apic::initialise();
    all_modes(t);
    apic::leave_x2apic();
}

fn all_modes(t: &Test) {
    cpu::enable_interrupts();
    one_shot(t);
    masked(t);
    periodic(t);
    deadline(t);
    cpu::disable_interrupts();
    ends_halt(t);
}

/// A timer that is due at any moment on the way into HLT ends it: one that is lost there hangs the test.
fn ends_halt(t: &Test) {
    // Where the TSC counts instructions it is slow, and each may be the one; elsewhere chance decides.
    let (most, step) = match cpu::tsc_khz() {
        ..100_000 => (4_000, 1),
        rate => ((rate / 10) as u32, (rate / 4_000) as usize),
    };
    let before = count(VECTOR);
    apic::write(reg::LVT_TIMER, VECTOR.into());
    for (done, ticks) in (1..=most).step_by(step).enumerate() {
        apic::write(reg::TIMER_INITIAL, ticks);
        cpu::sleep();
        let seen = count(VECTOR) - before;
        expect!(
            t,
            seen as usize == done + 1,
            "HLT {done} and {seen} interrupts"
        );
    }
}

/// Milliseconds since `start`, a TSC value.
fn since(start: u64) -> u64 {
    rdtsc().wrapping_sub(start) / cpu::tsc_khz()
}

fn one_shot(t: &Test) {
    // Dividers 1, 2, 16 and 128 by their codes.
    for (code, shift) in [(0xb, 0), (0, 1), (3, 4), (0xa, 7)] {
        let before = count(VECTOR);
        apic::write(reg::LVT_TIMER, VECTOR.into());
        apic::write(reg::TIMER_DIVIDE, code);
        let start = rdtsc();
        let ticks = (ms(10) >> shift) as u32;
        apic::write(reg::TIMER_INITIAL, ticks);
        let first = apic::read(reg::TIMER_CURRENT);
        expect!(t, first <= ticks, "count {first} of {ticks}");
        let fired = wait_for(ms(5000), || count(VECTOR) != before);
        let took = since(start);
        expect!(t, fired, "one-shot with divider code {code:#x} is silent");
        expect!(t, (9..10 + LATE).contains(&took), "10 ms took {took} ms");
        wait_for(ms(25), || false);
        expect!(t, count(VECTOR) == before + 1, "one-shot fired again");
        let left = apic::read(reg::TIMER_CURRENT);
        expect!(t, left == 0, "count {left} after the end");
    }
    apic::write(reg::TIMER_DIVIDE, 0xb);
}

fn masked(t: &Test) {
    let before = count(VECTOR);
    apic::write(reg::LVT_TIMER, MASKED | u32::from(VECTOR));
    apic::write(reg::TIMER_INITIAL, ms(2) as u32);
    wait_for(ms(10), || false);
    expect!(t, count(VECTOR) == before, "masked timer fired");
    // Stopped by a count of zero; not judged when it was due before it could be stopped.
    apic::write(reg::LVT_TIMER, VECTOR.into());
    let due = rdtsc() + ms(10);
    apic::write(reg::TIMER_INITIAL, ms(10) as u32);
    apic::write(reg::TIMER_INITIAL, 0);
    if rdtsc() < due {
        wait_for(ms(20), || false);
        expect!(t, count(VECTOR) == before, "stopped timer fired");
    }
}

fn periodic(t: &Test) {
    let before = count(VECTOR);
    apic::write(reg::LVT_TIMER, PERIODIC | u32::from(VECTOR));
    let start = rdtsc();
    apic::write(reg::TIMER_INITIAL, ms(5) as u32);
    wait_for(ms(20_000), || count(VECTOR) >= before + 20);
    let (fired, took) = (count(VECTOR) - before, since(start));
    apic::write(reg::TIMER_INITIAL, 0);
    expect!(
        t,
        fired >= 20,
        "20 periods of 5 ms: only {fired} interrupts"
    );
    expect!(t, took >= 94, "20 periods of 5 ms took {took} ms");
    expect!(
        t,
        took < 100 + 10 * LATE,
        "20 periods of 5 ms took {took} ms"
    );
    let stopped = count(VECTOR);
    wait_for(ms(15), || false);
    expect!(t, count(VECTOR) <= stopped + 1, "periodic timer goes on");
    apic::write(reg::LVT_TIMER, MASKED);
}

/// Arms a deadline, takes it back by `disarm`, and sees that nothing comes; not judged when this
/// processor stood still for so long that the deadline passed before.
fn stays_silent(t: &Test, name: &str, disarm: impl Fn()) {
    let before = count(VECTOR);
    let due = rdtsc() + ms(10);
    wrmsr(TSC_DEADLINE, due);
    disarm();
    if rdtsc() >= due {
        return;
    }
    wait_for(ms(20), || false);
    expect!(t, count(VECTOR) == before, "{name} fired");
}

fn deadline(t: &Test) {
    let before = count(VECTOR);
    apic::write(reg::LVT_TIMER, DEADLINE_MODE | u32::from(VECTOR));
    let start = rdtsc();
    wrmsr(TSC_DEADLINE, start + ms(10));
    let kept = rdmsr(TSC_DEADLINE);
    let passed = rdtsc() >= start + ms(10);
    expect!(t, kept == start + ms(10) || passed, "deadline is lost");
    let fired = wait_for(ms(5000), || count(VECTOR) != before);
    let took = since(start);
    expect!(t, fired, "deadline passes in silence");
    expect!(t, (10..10 + LATE).contains(&took), "10 ms took {took} ms");
    expect!(t, rdmsr(TSC_DEADLINE) == 0, "deadline stays after its time");
    // In the past: at once. Zero: never.
    wrmsr(TSC_DEADLINE, 1);
    expect!(
        t,
        wait_for(ms(3000), || count(VECTOR) == before + 2),
        "past deadline is silent"
    );
    stays_silent(t, "cancelled deadline", || wrmsr(TSC_DEADLINE, 0));
    stays_silent(t, "deadline after its mode", || {
        apic::write(reg::LVT_TIMER, VECTOR.into());
    });
    apic::write(reg::LVT_TIMER, MASKED);
}

const TSC_ADJUST: u32 = 0x3b;
const TSC: u32 = 0x10;

pub(super) fn tsc_adjust(t: &Test) {
    cpu::enable_interrupts();
    moved_while_armed(t);
    apic::enter_x2apic();
    apic::initialise();
    moved_while_armed(t);
    apic::leave_x2apic();
    let original = rdmsr(TSC_ADJUST);
    for change in [1_000_000_000_000, 0u64.wrapping_sub(ms(30))] {
        let before = rdtsc();
        wrmsr(TSC_ADJUST, original.wrapping_add(change));
        let moved = rdtsc().wrapping_sub(before);
        let error = moved.wrapping_sub(change);
        expect!(
            t,
            error < ms(200),
            "TSC moved by {moved:#x}, not {change:#x}"
        );
        expect!(
            t,
            rdmsr(TSC_ADJUST) == original.wrapping_add(change),
            "TSC_ADJUST is lost"
        );
        deadline(t);
        one_shot(t);
        wrmsr(TSC_ADJUST, original);
    }
    // A write of the TSC shows in TSC_ADJUST.
    let before = rdtsc();
    wrmsr(TSC, before + (1 << 40));
    let adjust = rdmsr(TSC_ADJUST).wrapping_sub(original);
    let error = (1u64 << 40).wrapping_sub(adjust);
    expect!(
        t,
        error < ms(200),
        "TSC write changed TSC_ADJUST by {adjust:#x}"
    );
    deadline(t);
    wrmsr(TSC_ADJUST, original);
    cpu::disable_interrupts();
}

/// A timer that is armed when TSC_ADJUST is written, with the value that it has or another one:
/// what counts goes on as before, and a deadline is a value of the TSC.
fn moved_while_armed(t: &Test) {
    const HOURS: u64 = 1 << 44;
    let original = rdmsr(TSC_ADJUST);
    for change in [
        0,
        ms(3),
        HOURS,
        0u64.wrapping_sub(ms(3)),
        0u64.wrapping_sub(HOURS),
    ] {
        let moved = || wrmsr(TSC_ADJUST, original.wrapping_add(change));
        let moved_back = || wrmsr(TSC_ADJUST, original);
        let signed = change as i64;
        let start = rdtsc();
        apic::write(reg::LVT_TIMER, VECTOR.into());
        expect_after(t, "one-shot", signed, || {
            apic::write(reg::TIMER_INITIAL, ms(10) as u32);
            moved();
        });
        moved_back();
        let took = since(start);
        expect!(t, took >= 9, "one-shot after {signed:#x}: {took} ms of 10");
        let before = count(VECTOR);
        apic::write(reg::LVT_TIMER, PERIODIC | u32::from(VECTOR));
        apic::write(reg::TIMER_INITIAL, ms(4) as u32);
        wait_for(ms(1000), || count(VECTOR) > before);
        expect_after(t, "periodic", signed, moved);
        expect_after(t, "periodic, moved back", signed, moved_back);
        apic::write(reg::TIMER_INITIAL, 0);
        // A deadline in its own time: the jump brings it nearer or puts it off.
        apic::write(reg::LVT_TIMER, DEADLINE_MODE | u32::from(VECTOR));
        expect_after(t, "deadline", signed, || {
            wrmsr(
                TSC_DEADLINE,
                rdtsc().wrapping_add(change).wrapping_add(ms(10)),
            );
            moved();
        });
        moved_back();
        let before = count(VECTOR);
        wrmsr(TSC_DEADLINE, rdtsc() + HOURS / 2);
        wait_for(ms(5), || false);
        expect!(t, count(VECTOR) == before, "a deadline hours ahead fired");
        expect_after(t, "a deadline that the jump has passed", signed, || {
            wrmsr(TSC_ADJUST, original.wrapping_add(HOURS));
        });
        moved_back();
        apic::write(reg::LVT_TIMER, MASKED);
    }
}

/// Whether the timer fires after `action`, which moves the TSC.
fn expect_after(t: &Test, name: &str, change: i64, action: impl Fn()) {
    let before = count(VECTOR);
    action();
    let fired = wait_for(ms(5000), || count(VECTOR) > before);
    expect!(t, fired, "{name}: silent after TSC_ADJUST by {change:#x}");
}
