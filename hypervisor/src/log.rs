//! The hypervisor's log: levels, the console, a ring in memory, and rings that the Service VM reads.
//!
//! A line is formatted straight to its sinks: no heap, no buffer that could overflow. What the Service VM
//! reads is cut at [`MAX_LINE`] bytes. Lines that
//! a guest can provoke go through [`limited`].

use acrn_trace::line::MAX_LINE;
use arrayvec::ArrayVec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use spin::Mutex;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Somebody must act.
    Error = 1,
    /// Something was refused.
    Warn = 3,
    /// Life-cycle.
    Info = 4,
    /// The rest.
    Debug = 5,
}

static CONSOLE_LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static MEMORY_LEVEL: AtomicU8 = AtomicU8::new(MOST);
/// Highest level: everything.
const MOST: u8 = 6;

/// Size of the log kept in memory, in bytes.
const RING_SIZE: usize = 16 * 1024;

struct Ring {
    bytes: [u8; RING_SIZE],
    next: usize,
    wrapped: bool,
}

impl Ring {
    fn push(&mut self, byte: u8) {
        self.bytes[self.next] = byte;
        self.next = (self.next + 1) % RING_SIZE;
        self.wrapped |= self.next == 0;
    }
}

static RING: Mutex<Ring> = Mutex::new(Ring {
    bytes: [0; RING_SIZE],
    next: 0,
    wrapped: false,
});

/// The console's level.
pub fn level() -> u8 {
    CONSOLE_LEVEL.load(Ordering::Relaxed)
}

/// Sets the console's level: 0 nothing to 6 everything.
pub fn set_level(level: u8) {
    CONSOLE_LEVEL.store(level.min(MOST), Ordering::Relaxed);
}

/// The level up to which lines are kept in memory.
pub fn memory_level() -> u8 {
    MEMORY_LEVEL.load(Ordering::Relaxed)
}

/// Sets the level up to which lines are kept in memory, as for the console.
pub fn set_memory_level(level: u8) {
    MEMORY_LEVEL.store(level.min(MOST), Ordering::Relaxed);
}

struct Sinks<'a> {
    ring: Option<&'a mut Ring>,
    /// For the rings that the Service VM reads; what is too long is cut.
    line: Option<&'a mut ArrayVec<u8, MAX_LINE>>,
    console: bool,
}

impl Write for Sinks<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(ring) = &mut self.ring {
            text.bytes().for_each(|byte| ring.push(byte));
        }
        if let Some(line) = &mut self.line {
            line.extend(text.bytes().take(MAX_LINE - 1 - line.len()));
        }
        if self.console {
            crate::console::write_log(text);
        }
        Ok(())
    }
}

/// Writes one line; used through the macros.
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    let console = level as u8 <= CONSOLE_LEVEL.load(Ordering::Relaxed);
    let this = crate::percpu::current();
    let microseconds = crate::arch::tsc::uptime_us();
    let name = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let _typed = console.then(crate::shell::hide_line);
    let kept = level as u8 <= memory_level();
    let logged = kept && this.logged.load(Ordering::Relaxed);
    let mut copy = ArrayVec::new();
    let mut ring = RING.lock();
    let _ = write!(
        Sinks {
            ring: kept.then_some(&mut *ring),
            line: logged.then_some(&mut copy),
            console
        },
        "[{:>6}.{:06}][cpu{}] {}: {}\r\n",
        microseconds / 1_000_000,
        microseconds % 1_000_000,
        this.id(),
        name,
        text
    );
    drop(ring);
    if logged {
        copy.truncate(copy.trim_ascii_end().len());
        copy.push(b'\n');
        crate::rings::write_line(this, &copy);
    }
}

/// After a crash another CPU may hold the lock for ever: take it away.
///
/// # Safety
/// All other CPUs have been stopped or will not log any more.
pub unsafe fn force_unlock() {
    // SAFETY: the caller's duty.
    unsafe { RING.force_unlock() }
}

/// Gives the kept log, oldest first, to `sink`.
pub fn replay(mut sink: impl FnMut(u8)) {
    let ring = RING.lock();
    if ring.wrapped {
        ring.bytes[ring.next..].iter().for_each(|b| sink(*b));
    }
    ring.bytes[..ring.next].iter().for_each(|b| sink(*b));
}

/// Whether a message that a guest can provoke may be printed now: at most 20 in a second.
pub fn limited() -> bool {
    static WINDOW: AtomicU64 = AtomicU64::new(0);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let second = crate::arch::tsc::uptime_us() / 1_000_000 + 1;
    if WINDOW.swap(second, Ordering::Relaxed) != second {
        COUNT.store(0, Ordering::Relaxed);
    }
    COUNT.fetch_add(1, Ordering::Relaxed) < 20
}

/// Logs an error: somebody must act.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Error, format_args!($($arg)*)) };
}
/// Logs a refusal.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Warn, format_args!($($arg)*)) };
}
/// Logs a step of a life-cycle.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Info, format_args!($($arg)*)) };
}
/// Logs a detail.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Debug, format_args!($($arg)*)) };
}
