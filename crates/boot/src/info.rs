//! The boot loader's description of the machine, in one shape for all loaders.

use acrn_abi::{Hpa, PhysicalMemory};
use arrayvec::{ArrayString, ArrayVec};

/// Most boot modules.
pub const MAX_MODULES: usize = 32;
/// Most entries of the memory map, neighbours of one kind joined.
pub const MAX_RANGES: usize = 256;
/// Longest command line or module string, in bytes.
pub const MAX_STRING: usize = 2048;
/// Room for a copy of the RSDP (version 2 has 36 bytes).
pub const RSDP_SIZE: usize = 36;

/// What a range of host memory is, numbered as in the BIOS call E820.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct MemoryKind(pub u32);

impl MemoryKind {
    /// Usable.
    pub const RAM: Self = Self(1);
    /// Not to be touched.
    pub const RESERVED: Self = Self(2);
    /// ACPI tables, usable once they have been read.
    pub const ACPI_RECLAIMABLE: Self = Self(3);
    /// Memory that firmware needs across sleep.
    pub const ACPI_NVS: Self = Self(4);
    /// Defective.
    pub const UNUSABLE: Self = Self(5);
    /// Persistent memory.
    pub const PERSISTENT: Self = Self(7);
}

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub base: Hpa,
    /// Bytes; `base + size` does not overflow.
    pub size: u64,
    /// Kind.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// The first byte after the range.
    pub const fn end(&self) -> Hpa {
        Hpa(self.base.0.saturating_add(self.size))
    }
}

/// A file that the boot loader has put into memory.
#[derive(Clone, Debug)]
pub struct Module {
    /// First byte.
    pub start: Hpa,
    /// First byte after it.
    pub end: Hpa,
    /// `TAG [text]`, see [`module`](crate::module).
    pub string: ArrayString<MAX_STRING>,
}

impl Module {
    /// Bytes.
    pub const fn size(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }
}

/// A linear framebuffer or text screen that the boot loader has set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// First byte.
    pub address: Hpa,
    /// Bytes from one line to the next.
    pub pitch: u32,
    /// Pixels, or characters in text mode.
    pub width: u32,
    /// Lines of pixels or of characters.
    pub height: u32,
    /// Bits per pixel; 16 in text mode.
    pub bits_per_pixel: u8,
    /// 0 indexed colour, 1 direct colour, 2 EGA text.
    pub kind: u8,
}

impl Framebuffer {
    /// [`kind`](Self::kind) of direct colour.
    pub const RGB: u8 = 1;
    /// [`kind`](Self::kind) of EGA text.
    pub const TEXT: u8 = 2;
}

/// What the boot loader told.
///
/// About 75 KiB: put it into a static ([`new`](Self::new) is `const`) and fill it in place.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// Command line of the hypervisor.
    pub cmdline: ArrayString<MAX_STRING>,
    /// Boot modules in the loader's order. Each has at least one byte and does not wrap.
    pub modules: ArrayVec<Module, MAX_MODULES>,
    /// Memory map, in the loader's order: it may overlap and be unsorted.
    pub memory: ArrayVec<MemoryRange, MAX_RANGES>,
    /// Whether [`memory`](Self::memory) came from UEFI.
    pub memory_from_efi: bool,
    /// Copy of the RSDP, version 1 (20 bytes) or 2 (36 bytes); empty if the loader gave none.
    pub rsdp: ArrayVec<u8, RSDP_SIZE>,
    /// The UEFI system table of a 64-bit firmware.
    pub efi_system_table: Option<Hpa>,
    /// The loader left UEFI's boot services running.
    pub efi_boot_services: bool,
    /// The screen.
    pub framebuffer: Option<Framebuffer>,
    /// Name of the boot loader.
    pub loader: ArrayString<64>,
    /// Where the loader has put the image, if it relocated it.
    pub load_base: Option<Hpa>,
    /// What did not fit or made no sense and was left out.
    pub dropped: Dropped,
}

/// Counts of what [`BootInfo`] had no room for or refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Modules that were empty, unreadable or too many.
    pub modules: u32,
    /// Memory ranges that wrap or were too many.
    pub ranges: u32,
    /// Strings cut at their limit.
    pub strings: u32,
    /// Tags whose content is too short or unreadable.
    pub tags: u32,
}

impl BootInfo {
    /// Nothing known.
    pub const fn new() -> Self {
        Self {
            cmdline: ArrayString::new_const(),
            modules: ArrayVec::new_const(),
            memory: ArrayVec::new_const(),
            memory_from_efi: false,
            rsdp: ArrayVec::new_const(),
            efi_system_table: None,
            efi_boot_services: false,
            framebuffer: None,
            loader: ArrayString::new_const(),
            load_base: None,
            dropped: Dropped {
                modules: 0,
                ranges: 0,
                strings: 0,
                tags: 0,
            },
        }
    }

    /// Forgets everything, in place.
    pub fn clear(&mut self) {
        self.cmdline.clear();
        self.modules.clear();
        self.memory.clear();
        self.memory_from_efi = false;
        self.rsdp.clear();
        self.efi_system_table = None;
        self.efi_boot_services = false;
        self.framebuffer = None;
        self.loader.clear();
        self.load_base = None;
        self.dropped = Dropped::default();
    }

    pub(crate) fn add_range(&mut self, base: u64, size: u64, kind: MemoryKind) {
        if size == 0 {
            return;
        }
        if base.checked_add(size).is_none() {
            self.dropped.ranges += 1;
            return;
        }
        if let Some(last) = self.memory.last_mut()
            && last.kind == kind
            && last.end().0 == base
        {
            last.size += size;
            return;
        }
        if self
            .memory
            .try_push(MemoryRange {
                base: Hpa(base),
                size,
                kind,
            })
            .is_err()
        {
            self.dropped.ranges += 1;
        }
    }

    /// Adds a module whose string is read from `string` (see [`read_string`]).
    pub(crate) fn add_module(
        &mut self,
        memory: &impl PhysicalMemory,
        start: u64,
        end: u64,
        string: Hpa,
        max: usize,
    ) {
        if start >= end || self.modules.is_full() {
            self.dropped.modules += 1;
            return;
        }
        self.modules.push(Module {
            start: Hpa(start),
            end: Hpa(end),
            string: ArrayString::new_const(),
        });
        if let Some(module) = self.modules.last_mut()
            && string.0 != 0
            && !read_string(memory, string, max, &mut module.string)
        {
            self.dropped.strings += 1;
        }
    }
}

impl Default for BootInfo {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads a string that ends with a zero byte, and after `max` bytes at the latest. Whatever is
/// not printable ASCII becomes `?`. Returns `false` when it was cut or could not be read.
pub(crate) fn read_string<const N: usize>(
    memory: &impl PhysicalMemory,
    address: Hpa,
    max: usize,
    into: &mut ArrayString<N>,
) -> bool {
    into.clear();
    for offset in 0..max as u64 {
        let Some(byte) = address
            .checked_add(offset)
            .and_then(|at| memory.read_as::<u8>(at))
        else {
            return false;
        };
        if byte == 0 {
            return true;
        }
        let printable = byte == b'\t' || byte == b' ' || byte.is_ascii_graphic();
        if into
            .try_push(if printable { char::from(byte) } else { '?' })
            .is_err()
        {
            return false;
        }
    }
    true
}
