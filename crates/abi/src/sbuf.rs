//! Shared rings: a header and fixed-size elements in memory of the Service VM.
//!
//! The hypervisor writes, a program in the Service VM reads. The ring holds one element less than
//! it has room for. The header is writable by the Service VM at any time, so the hypervisor keeps
//! its own copy of the geometry and of its index and only publishes them here.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `magic` of a ring that was set up.
pub const MAGIC: u64 = 0x5aa5_7aa7_1aa1_3aa3;
/// Count elements that found the ring full.
pub const FLAG_COUNT_OVERRUNS: u32 = 1;
/// A full ring drops its oldest element, not the newest.
pub const FLAG_OVERWRITE: u32 = 2;
/// Largest ring, header included, in bytes.
pub const MAX_SIZE: u32 = 4 << 20;

/// Bytes of an element of a log ring.
pub const LOG_ELEMENT: usize = 80;

/// Ring ids of [`SbufParam`](crate::hypercall::SbufParam).
pub mod id {
    /// Trace entries, one ring per CPU.
    pub const TRACE: u32 = 0;
    /// Log lines, one ring per CPU.
    pub const LOG: u32 = 1;
    /// Samples of the profiler, one ring per CPU.
    pub const SEP: u32 = 2;
    /// Events of the power profiler, one ring per CPU.
    pub const SOCWATCH: u32 = 3;
    /// Asynchronous I/O notifications, one ring per VM.
    pub const ASYNCIO: u32 = 64;
    /// Events of a VM, one ring per VM.
    pub const VM_EVENT: u32 = 65;
}

/// Head of a ring; the elements follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SbufHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// Number of elements there is room for.
    pub element_count: u32,
    /// Bytes of one element.
    pub element_size: u32,
    /// Byte offset, within the elements, of the next one to read.
    pub head: u32,
    /// Byte offset of the next one to write; equal to `head` when empty.
    pub tail: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Not used.
    pub reserved: u32,
    /// Elements lost.
    pub overrun_count: u32,
    /// Bytes of all elements.
    pub size: u32,
    /// Fills the cache line.
    pub padding: [u32; 6],
}
layout!(SbufHeader: 64 { element_count @ 8, element_size @ 12, head @ 16, tail @ 20, flags @ 24,
    overrun_count @ 32, size @ 36 });

impl SbufHeader {
    /// The header of an empty ring of `element_count` elements.
    pub const fn new(element_count: u32, element_size: u32, flags: u32) -> Self {
        Self {
            magic: MAGIC,
            element_count,
            element_size,
            head: 0,
            tail: 0,
            flags,
            reserved: 0,
            overrun_count: 0,
            size: element_count.saturating_mul(element_size),
            padding: [0; 6],
        }
    }
}

/// Numbers of trace events. Those of ACRN's that we have are ACRN's.
pub mod event {
    /// A guest was left.
    pub const VM_EXIT: u64 = 0x10;
    /// A guest is entered.
    pub const VM_ENTER: u64 = 0x11;
    /// It is a vCPU's turn.
    pub const SCHED_NEXT: u64 = 0x20;
    /// An interrupt was made pending.
    pub const INTERRUPT: u64 = 0x30;
    /// Entries were lost; in files only.
    pub const LOST: u64 = 0x40;
}

/// One element of a trace ring.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceEntry {
    /// Host TSC.
    pub tsc: u64,
    /// Event in bits 0..48, number of payload words in 48..56, CPU in 56..64.
    pub id: u64,
    /// Meaning depends on the event.
    pub payload: [u64; 2],
}
layout!(TraceEntry: 32 { id @ 8, payload @ 16 });

impl TraceEntry {
    /// Packs the second word.
    pub const fn pack_id(event: u64, words: u8, cpu: u8) -> u64 {
        (event & 0xFFFF_FFFF_FFFF) | (words as u64) << 48 | (cpu as u64) << 56
    }

    /// The event.
    pub const fn event(&self) -> u64 {
        self.id & 0xFFFF_FFFF_FFFF
    }

    /// The CPU.
    pub const fn cpu(&self) -> u8 {
        (self.id >> 56) as u8
    }
}

/// One element of a VM's event ring.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VmEvent {
    /// `VmEvent::RTC_CHANGE` and so on.
    pub kind: u32,
    /// Meaning depends on the kind.
    pub data: [u8; 28],
}
layout!(VmEvent: 32 { data @ 4 });

impl VmEvent {
    /// The guest set its clock; data are two `i64`: the old time and the difference, in seconds.
    pub const RTC_CHANGE: u32 = 0;
    /// The guest switched itself off.
    pub const POWER_OFF: u32 = 1;
    /// The guest triple-faulted.
    pub const TRIPLE_FAULT: u32 = 2;
}
