//! The process between the daemon and one VM, `acrnd keep DIRECTORY PROGRAM [WORD…]`.
//!
//! It runs the VM's program and notes its exit status, which only a parent learns. So the daemon
//! may die and come back without a VM ending and without an exit status being lost. It leads a
//! session, and thus a process group, of its own, by whose number everything that belongs to the
//! VM is found, and it has a name of its own, by which `ps` and `killall` tell it from the daemon.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

use crate::store;

/// What process lists show.
pub const NAME: &str = "acrnd-keeper";
/// Exit status for a program that cannot be started, as shells have it.
const NOT_STARTED: i32 = 127;

/// Runs a program and notes how it ends in `directory`.
///
/// # Errors
/// The files cannot be written; the program is not started then.
pub fn keep(directory: &Path, program: &OsString, words: &[OsString]) -> io::Result<()> {
    rustix::process::setsid()?;
    prctl::set_name(&CString::new(NAME)?)?;
    // Signals for the VM's group are for its program; std unblocks them there.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let own = std::process::id().cast_signed();
    let process = store::alive(own).ok_or(io::ErrorKind::NotFound)?;
    store::note_process(directory, process)?;
    let status = match Command::new(program).args(words).status() {
        Ok(status) => code(status),
        Err(error) => {
            let program = program.display();
            eprintln!(
                "acrnd: {program} cannot be started: {error}; check that it is there and executable"
            );
            NOT_STARTED
        }
    };
    store::note_exit(directory, status)
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(NOT_STARTED)
}
