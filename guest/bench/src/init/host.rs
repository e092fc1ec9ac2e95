//! The part of a host: loads modules, runs a virtual machine monitor, tells how it ended.

use crate::figure::ticks;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::Command;

/// The monitor's program and arguments, one a line.
pub const ARGUMENTS: &str = "/bench/argv";
/// Kernel modules to load before, one a line in the order of loading.
const MODULES: &str = "/bench/modules";

/// Runs the monitor to its end.
pub fn run() {
    for module in fs::read_to_string(MODULES).unwrap_or_default().lines() {
        if let Err(error) = load(module) {
            println!("bench-init: {module} was not loaded: {error}");
        }
    }
    let text = fs::read_to_string(ARGUMENTS).unwrap_or_default();
    let mut words = text.lines();
    let Some(program) = words.next() else {
        println!("bench-init: {ARGUMENTS} is empty");
        return;
    };
    println!("{{\"bench\":\"launch\",\"tsc\":{}}}", ticks());
    match Command::new(program).args(words).status() {
        Ok(status) => println!("bench-init: {program} ended with {status}"),
        Err(error) => println!("bench-init: {program} cannot be started: {error}"),
    }
}

fn load(module: &str) -> std::io::Result<()> {
    let file = File::open(module)?;
    let no_parameters = CString::default();
    // SAFETY: the descriptor is open and the string is terminated.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            no_parameters.as_ptr(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
