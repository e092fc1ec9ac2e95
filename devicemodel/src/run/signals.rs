//! Signals: SIGTERM, SIGINT and SIGHUP press the guest's power button; a second one switches it
//! off. They are blocked in all threads and taken by one that waits for them.

use std::io;
use std::sync::mpsc::Sender;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

use super::{Event, sandbox};

fn endings() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect()
}

/// Blocks the signals. To be called before the first thread starts, since threads inherit it.
///
/// # Errors
/// Never on Linux.
pub fn block() -> io::Result<()> {
    endings().thread_block()?;
    // SAFETY: SIGPIPE is ignored, which installs no handler.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    Ok(())
}

/// Starts the thread that turns signals into events.
///
/// # Errors
/// The system has no thread left.
pub fn listen(events: Sender<Event>) -> io::Result<()> {
    let wait = move || {
        while endings().wait().is_ok() {
            if events.send(Event::Stop).is_err() {
                return;
            }
        }
    };
    sandbox::spawn("signals".into(), wait).map(drop)
}
