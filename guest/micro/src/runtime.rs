//! What the compiler expects of the language runtime.

use acrn_bare as _;
use core::panic::PanicInfo;

/// Named by the prebuilt `core`; unwinding is off, so it is never called.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::report::exit(false)
}

// In any other build than that of the image, such as a lint run over the whole workspace, a
// dependency may have been given its `std` feature by another package: `std` then brings the
// handler, and a second one would be an error.
#[cfg_attr(bare_image, panic_handler)]
#[cfg_attr(not(bare_image), allow(dead_code))]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::print!("FAIL {info}\n");
    crate::report::exit(false)
}
