//! Power states of CPUs, for the ACPI tables of a User VM.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which power state [`PM_GET_CPU_STATE`](super::HypercallId::PM_GET_CPU_STATE) asks for; passed by value in RDI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct CpuStateQuery(pub u64);

impl CpuStateQuery {
    /// Number of P-states, a `u64`.
    pub const PX_COUNT: u8 = 0;
    /// A [`PstateData`].
    pub const PX_DATA: u8 = 1;
    /// Number of C-states, a `u64`.
    pub const CX_COUNT: u8 = 2;
    /// A [`CstateData`].
    pub const CX_DATA: u8 = 3;

    /// What is asked, one of the constants.
    pub const fn kind(self) -> u8 {
        self.0 as u8
    }
    /// Number of the state.
    pub const fn state(self) -> u8 {
        (self.0 >> 8) as u8
    }
    /// vCPU.
    pub const fn vcpu(self) -> u8 {
        (self.0 >> 16) as u8
    }
    /// VM, relative to the Service VM.
    pub const fn vmid(self) -> u8 {
        (self.0 >> 24) as u8
    }
}

/// ACPI's generic address structure (ACPI 6.5, 5.2.3.2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct GenericAddress {
    /// Address space.
    pub space_id: u8,
    /// Width of the register in bits.
    pub bit_width: u8,
    /// Offset in bits.
    pub bit_offset: u8,
    /// Size of an access.
    pub access_size: u8,
    /// Address in that space.
    pub address: u64,
}
layout!(GenericAddress: 12 { address @ 4 });

/// A C-state.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CstateData {
    /// How to enter it.
    pub register: GenericAddress,
    /// C1, C2 or C3.
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Worst exit latency in microseconds.
    pub latency: u32,
    /// Zero.
    pub padding: u32,
    /// Average power in milliwatts.
    pub power: u64,
}
layout!(CstateData: 32 { kind @ 12, latency @ 16, power @ 24 });

/// A P-state.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PstateData {
    /// MHz.
    pub core_frequency: u64,
    /// Milliwatts.
    pub power: u64,
    /// Microseconds.
    pub transition_latency: u64,
    /// Microseconds.
    pub bus_master_latency: u64,
    /// Value for the control register.
    pub control: u64,
    /// Value that the status register then has.
    pub status: u64,
}
layout!(PstateData: 48 { control @ 32, status @ 40 });
