//! Host time: the TSC, its rate measured once against what the machine has.

use super::cpu;
use core::sync::atomic::{AtomicU64, Ordering};

static KHZ: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);

/// Remembers the TSC at entry, from which the log counts.
pub fn mark_start() {
    START.store(cpu::rdtsc(), Ordering::Relaxed);
}

/// TSC at entry.
pub fn start() -> u64 {
    START.load(Ordering::Relaxed)
}

/// TSC ticks per millisecond; 0 before [`calibrate`].
pub fn khz() -> u64 {
    KHZ.load(Ordering::Relaxed)
}

/// Microseconds since entry; 0 before [`calibrate`].
pub fn uptime_us() -> u64 {
    let khz = khz();
    if khz == 0 {
        return 0;
    }
    (u128::from(cpu::rdtsc().wrapping_sub(start())) * 1000 / u128::from(khz)) as u64
}

/// Milliseconds as TSC ticks.
pub fn from_ms(ms: u64) -> u64 {
    ms * khz()
}

/// Microseconds as TSC ticks.
pub fn from_us(us: u64) -> u64 {
    us * khz() / 1000
}

/// Waits.
pub fn delay_us(us: u64) {
    let (start, ticks) = (cpu::rdtsc(), from_us(us));
    while cpu::rdtsc().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// Finds the rate: CPUID 0x15 where it is complete, else the PM timer, else the PIT.
/// Returns where the figure is from.
pub fn calibrate(pm_timer: Option<u16>) -> &'static str {
    let (khz, source) = from_cpuid()
        .map(|khz| (khz, "CPUID 0x15"))
        .or_else(|| {
            pm_timer
                .and_then(from_pm_timer)
                .map(|khz| (khz, "the PM timer"))
        })
        .unwrap_or_else(|| (from_pit(), "the PIT"));
    KHZ.store(khz.max(1), Ordering::Relaxed);
    source
}

fn from_cpuid() -> Option<u64> {
    if cpu::cpuid(0, 0).eax < 0x15 {
        return None;
    }
    let r = cpu::cpuid(0x15, 0);
    if r.eax == 0 || r.ebx == 0 || r.ecx == 0 {
        return None;
    }
    Some(u64::from(r.ecx) * u64::from(r.ebx) / u64::from(r.eax) / 1000)
}

/// Length of a measurement in PM timer ticks (3.579545 MHz): about 10 ms.
const PM_TICKS: u32 = 35_796;

fn from_pm_timer(port: u16) -> Option<u64> {
    // SAFETY: reading the ACPI PM timer has no side effect.
    let read = || unsafe { cpu::inl(port) } & 0xff_ffff;
    // The pair of readings that lie closest together says most about one moment.
    let sample = || {
        let try_once = |_| {
            let before = cpu::rdtsc();
            let ticks = read();
            let after = cpu::rdtsc();
            (
                after.wrapping_sub(before),
                before.wrapping_add(after.wrapping_sub(before) / 2),
                ticks,
            )
        };
        (0..16)
            .map(try_once)
            .min_by_key(|s| s.0)
            .map_or((0, 0), |s| (s.1, s.2))
    };
    let (start, first) = sample();
    let mut polls = 0u32;
    while read().wrapping_sub(first) & 0xff_ffff < PM_TICKS {
        polls += 1;
        if polls > 10_000_000 {
            return None;
        }
    }
    let (end, last) = sample();
    let passed = u64::from(last.wrapping_sub(first) & 0xff_ffff);
    Some((u128::from(end - start) * 3_579_545 / u128::from(passed) / 1000) as u64)
}

fn from_pit() -> u64 {
    const LATCH: u16 = 11_932; // 10 ms at 1.193182 MHz
    // SAFETY: channel 2 drives the speaker only; the gate is restored afterwards.
    unsafe {
        let gate = cpu::inb(0x61);
        cpu::outb(0x61, gate & !2 | 1);
        cpu::outb(0x43, 0xb0);
        cpu::outb(0x42, LATCH as u8);
        cpu::outb(0x42, (LATCH >> 8) as u8);
        let start = cpu::rdtsc();
        let mut polls = 0u32;
        while cpu::inb(0x61) & 0x20 == 0 && polls < 100_000_000 {
            polls += 1;
        }
        let ticks = cpu::rdtsc() - start;
        cpu::outb(0x61, gate);
        ticks / 10
    }
}
