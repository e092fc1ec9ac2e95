//! Hands the machine's serial line to the person at the terminal.
//!
//! The terminal is in raw mode, so that Ctrl-C and the like reach the guest. Ctrl-A x
//! ends the machine, Ctrl-A Ctrl-A sends one Ctrl-A; the rest is the machine's.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, SetArg, Termios};

use crate::machine::Vm;

const CTRL_A: u8 = 1;
const LOOK_AROUND_MS: u16 = 200;

/// Connects terminal and machine until the machine ends or the person leaves.
///
/// # Errors
/// The terminal cannot be set up or read.
pub fn run(vm: &mut Vm) -> Result<()> {
    let mut keys = Keys::default();
    let mut machine = vm.console.writer()?;
    let mut stdin = std::io::stdin();
    let _raw = RawMode::enter()?;
    vm.console.echo(true);
    let mut buffer = [0_u8; 256];
    let mut listening = true;
    while !vm.has_ended()? {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let watched = if listening {
            &mut fds[..]
        } else {
            &mut fds[..0]
        };
        if poll(watched, PollTimeout::from(LOOK_AROUND_MS)).unwrap_or(0) == 0 {
            continue;
        }
        let count = stdin.read(&mut buffer)?;
        // A closed standard input is no wish to end the machine.
        listening = count > 0;
        let (bytes, leave) = keys.take(&buffer[..count]);
        if leave {
            break;
        }
        if machine.write_all(&bytes).is_err() {
            break;
        }
    }
    vm.console.echo(false);
    Ok(())
}

/// Recognises the bridge's own keys in what is typed.
#[derive(Default)]
struct Keys {
    after_prefix: bool,
}

impl Keys {
    /// What is to be passed on, and whether the person wants to leave.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            match (std::mem::take(&mut self.after_prefix), byte) {
                (false, CTRL_A) => self.after_prefix = true,
                (true, b'x') => return (passed, true),
                (true, CTRL_A) => passed.push(CTRL_A),
                (true, other) => passed.extend([CTRL_A, other]),
                (false, other) => passed.push(other),
            }
        }
        (passed, false)
    }
}

/// The terminal in raw mode until dropped; nothing where standard input is no terminal.
struct RawMode(Option<Termios>);

impl RawMode {
    fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // There is nobody left to tell.
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_leaves_and_a_doubled_ctrl_a_is_passed_once() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"ls\x01"), (b"ls".to_vec(), false));
        assert_eq!(keys.take(b"\x01\0e"), (b"\x01\0e".to_vec(), false));
        assert_eq!(keys.take(b"a\x01x-"), (b"a".to_vec(), true));
    }

    #[test]
    fn an_unknown_key_after_ctrl_a_is_passed_with_it() {
        assert_eq!(Keys::default().take(b"\x01c").0, b"\x01c");
    }
}
