//! Static ELF programs.
//!
//! A 64-bit program starts at its entry in 64-bit mode with RSI pointing to Linux-style boot
//! parameters; a 32-bit one in protected mode, as multiboot has it: EAX 0x2BADB002, EBX pointing
//! to information on memory and command line.

use acrn_abi::hypercall::VcpuRegs;

use super::{
    BOOT_PARAMS, COMMAND_LINE, FREE_LOW_START, HIGH_RAM_START, Image, LOW_RAM_END, LoadError,
    memory_map, number, start, write,
};
use crate::memory::Memory;

const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const MACHINE_386: u64 = 3;
const MACHINE_X86_64: u64 = 62;
const TYPE_EXECUTABLE: u64 = 2;
const PT_LOAD: u64 = 1;
const MULTIBOOT_MAGIC: u32 = 0x2bad_b002;
/// Multiboot information: memory sizes, command line and memory map are valid.
const MULTIBOOT_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 6;
/// Where the memory map lies behind the multiboot information.
const MULTIBOOT_MAP: u64 = BOOT_PARAMS + 0x100;

/// A piece of the program.
struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// A checked program.
pub(super) struct Program {
    image: Image,
    entry: u64,
    wide: bool,
    segments: Vec<Segment>,
}

impl Program {
    /// Checks that `image` is a whole static program.
    pub(super) fn check(image: Image) -> Result<Self, LoadError> {
        const NOT_ELF: &str = "name a static ELF program for x86";
        const AGAIN: &str = "copy the program again";
        if image.length == 0 {
            return Err(image.bad("the file is empty", AGAIN));
        }
        let head = image.head()?;
        if !head.starts_with(b"\x7fELF") {
            return Err(image.bad("it does not begin like an ELF file", NOT_ELF));
        }
        let wide = match (head.get(4), number::<2>(&head, 18)) {
            (Some(&CLASS_64), Some(MACHINE_X86_64)) => true,
            (Some(&CLASS_32), Some(MACHINE_386)) => false,
            _ => return Err(image.bad("it is for another kind of CPU", NOT_ELF)),
        };
        if number::<2>(&head, 16) != Some(TYPE_EXECUTABLE) {
            return Err(image.bad("it is not a static executable", NOT_ELF));
        }
        let short = || image.bad("it ends within its own header", AGAIN);
        let field = |wide_at, narrow_at| {
            if wide {
                number::<8>(&head, wide_at)
            } else {
                number::<4>(&head, narrow_at)
            }
            .ok_or_else(short)
        };
        let entry = field(24, 24)?;
        let table = field(32, 28)?;
        let (size_at, count_at) = if wide { (54, 56) } else { (42, 44) };
        let entry_size = number::<2>(&head, size_at).ok_or_else(short)?;
        let count = number::<2>(&head, count_at).ok_or_else(short)?;
        let mut segments = Vec::new();
        for index in 0..count {
            let header = table
                .checked_add(index * entry_size)
                .and_then(|at| usize::try_from(at).ok())
                .and_then(|at| head.get(at..))
                .ok_or_else(short)?;
            if let Some(segment) = segment(header, wide).ok_or_else(short)? {
                segments.push(segment);
            }
        }
        if segments.is_empty() {
            return Err(image.bad("it has no segments to load", NOT_ELF));
        }
        for segment in &segments {
            let end = segment.offset.checked_add(segment.file_size);
            if end.is_none_or(|end| end > image.length) || segment.file_size > segment.memory_size {
                let reason = format!(
                    "it is cut short: the segment for {:#x} lies beyond its end",
                    segment.address
                );
                return Err(image.bad(reason, AGAIN));
            }
        }
        Ok(Self {
            image,
            entry,
            wide,
            segments,
        })
    }

    /// Checks that all segments lie in usable memory of a guest with `low` bytes below 2 GiB.
    pub(super) fn fits(&self, low: u64) -> Result<(), LoadError> {
        for segment in &self.segments {
            let (start, Some(end)) = (
                segment.address,
                segment.address.checked_add(segment.memory_size),
            ) else {
                return Err(self.image.bad("a segment wraps around", "link it again"));
            };
            let low_ok = start >= FREE_LOW_START && end <= LOW_RAM_END;
            if start < HIGH_RAM_START && !low_ok {
                let reason = format!("it wants to be at {start:#x}, which is in use");
                return Err(self.image.bad(reason, "link it for 1 MiB or above"));
            }
            if end > low && !low_ok {
                return Err(LoadError::DoesNotFit {
                    what: format!("-E {}", self.image.path.display()),
                    needed: end >> 10,
                    available: low >> 10,
                    remedy: "choose more memory with -m",
                });
            }
        }
        Ok(())
    }

    /// Loads the program.
    pub(super) fn load(&self, memory: &Memory, acpi: u64) -> Result<VcpuRegs, LoadError> {
        self.fits(memory.layout.low)?;
        let ram = memory.ram();
        for segment in &self.segments {
            self.image
                .copy(ram, segment.offset, segment.address, segment.file_size)?;
            let mut address = segment.address + segment.file_size;
            let end = segment.address + segment.memory_size;
            while address < end {
                let step = (end - address).min(1 << 20);
                write(ram, address, &vec![0; step as usize])?;
                address += step;
            }
        }
        if self.wide {
            write(ram, BOOT_PARAMS, &boot_params(memory, acpi))?;
            return Ok(start::long_mode(self.entry, BOOT_PARAMS));
        }
        let (info, map) = multiboot(memory);
        write(ram, BOOT_PARAMS, &info)?;
        write(ram, MULTIBOOT_MAP, &map)?;
        Ok(start::protected_mode(
            self.entry,
            MULTIBOOT_MAGIC,
            BOOT_PARAMS,
        ))
    }
}

/// A program header: `None` when cut short, `Some(None)` when there is nothing to load.
fn segment(header: &[u8], wide: bool) -> Option<Option<Segment>> {
    let kind = number::<4>(header, 0)?;
    let segment = if wide {
        Segment {
            offset: number::<8>(header, 8)?,
            address: number::<8>(header, 24)?,
            file_size: number::<8>(header, 32)?,
            memory_size: number::<8>(header, 40)?,
        }
    } else {
        Segment {
            offset: number::<4>(header, 4)?,
            address: number::<4>(header, 12)?,
            file_size: number::<4>(header, 16)?,
            memory_size: number::<4>(header, 20)?,
        }
    };
    Some((kind == PT_LOAD && segment.memory_size != 0).then_some(segment))
}

/// The part of Linux's boot parameters that does not depend on a kernel.
fn boot_params(memory: &Memory, acpi: u64) -> Vec<u8> {
    let mut page = vec![0u8; 4096];
    page[0x70..0x78].copy_from_slice(&acpi.to_le_bytes());
    page[0x228..0x22c].copy_from_slice(&(COMMAND_LINE as u32).to_le_bytes());
    let map = memory_map(memory);
    page[0x1e8] = map.len() as u8;
    for (index, (start, length, kind)) in map.into_iter().enumerate() {
        let at = 0x2d0 + 20 * index;
        page[at..at + 8].copy_from_slice(&start.to_le_bytes());
        page[at + 8..at + 16].copy_from_slice(&length.to_le_bytes());
        page[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
    }
    page
}

/// Multiboot 1 information and memory map.
fn multiboot(memory: &Memory) -> (Vec<u8>, Vec<u8>) {
    let map: Vec<u8> = memory_map(memory)
        .into_iter()
        .flat_map(|(start, length, kind)| {
            let mut entry = 20u32.to_le_bytes().to_vec();
            entry.extend(start.to_le_bytes());
            entry.extend(length.to_le_bytes());
            entry.extend(kind.to_le_bytes());
            entry
        })
        .collect();
    let mut info = vec![0u8; 0x60];
    let mut put = |offset: usize, value: u32| {
        info[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    };
    put(0, MULTIBOOT_FLAGS);
    put(4, (LOW_RAM_END >> 10) as u32);
    put(8, ((memory.layout.low - HIGH_RAM_START) >> 10) as u32);
    put(16, COMMAND_LINE as u32);
    put(44, map.len() as u32);
    put(48, MULTIBOOT_MAP as u32);
    (info, map)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::cli::BootImage;
    use crate::memory::Layout;

    fn elf64(address: u64, memory_size: u64) -> Vec<u8> {
        let mut bytes = vec![0u8; 0x80];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &2u16.to_le_bytes());
        put(18, &62u16.to_le_bytes());
        put(24, &address.to_le_bytes());
        put(32, &64u64.to_le_bytes());
        put(54, &56u16.to_le_bytes());
        put(56, &1u16.to_le_bytes());
        put(64, &1u32.to_le_bytes());
        put(64 + 8, &0x78u64.to_le_bytes());
        put(64 + 24, &address.to_le_bytes());
        put(64 + 32, &8u64.to_le_bytes());
        put(64 + 40, &memory_size.to_le_bytes());
        put(0x78, b"program!");
        bytes
    }

    fn elf32() -> Vec<u8> {
        let mut bytes = vec![0u8; 0x60];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, b"\x7fELF\x01\x01\x01");
        put(16, &2u16.to_le_bytes());
        put(18, &3u16.to_le_bytes());
        put(24, &0x10_0010u32.to_le_bytes());
        put(28, &52u32.to_le_bytes());
        put(42, &32u16.to_le_bytes());
        put(44, &1u16.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(52 + 4, &0x54u32.to_le_bytes());
        put(52 + 12, &0x10_0000u32.to_le_bytes());
        put(52 + 16, &8u32.to_le_bytes());
        put(52 + 20, &8u32.to_le_bytes());
        bytes
    }

    fn open(bytes: &[u8]) -> Result<super::super::Program, LoadError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let boot = BootImage::Elf(file.path().to_owned());
        super::super::Program::open(&boot, "x", 16 << 20)
    }

    #[test]
    fn a_wide_program_starts_in_long_mode_with_its_memory_cleared() {
        let memory = Memory::ordinary(Layout::new(16 << 20)).unwrap();
        memory
            .ram()
            .write_slice(&[0xff; 32], GuestAddress(0x20_0000))
            .unwrap();
        let program = open(&elf64(0x20_0000, 24)).unwrap();
        let regs = program.load(&memory, 0xf_2400).unwrap().regs;
        assert_eq!(
            (regs.rip, regs.gprs.rsi, regs.cs_ar),
            (0x20_0000, BOOT_PARAMS, 0xa09b)
        );
        let mut bytes = [0; 32];
        memory
            .ram()
            .read_slice(&mut bytes, GuestAddress(0x20_0000))
            .unwrap();
        assert_eq!(&bytes[..8], b"program!");
        assert_eq!((&bytes[8..24], bytes[24]), ([0; 16].as_slice(), 0xff));
    }

    #[test]
    fn a_narrow_program_starts_as_multiboot_has_it() {
        let memory = Memory::ordinary(Layout::new(16 << 20)).unwrap();
        let regs = open(&elf32()).unwrap().load(&memory, 0).unwrap().regs;
        assert_eq!(
            (regs.rip, regs.gprs.rax as u32),
            (0x10_0010, MULTIBOOT_MAGIC)
        );
        assert_eq!((regs.cr0 & 1 << 31, regs.cs_ar), (0, 0xc09b));
        let upper: u32 = memory
            .ram()
            .read_obj(GuestAddress(regs.gprs.rbx + 8))
            .unwrap();
        assert_eq!(upper, 15 << 10);
    }

    #[test]
    fn programs_that_do_not_fit_are_refused() {
        let text = |bytes: &[u8]| open(bytes).err().expect("refused").to_string();
        assert!(text(&elf64(0x1000, 8)).contains("0x1000"));
        assert!(text(&elf64(0x200_0000, 8)).contains("-m"));
        assert!(text(&elf64(u64::MAX - 4, 8)).contains("wraps"));
        assert!(text(&elf64(0x20_0000, 4)).contains("cut short"));
        assert!(text(&elf64(0x20_0000, 8)[..0x7c]).contains("cut short"));
        assert!(text(&elf64(0x20_0000, 8)[..0x44]).contains("ends within"));
        assert!(text(b"").contains("empty"));
        assert!(text(b"#!/bin/sh").contains("ELF"));
    }
}
