//! Frames that have left a nested table and may not be used anew yet.
//!
//! A processor's walker may hold the address of a table for as long as nobody has told it to
//! forget. If the frame became part of another table meanwhile, a guest could reach through the
//! old address what is mapped in the new one. So whoever unmaps collects the frames here, has the
//! VM's translations flushed, and then drops the collection, which gives them back.

use crate::memory::Frames;
use acrn_abi::Hpa;
use acrn_memory::FrameStore;

/// Frames on their way back, chained through their first words. A chain word is a page address and
/// so has no bit that would make it a present entry.
#[must_use = "dropping it gives the frames back: flush first"]
pub struct Withheld {
    head: Hpa,
}

impl Withheld {
    /// None yet.
    pub const fn new() -> Self {
        Self { head: Hpa(0) }
    }

    /// Whether there is anything to wait for.
    pub const fn is_empty(&self) -> bool {
        self.head.0 == 0
    }
}

impl FrameStore for Withheld {
    fn alloc(&mut self) -> Option<Hpa> {
        Frames.alloc()
    }

    fn free(&mut self, table: Hpa) {
        Frames.write(table, 0, self.head.get());
        self.head = table;
    }

    #[inline]
    fn read(&self, table: Hpa, index: usize) -> u64 {
        Frames.read(table, index)
    }

    #[inline]
    fn write(&mut self, table: Hpa, index: usize, value: u64) {
        Frames.write(table, index, value);
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        while !self.is_empty() {
            let frame = self.head;
            self.head = Hpa(Frames.read(frame, 0));
            Frames.free(frame);
        }
    }
}
