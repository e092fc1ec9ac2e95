//! Several CPUs: start-up, and interrupts between them.

use crate::apic::{self, NMI, TO_ALL, TO_OTHERS};
use crate::cpu::{self, ms, wait_for};
use crate::report::Test;
use crate::smp;
use crate::trap::{count_on, cpu_index};
use core::sync::atomic::{AtomicU64, Ordering};

static SEEN: AtomicU64 = AtomicU64::new(0);

fn mark() {
    let bit = 1 << cpu_index();
    let id_matches = apic::id() as usize == cpu_index();
    SEEN.fetch_or(if id_matches { bit } else { 0 }, Ordering::SeqCst);
}

pub(super) fn start(t: &Test) {
    let count = smp::count();
    let running = smp::start_all();
    expect!(t, running == count, "{running} of {count} CPUs started");
    SEEN.store(0, Ordering::SeqCst);
    for index in 1..count {
        expect!(t, smp::run_on(index, mark), "CPU {index} does not work");
    }
    let seen = SEEN.load(Ordering::SeqCst);
    expect!(t, seen == (1 << count) - 2, "CPUs {seen:#b} know their ids");
    for index in 1..count {
        // A start-up IPI to a running CPU does nothing; INIT and two more start it anew.
        let before = smp::starts(index);
        apic::command(index as u32, apic::STARTUP | 0x99);
        wait_for(ms(5), || false);
        expect!(
            t,
            smp::run_on(index, mark),
            "CPU {index} fell to a start-up IPI"
        );
        expect!(t, smp::start(index), "CPU {index} does not start again");
        expect!(
            t,
            smp::starts(index) == before + 1,
            "CPU {index} started twice"
        );
    }
    // INIT alone stops it. It takes its time, so CPU 1 may begin to work before it arrives.
    if count > 1 {
        let stopped = (0..5).any(|_| {
            apic::command(1, apic::INIT);
            wait_for(ms(50), || false);
            smp::begin_on(1, mark);
            !wait_for(ms(100), || smp::is_idle(1))
        });
        expect!(t, stopped, "CPU 1 works after INIT");
        expect!(t, smp::start(1), "CPU 1 does not start after INIT");
    }
    print!("{count} CPUs\n");
}

fn all_got(vector: u8, before: &[u64], cpus: core::ops::Range<usize>) -> bool {
    wait_for(ms(5000), || {
        cpus.clone()
            .all(|cpu| count_on(cpu, vector) == before[cpu] + 1)
    })
}

fn counts(vector: u8) -> [u64; crate::trap::MAX_CPUS] {
    core::array::from_fn(|cpu| count_on(cpu, vector))
}

pub(super) fn ipi(t: &Test) {
    const VECTOR: u8 = 0x71;
    let count = smp::start_all();
    cpu::enable_interrupts();
    for x2apic in [false, true] {
        if x2apic {
            for index in 1..count {
                expect!(
                    t,
                    smp::run_on(index, apic::enter_x2apic),
                    "CPU {index} is gone"
                );
            }
            apic::enter_x2apic();
        }
        for index in 0..count {
            let before = counts(VECTOR);
            apic::command(index as u32, VECTOR.into());
            expect!(
                t,
                all_got(VECTOR, &before, index..index + 1),
                "no IPI to CPU {index}"
            );
        }
        let before = counts(VECTOR);
        apic::command(0, TO_OTHERS | u32::from(VECTOR));
        expect!(
            t,
            all_got(VECTOR, &before, 1..count),
            "no IPI to all others"
        );
        expect!(
            t,
            count_on(0, VECTOR) == before[0],
            "IPI to all others came back"
        );
        let before = counts(VECTOR);
        apic::command(0, TO_ALL | u32::from(VECTOR));
        expect!(t, all_got(VECTOR, &before, 0..count), "no IPI to all");
        let before = counts(VECTOR);
        apic::command(if x2apic { u32::MAX } else { 0xff }, VECTOR.into());
        expect!(t, all_got(VECTOR, &before, 0..count), "no broadcast");
        let before = counts(2);
        apic::command(0, TO_OTHERS | NMI);
        expect!(t, all_got(2, &before, 1..count), "no NMI to all others");
    }
    // Back and forth, as fast as it goes.
    if count > 1 {
        crate::trap::hook(VECTOR + 1, Some(answer));
        for round in 0..200 {
            let before = count_on(0, VECTOR);
            apic::command(1, u32::from(VECTOR) + 1);
            let came = wait_for(ms(5000), || count_on(0, VECTOR) != before);
            expect!(t, came, "answer {round} is lost");
        }
        crate::trap::hook(VECTOR + 1, None);
    }
    cpu::disable_interrupts();
    for index in 1..count {
        expect!(
            t,
            smp::run_on(index, apic::leave_x2apic),
            "CPU {index} is gone"
        );
    }
    apic::leave_x2apic();
}

fn answer() {
    apic::command(0, 0x71);
}
