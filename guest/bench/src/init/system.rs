//! What init does besides measuring: file systems before, the end of the machine after.

use crate::place::Place;
use std::ffi::CStr;
use std::io::Write;
use std::time::Duration;

/// Mounts `/dev`, `/proc` and `/sys`; the kernel may have mounted the first.
pub fn mount_basics() {
    for (kind, at) in [
        (c"devtmpfs", c"/dev"),
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
    ] {
        mount(kind, at);
    }
}

fn mount(kind: &CStr, at: &CStr) {
    // SAFETY: all pointers are to strings that outlive the calls.
    unsafe {
        libc::mkdir(at.as_ptr(), 0o755);
        // It fails where it is mounted already, which is what is wanted.
        libc::mount(
            kind.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            0,
            core::ptr::null(),
        );
    }
}

/// Lets the kernel finish what it does in the background after a boot: it measures the TSC
/// for a second before it makes it its clock and turns to exact timers.
pub fn wait_for_timers() {
    std::thread::sleep(Duration::from_secs(4));
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let clock = std::fs::read_to_string(clock).unwrap_or_default();
    println!("{{\"bench\":\"clock\",\"name\":\"{}\"}}", clock.trim());
}

/// Ends the machine; what there is no power switch for is reset.
pub fn end(place: Place) -> ! {
    let _ = std::io::stdout().flush();
    let how = match place {
        Place::Kvm => libc::RB_AUTOBOOT,
        _ => libc::RB_POWER_OFF,
    };
    // SAFETY: waits for the terminal's output, then ends the machine.
    unsafe {
        libc::tcdrain(1);
        libc::reboot(how);
    }
    // Init must not return.
    loop {
        std::thread::park();
    }
}
