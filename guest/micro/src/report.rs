//! What the host reads: lines on the UART, and the exit code.

use crate::cpu::{inb, outb, outl};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

/// The UART.
pub struct Serial;

const UART: u16 = 0x3f8;
const LSR: u16 = UART + 5;
const EXIT_PORT: u16 = 0xf4;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                send(b'\r');
            }
            send(byte);
        }
        Ok(())
    }
}

fn send(byte: u8) {
    while inb(LSR) & 0x20 == 0 {}
    outb(UART, byte);
}

/// Prints to the UART.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => {{
        let _ = core::fmt::Write::write_fmt(&mut $crate::report::Serial, format_args!($($arg)*));
    }};
}

/// Name and failures of the running test.
pub struct Test {
    name: &'static str,
    failures: AtomicU32,
}

impl Test {
    /// A test that begins.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            failures: AtomicU32::new(0),
        }
    }

    /// Notes what does not hold. Only the first few are printed.
    pub fn expect(&self, holds: bool, what: fmt::Arguments<'_>) {
        if !holds && self.failures.fetch_add(1, Ordering::Relaxed) < 8 {
            print!("FAIL {}: {what}\n", self.name);
        }
    }

    /// Prints the result; `true` when everything held.
    pub fn end(&self) -> bool {
        let failures = self.failures.load(Ordering::Relaxed);
        if failures == 0 {
            print!("PASS {}\n", self.name);
        } else {
            print!("FAIL {}: {failures} checks failed\n", self.name);
        }
        failures == 0
    }
}

/// Checks a condition; the rest says what is wrong, with arguments.
#[macro_export]
macro_rules! expect {
    ($test:expr, $condition:expr, $($arg:tt)*) => {
        $test.expect($condition, format_args!($($arg)*))
    };
}

/// The last line, and the end of an emulator with QEMU's debug device: exit status 33 for success,
/// 35 for failure.
pub fn exit(success: bool) -> ! {
    print!("micro-guest: end\n");
    outl(EXIT_PORT, if success { 0x10 } else { 0x11 });
    loop {
        // SAFETY: the end.
        unsafe { core::arch::asm!("cli", "hlt", options(nostack)) };
    }
}
