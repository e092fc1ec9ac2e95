//! Turns a linked ELF file into the flat image that boot loaders take.
//!
//! The bare-metal images carry a multiboot1 header with address fields, which makes a
//! loader treat them as plain bytes; the ELF file itself stays for the debugger.

use anyhow::{Context, Result, bail, ensure};

/// A flat image and where it was linked to lie.
#[derive(Debug, PartialEq, Eq)]
pub struct Flat {
    /// Physical address of the first byte.
    pub base: u64,
    /// Content up to the last byte that the file holds.
    pub bytes: Vec<u8>,
    /// Size in memory in bytes, zeroed data included.
    pub memory_size: u64,
}

const PT_LOAD: u32 = 1;

/// An image of more than this has a linker script gone wrong.
const LARGEST: u64 = 64 << 20;

/// Lays the loadable segments of a 64-bit little-endian ELF file side by side.
///
/// # Errors
/// The file is no such ELF file, is cut short, or its segments lie too far apart.
pub fn flatten(elf: &[u8]) -> Result<Flat> {
    ensure!(
        elf.get(..6) == Some(b"\x7fELF\x02\x01"),
        "this is no 64-bit little-endian ELF file"
    );
    let table = usize::try_from(read(elf, 32, 8)?)?;
    let entry_size = usize::try_from(read(elf, 54, 2)?)?;
    let count = usize::try_from(read(elf, 56, 2)?)?;
    let mut segments = Vec::new();
    for index in 0..count {
        let header = index
            .checked_mul(entry_size)
            .and_then(|offset| offset.checked_add(table))
            .context("the program headers lie outside of the address space")?;
        if read(elf, header, 4)? != u64::from(PT_LOAD) {
            continue;
        }
        let segment = Segment {
            offset: usize::try_from(read(elf, header + 8, 8)?)?,
            address: read(elf, header + 24, 8)?,
            file_size: read(elf, header + 32, 8)?,
            memory_size: read(elf, header + 40, 8)?,
        };
        if segment.memory_size > 0 {
            segments.push(segment);
        }
    }
    lay_out(elf, &segments)
}

struct Segment {
    offset: usize,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

fn lay_out(elf: &[u8], segments: &[Segment]) -> Result<Flat> {
    let Some(base) = segments.iter().map(|s| s.address).min() else {
        bail!("the file has no loadable segment");
    };
    let mut flat = Flat {
        base,
        bytes: Vec::new(),
        memory_size: 0,
    };
    for segment in segments {
        let start = segment.address - base;
        let end = start.saturating_add(segment.memory_size.max(segment.file_size));
        ensure!(
            end <= LARGEST,
            "a segment at {:#x} is too far from {base:#x}",
            segment.address
        );
        flat.memory_size = flat.memory_size.max(end);
        let (start, size) = (usize::try_from(start)?, usize::try_from(segment.file_size)?);
        let content = elf
            .get(segment.offset..)
            .and_then(|rest| rest.get(..size))
            .with_context(|| format!("the segment at {:#x} is cut short", segment.address))?;
        if flat.bytes.len() < start + size {
            flat.bytes.resize(start + size, 0);
        }
        flat.bytes[start..start + size].copy_from_slice(content);
    }
    Ok(flat)
}

fn read(elf: &[u8], offset: usize, width: usize) -> Result<u64> {
    let bytes = elf
        .get(offset..)
        .and_then(|rest| rest.get(..width))
        .with_context(|| format!("the file ends before offset {offset:#x}"))?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Where a multiboot1 loader puts a flat image: the header's `load_addr`, if the image
/// has a header with address fields.
#[must_use]
pub fn multiboot1_load_address(image: &[u8]) -> Option<u32> {
    let word = |at: usize| {
        image
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    (0..8192_usize).step_by(4).find_map(|at| {
        let (magic, flags, sum) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let valid = magic == 0x1bad_b002
            && magic.wrapping_add(flags).wrapping_add(sum) == 0
            && flags & 1 << 16 != 0;
        if valid { word(at + 16) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf_with(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = vec![0_u8; 64 + 56 * segments.len()];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for (index, (address, bytes, memory)) in segments.iter().enumerate() {
            let header = 64 + 56 * index;
            let offset = file.len() as u64;
            file[header..header + 4].copy_from_slice(&1_u32.to_le_bytes());
            file[header + 8..header + 16].copy_from_slice(&offset.to_le_bytes());
            file[header + 24..header + 32].copy_from_slice(&address.to_le_bytes());
            file[header + 32..header + 40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            file[header + 40..header + 48].copy_from_slice(&memory.to_le_bytes());
            file.extend_from_slice(bytes);
        }
        file
    }

    #[test]
    fn gaps_become_zeros_and_the_zeroed_end_is_not_stored() {
        let flat = flatten(&elf_with(&[(0x10_0000, b"ab", 2), (0x10_0004, b"c", 9)])).unwrap();
        assert_eq!(
            flat,
            Flat {
                base: 0x10_0000,
                bytes: b"ab\0\0c".to_vec(),
                memory_size: 13
            }
        );
    }

    #[test]
    fn a_truncated_file_is_an_error_at_every_length() {
        let file = elf_with(&[(0, b"content", 7)]);
        for length in 0..file.len() {
            assert!(flatten(&file[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn segments_far_apart_are_refused() {
        assert!(flatten(&elf_with(&[(0, b"a", 1), (1 << 40, b"b", 1)])).is_err());
    }

    #[test]
    fn the_load_address_comes_from_a_header_with_a_valid_sum() {
        let mut image = vec![0_u8; 64];
        let flags = 1_u32 << 16 | 3;
        let sum = 0_u32.wrapping_sub(0x1bad_b002_u32.wrapping_add(flags));
        for (at, value) in [(16, 0x1bad_b002), (20, flags), (24, sum), (32, 0x20_0000)] {
            image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        assert_eq!(multiboot1_load_address(&image), Some(0x20_0000));
        image[24] ^= 1;
        assert_eq!(multiboot1_load_address(&image), None);
    }
}
