//! Multiboot version 1 (specification 0.6.96, 3.3).

use crate::info::{BootInfo, Framebuffer, MAX_MODULES, MAX_STRING, MemoryKind, read_string};
use crate::multiboot::Error;
use acrn_abi::{Hpa, PhysicalMemory};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Which fields of the structure are valid.
mod flag {
    pub const MEMORY: u32 = 1 << 0;
    pub const CMDLINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MEMORY_MAP: u32 = 1 << 6;
    pub const LOADER_NAME: u32 = 1 << 9;
    pub const FRAMEBUFFER: u32 = 1 << 12;
}

/// The information structure up to and including the framebuffer's kind.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
struct Information {
    flags: u32,
    mem_lower: u32,
    mem_upper: u32,
    boot_device: u32,
    cmdline: u32,
    mods_count: u32,
    mods_addr: u32,
    syms: [u32; 4],
    mmap_length: u32,
    mmap_addr: u32,
    drives_length: u32,
    drives_addr: u32,
    config_table: u32,
    boot_loader_name: u32,
    apm_table: u32,
    vbe: [u32; 4],
    framebuffer_addr: u64,
    framebuffer_pitch: u32,
    framebuffer_width: u32,
    framebuffer_height: u32,
    framebuffer_bpp: u8,
    framebuffer_type: u8,
}

const _: () = {
    assert!(core::mem::offset_of!(Information, mmap_length) == 44);
    assert!(core::mem::offset_of!(Information, boot_loader_name) == 64);
    assert!(core::mem::offset_of!(Information, framebuffer_addr) == 88);
    assert!(size_of::<Information>() == 110);
};

/// One entry of the module list.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ModuleEntry {
    start: u32,
    end: u32,
    string: u32,
    reserved: u32,
}

/// One entry of the memory map; `size` does not count itself.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
struct MapEntry {
    size: u32,
    base: u64,
    length: u64,
    kind: u32,
}

pub(crate) fn parse(
    memory: &impl PhysicalMemory,
    address: Hpa,
    info: &mut BootInfo,
) -> Result<(), Error> {
    let raw: Information = memory
        .read_as(address)
        .ok_or(Error::Unreadable { address })?;
    let has = |flag: u32| raw.flags & flag != 0;

    if has(flag::CMDLINE) && !read_string(memory, at(raw.cmdline), MAX_STRING, &mut info.cmdline) {
        info.dropped.strings += 1;
    }
    if has(flag::LOADER_NAME) {
        // A long name is cut, which nobody needs to be told.
        read_string(
            memory,
            at(raw.boot_loader_name),
            MAX_STRING,
            &mut info.loader,
        );
    }
    if has(flag::MODULES) {
        modules(memory, &raw, info);
    }
    if has(flag::MEMORY_MAP) {
        memory_map(memory, &raw, info);
    }
    if info.memory.is_empty() && has(flag::MEMORY) {
        info.add_range(0, u64::from(raw.mem_lower) << 10, MemoryKind::RAM);
        info.add_range(0x10_0000, u64::from(raw.mem_upper) << 10, MemoryKind::RAM);
    }
    if has(flag::FRAMEBUFFER) {
        info.framebuffer = Some(Framebuffer {
            address: Hpa(raw.framebuffer_addr),
            pitch: raw.framebuffer_pitch,
            width: raw.framebuffer_width,
            height: raw.framebuffer_height,
            bits_per_pixel: raw.framebuffer_bpp,
            kind: raw.framebuffer_type,
        });
    }
    Ok(())
}

const fn at(address: u32) -> Hpa {
    Hpa(address as u64)
}

fn modules(memory: &impl PhysicalMemory, raw: &Information, info: &mut BootInfo) {
    let count = raw.mods_count.min(MAX_MODULES as u32);
    info.dropped.modules = raw.mods_count - count;
    for index in 0..u64::from(count) {
        match memory.read_as::<ModuleEntry>(Hpa(u64::from(raw.mods_addr) + index * 16)) {
            Some(entry) => info.add_module(
                memory,
                entry.start.into(),
                entry.end.into(),
                at(entry.string),
                MAX_STRING,
            ),
            None => info.dropped.modules = info.dropped.modules.saturating_add(1),
        }
    }
}

fn memory_map(memory: &impl PhysicalMemory, raw: &Information, info: &mut BootInfo) {
    // A map longer than this is an error of the loader, not a machine.
    const MAX_LENGTH: u32 = 64 << 10;
    let mut offset = 0;
    while offset < raw.mmap_length.min(MAX_LENGTH) {
        let entry = memory.read_as::<MapEntry>(Hpa(u64::from(raw.mmap_addr) + u64::from(offset)));
        let Some(entry) = entry.filter(|entry| entry.size >= 20 && entry.size < MAX_LENGTH) else {
            info.dropped.tags += 1;
            return;
        };
        info.add_range(entry.base, entry.length, MemoryKind(entry.kind));
        offset += entry.size + 4;
    }
}

#[cfg(test)]
mod tests {
    use crate::info::{BootInfo, MemoryKind};
    use crate::multiboot::{MAGIC_1, parse};
    use crate::testing::Ram;
    use acrn_abi::Hpa;

    fn sample() -> Ram {
        let mut ram = Ram::new(0x4000);
        ram.put32(
            0x100,
            &[1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9, 640, 1024, 0],
        );
        ram.put32(0x110, &[0x400, 2, 0x800]);
        ram.put32(0x100 + 44, &[48, 0x900]);
        ram.put32(0x100 + 64, &[0x500]);
        ram.put(0x400, b"acrn.bin uart=port@0x3F8\0");
        ram.put(0x500, b"GRUB 2.06\0");
        ram.put32(0x800, &[0x10_0000, 0x20_0000, 0x600, 0]);
        ram.put32(0x810, &[0x30_0000, 0x30_0000, 0x600, 0]);
        ram.put(0x600, b"Linux_bzImage console=ttyS0\0");
        ram.put32(0x900, &[20, 0, 0, 0xA_0000, 0, 1]);
        ram.put32(0x918, &[20, 0xF_0000, 0, 0x1_0000, 0, 2]);
        ram
    }

    #[test]
    fn a_complete_structure_is_read() {
        let mut info = Box::new(BootInfo::new());
        parse(&sample(), MAGIC_1, Hpa(0x100), &mut info).unwrap();
        assert_eq!(&info.cmdline[..], "acrn.bin uart=port@0x3F8");
        assert_eq!(&info.loader[..], "GRUB 2.06");
        assert_eq!(info.modules.len(), 1);
        assert_eq!(info.dropped.modules, 1, "the empty one is counted");
        assert_eq!(&info.modules[0].string[..], "Linux_bzImage console=ttyS0");
        assert_eq!(info.modules[0].size(), 0x10_0000);
        assert_eq!(info.memory.len(), 2);
        assert_eq!(info.memory[1].kind, MemoryKind::RESERVED);
        assert_eq!(info.memory[1].end(), Hpa(0x10_0000));
    }

    #[test]
    fn without_a_map_the_two_sizes_make_one() {
        let mut ram = sample();
        ram.put32(0x100, &[1]);
        let mut info = Box::new(BootInfo::new());
        parse(&ram, MAGIC_1, Hpa(0x100), &mut info).unwrap();
        assert_eq!(info.memory[0].size, 640 << 10);
        assert_eq!(
            (info.memory[1].base, info.memory[1].size),
            (Hpa(0x10_0000), 1 << 20)
        );
    }

    #[test]
    fn a_map_entry_of_size_zero_ends_the_map() {
        let mut ram = sample();
        ram.put32(0x918, &[0]);
        let mut info = Box::new(BootInfo::new());
        parse(&ram, MAGIC_1, Hpa(0x100), &mut info).unwrap();
        assert_eq!((info.memory.len(), info.dropped.tags), (1, 1));
    }

    #[test]
    fn an_absurd_number_of_modules_is_cut() {
        let mut ram = sample();
        ram.put32(0x114, &[u32::MAX]);
        let mut info = Box::new(BootInfo::new());
        parse(&ram, MAGIC_1, Hpa(0x100), &mut info).unwrap();
        assert!(info.modules.len() <= 32 && info.dropped.modules > 1000);
    }
}
