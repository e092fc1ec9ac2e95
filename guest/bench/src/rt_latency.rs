//! `rt-latency CPU CYCLES MICROSECONDS`: how late a real-time thread wakes up.
//!
//! Pinned to a CPU, with a real-time priority and no memory left to be fetched, it sleeps until the next
//! multiple of the period, as often as told, and prints one line: the least, mean and greatest delay in
//! nanoseconds.

use std::process::ExitCode;

/// Above everything but the kernel's own most urgent threads.
const PRIORITY: i32 = 80;
const NANOSECONDS: i64 = 1_000_000_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<u32>> = words.iter().map(|word| word.parse().ok()).collect();
    let Some(&[cpu, cycles @ (1..), period @ (1..)]) = numbers.as_deref() else {
        eprintln!("usage: rt-latency CPU CYCLES MICROSECONDS");
        return ExitCode::from(2);
    };
    if let Err((what, error)) = become_real_time(cpu) {
        eprintln!("rt-latency: {what}: {error}");
        return ExitCode::FAILURE;
    }
    let delays = Delays::of(cycles, i64::from(period) * 1000);
    println!(
        "rt-latency: CPU {cpu}, {cycles} cycles of {period} us, late by (ns): least {}, mean {}, most {}",
        delays.least,
        delays.sum / i64::from(cycles),
        delays.most
    );
    ExitCode::SUCCESS
}

type Failed = (&'static str, std::io::Error);

fn become_real_time(cpu: u32) -> Result<(), Failed> {
    let done = |what, result| match result {
        0 => Ok(()),
        _ => Err((what, std::io::Error::last_os_error())),
    };
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: the set and the parameters are this function's own; the size is the set's. CPU_SET ignores
    // numbers that the set has no room for, and an empty set is refused.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu < libc::CPU_SETSIZE as u32 {
            libc::CPU_SET(cpu as usize, &mut set);
        }
        let size = size_of::<libc::cpu_set_t>();
        done(
            "no such CPU",
            libc::sched_setaffinity(0, size, &raw const set),
        )?;
        done(
            "memory cannot be locked",
            libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE),
        )?;
        done(
            "no real-time priority",
            libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters),
        )
    }
}

struct Delays {
    least: i64,
    most: i64,
    sum: i64,
}

impl Delays {
    fn of(cycles: u32, period: i64) -> Self {
        let mut delays = Self {
            least: i64::MAX,
            most: 0,
            sum: 0,
        };
        let mut next = now() + period;
        for _ in 0..cycles {
            sleep_until(next);
            let delay = now() - next;
            delays.least = delays.least.min(delay);
            delays.most = delays.most.max(delay);
            delays.sum += delay;
            next += period;
        }
        delays
    }
}

/// Nanoseconds of the monotonic clock.
fn now() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the variable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * NANOSECONDS + time.tv_nsec
}

fn sleep_until(nanoseconds: i64) {
    let time = libc::timespec {
        tv_sec: nanoseconds / NANOSECONDS,
        tv_nsec: nanoseconds % NANOSECONDS,
    };
    // SAFETY: reads the variable; nothing is to be written of what is left.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &raw const time,
            std::ptr::null_mut(),
        );
    }
}
