//! A Linux kernel as a file: its setup header, and where to put its parts.
//!
//! Facts are from the kernel's `Documentation/x86/boot.rst`. A bzImage begins with 16-bit setup
//! code whose header sits at offset 0x1F1; the protected-mode kernel follows it. The hypervisor
//! copies the latter, fills a [zero page](crate::zero_page) and enters at the 64-bit entry.

use acrn_abi::{Gpa, Hpa, PhysicalMemory};
use arrayvec::ArrayString;
use core::fmt;

/// Offset of the setup header in the file and in the zero page.
pub const HEADER_OFFSET: usize = 0x1F1;
/// Room for the setup header in the zero page.
pub const HEADER_MAX: usize = 0x290 - HEADER_OFFSET;
/// Offset of the 64-bit entry from where the kernel was put.
pub const ENTRY64_OFFSET: u64 = 0x200;
/// Oldest protocol version that is understood: 2.06.
pub const MIN_PROTOCOL: u16 = 0x0206;

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Offsets of header fields in the file.
mod field {
    pub const SETUP_SECTS: usize = 0x1F1;
    pub const BOOT_FLAG: usize = 0x1FE;
    pub const JUMP_LENGTH: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const KERNEL_VERSION: usize = 0x20E;
    pub const LOADFLAGS: usize = 0x211;
    pub const INITRD_ADDR_MAX: usize = 0x22C;
    pub const KERNEL_ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE: usize = 0x234;
    pub const MIN_ALIGNMENT: usize = 0x235;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
}

/// Why a file cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file has no bytes.
    Empty,
    /// The file ends before what it must contain.
    TooShort {
        /// Bytes there are.
        size: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// The memory that should hold the file cannot be read.
    Unreadable,
    /// No boot sector signature.
    NoBootFlag {
        /// What is there instead of 0xAA55.
        found: u16,
    },
    /// No setup header.
    NoHeader {
        /// What is there instead of "HdrS".
        found: [u8; 4],
    },
    /// A kernel from before protocol 2.06 (Linux 2.6.22).
    TooOld {
        /// Its protocol version.
        version: u16,
    },
    /// Not loaded high: a zImage.
    NotBzImage,
    /// No 64-bit entry point.
    Not64Bit {
        /// Its extended load flags.
        xloadflags: u16,
    },
    /// A header field that cannot be.
    BadField {
        /// Name in the boot protocol.
        name: &'static str,
        /// Its value.
        value: u64,
    },
    /// No room in the VM's memory.
    NoRoom {
        /// For what.
        what: &'static str,
        /// Bytes that are needed.
        size: u64,
    },
    /// The command line is longer than the kernel takes.
    CmdlineTooLong {
        /// Its length in bytes.
        len: u64,
        /// What the kernel takes.
        max: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => {
                f.write_str("the kernel file is empty; check the module line of the boot loader")
            }
            Self::TooShort { size, needed } => write!(
                f,
                "the kernel file is cut off: it has {size} bytes and needs {needed}; copy it again"
            ),
            Self::Unreadable => f.write_str(
                "the kernel's memory cannot be read; was the module loaded below 4 GiB?",
            ),
            Self::NoBootFlag { found } => write!(
                f,
                "not a Linux kernel: boot flag is {found:#06x}, not 0xaa55; give a bzImage (not vmlinux, not an initrd)"
            ),
            Self::NoHeader { found } => write!(
                f,
                "not a Linux bzImage: {found:02x?} instead of \"HdrS\"; give arch/x86/boot/bzImage or /boot/vmlinuz-*"
            ),
            Self::TooOld { version } => write!(
                f,
                "the kernel speaks boot protocol {}.{:02}; 2.06 or newer is needed",
                version >> 8,
                version & 0xFF
            ),
            Self::NotBzImage => f.write_str("the kernel is a zImage; build a bzImage"),
            Self::Not64Bit { xloadflags } => write!(
                f,
                "the kernel has no 64-bit entry (xloadflags {xloadflags:#x}); build it for x86_64"
            ),
            Self::BadField { name, value } => {
                write!(f, "the kernel's header is damaged: {name} is {value:#x}")
            }
            Self::NoRoom { what, size } => {
                write!(
                    f,
                    "no room for {what} of {size} bytes; give the VM more memory"
                )
            }
            Self::CmdlineTooLong { len, max } => write!(
                f,
                "the kernel's command line has {len} bytes, the kernel takes {max}; shorten it"
            ),
        }
    }
}

/// What the hypervisor needs to know of a kernel file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Boot protocol, 0x020F for 2.15.
    pub protocol: u16,
    /// Sectors of setup code after the first.
    pub setup_sects: u8,
    /// Offset of the protected-mode kernel in the file.
    pub payload_offset: u64,
    /// Bytes of the protected-mode kernel in the file.
    pub payload_size: u64,
    /// Where the kernel would like to be.
    pub pref_address: u64,
    /// Memory that it needs there until it has set itself up, in bytes; at least the payload.
    pub init_size: u64,
    /// Alignment that it needs elsewhere, a power of two.
    pub alignment: u64,
    /// The least alignment that works, a power of two.
    pub min_alignment: u64,
    /// It may be elsewhere.
    pub relocatable: bool,
    /// Highest byte that the initial RAM disk may occupy.
    pub initrd_addr_max: u64,
    /// Longest command line, without the zero at its end.
    pub cmdline_size: u64,
    /// Extended load flags.
    pub xloadflags: u16,
    /// Version text, as `uname -a` has it.
    pub version: ArrayString<96>,
    header: [u8; HEADER_MAX],
    header_len: usize,
}

impl KernelImage {
    /// Extended load flag: there is a 64-bit entry.
    pub const XLF_KERNEL_64: u16 = 1 << 0;
    /// Extended load flag: everything may be above 4 GiB.
    pub const XLF_ABOVE_4G: u16 = 1 << 1;

    /// Reads the header of a file in host memory.
    pub fn read(memory: &impl PhysicalMemory, start: Hpa, size: u64) -> Result<Self, Error> {
        Self::read_with(size, |offset, buffer| {
            start
                .checked_add(offset)
                .is_some_and(|at| memory.read(at, buffer))
        })
    }

    /// Reads the header of a file that is a slice.
    pub fn from_slice(file: &[u8]) -> Result<Self, Error> {
        Self::read_with(file.len() as u64, |offset, buffer| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(buffer.len());
            file.get(start..end).is_some_and(|bytes| {
                buffer.copy_from_slice(bytes);
                true
            })
        })
    }

    /// The setup header's bytes, which belong at [`HEADER_OFFSET`] of the zero page.
    pub fn header(&self) -> &[u8] {
        self.header.get(..self.header_len).unwrap_or(&self.header)
    }

    fn read_with(size: u64, read: impl Fn(u64, &mut [u8]) -> bool) -> Result<Self, Error> {
        if size == 0 {
            return Err(Error::Empty);
        }
        let mut sectors = [0; 0x290];
        if size < sectors.len() as u64 {
            return Err(Error::TooShort {
                size,
                needed: sectors.len() as u64,
            });
        }
        if !read(0, &mut sectors) {
            return Err(Error::Unreadable);
        }
        let mut image = Self::from_sectors(&sectors, size)?;
        image.version = version_text(&sectors, image.payload_offset, &read);
        Ok(image)
    }

    fn from_sectors(sectors: &[u8; 0x290], size: u64) -> Result<Self, Error> {
        let boot_flag = u16_at(sectors, field::BOOT_FLAG);
        if boot_flag != 0xAA55 {
            return Err(Error::NoBootFlag { found: boot_flag });
        }
        let magic: [u8; 4] = bytes_at(sectors, field::MAGIC);
        if &magic != b"HdrS" {
            return Err(Error::NoHeader { found: magic });
        }
        let protocol = u16_at(sectors, field::VERSION);
        if protocol < MIN_PROTOCOL {
            return Err(Error::TooOld { version: protocol });
        }
        if sectors[field::LOADFLAGS] & 1 == 0 {
            return Err(Error::NotBzImage);
        }
        let xloadflags = if protocol >= 0x020C {
            u16_at(sectors, field::XLOADFLAGS)
        } else {
            0
        };
        if xloadflags & Self::XLF_KERNEL_64 == 0 {
            return Err(Error::Not64Bit { xloadflags });
        }
        // Zero means four, for the sake of very old loaders.
        let setup_sects = match sectors[field::SETUP_SECTS] {
            0 => 4,
            sectors => sectors,
        };
        let payload_offset = (u64::from(setup_sects) + 1) * 512;
        if size <= payload_offset + ENTRY64_OFFSET {
            return Err(Error::TooShort {
                size,
                needed: payload_offset + ENTRY64_OFFSET + 1,
            });
        }
        let payload_size = size - payload_offset;
        let header_end = field::MAGIC + usize::from(sectors[field::JUMP_LENGTH]);
        // `init_size` is the last field that is used, and a longer header is one of the future.
        if header_end < field::INIT_SIZE + 4 {
            let value = sectors[field::JUMP_LENGTH].into();
            return Err(Error::BadField {
                name: "header length",
                value,
            });
        }
        let header_len = (header_end - HEADER_OFFSET).min(HEADER_MAX);
        let mut header = [0; HEADER_MAX];
        for (to, from) in header
            .iter_mut()
            .take(header_len)
            .zip(&sectors[HEADER_OFFSET..])
        {
            *to = *from;
        }

        let image = Self {
            protocol,
            setup_sects,
            payload_offset,
            payload_size,
            pref_address: u64::from_le_bytes(bytes_at(sectors, field::PREF_ADDRESS)),
            init_size: payload_size.max(u32_at(sectors, field::INIT_SIZE).into()),
            alignment: u32_at(sectors, field::KERNEL_ALIGNMENT).into(),
            min_alignment: 1u64
                .checked_shl(sectors[field::MIN_ALIGNMENT].into())
                .unwrap_or(0),
            relocatable: sectors[field::RELOCATABLE] != 0,
            initrd_addr_max: u32_at(sectors, field::INITRD_ADDR_MAX).into(),
            cmdline_size: u32_at(sectors, field::CMDLINE_SIZE).into(),
            xloadflags,
            version: ArrayString::new_const(),
            header,
            header_len,
        };
        image.check()?;
        Ok(image)
    }

    fn check(&self) -> Result<(), Error> {
        let bad = |name, value| Err(Error::BadField { name, value });
        if !self.alignment.is_power_of_two() {
            return bad("kernel_alignment", self.alignment);
        }
        if !self.min_alignment.is_power_of_two() {
            return bad("min_alignment", self.min_alignment);
        }
        if self
            .pref_address
            .checked_add(self.init_size)
            .is_none_or(|end| end > 1 << 46)
        {
            return bad("pref_address", self.pref_address);
        }
        Ok(())
    }
}

/// The version text, which a 16-bit pointer in the header leads to.
fn version_text(
    sectors: &[u8; 0x290],
    payload_offset: u64,
    read: &impl Fn(u64, &mut [u8]) -> bool,
) -> ArrayString<96> {
    let mut text = ArrayString::new_const();
    let pointer = u64::from(u16_at(sectors, field::KERNEL_VERSION));
    let offset = pointer + 0x200;
    if pointer == 0 || offset >= payload_offset {
        return text;
    }
    let mut byte = [0];
    for at in offset..payload_offset {
        let usable = read(at, &mut byte) && (byte[0] == b' ' || byte[0].is_ascii_graphic());
        if !usable || text.try_push(char::from(byte[0])).is_err() {
            break;
        }
    }
    text
}

fn bytes_at<const N: usize>(sectors: &[u8; 0x290], offset: usize) -> [u8; N] {
    core::array::from_fn(|i| sectors.get(offset + i).copied().unwrap_or(0))
}

fn u16_at(sectors: &[u8; 0x290], offset: usize) -> u16 {
    u16::from_le_bytes(bytes_at(sectors, offset))
}

fn u32_at(sectors: &[u8; 0x290], offset: usize) -> u32 {
    u32::from_le_bytes(bytes_at(sectors, offset))
}

/// A question to whoever knows which memory of the VM is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// Bytes, not zero.
    pub size: u64,
    /// A power of two.
    pub align: u64,
    /// Lowest address of the first byte.
    pub min: u64,
    /// First address after the highest allowed byte.
    pub max: u64,
    /// The highest place that fits is wanted, else the lowest.
    pub highest: bool,
}

/// The initial RAM disk of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// Bytes.
    pub size: u64,
    /// Where it is already, if the VM sees it: it then stays there when the kernel can reach it.
    pub in_place: Option<Gpa>,
}

/// Guest-physical addresses for a kernel and what comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// For the payload; [`KernelImage::init_size`] bytes belong to it.
    pub kernel: Gpa,
    /// For the RAM disk.
    pub initrd: Option<Gpa>,
    /// For the zero page.
    pub zero_page: Gpa,
    /// For the command line with its final zero.
    pub cmdline: Gpa,
}

impl LoadPlan {
    /// Chooses addresses. `find` answers a [`Search`] with free memory, and counts as taken what
    /// it has answered. `cmdline_len` is without the final zero.
    pub fn choose(
        image: &KernelImage,
        initrd: Option<Initrd>,
        cmdline_len: u64,
        mut find: impl FnMut(Search) -> Option<u64>,
    ) -> Result<Self, Error> {
        if cmdline_len > image.cmdline_size {
            return Err(Error::CmdlineTooLong {
                len: cmdline_len,
                max: image.cmdline_size,
            });
        }
        let kernel = place_kernel(image, &mut find)?;
        let initrd = match initrd {
            Some(initrd) if initrd.size != 0 => Some(place_initrd(image, initrd, &mut find)?),
            _ => None,
        };
        // Real-mode remains read this block, so it stays below 640 KiB, and off page 0.
        let size = PAGE + (cmdline_len + 1).next_multiple_of(PAGE);
        let block = find(Search {
            size,
            align: PAGE,
            min: PAGE,
            max: 0xA_0000,
            highest: true,
        })
        .ok_or(Error::NoRoom {
            what: "boot parameters below 640 KiB",
            size,
        })?;
        Ok(Self {
            kernel,
            initrd,
            zero_page: Gpa(block),
            cmdline: Gpa(block.saturating_add(PAGE)),
        })
    }

    /// Where the boot processor begins, in 64-bit mode with RSI = zero page.
    pub const fn entry64(&self) -> Gpa {
        Gpa(self.kernel.0.saturating_add(ENTRY64_OFFSET))
    }
}

fn place_kernel(
    image: &KernelImage,
    find: &mut impl FnMut(Search) -> Option<u64>,
) -> Result<Gpa, Error> {
    let size = image.init_size;
    let preferred = Search {
        size,
        align: 1,
        min: image.pref_address,
        max: image.pref_address.saturating_add(size),
        highest: false,
    };
    let none = Error::NoRoom {
        what: "the kernel",
        size,
    };
    // An answer elsewhere would be a broken `find`; do not build on it.
    if let Some(at) = find(preferred).filter(|&at| at == image.pref_address) {
        return Ok(Gpa(at));
    }
    if !image.relocatable {
        return Err(none);
    }
    let max = if image.xloadflags & KernelImage::XLF_ABOVE_4G != 0 {
        u64::MAX
    } else {
        1 << 32
    };
    [image.alignment, image.min_alignment.max(PAGE)]
        .into_iter()
        .find_map(|align| {
            find(Search {
                size,
                align,
                min: MIB,
                max,
                highest: false,
            })
        })
        .map(Gpa)
        .ok_or(none)
}

fn place_initrd(
    image: &KernelImage,
    initrd: Initrd,
    find: &mut impl FnMut(Search) -> Option<u64>,
) -> Result<Gpa, Error> {
    let above = image.xloadflags & KernelImage::XLF_ABOVE_4G != 0;
    let limit = image.initrd_addr_max.saturating_add(1);
    if let Some(at) = initrd.in_place {
        let end = at.0.saturating_add(initrd.size);
        if above || end <= limit {
            return Ok(at);
        }
    }
    // High, so that it is out of the way of a kernel that unpacks itself.
    let mut search = Search {
        size: initrd.size,
        align: PAGE,
        min: MIB,
        max: limit,
        highest: true,
    };
    find(search)
        .or_else(|| {
            search.max = u64::MAX;
            above.then(|| find(search)).flatten()
        })
        .map(Gpa)
        .ok_or(Error::NoRoom {
            what: "the initial RAM disk",
            size: initrd.size,
        })
}

#[cfg(test)]
#[path = "bzimage_tests.rs"]
pub(crate) mod tests;
