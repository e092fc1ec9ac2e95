//! Linux bzImage, started at its 64-bit entry (Linux, Documentation/arch/x86/boot.rst).

use acrn_abi::hypercall::VcpuRegs;

use super::{
    BOOT_PARAMS, COMMAND_LINE, HIGH_RAM_START, Image, LoadError, memory_map, number, start, write,
};
use crate::memory::Memory;

// Offsets in the file and in the boot parameters.
const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const VID_MODE: usize = 0x1fa;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_LENGTH: usize = 0x201;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
const ACPI_RSDP: usize = 0x70;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;

const LOADED_HIGH: u64 = 1;
const XLF_KERNEL_64: u64 = 1;
/// First protocol with `xloadflags`.
const MIN_VERSION: u64 = 0x20c;
const SECTOR: u64 = 512;
const ENTRY_64: u64 = 0x200;
const BOOT_PARAMS_SIZE: usize = 4096;

/// A checked kernel file.
pub(super) struct Kernel {
    image: Image,
    /// The setup header as it is in the file, at the same offsets.
    header: Vec<u8>,
    setup_bytes: u64,
    /// Bytes of the protected-mode part.
    payload: u64,
    alignment: u64,
    relocatable: bool,
    preferred: u64,
    init_size: u64,
    initrd_max: u64,
    cmdline_size: u64,
}

/// Where things go.
pub(super) struct Places {
    kernel: u64,
    ramdisk: Option<(u64, u64)>,
}

impl Kernel {
    /// Checks that `image` is a whole 64-bit bzImage.
    pub(super) fn check(image: Image) -> Result<Self, LoadError> {
        const NOT_KERNEL: &str = "name a Linux bzImage for x86-64";
        const AGAIN: &str = "copy the kernel again";
        if image.length == 0 {
            return Err(image.bad("the file is empty", AGAIN));
        }
        let head = image.head()?;
        let field = |offset, size| match size {
            1 => number::<1>(&head, offset),
            2 => number::<2>(&head, offset),
            4 => number::<4>(&head, offset),
            _ => number::<8>(&head, offset),
        };
        let magic = head.get(HEADER_MAGIC..HEADER_MAGIC + 4);
        if field(BOOT_FLAG, 2) != Some(0xaa55) || magic != Some(b"HdrS") {
            let reason = if image.length < 0x400 {
                format!(
                    "it has {} bytes, less than the smallest kernel",
                    image.length
                )
            } else if head.starts_with(b"\x7fELF") {
                return Err(image.bad("this is an ELF file", "start it with -E instead of -k"));
            } else {
                "it does not begin like a kernel (no \"HdrS\" at 0x202)".to_owned()
            };
            return Err(image.bad(reason, NOT_KERNEL));
        }
        let required = |offset, size| {
            field(offset, size).ok_or_else(|| image.bad("it ends within its own header", AGAIN))
        };
        let version = required(VERSION, 2)?;
        if version < MIN_VERSION {
            let reason = format!(
                "its boot protocol {}.{:02} is older than 2.12",
                version >> 8,
                version & 0xff
            );
            return Err(image.bad(reason, "use Linux 3.8 or newer"));
        }
        if required(LOADFLAGS, 1)? & LOADED_HIGH == 0
            || required(XLOADFLAGS, 2)? & XLF_KERNEL_64 == 0
        {
            return Err(image.bad("it has no 64-bit entry", NOT_KERNEL));
        }
        let setup_sects = match required(SETUP_SECTS, 1)? {
            0 => 4,
            count => count,
        };
        let setup_bytes = (setup_sects + 1) * SECTOR;
        let payload = required(SYSSIZE, 4)? * 16;
        let whole = setup_bytes + payload;
        if image.length < whole {
            let reason = format!(
                "it is cut short: {} of {whole} bytes are there",
                image.length
            );
            return Err(image.bad(reason, AGAIN));
        }
        if payload <= ENTRY_64 {
            return Err(image.bad("it contains no program", AGAIN));
        }
        let header_end = HEADER_MAGIC + required(HEADER_LENGTH, 1)? as usize;
        let alignment = match required(KERNEL_ALIGNMENT, 4)? {
            value if value.is_power_of_two() => value,
            other => {
                let reason = format!("its alignment {other:#x} is not a power of two");
                return Err(image.bad(reason, AGAIN));
            }
        };
        Ok(Self {
            setup_bytes,
            payload,
            alignment: alignment.max(0x1000),
            relocatable: required(RELOCATABLE, 1)? != 0,
            preferred: required(PREF_ADDRESS, 8)?,
            init_size: required(INIT_SIZE, 4)?.max(payload),
            initrd_max: required(INITRD_ADDR_MAX, 4)?,
            cmdline_size: required(CMDLINE_SIZE, 4)?,
            header: head.get(..header_end.min(0x290)).unwrap_or(&head).to_vec(),
            image,
        })
    }

    /// Finds places for kernel and RAM disk in `low` bytes of memory.
    pub(super) fn place(
        &self,
        low: u64,
        ramdisk: Option<&Image>,
        bootargs: &str,
    ) -> Result<Places, LoadError> {
        if bootargs.len() as u64 > self.cmdline_size {
            let limit = self.cmdline_size as usize;
            return Err(LoadError::CommandLine {
                length: bootargs.len(),
                limit,
            });
        }
        let kernel = if self.relocatable {
            self.preferred
                .max(HIGH_RAM_START)
                .checked_next_multiple_of(self.alignment)
        } else {
            Some(self.preferred)
        };
        let end = kernel.and_then(|start| start.checked_add(self.init_size));
        let (Some(kernel), Some(end)) = (kernel, end.filter(|end| *end <= low)) else {
            return Err(LoadError::DoesNotFit {
                what: format!("-k {}", self.image.path.display()),
                needed: end.unwrap_or(u64::MAX) >> 10,
                available: low >> 10,
                remedy: "choose more memory with -m",
            });
        };
        let Some(ramdisk) = ramdisk else {
            return Ok(Places {
                kernel,
                ramdisk: None,
            });
        };
        let limit = low.min(self.initrd_max.saturating_add(1));
        let start = limit
            .checked_sub(ramdisk.length)
            .map(|start| start & !0xfff);
        match start.filter(|start| *start >= end) {
            Some(start) => Ok(Places {
                kernel,
                ramdisk: Some((start, ramdisk.length)),
            }),
            None => Err(LoadError::DoesNotFit {
                what: format!("-r {}", ramdisk.path.display()),
                needed: ramdisk.length.div_ceil(1024),
                available: limit.saturating_sub(end) >> 10,
                remedy: "choose more memory with -m, or a smaller RAM disk",
            }),
        }
    }

    /// Loads all of it.
    pub(super) fn load(
        &self,
        memory: &Memory,
        ramdisk: Option<&Image>,
        bootargs: &str,
        acpi: u64,
    ) -> Result<VcpuRegs, LoadError> {
        let ram = memory.ram();
        let places = self.place(memory.layout.low, ramdisk, bootargs)?;
        self.image
            .copy(ram, self.setup_bytes, places.kernel, self.payload)?;
        if let (Some(image), Some((start, length))) = (ramdisk, places.ramdisk) {
            image.copy(ram, 0, start, length)?;
        }
        write(ram, BOOT_PARAMS, &self.boot_params(memory, &places, acpi))?;
        Ok(start::long_mode(places.kernel + ENTRY_64, BOOT_PARAMS))
    }

    /// The "zero page".
    fn boot_params(&self, memory: &Memory, places: &Places, acpi: u64) -> Vec<u8> {
        let mut page = vec![0u8; BOOT_PARAMS_SIZE];
        let header = self.header.len().min(BOOT_PARAMS_SIZE);
        page[SETUP_SECTS..header].copy_from_slice(&self.header[SETUP_SECTS..header]);
        let mut put = |offset: usize, bytes: &[u8]| {
            page[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(ACPI_RSDP, &acpi.to_le_bytes());
        put(VID_MODE, &0xffffu16.to_le_bytes());
        put(TYPE_OF_LOADER, &[0xff]);
        put(CMD_LINE_PTR, &(COMMAND_LINE as u32).to_le_bytes());
        let (start, length) = places.ramdisk.unwrap_or((0, 0));
        put(RAMDISK_IMAGE, &(start as u32).to_le_bytes());
        put(RAMDISK_SIZE, &(length as u32).to_le_bytes());
        let map = memory_map(memory);
        put(E820_ENTRIES, &[map.len() as u8]);
        for (index, (start, length, kind)) in map.into_iter().enumerate() {
            let at = E820_TABLE + 20 * index;
            put(at, &start.to_le_bytes());
            put(at + 8, &length.to_le_bytes());
            put(at + 16, &kind.to_le_bytes());
        }
        page
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;
    use std::path::Path;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::cli::BootImage;
    use crate::exit::ExitCode;
    use crate::loader::Program;
    use crate::memory::Layout;

    /// A file that looks like a kernel, with a recognizable payload.
    pub(crate) fn kernel_bytes() -> Vec<u8> {
        let mut bytes = vec![0u8; 5 * 512 + 0x1000];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(SETUP_SECTS, &[4]);
        put(SYSSIZE, &0x100u32.to_le_bytes());
        put(BOOT_FLAG, &0xaa55u16.to_le_bytes());
        put(HEADER_LENGTH, &[0x6a]);
        put(HEADER_MAGIC, b"HdrS");
        put(VERSION, &0x20fu16.to_le_bytes());
        put(LOADFLAGS, &[1]);
        put(INITRD_ADDR_MAX, &0x7fff_ffffu32.to_le_bytes());
        put(KERNEL_ALIGNMENT, &0x20_0000u32.to_le_bytes());
        put(RELOCATABLE, &[1]);
        put(XLOADFLAGS, &1u16.to_le_bytes());
        put(CMDLINE_SIZE, &2047u32.to_le_bytes());
        put(PREF_ADDRESS, &0x100_0000u64.to_le_bytes());
        put(INIT_SIZE, &0x20_0000u32.to_le_bytes());
        put(5 * 512, b"payload");
        bytes
    }

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn open(kernel: &Path, ramdisk: Option<&Path>, memory: u64) -> Result<Program, LoadError> {
        let boot = BootImage::Kernel {
            kernel: kernel.to_owned(),
            ramdisk: ramdisk.map(ToOwned::to_owned),
        };
        Program::open(&boot, "console=ttyS0", memory)
    }

    fn complaint(bytes: &[u8]) -> String {
        let kernel = file(bytes);
        let error = open(kernel.path(), None, 64 << 20)
            .err()
            .expect("this must be refused");
        assert_eq!(error.code(), ExitCode::KernelBad);
        let text = error.to_string();
        assert!(
            text.contains(kernel.path().to_str().unwrap()) && !text.contains('\n'),
            "{text}"
        );
        text
    }

    #[test]
    fn a_kernel_is_loaded_where_it_wants_to_be() {
        let (kernel, ramdisk) = (file(&kernel_bytes()), file(b"initrd!"));
        let program = open(kernel.path(), Some(ramdisk.path()), 64 << 20).unwrap();
        let memory = Memory::ordinary(Layout::new(64 << 20)).unwrap();
        let regs = program.load(&memory, 0xf_2400).unwrap();
        assert_eq!(
            (regs.regs.rip, regs.regs.gprs.rsi),
            (0x100_0200, BOOT_PARAMS)
        );
        assert_eq!((regs.regs.cs_ar, regs.regs.ia32_efer), (0xa09b, 0x500));
        let ram = memory.ram();
        let mut seven = [0; 7];
        ram.read_slice(&mut seven, GuestAddress(0x100_0000))
            .unwrap();
        assert_eq!(&seven, b"payload");
        let start: u32 = ram
            .read_obj(GuestAddress(BOOT_PARAMS + RAMDISK_IMAGE as u64))
            .unwrap();
        ram.read_slice(&mut seven, GuestAddress(start.into()))
            .unwrap();
        assert_eq!(&seven, b"initrd!");
        let magic: u32 = ram
            .read_obj(GuestAddress(BOOT_PARAMS + HEADER_MAGIC as u64))
            .unwrap();
        assert_eq!(magic.to_le_bytes(), *b"HdrS");
        let directory: u64 = ram.read_obj(GuestAddress(0xb008)).unwrap();
        assert_eq!(directory, 0x20_0083);
    }

    #[test]
    fn an_empty_kernel_is_called_empty() {
        assert!(complaint(b"").contains("empty"));
    }

    #[test]
    fn a_kernel_that_is_cut_short_says_how_much_is_missing() {
        let bytes = kernel_bytes();
        let text = complaint(&bytes[..bytes.len() - 1]);
        assert!(
            text.contains("cut short") && text.contains("6656"),
            "{text}"
        );
        assert!(complaint(&bytes[..0x230]).contains("ends within"));
        assert!(complaint(&bytes[..100]).contains("100 bytes"));
    }

    #[test]
    fn random_bytes_are_no_kernel() {
        let mut state = 1u32;
        let bytes: Vec<u8> = (0..8192)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        assert!(complaint(&bytes).contains("HdrS"));
        assert!(complaint(&[b"\x7fELF".as_slice(), &[0; 4096]].concat()).contains("-E"));
    }

    #[test]
    fn hostile_headers_are_refused_without_a_panic() {
        for (offset, value) in [(SYSSIZE, 0xff), (KERNEL_ALIGNMENT, 3), (XLOADFLAGS, 0)] {
            let mut bytes = kernel_bytes();
            bytes[offset..offset + 4].fill(value);
            complaint(&bytes);
        }
        let mut bytes = kernel_bytes();
        bytes[PREF_ADDRESS..PREF_ADDRESS + 8].fill(0xff);
        let kernel = file(&bytes);
        let error = open(kernel.path(), None, 64 << 20).err().unwrap();
        assert_eq!(error.code(), ExitCode::DoesNotFit);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_size() {
        let (kernel, ramdisk) = (file(&kernel_bytes()), file(&vec![1; 60 << 20]));
        let error = open(kernel.path(), None, 16 << 20).err().unwrap();
        assert!(error.to_string().contains("-m"), "{error}");
        let error = open(kernel.path(), Some(ramdisk.path()), 64 << 20)
            .err()
            .unwrap();
        assert!(error.to_string().contains("-r"), "{error}");
        assert_eq!(error.code(), ExitCode::DoesNotFit);
    }

    #[test]
    fn missing_files_have_codes_of_their_own() {
        let kernel = file(&kernel_bytes());
        let code = |kernel: &Path, ramdisk: Option<&Path>| {
            open(kernel, ramdisk, 64 << 20).err().unwrap().code()
        };
        assert_eq!(code(Path::new("/none"), None), ExitCode::KernelMissing);
        assert_eq!(
            code(kernel.path(), Some(Path::new("/none"))),
            ExitCode::RamdiskMissing
        );
    }
}
