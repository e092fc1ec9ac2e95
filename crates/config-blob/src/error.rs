//! What can be wrong with a blob, and where.

use arrayvec::ArrayVec;
use core::fmt;

/// Deepest nesting: `vms[3].pci_devices[1].bars[2].size`.
pub(crate) const DEPTH: usize = 4;
/// The index of a step that is no list entry.
const WHOLE: u16 = u16::MAX;

/// Why bytes are not a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than a header.
    TooShort {
        /// Length, in bytes.
        length: usize,
    },
    /// Not a configuration at all.
    Magic([u8; 8]),
    /// Made by another version of `acrn-config`.
    Version {
        /// The version that the header names.
        found: u16,
    },
    /// Cut off, or something follows.
    Length {
        /// Length that the header names.
        claimed: u32,
        /// Length, in bytes.
        length: usize,
    },
    /// Damaged.
    Checksum {
        /// Checksum that the header names.
        claimed: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// A field has a value that makes no sense.
    Field {
        /// Which field.
        path: Path,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// The way to a field, such as `vms[3].vcpus[1].pcpu`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    names: ArrayVec<&'static str, DEPTH>,
    indices: [u16; DEPTH],
}

impl Path {
    /// A path of these steps; what is deeper than any configuration is left out.
    pub(crate) fn of(steps: &[(&'static str, Option<usize>)]) -> Self {
        let mut path = Self::default();
        for &(name, index) in steps {
            path.push(name, index);
        }
        path
    }

    /// One step further; false when the path is full.
    pub(crate) fn push(&mut self, name: &'static str, index: Option<usize>) -> bool {
        let there = self.names.try_push(name).is_ok();
        if there {
            self.number(index);
        }
        there
    }

    /// One step back.
    pub(crate) fn pop(&mut self) {
        self.number(Some(0));
        self.names.pop();
    }

    /// The last step is entry `index`.
    pub(crate) fn number(&mut self, index: Option<usize>) {
        let last = self.names.len().checked_sub(1);
        if let Some(place) = last.and_then(|last| self.indices.get_mut(last)) {
            *place = index.map_or(WHOLE, |index| index.min(usize::from(WHOLE)) as u16);
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The bytes end within the field.
    Ends,
    /// Bytes are left after the last field.
    Trailing(usize),
    /// More entries than there may be.
    TooMany {
        /// Entries that the count names.
        count: usize,
        /// Most entries.
        max: usize,
    },
    /// A text that is too long.
    TooLong {
        /// Its length, in bytes.
        length: usize,
        /// The longest.
        max: usize,
    },
    /// A text that is not UTF-8 or has control characters.
    NotText,
    /// A number that means nothing here.
    Value(u64),
    /// A CPU that the board does not have.
    NoCpu(u16),
    /// A CPU twice in a VM.
    CpuTwice(u16),
    /// A VM number that is not the VM's place in the list.
    VmNumber(u16),
    /// VMs out of the order pre-launched, Service VM, post-launched.
    Order,
    /// A second Service VM.
    SecondServiceVm,
    /// A name that another VM has.
    NameTwice,
    /// A VM that does not exist.
    NoVm(u16),
    /// A vUART that does not exist, or that is connected to another one.
    NoVuart(u16),
    /// A region of shared memory that does not exist.
    NoRegion(u16),
    /// A range of memory that is empty, unaligned, or ends beyond the address space.
    BadRange {
        /// Start.
        start: u64,
        /// Size, in bytes.
        size: u64,
    },
    /// Host memory that another VM has too.
    Shared {
        /// The other VM.
        with: u16,
        /// Start of the range.
        start: u64,
    },
    /// A physical PCI device that another VM has too (its number of bus, device and function).
    DeviceTwice(u16),
    /// A place on the VM's PCI bus that is taken.
    SlotTwice(u16),
    /// A VM that has something which only pre-launched VMs have.
    OnlyPreLaunched,
    /// A VM that runs nowhere.
    NoVcpus,
    /// A share of a CPU that no scheduler takes.
    Weight(u8),
    /// A head start that no scheduler takes.
    Warp(i32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { length } => {
                write!(
                    f,
                    "{length} bytes are too few for a configuration; pass what acrn-config build wrote"
                )
            }
            Self::Magic(found) => {
                write!(
                    f,
                    "not a configuration, it begins with {found:02x?}; pass what acrn-config build wrote"
                )
            }
            Self::Version { found } => write!(
                f,
                "version {found} of the format, this hypervisor reads {}; build the configuration with the acrn-config of this release",
                crate::header::VERSION
            ),
            Self::Length { claimed, length } => {
                write!(
                    f,
                    "{length} bytes where the header says {claimed}; the file was cut or something was appended"
                )
            }
            Self::Checksum { claimed, computed } => {
                write!(
                    f,
                    "checksum {computed:#010x} where the header says {claimed:#010x}; the file is damaged, copy it again"
                )
            }
            Self::Field { path, problem } => write!(f, "{path}: {problem}"),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, &index)) in self.names.iter().zip(&self.indices).enumerate() {
            let dot = if number == 0 { "" } else { "." };
            write!(f, "{dot}{name}")?;
            if index != WHOLE {
                write!(f, "[{index}]")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ends => write!(f, "the configuration ends here"),
            Self::Trailing(bytes) => write!(f, "{bytes} bytes too many"),
            Self::TooMany { count, max } => {
                write!(f, "{count} entries, at most {max} are possible")
            }
            Self::TooLong { length, max } => {
                write!(f, "{length} bytes long, at most {max} are possible")
            }
            Self::NotText => write!(f, "not a text"),
            Self::Value(value) => write!(f, "{value:#x} means nothing here"),
            Self::NoCpu(cpu) => write!(f, "CPU {cpu} is not on the board"),
            Self::CpuTwice(cpu) => write!(f, "CPU {cpu} is there twice"),
            Self::VmNumber(number) => {
                write!(f, "number {number} is not the VM's place in the list")
            }
            Self::Order => write!(
                f,
                "VMs must be in the order pre-launched, Service VM, post-launched"
            ),
            Self::SecondServiceVm => write!(f, "a second Service VM"),
            Self::NameTwice => write!(f, "another VM has this name"),
            Self::NoVm(vm) => write!(f, "there is no VM {vm}"),
            Self::NoVuart(vuart) => write!(f, "there is no vUART {vuart} that leads back"),
            Self::NoRegion(region) => write!(f, "there is no shared region {region}"),
            Self::BadRange { start, size } => write!(
                f,
                "{size:#x} bytes at {start:#x} are not whole pages of memory"
            ),
            Self::Shared { with, start } => {
                write!(f, "memory at {start:#x} belongs to VM {with} too")
            }
            Self::DeviceTwice(bdf) => write!(f, "another VM has device {} too", acrn_abi::Bdf(bdf)),
            Self::SlotTwice(bdf) => write!(f, "place {} is taken", acrn_abi::Bdf(bdf)),
            Self::OnlyPreLaunched => write!(f, "only a pre-launched VM may have this"),
            Self::NoVcpus => write!(f, "the VM has no CPU"),
            Self::Weight(weight) => write!(f, "weight {weight} is not in 1..=128"),
            Self::Warp(value) => write!(f, "warp value {value} is not in -8192..=8192"),
        }
    }
}

impl core::error::Error for Error {}
