//! The hypervisor shell without its hardware: editing a line, understanding it, and leaving a VM's
//! console.
//!
//! Bytes from the serial port go either to a [`LineEditor`], whose finished lines
//! [`Command::parse`] turns into a [`Command`], or, while the port belongs to a VM's console,
//! through an [`EscapeDetector`]. Carrying a command out and printing its result is the
//! hypervisor's job.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod command;
pub mod escape;
pub mod help;
pub mod line;

pub use command::{Command, DumpFrom, Error};
pub use escape::{ConsoleInput, EscapeDetector};
pub use help::{COMMANDS, Effect, Help, Mode};
pub use line::{Line, LineEditor};

/// What the shell shows when it waits for a command.
pub const PROMPT: &str = "ACRN:\\>";
