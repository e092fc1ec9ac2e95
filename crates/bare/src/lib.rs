//! What the compiler expects of a C library, for images that are linked without one: it calls these
//! functions for copies and comparisons that nobody wrote.
//!
//! Copies go word by word, with the processor's own string instructions: they are short, need no
//! vector registers and are fast where it matters.
//!
//! Only in such an image do the functions have the names that the compiler knows; elsewhere, as in the
//! tests here, the C library keeps its own.
#![cfg_attr(not(test), no_std)]

use core::arch::asm;

/// # Safety
/// As C's `memcpy`.
#[cfg_attr(bare_image, unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
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
#[cfg_attr(bare_image, unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
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
#[cfg_attr(bare_image, unsafe(no_mangle))]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
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
#[cfg_attr(bare_image, unsafe(no_mangle))]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
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
#[cfg_attr(bare_image, unsafe(no_mangle))]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's duty.
    unsafe { memcmp(a, b, length) }
}

/// # Safety
/// As C's `strlen`.
#[cfg_attr(bare_image, unsafe(no_mangle))]
pub unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller's duty; volatile keeps this loop from becoming a call to itself.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Named by the prebuilt `core`; unwinding is off, so it is never called.
#[cfg(bare_image)]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[cfg(test)]
mod tests;
