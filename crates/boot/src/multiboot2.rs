//! Multiboot version 2 (specification 2.0, 3.6): a list of tags.

use crate::info::{BootInfo, Framebuffer, MAX_STRING, MemoryKind, RSDP_SIZE, read_string};
use crate::multiboot::{Error, tag};
use acrn_abi::{Hpa, PhysicalMemory};
use core::ops::ControlFlow;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Longer information is an error of the loader.
const MAX_SIZE: u32 = 1 << 20;

/// Head of each tag; `size` counts it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    kind: u32,
    size: u32,
}

/// A tag whose length lies within the structure.
#[derive(Clone, Copy)]
struct Tag {
    at: Hpa,
    kind: u32,
    size: u32,
}

impl Tag {
    /// Reads a value at `offset`, which counts from the tag's head; `None` outside of the tag.
    fn get<T: FromBytes + IntoBytes>(
        &self,
        memory: &impl PhysicalMemory,
        offset: u32,
    ) -> Option<T> {
        let end = u64::from(offset) + size_of::<T>() as u64;
        if end > self.size.into() {
            return None;
        }
        memory.read_as(self.at.checked_add(offset.into())?)
    }

    /// Address and greatest length of the string at `offset`.
    fn string(&self, offset: u32) -> (Hpa, usize) {
        let at = Hpa(self.at.0.saturating_add(offset.into()));
        (at, self.size.saturating_sub(offset) as usize)
    }
}

pub(crate) fn parse(
    memory: &impl PhysicalMemory,
    address: Hpa,
    info: &mut BootInfo,
) -> Result<(), Error> {
    let unreadable = Error::Unreadable { address };
    let total: u32 = memory.read_as(address).ok_or(unreadable)?;
    if !(16..=MAX_SIZE).contains(&total) {
        return Err(Error::BadSize { size: total });
    }
    if address.checked_add(total.into()).is_none() {
        return Err(unreadable);
    }
    let mut seen = Seen::default();
    let mut offset = 8;
    while total - offset >= 8 {
        let at = Hpa(address.0 + u64::from(offset));
        let head: Head = memory.read_as(at).ok_or(unreadable)?;
        if head.size < 8 || head.size > total - offset {
            return Err(Error::BadTag {
                kind: head.kind,
                size: head.size,
            });
        }
        let tag = Tag {
            at,
            kind: head.kind,
            size: head.size,
        };
        if read_tag(memory, tag, info, &mut seen).is_break() {
            break;
        }
        // Tags start at multiples of 8; the last one may end short of that.
        offset = (offset + head.size).next_multiple_of(8).min(total);
    }
    // UEFI's map is the finer one: it wins over the other, which loaders derive from it.
    if let Some(tag) = seen.efi_map.or(seen.map) {
        info.memory_from_efi = seen.efi_map.is_some();
        let read = if info.memory_from_efi {
            efi_memory_map
        } else {
            memory_map
        };
        if read(memory, tag, info).is_none() {
            info.dropped.tags += 1;
        }
    } else if let Some((lower, upper)) = seen.basic {
        info.add_range(0, u64::from(lower) << 10, MemoryKind::RAM);
        info.add_range(0x10_0000, u64::from(upper) << 10, MemoryKind::RAM);
    }
    Ok(())
}

/// The sources of a memory map, of which the best is used.
#[derive(Default)]
struct Seen {
    basic: Option<(u32, u32)>,
    map: Option<Tag>,
    efi_map: Option<Tag>,
}

fn read_tag(
    memory: &impl PhysicalMemory,
    tag: Tag,
    info: &mut BootInfo,
    seen: &mut Seen,
) -> ControlFlow<()> {
    let done = match tag.kind {
        tag::END => return ControlFlow::Break(()),
        tag::CMDLINE => {
            let (at, max) = tag.string(8);
            if !read_string(memory, at, max, &mut info.cmdline) {
                info.dropped.strings += 1;
            }
            Some(())
        }
        tag::LOADER_NAME => {
            let (at, max) = tag.string(8);
            read_string(memory, at, max.min(MAX_STRING), &mut info.loader);
            Some(())
        }
        tag::MODULE => module(memory, tag, info),
        tag::BASIC_MEMORY => {
            seen.basic = tag.get::<u32>(memory, 8).zip(tag.get(memory, 12));
            seen.basic.map(|_| ())
        }
        tag::MEMORY_MAP => {
            seen.map = Some(tag);
            Some(())
        }
        tag::EFI_MEMORY_MAP => {
            seen.efi_map = Some(tag);
            Some(())
        }
        tag::FRAMEBUFFER => framebuffer(memory, tag, info),
        tag::EFI64_SYSTEM_TABLE => tag.get(memory, 8).map(|at| {
            info.efi_system_table = Some(Hpa(at));
        }),
        tag::EFI_BOOT_SERVICES => {
            info.efi_boot_services = true;
            Some(())
        }
        // The newer structure has the 64-bit pointer: it replaces the older, never the reverse.
        tag::ACPI_OLD_RSDP if info.rsdp.len() > 20 => Some(()),
        tag::ACPI_OLD_RSDP => rsdp(memory, tag, 20, info),
        tag::ACPI_NEW_RSDP => rsdp(memory, tag, RSDP_SIZE, info),
        tag::LOAD_BASE => tag.get::<u32>(memory, 8).map(|at| {
            info.load_base = Some(Hpa(at.into()));
        }),
        _ => Some(()),
    };
    if done.is_none() {
        info.dropped.tags += 1;
    }
    ControlFlow::Continue(())
}

fn module(memory: &impl PhysicalMemory, tag: Tag, info: &mut BootInfo) -> Option<()> {
    let start: u32 = tag.get(memory, 8)?;
    let end: u32 = tag.get(memory, 12)?;
    let (string, max) = tag.string(16);
    info.add_module(memory, start.into(), end.into(), string, max);
    Some(())
}

fn framebuffer(memory: &impl PhysicalMemory, tag: Tag, info: &mut BootInfo) -> Option<()> {
    info.framebuffer = Some(Framebuffer {
        address: Hpa(tag.get(memory, 8)?),
        pitch: tag.get(memory, 16)?,
        width: tag.get(memory, 20)?,
        height: tag.get(memory, 24)?,
        bits_per_pixel: tag.get(memory, 28)?,
        kind: tag.get(memory, 29)?,
    });
    Some(())
}

fn rsdp(memory: &impl PhysicalMemory, tag: Tag, size: usize, info: &mut BootInfo) -> Option<()> {
    let bytes: [u8; RSDP_SIZE] = if size == RSDP_SIZE {
        tag.get(memory, 8)?
    } else {
        let mut bytes = [0; RSDP_SIZE];
        bytes[..20].copy_from_slice(&tag.get::<[u8; 20]>(memory, 8)?);
        bytes
    };
    info.rsdp.clear();
    info.rsdp.extend(bytes.into_iter().take(size));
    Some(())
}

/// Calls `entry` with the offset of each entry of a map whose entry size is at offset 8 of the tag.
fn entries(
    memory: &impl PhysicalMemory,
    tag: Tag,
    smallest: u32,
    mut entry: impl FnMut(u32) -> Option<()>,
) -> Option<()> {
    let step: u32 = tag.get(memory, 8)?;
    if step < smallest {
        return None;
    }
    let mut offset = 16u32;
    while offset.checked_add(step)? <= tag.size {
        entry(offset)?;
        offset += step;
    }
    Some(())
}

fn memory_map<M: PhysicalMemory>(memory: &M, tag: Tag, info: &mut BootInfo) -> Option<()> {
    entries(memory, tag, 20, |offset| {
        let base = tag.get(memory, offset)?;
        let size = tag.get(memory, offset + 8)?;
        info.add_range(base, size, MemoryKind(tag.get(memory, offset + 16)?));
        Some(())
    })
}

fn efi_memory_map<M: PhysicalMemory>(memory: &M, tag: Tag, info: &mut BootInfo) -> Option<()> {
    entries(memory, tag, 32, |offset| {
        let kind = efi_kind(tag.get(memory, offset)?);
        let base = tag.get(memory, offset + 8)?;
        match tag.get::<u64>(memory, offset + 24)?.checked_mul(4096) {
            Some(size) => info.add_range(base, size, kind),
            None => info.dropped.ranges += 1,
        }
        Some(())
    })
}

/// What is left of UEFI's types (UEFI 2.10, 7.2.1) once boot services have ended.
const fn efi_kind(kind: u32) -> MemoryKind {
    match kind {
        // Loader and boot services, code and data, and what was free anyway.
        1..=4 | 7 => MemoryKind::RAM,
        8 => MemoryKind::UNUSABLE,
        9 => MemoryKind::ACPI_RECLAIMABLE,
        10 => MemoryKind::ACPI_NVS,
        14 => MemoryKind::PERSISTENT,
        _ => MemoryKind::RESERVED,
    }
}

#[cfg(test)]
mod tests {
    use crate::info::{BootInfo, MemoryKind};
    use crate::multiboot::{Error, MAGIC_2, parse};
    use crate::testing::Ram;
    use acrn_abi::Hpa;

    /// Puts tags, given as type and body, at 0x100.
    fn information(tags: &[(u32, Vec<u8>)]) -> Ram {
        let mut bytes = vec![0u8; 8];
        for (kind, body) in tags {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((body.len() as u32 + 8).to_le_bytes());
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend([0, 0, 0, 0, 8, 0, 0, 0]);
        let size = bytes.len() as u32;
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        let mut ram = Ram::new(0x4000);
        ram.put(0x100, &bytes);
        ram
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn module(start: u32, end: u32, string: &str) -> (u32, Vec<u8>) {
        let mut body = words(&[start, end]);
        body.extend(string.as_bytes());
        body.push(0);
        (3, body)
    }

    fn read(tags: &[(u32, Vec<u8>)]) -> Box<BootInfo> {
        let mut info = Box::new(BootInfo::new());
        parse(&information(tags), MAGIC_2, Hpa(0x100), &mut info).unwrap();
        info
    }

    #[test]
    fn strings_modules_and_the_map_are_read() {
        let info = read(&[
            (1, b"uart=disabled\0".to_vec()),
            (2, b"GRUB\0".to_vec()),
            module(0x100_0000, 0x120_0000, "Linux_bzImage quiet"),
            module(0x200_0000, 0x200_0001, "Ubuntu"),
            (
                6,
                words(&[
                    24, 0, 0, 0, 0xA_0000, 0, 1, 0, 0x10_0000, 0, 0x1000, 0, 1, 0,
                ]),
            ),
            (8, words(&[0xE000_0000, 0, 4096, 1024, 768, 0x0001_0120])),
            (21, words(&[0x20_0000])),
        ]);
        assert_eq!(&info.cmdline[..], "uart=disabled");
        assert_eq!(&info.loader[..], "GRUB");
        assert_eq!(&info.modules[0].string[..], "Linux_bzImage quiet");
        assert_eq!(info.modules[1].size(), 1);
        assert_eq!(info.memory.len(), 2);
        let screen = info.framebuffer.unwrap();
        assert_eq!(
            (screen.width, screen.bits_per_pixel, screen.kind),
            (1024, 0x20, 1)
        );
        assert_eq!(info.load_base, Some(Hpa(0x20_0000)));
        assert_eq!(info.dropped, Default::default());
    }

    #[test]
    fn the_map_of_uefi_wins_and_neighbours_are_joined() {
        let efi = |kind: u32, base: u32, pages: u32| {
            words(&[kind, 0, base, 0, 0, 0, pages, 0, 0xF, 0, 0, 0])
        };
        let mut body = words(&[48, 1]);
        body.extend(efi(7, 0, 0x10));
        body.extend(efi(4, 0x1_0000, 0x10));
        body.extend(efi(9, 0x2_0000, 1));
        body.extend(efi(11, 0x3_0000, 1));
        let info = read(&[
            (17, body),
            (6, words(&[24, 0, 0, 0, 0xA_0000, 0, 1, 0])),
            (18, vec![]),
        ]);
        assert!(info.memory_from_efi && info.efi_boot_services);
        assert_eq!(info.memory.len(), 3);
        assert_eq!(
            (info.memory[0].size, info.memory[0].kind),
            (0x2_0000, MemoryKind::RAM)
        );
        assert_eq!(info.memory[1].kind, MemoryKind::ACPI_RECLAIMABLE);
        assert_eq!(info.memory[2].kind, MemoryKind::RESERVED);
    }

    #[test]
    fn the_newer_rsdp_is_kept_whatever_the_order() {
        let old = (14, vec![1u8; 20]);
        let new = (15, vec![2u8; 36]);
        assert_eq!(&read(&[old.clone(), new.clone()]).rsdp[..], &[2; 36]);
        assert_eq!(&read(&[new, old.clone()]).rsdp[..], &[2; 36]);
        assert_eq!(&read(&[old]).rsdp[..], &[1; 20]);
    }

    #[test]
    fn a_short_tag_is_skipped_and_counted() {
        let info = read(&[(3, vec![0; 4]), (15, vec![0; 20]), (1, b"x\0".to_vec())]);
        assert_eq!((info.dropped.tags, &info.cmdline[..]), (2, "x"));
    }

    #[test]
    fn a_tag_that_leaves_the_structure_is_an_error() {
        let mut ram = information(&[(1, b"x\0".to_vec())]);
        ram.put32(0x10C, &[0xFFFF_FFFF]);
        let result = parse(&ram, MAGIC_2, Hpa(0x100), &mut Box::new(BootInfo::new()));
        assert_eq!(
            result,
            Err(Error::BadTag {
                kind: 1,
                size: u32::MAX
            })
        );
        ram.put32(0x10C, &[0]);
        let result = parse(&ram, MAGIC_2, Hpa(0x100), &mut Box::new(BootInfo::new()));
        assert_eq!(result, Err(Error::BadTag { kind: 1, size: 0 }));
    }

    #[test]
    fn a_string_without_an_end_stops_at_its_tag() {
        let info = read(&[(1, b"abc\xFFdefg".to_vec()), (2, b"GRUB\0".to_vec())]);
        assert_eq!(&info.cmdline[..], "abc?defg");
    }

    #[test]
    fn another_magic_number_is_refused() {
        let result = parse(&Ram::new(64), 0, Hpa(0), &mut Box::new(BootInfo::new()));
        assert_eq!(result, Err(Error::NotMultiboot { magic: 0 }));
    }
}
