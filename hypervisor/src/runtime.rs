//! What the compiler expects of a C library and of the language runtime, since the image is
//! linked without either.
//!
//! Copies go word by word, with the processor's own string instructions: they are short, need no
//! vector registers and are fast where it matters.

use crate::arch::{cpu, exception};
use core::arch::asm;
use core::fmt::Write;
use core::panic::PanicInfo;

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's duty.
    unsafe {
        asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb", rest = in(reg) length & 7,
            inout("rcx") length / 8 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's duty; overlapping ranges with the target behind go backwards.
    unsafe {
        if (to as usize).wrapping_sub(from as usize) >= length {
            return memcpy(to, from, length);
        }
        // The last bytes first; a word then ends where they began.
        asm!("std", "rep movsb", "sub rsi, 7", "sub rdi, 7", "mov rcx, {words}", "rep movsq",
            "cld", words = in(reg) length / 8, inout("rcx") length & 7 => _,
            inout("rdi") to.wrapping_add(length).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(length).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller's duty.
    unsafe {
        asm!("rep stosq", "mov ecx, {rest:e}", "rep stosb", rest = in(reg) length & 7,
            inout("rcx") length / 8 => _, inout("rdi") to => _,
            in("rax") u64::from_ne_bytes([value as u8; 8]),
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    for i in 0..length {
        // SAFETY: the caller's duty; volatile keeps this loop from becoming a call to itself.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As C's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's duty.
    unsafe { memcmp(a, b, length) }
}

/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller's duty.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Named by the prebuilt `core`; unwinding is off, so it is never called.
#[cfg(bare_image)]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

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
