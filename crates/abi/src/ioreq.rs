//! The request page: how an I/O access of a User VM reaches the Device Model.
//!
//! One page per VM with 16 slots of 256 bytes, slot number = vCPU number. A slot's `processed`
//! goes round: the hypervisor fills a free slot and stores *pending* last; the Service VM's kernel
//! makes it *processing* and either answers itself or leaves it to the Device Model; whoever
//! answers stores *complete* last and notifies; the hypervisor takes the result and stores *free*.
//! A slot belongs to the hypervisor while it is complete or free, else to the Service VM. As
//! *pending* is zero, a page of zeros would be 16 requests: the hypervisor frees all slots first.
//!
//! The page is shared memory that may change at any time. Copy a slot out, then judge the copy.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots in a page, and so the number of vCPUs that can do emulated I/O.
pub const SLOTS: usize = 16;
/// Bytes of a slot.
pub const SLOT_SIZE: usize = 256;
/// Offset of the request within a slot.
pub const OFFSET_PAYLOAD: usize = 64;
/// Offset of `kernel_handled` within a slot.
pub const OFFSET_KERNEL_HANDLED: usize = 132;
/// Offset of `processed` within a slot.
pub const OFFSET_PROCESSED: usize = 136;

/// State of a slot, its field `processed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct State(pub u32);

impl State {
    /// Filled by the hypervisor, not yet seen.
    pub const PENDING: Self = Self(0);
    /// Answered; the result is in the slot.
    pub const COMPLETE: Self = Self(1);
    /// Somebody in the Service VM works on it.
    pub const PROCESSING: Self = Self(2);
    /// Unused.
    pub const FREE: Self = Self(3);
}

/// Kind of a request, its field `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Kind(pub u32);

impl Kind {
    /// I/O port; payload is a [`PioRequest`].
    pub const PORT_IO: Self = Self(0);
    /// Memory; payload is an [`MmioRequest`].
    pub const MMIO: Self = Self(1);
    /// PCI configuration space, made by the Service VM's kernel from accesses to 0xCF8 and 0xCFC;
    /// payload is a [`PciRequest`].
    pub const PCI_CONFIG: Self = Self(2);
    /// Write to a write-protected page; payload is an [`MmioRequest`].
    pub const WRITE_PROTECT: Self = Self(3);
}

/// `direction` of a request: the guest reads.
pub const DIRECTION_READ: u32 = 0;
/// `direction` of a request: the guest writes.
pub const DIRECTION_WRITE: u32 = 1;

/// Memory access of a guest.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct MmioRequest {
    /// [`DIRECTION_READ`] or [`DIRECTION_WRITE`].
    pub direction: u32,
    /// Zero.
    pub reserved: u32,
    /// Guest-physical address.
    pub address: u64,
    /// 1, 2, 4 or 8 bytes.
    pub size: u64,
    /// Value written, or result of the read.
    pub value: u64,
}
layout!(MmioRequest: 32 { address @ 8, size @ 16, value @ 24 });

/// Port access of a guest.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PioRequest {
    /// [`DIRECTION_READ`] or [`DIRECTION_WRITE`].
    pub direction: u32,
    /// Zero.
    pub reserved: u32,
    /// Port number.
    pub address: u64,
    /// 1, 2 or 4 bytes.
    pub size: u64,
    /// Value written, or result of the read.
    pub value: u32,
    /// Zero.
    pub padding: u32,
}
layout!(PioRequest: 32 { address @ 8, size @ 16, value @ 24 });

/// PCI configuration access of a guest. Direction, size and value are where a port access has
/// them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PciRequest {
    /// [`DIRECTION_READ`] or [`DIRECTION_WRITE`].
    pub direction: u32,
    /// Zero.
    pub reserved: [u32; 3],
    /// 1, 2 or 4 bytes.
    pub size: u64,
    /// Value written, or result of the read.
    pub value: u32,
    /// Bus number.
    pub bus: u32,
    /// Device number.
    pub device: u32,
    /// Function number.
    pub function: u32,
    /// Offset in configuration space.
    pub register: u32,
    /// Zero.
    pub padding: u32,
}
layout!(PciRequest: 48 { size @ 16, value @ 24, bus @ 28, device @ 32, function @ 36, register @ 40 });

/// One slot of the page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(256))]
pub struct IoRequest {
    /// A [`Kind`].
    pub kind: u32,
    /// Not zero: the vCPU polls `processed`, so no notification is wanted.
    pub completion_polling: u32,
    /// Zero.
    pub reserved0: [u32; 14],
    /// The request; see [`mmio`](Self::mmio), [`pio`](Self::pio) and [`pci`](Self::pci).
    pub payload: [u64; 8],
    /// Zero.
    pub reserved1: u32,
    /// Not zero: a client in the Service VM's kernel has it, the Device Model leaves it alone.
    pub kernel_handled: u32,
    /// A [`State`].
    pub processed: u32,
    /// Zero.
    pub padding: [u32; 29],
}
layout!(IoRequest: 256 { completion_polling @ 4, payload @ 64, reserved1 @ 128,
    kernel_handled @ 132, processed @ 136 });

const fn low(word: u64) -> u32 {
    word as u32
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

const fn word(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl IoRequest {
    /// A slot that nobody uses.
    pub const FREE: Self = Self {
        kind: 0,
        completion_polling: 0,
        reserved0: [0; 14],
        payload: [0; 8],
        reserved1: 0,
        kernel_handled: 0,
        processed: State::FREE.0,
        padding: [0; 29],
    };

    /// The payload as a memory access.
    pub const fn mmio(&self) -> MmioRequest {
        let p = &self.payload;
        MmioRequest {
            direction: low(p[0]),
            reserved: high(p[0]),
            address: p[1],
            size: p[2],
            value: p[3],
        }
    }

    /// The payload as a port access.
    pub const fn pio(&self) -> PioRequest {
        let p = &self.payload;
        PioRequest {
            direction: low(p[0]),
            reserved: high(p[0]),
            address: p[1],
            size: p[2],
            value: low(p[3]),
            padding: high(p[3]),
        }
    }

    /// The payload as a PCI configuration access.
    pub const fn pci(&self) -> PciRequest {
        let p = &self.payload;
        PciRequest {
            direction: low(p[0]),
            reserved: [high(p[0]), low(p[1]), high(p[1])],
            size: p[2],
            value: low(p[3]),
            bus: high(p[3]),
            device: low(p[4]),
            function: high(p[4]),
            register: low(p[5]),
            padding: high(p[5]),
        }
    }

    /// Stores a memory access; the rest of the slot is left alone.
    pub const fn set_mmio(&mut self, request: &MmioRequest) {
        self.kind = Kind::MMIO.0;
        self.payload[0] = word(request.direction, request.reserved);
        self.payload[1] = request.address;
        self.payload[2] = request.size;
        self.payload[3] = request.value;
    }

    /// Stores a port access; the rest of the slot is left alone.
    pub const fn set_pio(&mut self, request: &PioRequest) {
        self.kind = Kind::PORT_IO.0;
        self.payload[0] = word(request.direction, request.reserved);
        self.payload[1] = request.address;
        self.payload[2] = request.size;
        self.payload[3] = word(request.value, request.padding);
    }
}

impl Default for IoRequest {
    fn default() -> Self {
        Self::FREE
    }
}

/// The whole page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct IoRequestBuffer {
    /// One slot per vCPU.
    pub slots: [IoRequest; SLOTS],
}
layout!(IoRequestBuffer: 4096 { slots @ 0 });

const _: () = {
    assert!(core::mem::offset_of!(IoRequest, payload) == OFFSET_PAYLOAD);
    assert!(core::mem::offset_of!(IoRequest, kernel_handled) == OFFSET_KERNEL_HANDLED);
    assert!(core::mem::offset_of!(IoRequest, processed) == OFFSET_PROCESSED);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_views_agree_with_the_layout_of_the_bytes() {
        let words: [u64; 8] = core::array::from_fn(|i| 0x0807_0605_0403_0201 * (i as u64 + 1));
        let slot = IoRequest {
            payload: words,
            ..IoRequest::FREE
        };
        let bytes = words.as_bytes();
        assert_eq!(slot.mmio(), MmioRequest::read_from_prefix(bytes).unwrap().0);
        assert_eq!(slot.pio(), PioRequest::read_from_prefix(bytes).unwrap().0);
        assert_eq!(slot.pci(), PciRequest::read_from_prefix(bytes).unwrap().0);
    }

    #[test]
    fn what_is_stored_is_what_is_read_back() {
        let mut slot = IoRequest::FREE;
        let mmio = MmioRequest {
            direction: 1,
            reserved: 0,
            address: 7,
            size: 8,
            value: u64::MAX,
        };
        slot.set_mmio(&mmio);
        assert_eq!((slot.mmio(), slot.kind), (mmio, Kind::MMIO.0));
        let pio = PioRequest {
            address: 0x3F8,
            size: 1,
            value: 0x41,
            ..Default::default()
        };
        slot.set_pio(&pio);
        assert_eq!((slot.pio(), slot.kind), (pio, Kind::PORT_IO.0));
        assert_eq!(slot.processed, State::FREE.0);
    }
}
