//! Puts a guest's program into its memory and says how its first CPU starts.
//!
//! Low memory is used like this:
//!
//! | address | content |
//! |---|---|
//! | 0x1000 | GDT |
//! | 0x7000 | Linux's boot parameters, or multiboot information |
//! | 0x9000 | page tables: the first 4 GiB mapped one to one |
//! | 0x20000 | command line |
//! | 0xF2400 | ACPI tables |
//! | 1 MiB and up | kernel, ELF segments; initial RAM disk at the end of low memory |

pub mod bzimage;
pub mod elf;
pub mod start;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use acrn_abi::hypercall::VcpuRegs;
use vm_memory::{Bytes, GuestAddress};

use crate::cli::BootImage;
use crate::exit::ExitCode;
use crate::memory::Memory;
use crate::pci::GuestRam;

/// Boot parameters or multiboot information.
pub const BOOT_PARAMS: u64 = 0x7000;
/// Command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// First address that images may use below 1 MiB.
pub const FREE_LOW_START: u64 = 0x3_0000;
/// End of conventional memory.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Start of memory above the first megabyte.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// Largest file that is read into memory for inspection.
const MAX_HEADER: u64 = 64 << 10;

/// Why a guest cannot be loaded. The text names file and remedy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be opened or read.
    #[error("{option} {}: {source}; check the path and its permissions", path.display())]
    Open {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// The exit code that belongs to the file.
        code: ExitCode,
    },
    /// Not a kernel, or a damaged one.
    #[error("{option} {}: {reason}; {remedy}", path.display())]
    Bad {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// No room in the guest.
    #[error(
        "{what} needs {needed} KiB of guest memory below 2 GiB, and {available} KiB are \
             there: {remedy}"
    )]
    DoesNotFit {
        /// What.
        what: String,
        /// KiB needed.
        needed: u64,
        /// KiB available.
        available: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// The command line is too long for this kernel.
    #[error("-B holds {length} bytes, and this kernel takes {limit}: shorten the command line")]
    CommandLine {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Writing to guest memory failed.
    #[error("the guest's memory cannot be written at {0:#x}: choose more memory with -m")]
    Memory(u64),
}

impl LoadError {
    /// The exit code for it.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Open { code, .. } => *code,
            Self::Bad { .. } => ExitCode::KernelBad,
            Self::DoesNotFit { .. } | Self::CommandLine { .. } | Self::Memory(_) => {
                ExitCode::DoesNotFit
            }
        }
    }
}

/// An opened file with the names that errors need. It stays open, so that a reboot finds the
/// same file even when the path has changed.
pub struct Image {
    file: File,
    /// Bytes.
    pub length: u64,
    option: &'static str,
    path: PathBuf,
    code: ExitCode,
}

impl Image {
    fn open(option: &'static str, path: &Path, code: ExitCode) -> Result<Self, LoadError> {
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::Error::from(io::ErrorKind::IsADirectory));
            }
            Ok((file, metadata.len()))
        };
        let (file, length) = open().map_err(|source| LoadError::Open {
            option,
            path: path.into(),
            source,
            code,
        })?;
        Ok(Self {
            file,
            length,
            option,
            path: path.into(),
            code,
        })
    }

    fn bad(&self, reason: impl Into<String>, remedy: &'static str) -> LoadError {
        LoadError::Bad {
            option: self.option,
            path: self.path.clone(),
            reason: reason.into(),
            remedy,
        }
    }

    fn failed(&self, source: io::Error) -> LoadError {
        LoadError::Open {
            option: self.option,
            path: self.path.clone(),
            source,
            code: self.code,
        }
    }

    /// The first bytes of the file, at most 64 KiB.
    fn head(&self) -> Result<Vec<u8>, LoadError> {
        let mut bytes = Vec::new();
        (&self.file)
            .seek(SeekFrom::Start(0))
            .and_then(|_| (&self.file).take(MAX_HEADER).read_to_end(&mut bytes))
            .map_err(|error| self.failed(error))?;
        Ok(bytes)
    }

    /// Copies `length` bytes of the file from `offset` on to guest memory.
    fn copy(
        &self,
        ram: &GuestRam,
        offset: u64,
        address: u64,
        length: u64,
    ) -> Result<(), LoadError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))
            .map_err(|error| self.failed(error))?;
        let mut buffer = vec![0u8; 1 << 20];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(buffer.len() as u64) as usize;
            let chunk = &mut buffer[..step];
            file.read_exact(chunk).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    self.bad("the file became shorter while it was read", "try again")
                }
                _ => self.failed(error),
            })?;
            write(ram, address + done, chunk)?;
            done += step as u64;
        }
        Ok(())
    }
}

/// Writes to guest memory.
fn write(ram: &GuestRam, address: u64, bytes: &[u8]) -> Result<(), LoadError> {
    ram.write_slice(bytes, GuestAddress(address))
        .map_err(|_| LoadError::Memory(address))
}

/// Everything that a VM starts from, with its files open and checked.
pub struct Program {
    kind: Kind,
    bootargs: String,
}

enum Kind {
    Kernel {
        kernel: bzimage::Kernel,
        ramdisk: Option<Image>,
    },
    Elf(elf::Program),
}

impl Program {
    /// Opens and checks the files.
    ///
    /// # Errors
    /// A file is missing, damaged, or does not fit into `memory` bytes.
    pub fn open(boot: &BootImage, bootargs: &str, memory: u64) -> Result<Self, LoadError> {
        let low = crate::memory::Layout::new(memory).low;
        let kind = match boot {
            BootImage::Kernel { kernel, ramdisk } => {
                let kernel = Image::open("-k", kernel, ExitCode::KernelMissing)?;
                let kernel = bzimage::Kernel::check(kernel)?;
                let ramdisk = match ramdisk {
                    Some(path) => Some(Image::open("-r", path, ExitCode::RamdiskMissing)?),
                    None => None,
                };
                kernel.place(low, ramdisk.as_ref(), bootargs)?;
                Kind::Kernel { kernel, ramdisk }
            }
            BootImage::Elf(path) => {
                let image = Image::open("-E", path, ExitCode::KernelMissing)?;
                let program = elf::Program::check(image)?;
                program.fits(low)?;
                Kind::Elf(program)
            }
        };
        Ok(Self {
            kind,
            bootargs: bootargs.to_owned(),
        })
    }

    /// Loads everything and returns the state of the first CPU. `acpi` is the address of the
    /// RSDP.
    ///
    /// # Errors
    /// As [`Program::open`].
    pub fn load(&self, memory: &Memory, acpi: u64) -> Result<VcpuRegs, LoadError> {
        let ram = memory.ram();
        write(ram, COMMAND_LINE, self.bootargs.as_bytes())?;
        write(ram, COMMAND_LINE + self.bootargs.len() as u64, &[0])?;
        start::write_tables(ram)?;
        match &self.kind {
            Kind::Kernel { kernel, ramdisk } => {
                kernel.load(memory, ramdisk.as_ref(), &self.bootargs, acpi)
            }
            Kind::Elf(program) => program.load(memory, acpi),
        }
    }
}

/// One entry of the memory map for the guest: start, length, type (1 RAM, 2 reserved).
pub fn memory_map(memory: &Memory) -> Vec<(u64, u64, u32)> {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    let layout = memory.layout;
    let mut map = vec![
        (0, LOW_RAM_END, RAM),
        (LOW_RAM_END, 0xa_0000 - LOW_RAM_END, RESERVED),
        (0xe_0000, HIGH_RAM_START - 0xe_0000, RESERVED),
        (HIGH_RAM_START, layout.low - HIGH_RAM_START, RAM),
        (
            crate::pci::bus::ECAM_BASE,
            crate::pci::bus::ECAM_SIZE,
            RESERVED,
        ),
    ];
    if layout.high != 0 {
        map.push((crate::memory::HIGH_START, layout.high, RAM));
    }
    map
}

/// A little-endian number at `offset`, if the bytes are there.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let field: [u8; N] = bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}
