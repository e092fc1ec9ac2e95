//! What the compiler expects of the language runtime, since the image is linked without one. Copies and the like are
//! in `acrn_bare`.

use crate::arch::{cpu, exception};
use acrn_bare as _;
use core::arch::asm;
use core::fmt::Write;
use core::panic::PanicInfo;

/// Named by the prebuilt `core`; unwinding is off, so it is never called.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    cpu::halt_forever()
}

// In any other build than that of the image, such as a lint run over the whole workspace, a
// dependency may have been given its `std` feature by another package: `std` then brings the
// handler, and a second one would be an error.
#[cfg_attr(bare_image, panic_handler)]
#[cfg_attr(not(bare_image), allow(dead_code))]
fn panic(info: &PanicInfo<'_>) -> ! {
    exception::begin_crash();
    let cpu = crate::percpu::current_id();
    let _ = write!(
        console_out(),
        "\r\n*** acrn: panic on CPU {cpu}: {info}\r\n"
    );
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack)) };
    exception::back_trace(rbp);
    exception::finish_crash()
}

fn console_out() -> crate::console::Raw {
    crate::console::Raw
}
