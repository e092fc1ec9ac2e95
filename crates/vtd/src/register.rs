//! Registers of a unit (chapter 11): offsets in its first page, and their bits.

/// VER, 32 bits: the version of the architecture.
pub const VERSION: u64 = 0x00;
/// CAP, 64 bits.
pub const CAPABILITY: u64 = 0x08;
/// ECAP, 64 bits.
pub const EXTENDED: u64 = 0x10;
/// GCMD, 32 bits: what the unit is to do.
pub const COMMAND: u64 = 0x18;
/// GSTS, 32 bits: what it does.
pub const STATUS: u64 = 0x1c;
/// RTADDR, 64 bits: the root table.
pub const ROOT_TABLE: u64 = 0x20;
/// FSTS, 32 bits: what has gone wrong.
pub const FAULT_STATUS: u64 = 0x34;
/// FECTL, 32 bits: bit 31 masks the interrupt at faults.
pub const FAULT_CONTROL: u64 = 0x38;
/// FEDATA, 32 bits: data of the interrupt's message.
pub const FAULT_DATA: u64 = 0x3c;
/// FEADDR, 32 bits: address of the interrupt's message.
pub const FAULT_ADDRESS: u64 = 0x40;
/// FEUADDR, 32 bits: upper half of that address.
pub const FAULT_UPPER_ADDRESS: u64 = 0x44;
/// PMEN, 32 bits: bit 31 forbids all DMA to firmware's protected regions.
pub const PROTECTED_MEMORY: u64 = 0x64;
/// IQT, 64 bits: offset of the first free descriptor.
pub const QUEUE_TAIL: u64 = 0x88;
/// IQA, 64 bits: where the queue is; bits 2:0 are the logarithm of its pages.
pub const QUEUE_ADDRESS: u64 = 0x90;
/// IRTA, 64 bits: the table of interrupts.
pub const INTERRUPT_TABLE: u64 = 0xb8;

/// Bits of [`COMMAND`]; the one of the same place in [`STATUS`] says that it is done.
pub mod command {
    /// TE: DMA is translated.
    pub const TRANSLATE: u32 = 1 << 31;
    /// SRTP: the root table is taken over. Not sticky.
    pub const SET_ROOT: u32 = 1 << 30;
    /// WBF: the write buffer is flushed; its status bit falls when that is done. Not sticky.
    pub const FLUSH_WRITES: u32 = 1 << 27;
    /// QIE: invalidations come by the queue.
    pub const QUEUE: u32 = 1 << 26;
    /// IRE: interrupts are remapped.
    pub const REMAP_INTERRUPTS: u32 = 1 << 25;
    /// SIRTP: the table of interrupts is taken over. Not sticky.
    pub const SET_INTERRUPT_TABLE: u32 = 1 << 24;
    /// CFI: messages that name no entry pass nevertheless.
    pub const PASS_COMPATIBLE: u32 = 1 << 23;
    /// The bits of [`STATUS`](super::STATUS) that a write of the command register repeats, lest it turn
    /// off what is on (11.4.4).
    pub const STICKY: u32 = 0x96ff_ffff;
}

/// Bits of [`FAULT_STATUS`].
pub mod fault_status {
    /// PFO: faults were lost for want of a free record. Written 1, it falls.
    pub const OVERFLOW: u32 = 1 << 0;
    /// PPF: some record holds a fault.
    pub const PENDING: u32 = 1 << 1;
}

/// Masks the interrupt in [`FAULT_CONTROL`].
pub const FAULT_MASK: u32 = 1 << 31;
/// Protects in [`PROTECTED_MEMORY`].
pub const PROTECT: u32 = 1 << 31;
