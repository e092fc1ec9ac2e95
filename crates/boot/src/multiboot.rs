//! Multiboot, both versions: from the registers at entry to a [`BootInfo`].

use crate::info::BootInfo;
use crate::{multiboot1, multiboot2};
use acrn_abi::{Hpa, PhysicalMemory};
use core::fmt;

/// EAX at entry from a loader of version 1.
pub const MAGIC_1: u32 = 0x2BAD_B002;
/// EAX at entry from a loader of version 2.
pub const MAGIC_2: u32 = 0x36D7_6289;

/// Values for building the headers by which a loader finds out what the image wants.
pub mod header {
    /// First word of a version 1 header.
    pub const MAGIC_1: u32 = 0x1BAD_B002;
    /// Version 1: align modules to pages.
    pub const ALIGN_MODULES: u32 = 1 << 0;
    /// Version 1: tell about memory.
    pub const MEMORY_INFO: u32 = 1 << 1;
    /// Version 1: tell about (and set up) video.
    pub const VIDEO: u32 = 1 << 2;
    /// Version 1: the address fields are valid.
    pub const ADDRESSES: u32 = 1 << 16;

    /// First word of a version 2 header.
    pub const MAGIC_2: u32 = 0xE852_50D6;
    /// Version 2: 32-bit protected mode of x86.
    pub const ARCHITECTURE_I386: u32 = 0;
    /// Tag: end.
    pub const TAG_END: u16 = 0;
    /// Tag: information that is wanted.
    pub const TAG_INFORMATION_REQUEST: u16 = 1;
    /// Tag: load addresses.
    pub const TAG_ADDRESS: u16 = 2;
    /// Tag: entry point.
    pub const TAG_ENTRY: u16 = 3;
    /// Tag: console flags.
    pub const TAG_FLAGS: u16 = 4;
    /// Tag: framebuffer that is wanted.
    pub const TAG_FRAMEBUFFER: u16 = 5;
    /// Tag: align modules to pages.
    pub const TAG_MODULE_ALIGN: u16 = 6;
    /// Tag: keep UEFI's boot services.
    pub const TAG_EFI_BOOT_SERVICES: u16 = 7;
    /// Tag: the image can be moved.
    pub const TAG_RELOCATABLE: u16 = 10;
    /// Flag of a tag that a loader may ignore.
    pub const OPTIONAL: u16 = 1;

    /// The word that makes `words` sum to zero.
    pub const fn checksum(words: &[u32]) -> u32 {
        let mut sum = 0u32;
        let mut i = 0;
        while i < words.len() {
            sum = sum.wrapping_add(words[i]);
            i += 1;
        }
        sum.wrapping_neg()
    }
}

/// Types of the tags of a version 2 information structure.
pub mod tag {
    #![expect(missing_docs, reason = "the names are those of the specification, 3.6")]
    pub const END: u32 = 0;
    pub const CMDLINE: u32 = 1;
    pub const LOADER_NAME: u32 = 2;
    pub const MODULE: u32 = 3;
    pub const BASIC_MEMORY: u32 = 4;
    pub const MEMORY_MAP: u32 = 6;
    pub const FRAMEBUFFER: u32 = 8;
    pub const EFI64_SYSTEM_TABLE: u32 = 12;
    pub const ACPI_OLD_RSDP: u32 = 14;
    pub const ACPI_NEW_RSDP: u32 = 15;
    pub const EFI_MEMORY_MAP: u32 = 17;
    pub const EFI_BOOT_SERVICES: u32 = 18;
    pub const LOAD_BASE: u32 = 21;
}

/// Why there is no [`BootInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// EAX at entry is neither magic number.
    NotMultiboot {
        /// What it is.
        magic: u32,
    },
    /// The information structure cannot be read.
    Unreadable {
        /// Where it should be.
        address: Hpa,
    },
    /// A version 2 structure gives a length that cannot be.
    BadSize {
        /// The length in bytes.
        size: u32,
    },
    /// A version 2 tag gives a length that leaves the structure or is shorter than its head.
    BadTag {
        /// Its type.
        kind: u32,
        /// Its length in bytes.
        size: u32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMultiboot { magic } => {
                write!(
                    f,
                    "not started by a multiboot loader (EAX is {magic:#x}); use GRUB's multiboot2 command"
                )
            }
            Self::Unreadable { address } => {
                write!(
                    f,
                    "the boot loader's information at {address} cannot be read"
                )
            }
            Self::BadSize { size } => {
                write!(
                    f,
                    "the boot loader's information has an impossible length of {size} bytes"
                )
            }
            Self::BadTag { kind, size } => {
                write!(
                    f,
                    "tag {kind} of the boot loader has an impossible length of {size} bytes"
                )
            }
        }
    }
}

/// Reads what the loader handed over in EAX (`magic`) and EBX (`address`) into `info`, which is
/// cleared first. Entries that make no sense are counted in [`BootInfo::dropped`] and skipped; an
/// error means that nothing can be trusted.
pub fn parse(
    memory: &impl PhysicalMemory,
    magic: u32,
    address: Hpa,
    info: &mut BootInfo,
) -> Result<(), Error> {
    info.clear();
    match magic {
        MAGIC_1 => multiboot1::parse(memory, address, info),
        MAGIC_2 => multiboot2::parse(memory, address, info),
        _ => Err(Error::NotMultiboot { magic }),
    }
}
