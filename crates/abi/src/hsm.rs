//! `/dev/acrn_hsm`: the ioctls of Linux's ACRN driver (`include/uapi/linux/acrn.h`).
//!
//! One open file is one VM. Parameter blocks that the driver hands on unchanged are those of
//! [`hypercall`](crate::hypercall); the others are here. Every ioctl but [`CREATE_VM`] fails with
//! `EINVAL` until that one has succeeded.

use crate::hypercall::{MmioDev, MsiEntry, PciDev, PtdevIrq, VcpuRegs, Vdev, VmCreation};
use core::mem::size_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Path of the device.
pub const DEVICE: &str = "/dev/acrn_hsm";
/// Type byte of all its ioctls.
pub const IOCTL_TYPE: u8 = 0xA2;

const fn number(direction: u32, nr: u8, size: usize) -> u32 {
    assert!(size < 1 << 14);
    direction << 30 | (size as u32) << 16 | (IOCTL_TYPE as u32) << 8 | nr as u32
}

/// Number of an ioctl without a parameter block.
pub const fn io(nr: u8) -> u32 {
    number(0, nr, 0)
}

/// Number of an ioctl that reads a `T` from the caller.
pub const fn iow<T>(nr: u8) -> u32 {
    number(1, nr, size_of::<T>())
}

/// Number of an ioctl that reads and writes a `T` of the caller.
pub const fn iowr<T>(nr: u8) -> u32 {
    number(3, nr, size_of::<T>())
}

/// Takes and completes a [`VmCreation`].
pub const CREATE_VM: u32 = iowr::<VmCreation>(0x10);
/// Ends the VM; closing the file does too.
pub const DESTROY_VM: u32 = io(0x11);
/// Starts vCPU 0.
pub const START_VM: u32 = io(0x12);
/// Stops all vCPUs.
pub const PAUSE_VM: u32 = io(0x13);
/// Puts a paused VM into the state after its creation.
pub const RESET_VM: u32 = io(0x15);
/// Takes a [`VcpuRegs`].
pub const SET_VCPU_REGS: u32 = iow::<VcpuRegs>(0x16);
/// Takes an [`MsiEntry`].
pub const INJECT_MSI: u32 = iow::<MsiEntry>(0x23);
/// Takes the address of a page for an [`IntrMonitor`](crate::hypercall::IntrMonitor).
pub const VM_INTR_MONITOR: u32 = iow::<u64>(0x24);
/// Takes an [`IrqLine`](crate::hypercall::IrqLine) by value, as the argument itself.
pub const SET_IRQLINE: u32 = iow::<u64>(0x25);
/// Takes an [`IoReqNotify`].
pub const NOTIFY_REQUEST_FINISH: u32 = iow::<IoReqNotify>(0x31);
/// Makes the caller the default client for I/O requests.
pub const CREATE_IOREQ_CLIENT: u32 = io(0x32);
/// Sleeps until there is a request for the default client, or a signal.
pub const ATTACH_IOREQ_CLIENT: u32 = io(0x33);
/// Ends the default client; its waiters get `ENODEV`.
pub const DESTROY_IOREQ_CLIENT: u32 = io(0x34);
/// Completes whatever is pending, for a reset.
pub const CLEAR_VM_IOREQ: u32 = io(0x35);
/// Takes a [`VmMemmap`] to map.
pub const SET_MEMSEG: u32 = iow::<VmMemmap>(0x41);
/// Takes a [`VmMemmap`] of type [`MMIO`](VmMemmap::MMIO) to unmap.
pub const UNSET_MEMSEG: u32 = iow::<VmMemmap>(0x42);
/// Takes a [`PtdevIrq`].
pub const SET_PTDEV_INTR: u32 = iow::<PtdevIrq>(0x53);
/// Takes a [`PtdevIrq`].
pub const RESET_PTDEV_INTR: u32 = iow::<PtdevIrq>(0x54);
/// Takes a [`PciDev`].
pub const ASSIGN_PCIDEV: u32 = iow::<PciDev>(0x55);
/// Takes a [`PciDev`].
pub const DEASSIGN_PCIDEV: u32 = iow::<PciDev>(0x56);
/// Takes an [`MmioDev`].
pub const ASSIGN_MMIODEV: u32 = iow::<MmioDev>(0x57);
/// Takes an [`MmioDev`].
pub const DEASSIGN_MMIODEV: u32 = iow::<MmioDev>(0x58);
/// Takes a [`Vdev`].
pub const CREATE_VDEV: u32 = iow::<Vdev>(0x59);
/// Takes a [`Vdev`].
pub const DESTROY_VDEV: u32 = iow::<Vdev>(0x5A);
/// Takes a [`CpuStateQuery`](crate::hypercall::CpuStateQuery) and writes a `u64`,
/// [`PstateData`](crate::hypercall::PstateData) or [`CstateData`](crate::hypercall::CstateData) over it.
pub const PM_GET_CPU_STATE: u32 = iowr::<u64>(0x60);
/// Takes an [`IoEventFd`].
pub const IOEVENTFD: u32 = iow::<IoEventFd>(0x70);
/// Takes an [`IrqFd`].
pub const IRQFD: u32 = iow::<IrqFd>(0x71);
/// Takes the address of a ring for asynchronous I/O. Only in ACRN's own kernel.
pub const SETUP_ASYNCIO: u32 = iow::<u64>(0x90);
/// Takes the address of a ring for events of the VM. Only in ACRN's own kernel.
pub const SETUP_VM_EVENT_RING: u32 = iow::<u64>(0xA0);
/// Takes an eventfd that tells of new events. Only in ACRN's own kernel.
pub const SETUP_VM_EVENT_FD: u32 = iow::<i32>(0xA1);

/// A piece of a VM's memory.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmMemmap {
    /// [`RAM`](Self::RAM) or [`MMIO`](Self::MMIO).
    pub kind: u32,
    /// Access bits of [`memory`](crate::hypercall::memory); the driver adds the memory type.
    pub attributes: u32,
    /// Address in the User VM.
    pub user_vm_pa: u64,
    /// For RAM the address in the calling process, for MMIO that in the Service VM.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}
layout!(VmMemmap: 32 { attributes @ 4, user_vm_pa @ 8, base @ 16, len @ 24 });

impl VmMemmap {
    /// Memory of the calling process.
    pub const RAM: u32 = 0;
    /// Registers of a device.
    pub const MMIO: u32 = 1;
}

/// Which request is answered.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoReqNotify {
    /// The VM.
    pub vmid: u16,
    /// Zero.
    pub reserved: u16,
    /// The vCPU, which is the number of the slot.
    pub vcpu: u32,
}
layout!(IoReqNotify: 8 { vcpu @ 4 });

/// An eventfd that is signalled when the guest writes somewhere.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoEventFd {
    /// The eventfd.
    pub fd: u32,
    /// Bits of the constants.
    pub flags: u32,
    /// Port or guest-physical address.
    pub address: u64,
    /// 1, 2, 4 or 8 bytes.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
    /// Value to match.
    pub data: u64,
}
layout!(IoEventFd: 32 { flags @ 4, address @ 8, len @ 16, data @ 24 });

impl IoEventFd {
    /// A port; else memory.
    pub const PIO: u32 = 1;
    /// Only writes of `data` count.
    pub const DATAMATCH: u32 = 2;
    /// Remove it.
    pub const DEASSIGN: u32 = 4;
    /// Through the ring of [`SETUP_ASYNCIO`]. Only in ACRN's own kernel.
    pub const ASYNCIO: u32 = 8;
}

/// An eventfd that injects an interrupt when it is signalled.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqFd {
    /// The eventfd.
    pub fd: i32,
    /// Bits of the constants.
    pub flags: u32,
    /// The interrupt.
    pub msi: MsiEntry,
}
layout!(IrqFd: 24 { flags @ 4, msi @ 8 });

impl IrqFd {
    /// Remove it.
    pub const DEASSIGN: u32 = 1;
}

/// Most memory segments of type RAM that the driver takes for one VM.
pub const MAX_RAM_SEGMENTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_that_a_c_compiler_makes_of_the_header() {
        let expected = [
            (CREATE_VM, 0xc030_a210u32),
            (DESTROY_VM, 0x0000_a211),
            (START_VM, 0x0000_a212),
            (PAUSE_VM, 0x0000_a213),
            (RESET_VM, 0x0000_a215),
            (SET_VCPU_REGS, 0x4128_a216),
            (INJECT_MSI, 0x4010_a223),
            (VM_INTR_MONITOR, 0x4008_a224),
            (SET_IRQLINE, 0x4008_a225),
            (NOTIFY_REQUEST_FINISH, 0x4008_a231),
            (CREATE_IOREQ_CLIENT, 0x0000_a232),
            (ATTACH_IOREQ_CLIENT, 0x0000_a233),
            (DESTROY_IOREQ_CLIENT, 0x0000_a234),
            (CLEAR_VM_IOREQ, 0x0000_a235),
            (SET_MEMSEG, 0x4020_a241),
            (UNSET_MEMSEG, 0x4020_a242),
            (SET_PTDEV_INTR, 0x4014_a253),
            (RESET_PTDEV_INTR, 0x4014_a254),
            (ASSIGN_PCIDEV, 0x4024_a255),
            (DEASSIGN_PCIDEV, 0x4024_a256),
            (ASSIGN_MMIODEV, 0x4068_a257),
            (DEASSIGN_MMIODEV, 0x4068_a258),
            (CREATE_VDEV, 0x40c0_a259),
            (DESTROY_VDEV, 0x40c0_a25a),
            (PM_GET_CPU_STATE, 0xc008_a260),
            (IOEVENTFD, 0x4020_a270),
            (IRQFD, 0x4018_a271),
        ];
        for (ours, theirs) in expected {
            assert_eq!(ours, theirs, "{ours:#x} should be {theirs:#x}");
        }
    }
}
