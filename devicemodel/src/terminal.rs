//! The terminal that acrn-dm runs in, while a guest has it.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Settings to go back to. Global, so that a panic can restore them, too.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode; dropping it restores the terminal.
pub struct RawTerminal(());

impl RawTerminal {
    /// Puts the terminal into raw mode: each key goes to the guest. `None` if standard input is
    /// no terminal.
    ///
    /// # Errors
    /// The settings cannot be changed.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        let Ok(settings) = tcgetattr(stdin.as_fd()) else {
            return Ok(None);
        };
        let mut raw = settings.clone();
        cfmakeraw(&mut raw);
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal, if it was changed.
pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(settings) = saved {
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &settings);
    }
}
