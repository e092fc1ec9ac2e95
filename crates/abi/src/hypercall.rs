//! The hypercall interface: numbers, results and parameter blocks.
//!
//! A guest executes `VMCALL` (on AMD also `VMMCALL`) at privilege level 0 with the number in R8
//! and up to two arguments in RDI and RSI; the result is in RAX, negative for an error. Arguments
//! called "gpa" point to one of the structures below in the caller's memory; they may straddle
//! pages and are aligned to 8 bytes only by courtesy.

mod device;
mod power;
mod vm;

pub use device::{MmioDev, MmioResource, PciDev, PtdevIrq, RootPortConfig, Vdev};
pub use power::{CpuStateQuery, CstateData, GenericAddress, PstateData};
pub use vm::{DescriptorPtr, GpRegs, Regs, VcpuRegs, VmCreation};

use crate::VmId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of this interface, as [`HypercallId::GET_API_VERSION`] tells it.
pub const API_VERSION: ApiVersion = ApiVersion { major: 1, minor: 0 };
/// `vmid` that stands for no VM.
pub const INVALID_VM: VmId = VmId(0xFFFF);
/// Vector of the upcall into the Service VM unless it asks for another.
pub const DEFAULT_UPCALL_VECTOR: u8 = 0xF3;

/// Number of a hypercall. Any value may arrive; those that are known have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct HypercallId(pub u32);

impl HypercallId {
    /// What all numbers have in common.
    pub const PREFIX: u32 = 0x8000_0000;

    const fn of(index: u32) -> Self {
        Self(Self::PREFIX | index)
    }

    /// The number from R8; `None` when the upper half is not empty.
    pub const fn from_register(r8: u64) -> Option<Self> {
        if r8 >> 32 == 0 {
            Some(Self(r8 as u32))
        } else {
            None
        }
    }

    /// Index without the prefix; `None` when the prefix is missing or the index exceeds a byte.
    pub const fn index(self) -> Option<u8> {
        let index = self.0 ^ Self::PREFIX;
        if index < 0x100 {
            Some(index as u8)
        } else {
            None
        }
    }
}

macro_rules! hypercalls {
    ($($(#[$doc:meta])* $name:ident = $index:literal;)*) => {
        impl HypercallId {
            $($(#[$doc])* pub const $name: Self = Self::of($index);)*

            /// Name of the call for logs; `None` for an unknown number.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

hypercalls! {
    /// gpa of [`ApiVersion`], filled in.
    GET_API_VERSION = 0x00;
    /// Local APIC id of a CPU of the Service VM that Linux has taken offline.
    SERVICE_VM_OFFLINE_CPU = 0x01;
    /// Vector of the upcall, 0x20..=0xFF.
    SET_CALLBACK_VECTOR = 0x02;
    /// gpa of [`VmCreation`]; `vmid` and `vcpu_num` are filled in.
    CREATE_VM = 0x10;
    /// vmid of a paused VM.
    DESTROY_VM = 0x11;
    /// vmid of a created VM with a request page.
    START_VM = 0x12;
    /// vmid.
    PAUSE_VM = 0x13;
    /// Does nothing, successfully.
    CREATE_VCPU = 0x14;
    /// vmid of a paused VM.
    RESET_VM = 0x15;
    /// vmid; gpa of [`VcpuRegs`].
    SET_VCPU_REGS = 0x16;
    /// vmid; gpa of [`MsiEntry`].
    INJECT_MSI = 0x23;
    /// vmid; gpa of [`IntrMonitor`].
    VM_INTR_MONITOR = 0x24;
    /// vmid; [`IrqLine`] by value.
    SET_IRQLINE = 0x25;
    /// vmid; gpa of the 64-bit gpa of the request page.
    SET_IOREQ_BUFFER = 0x30;
    /// vmid; vCPU number.
    NOTIFY_REQUEST_FINISH = 0x31;
    /// vmid; gpa of [`AsyncIo`].
    ASYNCIO_ASSIGN = 0x32;
    /// vmid; gpa of [`AsyncIo`].
    ASYNCIO_DEASSIGN = 0x33;
    /// vmid; gpa of [`Gpa2Hpa`].
    VM_GPA2HPA = 0x41;
    /// gpa of [`SetMemoryRegions`].
    VM_SET_MEMORY_REGIONS = 0x42;
    /// vmid; gpa of [`WriteProtect`].
    VM_WRITE_PROTECT_PAGE = 0x43;
    /// vmid of the Service VM (0) or of an observer, whose memory has the ring; gpa of
    /// [`SbufParam`].
    SETUP_SBUF = 0x44;
    /// Reserved.
    ASSIGN_PTDEV = 0x50;
    /// Reserved.
    DEASSIGN_PTDEV = 0x51;
    /// Reserved.
    VM_PCI_MSIX_REMAP = 0x52;
    /// vmid; gpa of [`PtdevIrq`].
    SET_PTDEV_INTR = 0x53;
    /// vmid; gpa of [`PtdevIrq`].
    RESET_PTDEV_INTR = 0x54;
    /// vmid; gpa of [`PciDev`].
    ASSIGN_PCIDEV = 0x55;
    /// vmid; gpa of [`PciDev`].
    DEASSIGN_PCIDEV = 0x56;
    /// vmid; gpa of [`MmioDev`].
    ASSIGN_MMIODEV = 0x57;
    /// vmid; gpa of [`MmioDev`].
    DEASSIGN_MMIODEV = 0x58;
    /// vmid; gpa of [`Vdev`].
    CREATE_VDEV = 0x59;
    /// vmid; gpa of [`Vdev`].
    DESTROY_VDEV = 0x5A;
    /// Log to the trace hub.
    SETUP_HV_NPK_LOG = 0x61;
    /// Profiler.
    PROFILING_OPS = 0x62;
    /// gpa of [`HwInfo`], filled in.
    GET_HW_INFO = 0x63;
    /// Secure world of a User VM.
    INITIALIZE_TRUSTY = 0x70;
    /// Secure world of a User VM.
    WORLD_SWITCH = 0x71;
    /// Secure world of a User VM.
    SAVE_RESTORE_SECURE_CONTEXT = 0x72;
    /// [`CpuStateQuery`] by value; gpa of what it asks for.
    PM_GET_CPU_STATE = 0x80;
    /// Trusted execution environment: a vCPU has booted.
    TEE_VCPU_BOOT_DONE = 0x90;
    /// Trusted execution environment: switch worlds.
    SWITCH_EE = 0x91;
}

/// Why a hypercall failed: a positive Linux error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Errno(pub i32);

impl Errno {
    /// Not permitted.
    pub const EPERM: Self = Self(1);
    /// No such VM or vCPU.
    pub const ENOENT: Self = Self(2);
    /// Input/output error.
    pub const EIO: Self = Self(5);
    /// A pool is exhausted.
    pub const ENOMEM: Self = Self(12);
    /// The target's severity forbids it.
    pub const EACCES: Self = Self(13);
    /// A guest address is not mapped.
    pub const EFAULT: Self = Self(14);
    /// In use by somebody else.
    pub const EBUSY: Self = Self(16);
    /// Exists already.
    pub const EEXIST: Self = Self(17);
    /// No such device.
    pub const ENODEV: Self = Self(19);
    /// An argument or the state of the VM does not allow it.
    pub const EINVAL: Self = Self(22);
    /// Unknown hypercall, or one that this VM may not use.
    pub const ENOTTY: Self = Self(25);
    /// A table is full.
    pub const ENOSPC: Self = Self(28);
    /// Known, but this platform cannot.
    pub const ENOSYS: Self = Self(38);
    /// Gave up waiting.
    pub const ETIMEDOUT: Self = Self(110);

    /// Value for RAX: the negated number.
    pub const fn to_register(self) -> u64 {
        (self.0 as i64).wrapping_neg() as u64
    }
}

/// Version of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ApiVersion {
    /// Differs: incompatible.
    pub major: u32,
    /// Differs: something was added.
    pub minor: u32,
}
layout!(ApiVersion: 8 { minor @ 4 });

/// Facts about the platform for the Service VM.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HwInfo {
    /// Number of physical CPUs.
    pub cpu_num: u16,
    /// Zero.
    pub reserved: [u16; 3],
}
layout!(HwInfo: 8 {});

/// A message signalled interrupt.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MsiEntry {
    /// Address: 0xFEE in bits 20..32, destination in 12..20.
    pub address: u64,
    /// Data: vector in bits 0..8, delivery mode in 8..11.
    pub data: u64,
}
layout!(MsiEntry: 16 { data @ 8 });

/// An operation on an interrupt line; passed by value in RSI.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct IrqLine {
    /// The line.
    pub gsi: u32,
    /// One of the constants.
    pub operation: u32,
}
layout!(IrqLine: 8 { operation @ 4 });

impl IrqLine {
    /// Raise and keep.
    pub const HIGH: u32 = 0;
    /// Lower and keep.
    pub const LOW: u32 = 1;
    /// Raise, then lower.
    pub const RISING_PULSE: u32 = 2;
    /// Lower, then raise.
    pub const FALLING_PULSE: u32 = 3;

    /// Takes the register apart.
    pub const fn from_register(value: u64) -> Self {
        Self {
            gsi: value as u32,
            operation: (value >> 32) as u32,
        }
    }

    /// As it is passed.
    pub const fn to_register(self) -> u64 {
        self.gsi as u64 | (self.operation as u64) << 32
    }
}

/// Interrupt counts of a VM's devices, or a delay for them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IntrMonitor {
    /// [`GET_DATA`](Self::GET_DATA) or [`DELAY`](Self::DELAY).
    pub command: u32,
    /// Words of the buffer in use.
    pub count: u32,
    /// Pairs of interrupt number and count; or the delay in milliseconds in the first word.
    pub buffer: [u64; 48],
}
layout!(IntrMonitor: 392 { count @ 4, buffer @ 8 });

impl IntrMonitor {
    /// Fill the buffer.
    pub const GET_DATA: u32 = 0;
    /// Delay device interrupts by `buffer[0]` milliseconds.
    pub const DELAY: u32 = 1;
}

/// Access and memory type of a mapping (`attributes` of [`MemoryRegion`]).
pub mod memory {
    /// Readable.
    pub const READ: u32 = 1;
    /// Writable.
    pub const WRITE: u32 = 2;
    /// Executable.
    pub const EXECUTE: u32 = 4;
    /// All three.
    pub const RWX: u32 = READ | WRITE | EXECUTE;
    /// Write-back.
    pub const WB: u32 = 0x40;
    /// Write-through.
    pub const WT: u32 = 0x80;
    /// Uncached.
    pub const UC: u32 = 0x100;
    /// Write-combining.
    pub const WC: u32 = 0x200;
    /// Write-protected.
    pub const WP: u32 = 0x400;
    /// All bits of the memory type.
    pub const TYPE_MASK: u32 = 0x7C0;
}

/// One change of a VM's memory map.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MemoryRegion {
    /// One of the constants.
    pub operation: u32,
    /// Bits of [`memory`].
    pub attributes: u32,
    /// Address in the User VM.
    pub user_vm_pa: u64,
    /// Address in the Service VM.
    pub service_vm_pa: u64,
    /// Bytes.
    pub size: u64,
}
layout!(MemoryRegion: 32 { attributes @ 4, user_vm_pa @ 8, service_vm_pa @ 16, size @ 24 });

impl MemoryRegion {
    /// Map.
    pub const ADD: u32 = 0;
    /// Unmap.
    pub const DELETE: u32 = 2;
    /// Change attributes.
    pub const MODIFY: u32 = 3;
}

/// Parameter of [`HypercallId::VM_SET_MEMORY_REGIONS`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetMemoryRegions {
    /// The User VM.
    pub vmid: u16,
    /// Zero.
    pub reserved: [u16; 3],
    /// Number of [`MemoryRegion`]s.
    pub region_count: u32,
    /// Zero.
    pub padding: u32,
    /// Address of the array in the Service VM.
    pub regions_gpa: u64,
}
layout!(SetMemoryRegions: 24 { region_count @ 8, regions_gpa @ 16 });

/// Parameter of [`HypercallId::VM_WRITE_PROTECT_PAGE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WriteProtect {
    /// 1 protects, 0 allows writes again.
    pub set: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// The page in the User VM.
    pub gpa: u64,
}
layout!(WriteProtect: 16 { gpa @ 8 });

/// Parameter of [`HypercallId::VM_GPA2HPA`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Gpa2Hpa {
    /// In: guest-physical.
    pub gpa: u64,
    /// Out: host-physical.
    pub hpa: u64,
}
layout!(Gpa2Hpa: 16 { hpa @ 8 });

/// Parameter of [`HypercallId::SETUP_SBUF`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SbufParam {
    /// CPU, for rings that each CPU has.
    pub cpu_id: u16,
    /// Zero.
    pub reserved: u16,
    /// One of [`sbuf::id`](crate::sbuf::id).
    pub sbuf_id: u32,
    /// Address of the [`SbufHeader`](crate::sbuf::SbufHeader) in the VM, at the start of a page; 0
    /// withdraws the ring.
    pub gpa: u64,
}
layout!(SbufParam: 16 { sbuf_id @ 4, gpa @ 8 });

/// A doorbell that is passed on without stopping the vCPU.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AsyncIo {
    /// [`PORT_IO`](Self::PORT_IO) or [`MMIO`](Self::MMIO).
    pub kind: u32,
    /// Not zero: only writes of `data` count.
    pub match_data: u32,
    /// Port or guest-physical address.
    pub address: u64,
    /// What is put into the ring.
    pub fd: u64,
    /// Value to match.
    pub data: u64,
}
layout!(AsyncIo: 32 { match_data @ 4, address @ 8, fd @ 16, data @ 24 });

impl AsyncIo {
    /// At a port.
    pub const PORT_IO: u32 = 1;
    /// In memory.
    pub const MMIO: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_without_the_prefix_has_no_index() {
        assert_eq!(HypercallId(0x10).index(), None);
        assert_eq!(HypercallId(0x8000_0110).index(), None);
        assert_eq!(HypercallId::CREATE_VM.index(), Some(0x10));
        assert_eq!(HypercallId::from_register(0x1_8000_0010), None);
    }

    #[test]
    fn ids_are_those_that_linux_uses() {
        assert_eq!(HypercallId::SET_IRQLINE.0, 0x8000_0025);
        assert_eq!(HypercallId::VM_SET_MEMORY_REGIONS.0, 0x8000_0042);
        assert_eq!(HypercallId::PM_GET_CPU_STATE.0, 0x8000_0080);
        assert_eq!(HypercallId::PAUSE_VM.name(), Some("PAUSE_VM"));
    }

    #[test]
    fn an_error_is_negative_in_the_register() {
        assert_eq!(Errno::EINVAL.to_register(), -22i64 as u64);
    }

    #[test]
    fn an_irq_line_survives_the_register() {
        let line = IrqLine {
            gsi: 9,
            operation: IrqLine::FALLING_PULSE,
        };
        assert_eq!(IrqLine::from_register(line.to_register()), line);
        assert_eq!(line.to_register(), 0x3_0000_0009);
    }

    #[test]
    fn a_cpu_state_query_takes_itself_apart() {
        let query = CpuStateQuery(0x0403_0201);
        assert_eq!(
            (query.vmid(), query.vcpu(), query.state(), query.kind()),
            (4, 3, 2, 1)
        );
    }

    #[test]
    fn a_name_ends_at_its_first_zero() {
        let mut creation = VmCreation::default();
        creation.name[..4].copy_from_slice(b"vm\0x");
        assert_eq!(creation.name(), Some("vm"));
        creation.name = [0xFF; 16];
        assert_eq!(creation.name(), None);
    }
}
