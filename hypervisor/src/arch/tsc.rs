//! Host time: the TSC, its rate measured once against what the machine has.

use super::cpu;
use core::sync::atomic::{AtomicU64, Ordering};

static KHZ: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);

/// What the machine's sleep has taken from the TSC, and each CPU adds to its own when it starts.
static LOST: AtomicU64 = AtomicU64::new(0);
/// The TSC before the sleep.
static STOPPED: AtomicU64 = AtomicU64::new(0);

/// Before the machine's sleep.
pub fn stop() {
    STOPPED.store(cpu::rdtsc(), Ordering::Relaxed);
}

/// After it, on the first CPU: a TSC that has begun anew goes on where it was, since it must never go back.
pub fn go_on() {
    let (before, now) = (STOPPED.load(Ordering::Relaxed), cpu::rdtsc());
    LOST.store(before.saturating_sub(now), Ordering::Relaxed);
    follow();
}

/// On each CPU that starts: its TSC is in step with that of the first one.
pub fn follow() {
    let lost = LOST.load(Ordering::Relaxed);
    if lost != 0 {
        // SAFETY: the hypervisor's clock; what it runs had no part in the time between.
        unsafe { cpu::wrmsr(cpu::msr::TSC, cpu::rdtsc().wrapping_add(lost)) };
    }
}

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

/// Finds the rate: CPUID 0x15 where it is complete and about right, else the PM timer, else the
/// PIT. Returns where the figure is from.
pub fn calibrate(pm_timer: Option<u16>) -> &'static str {
    let (measured, source) = pm_timer
        .and_then(from_pm_timer)
        .map(|khz| (khz, "the PM timer"))
        .unwrap_or_else(|| (from_pit(), "the PIT"));
    let (khz, source) = match from_cpuid() {
        Some(stated) if stated.abs_diff(measured) <= stated / TOLERANCE => (stated, "CPUID 0x15"),
        _ => (measured, source),
    };
    KHZ.store(khz.max(1), Ordering::Relaxed);
    source
}

/// Emulators state a rate that is not theirs: then it is wrong by more than a 50th.
const TOLERANCE: u64 = 50;

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

/// Length of a measurement in ticks of the PM timer (3.579545 MHz): about 1 ms.
const PM_TICKS: u64 = 3_580;
/// Least and most readings that a measurement is made of.
const READINGS: core::ops::Range<u64> = 64..1 << 16;

/// Reads both clocks over and over and draws the straight line that fits best: many readings
/// make up for the coarse steps of the PM timer and the time that each reading takes.
fn from_pm_timer(port: u16) -> Option<u64> {
    let read = || {
        let before = cpu::rdtsc();
        // SAFETY: reading the ACPI PM timer has no side effect.
        let ticks = unsafe { cpu::inl(port) };
        let width = cpu::rdtsc().wrapping_sub(before);
        (before.wrapping_add(width / 2), width, ticks)
    };
    // Readings that something came between are not used.
    let narrow = (0..8).map(|_| read().1).min().unwrap_or(0);
    let (start, _, first) = read();
    let mut line = Line::default();
    for _ in 0..10_000_000 {
        let (now, width, ticks) = read();
        // 24 bits on some machines, of which no more than a few thousandths pass here.
        let passed = u64::from(ticks.wrapping_sub(first) & 0xff_ffff);
        if width <= narrow.saturating_mul(2) && line.count < READINGS.end {
            line.add(passed, now.wrapping_sub(start));
        }
        if passed >= PM_TICKS && line.count >= READINGS.start {
            return line.slope(3_579_545).map(|hertz| hertz / 1000);
        }
    }
    None
}

/// A straight line through points, by least squares.
#[derive(Default)]
struct Line {
    count: u64,
    x: u64,
    y: u64,
    xx: u128,
    xy: u128,
}

impl Line {
    fn add(&mut self, x: u64, y: u64) {
        self.count += 1;
        self.x += x;
        self.y = self.y.wrapping_add(y);
        self.xx += u128::from(x) * u128::from(x);
        self.xy += u128::from(x) * u128::from(y);
    }

    /// What y grows by while x grows by `x`; none when that cannot be said.
    fn slope(&self, x: u64) -> Option<u64> {
        let [n, sx, sy] = [self.count, self.x, self.y].map(u128::from);
        let along = (n * self.xy).checked_sub(sx * sy)?;
        let across = (n * self.xx).checked_sub(sx * sx)?;
        let grown = along.checked_mul(x.into())?.checked_div(across)?;
        u64::try_from(grown).ok()
    }
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
