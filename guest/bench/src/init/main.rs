//! `bench-init`: the first program of a Linux kernel, the same on the bare machine, in the
//! Service VM, in a User VM and in a guest of KVM.
//!
//! It measures operations in ticks of the TSC and prints a line of JSON for each; then it
//! ends the machine. Under the emulator's instruction counter a tick is one instruction, so
//! the figures are exact and do not depend on the load of the host; a set-up's figure less
//! that of the bare machine is what the virtualization costs.
//!
//! Where the RAM disk has a file `/bench/argv` it is not a measurement that is wanted but a
//! host: the program named there, a virtual machine monitor, is run instead (`host`).
//!
//! As init it has nobody to report an error to: what cannot be measured is left out, and
//! the reader of the output says which figures are missing.

mod figure;
mod host;
mod operations;
mod place;
mod system;

use place::Place;

fn main() {
    let start = figure::ticks();
    system::mount_basics();
    if std::path::Path::new(host::ARGUMENTS).exists() {
        host::run();
        system::end(Place::Bare);
    }
    let place = Place::find();
    println!("{{\"bench\":\"start\",\"place\":\"{place}\",\"tsc\":{start}}}");
    system::wait_for_timers();
    operations::measure_all(place);
    println!("{{\"bench\":\"end\"}}");
    if std::env::args().any(|word| word == "bench-hold") {
        // Whoever reads the console still has questions to the hypervisor.
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    system::end(place);
}
