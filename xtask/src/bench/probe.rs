//! The TSC at the kernel's first instruction.
//!
//! A kernel does not tell when it was entered. So the set-up is run a second time with a
//! copy of the kernel whose two entry points (32-bit at the start of the payload, 64-bit
//! 512 bytes behind) are overwritten with a few instructions that print the TSC. Everything
//! before the entry, the real-mode part of the kernel included, stays as it is.

use anyhow::{Context, Result, ensure};

/// What the probe writes to COM1 before 16 hexadecimal digits.
pub const MARK: &str = "@@@@";

/// Reads the TSC, writes mark, digits and a line feed to COM1 waiting for room each time,
/// and halts. The same bytes do this in 32-bit and in 64-bit mode; no stack is used.
const PROBE: [u8; 111] = [
    0x0f, 0x31, //                         rdtsc
    0x89, 0xd6, //                         mov    esi, edx
    0x89, 0xc7, //                         mov    edi, eax
    0xbd, 0x02, 0x00, 0x00, 0x00, //       mov    ebp, 2            two words
    0xb9, 0x40, 0x40, 0x40, 0x40, //       mov    ecx, "@@@@"
    0x88, 0xcb, //                   mark: mov    bl, cl
    0x66, 0xba, 0xfd, 0x03, //             mov    dx, 0x3fd         line status
    0xec, //                            1: in     al, dx
    0xa8, 0x20, //                         test   al, 0x20          room?
    0x74, 0xfb, //                         jz     1b
    0x66, 0xba, 0xf8, 0x03, //             mov    dx, 0x3f8
    0x88, 0xd8, //                         mov    al, bl
    0xee, //                               out    dx, al
    0xc1, 0xe9, 0x08, //                   shr    ecx, 8
    0x75, 0xe9, //                         jnz    mark
    0xb9, 0x08, 0x00, 0x00, 0x00, // word: mov    ecx, 8            digits of a word
    0xc1, 0xc6, 0x04, //            digit: rol    esi, 4
    0x89, 0xf3, //                         mov    ebx, esi
    0x83, 0xe3, 0x0f, //                   and    ebx, 15
    0x80, 0xfb, 0x0a, //                   cmp    bl, 10
    0x72, 0x03, //                         jb     2f
    0x80, 0xc3, 0x27, //                   add    bl, 'a' - '0' - 10
    0x80, 0xc3, 0x30, //                2: add    bl, '0'
    0x66, 0xba, 0xfd, 0x03, //             mov    dx, 0x3fd
    0xec, //                            3: in     al, dx
    0xa8, 0x20, //                         test   al, 0x20
    0x74, 0xfb, //                         jz     3b
    0x66, 0xba, 0xf8, 0x03, //             mov    dx, 0x3f8
    0x88, 0xd8, //                         mov    al, bl
    0xee, //                               out    dx, al
    0x83, 0xe9, 0x01, //                   sub    ecx, 1
    0x75, 0xd8, //                         jnz    digit
    0x89, 0xfe, //                         mov    esi, edi
    0x83, 0xed, 0x01, //                   sub    ebp, 1
    0x75, 0xcc, //                         jnz    word
    0x66, 0xba, 0xfd, 0x03, //             mov    dx, 0x3fd
    0xec, //                            4: in     al, dx
    0xa8, 0x20, //                         test   al, 0x20
    0x74, 0xfb, //                         jz     4b
    0x66, 0xba, 0xf8, 0x03, //             mov    dx, 0x3f8
    0xb0, 0x0a, //                         mov    al, '\n'
    0xee, //                               out    dx, al
    0xfa, //                            5: cli
    0xf4, //                               hlt
    0xeb, 0xfc, //                         jmp    5b
];

/// Offset of the number of setup sectors in a bzImage.
const SETUP_SECTORS: usize = 0x1f1;
const SECTOR: usize = 512;
/// The 64-bit entry point in the payload.
const ENTRY64: usize = 0x200;

/// A copy of the kernel that tells the TSC instead of booting.
///
/// # Errors
/// The file is no bzImage.
pub fn patch(kernel: &[u8]) -> Result<Vec<u8>> {
    ensure!(
        kernel.get(0x202..0x206) == Some(b"HdrS"),
        "the kernel is no bzImage"
    );
    let sectors = match kernel[SETUP_SECTORS] {
        0 => 4,
        count => usize::from(count),
    };
    let payload = (sectors + 1) * SECTOR;
    let mut copy = kernel.to_vec();
    for entry in [payload, payload + ENTRY64] {
        copy.get_mut(entry..entry + PROBE.len())
            .context("the kernel is cut short")?
            .copy_from_slice(&PROBE);
    }
    Ok(copy)
}

/// The TSC from what came after the mark.
///
/// # Errors
/// There are no 16 digits.
pub fn parse(text: &str) -> Result<u64> {
    let digits = text.get(..16).unwrap_or(text);
    u64::from_str_radix(digits, 16).with_context(|| format!("the probe wrote {digits:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_entries_are_overwritten_and_nothing_else() {
        let mut kernel = vec![0_u8; 8192];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[SETUP_SECTORS] = 3;
        let copy = patch(&kernel).unwrap();
        assert_eq!(copy[2048..2048 + 111], PROBE);
        assert_eq!(copy[2560..2560 + 111], PROBE);
        let changed = copy.iter().zip(&kernel).filter(|(a, b)| a != b).count();
        let zeros = PROBE.iter().filter(|byte| **byte == 0).count();
        assert_eq!(changed, 2 * (PROBE.len() - zeros));
    }

    #[test]
    fn a_file_that_is_no_kernel_or_too_short_is_refused() {
        assert!(patch(&[0; 4096]).is_err());
        let mut kernel = vec![0_u8; 1024];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(patch(&kernel).is_err());
    }

    #[test]
    fn digits_are_read() {
        assert_eq!(parse("00000001000000ff\r\n").unwrap(), 0x1_0000_00ff);
        assert!(parse("bad").is_ok_and(|v| v == 0xbad));
        assert!(parse("no").is_err());
    }
}
