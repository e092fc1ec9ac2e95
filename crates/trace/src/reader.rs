//! The tools' end of a ring.

use crate::{RingMemory, word};
use acrn_abi::sbuf::SbufHeader;

/// Takes elements out of a ring that it has described itself.
#[derive(Clone, Debug)]
pub struct Reader {
    element: u32,
    size: u32,
    head: u32,
}

impl Reader {
    /// The end of a ring with this header, which its reader has written.
    ///
    /// # Panics
    /// The ring has no elements.
    pub fn new(header: &SbufHeader) -> Self {
        assert!(header.element_size > 0 && header.size >= header.element_size);
        Self {
            element: header.element_size,
            size: header.size,
            head: header.head,
        }
    }

    /// Takes the oldest element out; `false` when there is none. The buffer has an element's size.
    pub fn take(&mut self, memory: &mut impl RingMemory, element: &mut [u8]) -> bool {
        let tail = memory.load(word::TAIL);
        // A writer that overwrites has moved on.
        let head = memory.load(word::HEAD);
        if head < self.size && head % self.element == 0 {
            self.head = head;
        }
        if tail == self.head || tail >= self.size || tail % self.element != 0 {
            return false;
        }
        memory.read(word::ELEMENTS + self.head, element);
        self.head = (self.head + self.element) % self.size;
        memory.store(word::HEAD, self.head);
        true
    }

    /// Elements that found the ring full, as far as the ring counts them.
    pub fn lost(&self, memory: &impl RingMemory) -> u32 {
        memory.load(word::OVERRUNS)
    }
}
