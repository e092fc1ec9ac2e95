//! The zero page (`boot_params`): what a 64-bit Linux kernel is told at its entry.

use crate::bzimage::{HEADER_OFFSET, KernelImage, LoadPlan};
use crate::info::MemoryKind;
use acrn_abi::Gpa;
use core::fmt;

/// Most entries of the memory map.
pub const MAX_E820: usize = 128;
/// `type_of_loader`: one that has no number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;

/// Offsets in the page (`Documentation/x86/zero-page.rst`).
mod field {
    pub const ACPI_RSDP_ADDR: usize = 0x070;
    pub const EXT_RAMDISK_IMAGE: usize = 0x0C0;
    pub const EXT_RAMDISK_SIZE: usize = 0x0C4;
    pub const EXT_CMD_LINE_PTR: usize = 0x0C8;
    pub const E820_ENTRIES: usize = 0x1E8;
    pub const VID_MODE: usize = 0x1FA;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21C;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const SETUP_DATA: usize = 0x250;
    pub const E820_TABLE: usize = 0x2D0;
}

/// One entry of the guest's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// First byte.
    pub base: Gpa,
    /// Bytes.
    pub size: u64,
    /// Kind.
    pub kind: MemoryKind,
}

/// Why a zero page cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The memory map has more than [`MAX_E820`] entries.
    TooManyRanges,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyRanges => {
                write!(f, "the VM's memory map has more than {MAX_E820} entries")
            }
        }
    }
}

/// Fills `page` for a kernel that was loaded after `plan`. `initrd_size` is in bytes, `rsdp` the
/// guest's ACPI root pointer or 0 to let it search.
pub fn build(
    page: &mut [u8; 4096],
    image: &KernelImage,
    plan: &LoadPlan,
    initrd_size: u64,
    rsdp: Gpa,
    e820: impl IntoIterator<Item = E820Entry>,
) -> Result<(), Error> {
    page.fill(0);
    put(page, HEADER_OFFSET, image.header());
    // What the file says in the fields that belong to the loader is of no meaning.
    put(page, field::VID_MODE, &0xFFFFu16.to_le_bytes());
    put(page, field::TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    put(page, field::CODE32_START, &low(plan.kernel.0));
    put(page, field::SETUP_DATA, &[0; 8]);
    put(page, field::CMD_LINE_PTR, &low(plan.cmdline.0));
    put(page, field::EXT_CMD_LINE_PTR, &high(plan.cmdline.0));
    let (initrd, initrd_size) = plan.initrd.map_or((0, 0), |at| (at.0, initrd_size));
    put(page, field::RAMDISK_IMAGE, &low(initrd));
    put(page, field::EXT_RAMDISK_IMAGE, &high(initrd));
    put(page, field::RAMDISK_SIZE, &low(initrd_size));
    put(page, field::EXT_RAMDISK_SIZE, &high(initrd_size));
    put(page, field::ACPI_RSDP_ADDR, &rsdp.0.to_le_bytes());

    let mut count = 0;
    for entry in e820 {
        if count == MAX_E820 {
            return Err(Error::TooManyRanges);
        }
        let at = field::E820_TABLE + count * 20;
        put(page, at, &entry.base.0.to_le_bytes());
        put(page, at + 8, &entry.size.to_le_bytes());
        put(page, at + 16, &entry.kind.0.to_le_bytes());
        count += 1;
    }
    put(page, field::E820_ENTRIES, &[count as u8]);
    Ok(())
}

const fn low(value: u64) -> [u8; 4] {
    (value as u32).to_le_bytes()
}

const fn high(value: u64) -> [u8; 4] {
    ((value >> 32) as u32).to_le_bytes()
}

/// Stores bytes at an offset of ours, which is always within the page.
fn put(page: &mut [u8; 4096], offset: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bzimage::tests::kernel;

    fn plan() -> LoadPlan {
        LoadPlan {
            kernel: Gpa(0x100_0000),
            initrd: Some(Gpa(0x1_2345_6000)),
            zero_page: Gpa(0x9_0000),
            cmdline: Gpa(0x9_1000),
        }
    }

    fn u32_at(page: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn header_pointers_and_map_are_where_linux_looks() {
        let image = KernelImage::from_slice(&kernel()).unwrap();
        let mut page = [0xAA; 4096];
        let ram = E820Entry {
            base: Gpa(0x10_0000),
            size: 0x700_0000,
            kind: MemoryKind::RAM,
        };
        build(&mut page, &image, &plan(), 0x1234, Gpa(0xF_2400), [ram]).unwrap();
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(page[0x210], 0xFF);
        assert_eq!(u32_at(&page, 0x228), 0x9_1000);
        assert_eq!(
            (u32_at(&page, 0x218), u32_at(&page, 0xC0)),
            (0x2345_6000, 1)
        );
        assert_eq!(u32_at(&page, 0x21C), 0x1234);
        assert_eq!(u32_at(&page, 0x70), 0xF_2400);
        assert_eq!(
            (page[0x1E8], u32_at(&page, 0x2D0), u32_at(&page, 0x2E0)),
            (1, 0x10_0000, 1)
        );
        assert!(page[..0x40].iter().all(|&byte| byte == 0), "no screen");
        assert_eq!(page[0x1EF], 0, "the sentinel says that the page is clean");
    }

    #[test]
    fn a_map_of_128_entries_fits_and_one_of_129_does_not() {
        let image = KernelImage::from_slice(&kernel()).unwrap();
        let entry = E820Entry {
            base: Gpa(0),
            size: 1,
            kind: MemoryKind::RAM,
        };
        let mut page = [0; 4096];
        let mut build = |n| build(&mut page, &image, &plan(), 0, Gpa(0), vec![entry; n]);
        assert_eq!(build(128), Ok(()));
        assert_eq!(build(129), Err(Error::TooManyRanges));
        assert_eq!(page[0x1E8], 0);
    }

    #[test]
    fn without_a_ram_disk_its_size_is_zero() {
        let image = KernelImage::from_slice(&kernel()).unwrap();
        let mut page = [0; 4096];
        let plan = LoadPlan {
            initrd: None,
            ..plan()
        };
        build(&mut page, &image, &plan, 0x1234, Gpa(0), []).unwrap();
        assert_eq!((u32_at(&page, 0x218), u32_at(&page, 0x21C)), (0, 0));
    }
}
