//! The micro-guests: one image that plays the Service VM's kernel and tries one behaviour of the
//! hypervisor at a time.
//!
//! The word `test=NAME[,NAME…]` of the command line says which; `test=all` runs every test that
//! leaves the machine usable. A test prints `PASS name`, or `FAIL name: reason` for each
//! thing that does not hold, on the UART; the emulator's exit status says whether all held.
#![no_std]
#![no_main]

#[cfg(not(bare_image))]
extern crate std;

#[macro_use]
mod report;

mod apic;
mod cpu;
mod params;
mod pci;
mod runtime;
mod smp;
mod start;
mod tests;
mod trap;
mod window;

use report::Test;
use tests::TESTS;

/// Entered by the start-up code.
pub extern "C" fn guest_main(zero_page: u64) -> ! {
    params::remember(zero_page);
    trap::build_tables();
    trap::load(0);
    apic::initialise();
    apic::initialise_pic(0);
    let wanted = params::command_line()
        .split(' ')
        .find_map(|word| word.strip_prefix("test="))
        .unwrap_or("all");
    print!("micro-guest: {wanted}\n");
    let mut good = true;
    if wanted == "all" {
        for (name, _, run) in TESTS.iter().filter(|(_, harmless, _)| *harmless) {
            good &= try_one(name, *run);
        }
    } else {
        for name in wanted.split(',') {
            match TESTS.iter().find(|(known, _, _)| *known == name) {
                Some((name, _, run)) => good &= try_one(name, *run),
                None => {
                    print!("FAIL {name}: there is no such test\n");
                    good = false;
                }
            }
        }
    }
    report::exit(good)
}

fn try_one(name: &'static str, run: fn(&Test)) -> bool {
    let test = Test::new(name);
    run(&test);
    test.end()
}
