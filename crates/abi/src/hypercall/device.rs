//! Devices of a User VM: passed through, or emulated by the hypervisor.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An interrupt of a passed-through device.
///
/// Linux passes 20 bytes and no more belong to it; ACRN's own header describes 24 with a boolean
/// in the fifth word. Both agree in the first 17 bytes, so only the low byte of
/// [`is_pic_pin`](Self::is_pic_pin) counts.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PtdevIrq {
    /// [`INTX`](Self::INTX), [`MSI`](Self::MSI) or [`MSIX`](Self::MSIX).
    pub kind: u32,
    /// Address in the User VM.
    pub virt_bdf: u16,
    /// Address on the host.
    pub phys_bdf: u16,
    /// Line in the User VM.
    pub virt_pin: u32,
    /// Line on the host.
    pub phys_pin: u32,
    /// The virtual line belongs to the 8259s.
    pub is_pic_pin: u32,
}
layout!(PtdevIrq: 20 { virt_bdf @ 4, phys_bdf @ 6, virt_pin @ 8, phys_pin @ 12, is_pic_pin @ 16 });

impl PtdevIrq {
    /// A line.
    pub const INTX: u32 = 0;
    /// Message signalled.
    pub const MSI: u32 = 1;
    /// Message signalled with a table.
    pub const MSIX: u32 = 2;
}

/// A PCI device to pass through.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciDev {
    /// Bit 0: [`QUIRK`](Self::QUIRK).
    pub kind: u32,
    /// Address in the User VM.
    pub virt_bdf: u16,
    /// Address on the host.
    pub phys_bdf: u16,
    /// Interrupt line register.
    pub intr_line: u8,
    /// Interrupt pin register.
    pub intr_pin: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// BARs as the User VM finds them.
    pub bar: [u32; 6],
}
layout!(PciDev: 36 { virt_bdf @ 4, phys_bdf @ 6, intr_line @ 8, intr_pin @ 9, bar @ 12 });

impl PciDev {
    /// Configuration accesses go to the Device Model.
    pub const QUIRK: u32 = 1;
}

/// One range of an [`MmioDev`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmioResource {
    /// Address in the User VM.
    pub user_vm_pa: u64,
    /// Address on the host, which is that in the Service VM.
    pub service_vm_pa: u64,
    /// Bytes; 0 for an unused entry.
    pub size: u64,
    /// A memory type of [`memory`](super::memory).
    pub mem_type: u64,
}
layout!(MmioResource: 32 { service_vm_pa @ 8, size @ 16, mem_type @ 24 });

/// A memory-mapped device to pass through.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmioDev {
    /// Name, padded with zeros.
    pub name: [u8; 8],
    /// Its ranges.
    pub resources: [MmioResource; 3],
}
layout!(MmioDev: 104 { resources @ 8 });

/// A device that the hypervisor is to emulate for a User VM.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vdev {
    /// PCI vendor.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
    /// Number of a device without PCI.
    pub legacy_id: u32,
    /// PCI address in the User VM.
    pub slot: u64,
    /// BARs.
    pub io_addr: [u32; 6],
    /// Sizes of the BARs.
    pub io_size: [u32; 6],
    /// Meaning depends on the device.
    pub args: [u8; 128],
}
impl Vdev {
    /// `legacy_id` of the serial port behind the hypervisor's `vm_console`: `io_addr[0]` is the
    /// first of eight ports, `io_size[0]` 8, `args[0]` the interrupt line.
    pub const LEGACY_UART: u32 = 1;
    /// `legacy_id` of the counters that the hypervisor reads for the Device Model: `io_addr[0]`
    /// is the port of the PM timer, `io_addr[1]` the address of the HPET, with their sizes.
    pub const LEGACY_COUNTERS: u32 = 2;
    /// `legacy_id` of the interval timer (8254): `io_addr[0]` is the first of its four ports, `io_addr[1]`
    /// that of the system control, with their sizes.
    pub const LEGACY_TIMER: u32 = 3;
    /// `legacy_id` of a ring of the trace or of the log, for an
    /// [observer](crate::vm_flags::VmFlags::OBSERVER): `args` begins with an
    /// [`SbufParam`](super::SbufParam). It is the same as [`SETUP_SBUF`](super::HypercallId::SETUP_SBUF),
    /// for which upstream Linux has no ioctl.
    pub const LEGACY_RING: u32 = 0x10;
}
layout!(Vdev: 192 { device @ 2, legacy_id @ 4, slot @ 8, io_addr @ 16, io_size @ 40, args @ 64 });

/// `args` of a virtual root port.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RootPortConfig {
    /// The root port on the host.
    pub phys_bdf: u16,
    /// Max_Payload_Size code.
    pub max_payload: u8,
    /// Primary bus.
    pub primary_bus: u8,
    /// Secondary bus.
    pub secondary_bus: u8,
    /// Subordinate bus.
    pub subordinate_bus: u8,
    /// Precision time measurement is offered.
    pub ptm_capable: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset of the capability on the host.
    pub ptm_cap_offset: u32,
}
layout!(RootPortConfig: 12 { max_payload @ 2, ptm_capable @ 6, ptm_cap_offset @ 8 });
