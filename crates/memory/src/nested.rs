//! Second-stage page tables: from guest physical to host physical addresses.
//!
//! One walker serves both vendors; a [`Format`] says how an entry is spelled. The tables have four
//! levels, 512 entries each; level 1 holds 4 KiB pages, level 2 may hold 2 MiB pages, level 3
//! 1 GiB pages. Table frames come from a [`FrameStore`].
//!
//! A change is done in two passes: the first counts the table frames that the change will need and
//! reserves them, the second cannot fail. So running out of frames leaves the table as it was.
//! Large pages are split under a running guest without a moment in which they are missing (the
//! new table is filled before it is linked), but stale translations stay in TLBs and
//! paging-structure caches: the caller flushes after `unmap`, `protect` and any `map` over
//! something mapped, and a store must not hand out a freed frame before that flush.

mod format;
mod table;
#[cfg(test)]
mod tests;

pub use format::{Access, Ept, Format, MemType, Npt};
pub use table::{Limits, MapError, Mapping, NestedTable};

use acrn_abi::Hpa;

/// Where table frames come from, and the way to read and write them.
pub trait FrameStore {
    /// A zeroed 4 KiB frame; `None` when there is none left.
    fn alloc(&mut self) -> Option<Hpa>;
    /// Takes back a frame that [`FrameStore::alloc`] gave. See the module about when it may be
    /// given out again.
    fn free(&mut self, table: Hpa);
    /// Entry `index` (0..512) of a frame that [`FrameStore::alloc`] gave.
    fn read(&self, table: Hpa, index: usize) -> u64;
    /// Sets entry `index` (0..512) of a frame that [`FrameStore::alloc`] gave, in one store.
    fn write(&mut self, table: Hpa, index: usize, value: u64);
}
