//! The shell on the serial console.

use crate::console::Out;
use core::fmt::Write;

/// Shows the prompt.
pub fn prompt() {
    let _ = Out.write_str("\r\nACRN:\\> ");
}

/// Takes a typed byte.
pub fn input(_byte: u8) {}
