//! Hypercalls. ACRN's are made by the kernel's HSM driver, which makes exactly one for this
//! ioctl; the cost of the way there, that of an ioctl that the driver does not know, is
//! taken off. KVM answers its own to user mode too: with an error, after the same exit.

use crate::figure::{Figure, series};
use crate::place::Place;
use acrn_abi::hsm;
use acrn_abi::hypercall::{IrqLine, VmCreation};
use std::arch::asm;
use std::arch::x86_64::__cpuid;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use super::{COUNT, Mapping, PAGE};

/// An ioctl that the driver does not know.
const UNKNOWN: u32 = hsm::io(0xff);
/// A line that is low anyway.
const LINE: IrqLine = IrqLine {
    gsi: 20,
    operation: IrqLine::LOW,
};

/// Measures the cheapest hypercall of this place.
pub fn measure(place: Place) -> Option<Figure> {
    match place {
        Place::Service => of_the_driver(),
        Place::Kvm if is_amd() => series(COUNT, |_| {
            // SAFETY: KVM refuses it to user mode in RAX and changes nothing else.
            unsafe { asm!("vmmcall", inout("rax") 99_u64 => _, options(nostack)) };
            true
        }),
        Place::Kvm => series(COUNT, |_| {
            // SAFETY: as above.
            unsafe { asm!("vmcall", inout("rax") 99_u64 => _, options(nostack)) };
            true
        }),
        Place::Bare | Place::User => None,
    }
}

/// The vendors' processors have an instruction each.
fn is_amd() -> bool {
    __cpuid(0).ebx == u32::from_le_bytes(*b"Auth")
}

fn of_the_driver() -> Option<Figure> {
    let driver = File::options()
        .read(true)
        .write(true)
        .open(hsm::DEVICE)
        .ok()?;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    let page = Mapping::new(PAGE, flags, -1, 0)?;
    let mut creation = VmCreation {
        name: *b"bench-hypercall\0",
        ioreq_buf: page.at(0) as u64,
        cpu_affinity: 1,
        ..VmCreation::default()
    };
    let call = |number, argument| ioctl(driver.as_raw_fd(), number, argument);
    if call(hsm::CREATE_VM, (&raw mut creation) as u64) != 0 {
        let error = std::io::Error::last_os_error();
        println!("bench-init: the hypervisor makes no VM: {error}");
        return None;
    }
    let base = series(COUNT, |_| call(UNKNOWN, 0) != 0);
    let with = series(COUNT, |_| call(hsm::SET_IRQLINE, LINE.to_register()) == 0);
    call(hsm::DESTROY_VM, 0);
    let (base, with) = (base?, with?);
    Some(Figure {
        min: with.min.saturating_sub(base.min),
        median: with.median.saturating_sub(base.median),
        count: with.count,
    })
}

/// The number is the driver's affair, and so is what it takes the argument for.
fn ioctl(file: RawFd, number: u32, argument: u64) -> i32 {
    // SAFETY: pointers among the arguments are to memory that outlives the call.
    unsafe { libc::ioctl(file, number.into(), argument) }
}
