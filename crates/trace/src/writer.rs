//! The hypervisor's end of a ring.
//!
//! The ring is in memory that the reader may write at any time, so its geometry is judged once, and
//! the place of the next element is kept here and only published there. The one word that is read
//! again is the reader's own place: a wrong one loses elements, and nothing else.

use crate::{RingMemory, word};
use acrn_abi::sbuf::{self, SbufHeader};
use core::fmt;

/// See the module.
#[derive(Clone, Debug)]
pub struct Writer {
    element: u32,
    /// Bytes of all elements.
    size: u32,
    tail: u32,
    /// Where the reader was when that could last be believed.
    head: u32,
    lost: u32,
    counts: bool,
    overwrites: bool,
}

/// Why a header describes no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRing {
    /// Not [`sbuf::MAGIC`].
    Magic(u64),
    /// Elements of another size than this ring's.
    Element {
        /// What the header says.
        found: u32,
        /// What it has to say.
        wanted: u32,
    },
    /// Fewer than two elements, more than [`sbuf::MAX_SIZE`] has room for, or a size that is another.
    Size {
        /// Number of elements.
        count: u32,
        /// Bytes of all elements.
        size: u32,
    },
    /// Something is in it already.
    Used {
        /// The reader's place.
        head: u32,
        /// The writer's place.
        tail: u32,
    },
}

impl fmt::Display for BadRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(magic) => write!(f, "no ring begins with {magic:#x}"),
            Self::Element { found, wanted } => {
                write!(f, "elements of {found} bytes where {wanted} are meant")
            }
            Self::Size { count, size } => {
                write!(f, "a ring cannot have {count} elements in {size} bytes")
            }
            Self::Used { head, tail } => {
                write!(f, "a new ring is empty, this one is at {head} and {tail}")
            }
        }
    }
}

impl core::error::Error for BadRing {}

impl Writer {
    /// Judges the header of a ring whose elements have `element` bytes.
    ///
    /// # Errors
    /// [`BadRing`].
    pub fn new(header: &SbufHeader, element: u32) -> Result<Self, BadRing> {
        if header.magic != sbuf::MAGIC {
            return Err(BadRing::Magic(header.magic));
        }
        if header.element_size != element || element == 0 {
            return Err(BadRing::Element {
                found: header.element_size,
                wanted: element,
            });
        }
        let (count, size) = (header.element_count, header.size);
        let most = sbuf::MAX_SIZE - word::ELEMENTS;
        if count < 2 || size > most || count.checked_mul(element) != Some(size) {
            return Err(BadRing::Size { count, size });
        }
        if (header.head, header.tail) != (0, 0) {
            return Err(BadRing::Used {
                head: header.head,
                tail: header.tail,
            });
        }
        Ok(Self {
            element,
            size,
            tail: 0,
            head: 0,
            lost: 0,
            counts: header.flags & sbuf::FLAG_COUNT_OVERRUNS != 0,
            overwrites: header.flags & sbuf::FLAG_OVERWRITE != 0,
        })
    }

    /// Bytes of the ring with its header.
    pub const fn bytes(&self) -> u32 {
        word::ELEMENTS + self.size
    }

    /// Elements for which there is room.
    pub fn room(&mut self, memory: &impl RingMemory) -> u32 {
        let head = memory.load(word::HEAD);
        if head < self.size && head % self.element == 0 {
            self.head = head;
        }
        let used = (self.size + self.tail - self.head) % self.size;
        (self.size - used) / self.element - 1
    }

    /// Puts an element in; `false` when there was no room for it. Of a longer or shorter one, what
    /// an element has room for.
    pub fn push(&mut self, memory: &mut impl RingMemory, element: &[u8]) -> bool {
        if self.room(memory) == 0 {
            if !self.overwrites {
                self.lose(memory);
                return false;
            }
            self.head = self.behind(self.head);
            memory.store(word::HEAD, self.head);
        }
        let length = element.len().min(self.element as usize);
        memory.write(word::ELEMENTS + self.tail, &element[..length]);
        self.tail = self.behind(self.tail);
        memory.store(word::TAIL, self.tail);
        true
    }

    /// Notes that an element could not be put in.
    pub fn lose(&mut self, memory: &mut impl RingMemory) {
        self.lost = self.lost.wrapping_add(1);
        if self.counts {
            memory.store(word::OVERRUNS, self.lost);
        }
    }

    const fn behind(&self, place: u32) -> u32 {
        (place + self.element) % self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_no_ring_is_refused_with_the_reason() {
        let good = SbufHeader::new(8, 32, 0);
        assert_eq!(Writer::new(&good, 32).unwrap().bytes(), 64 + 8 * 32);
        let refused = |change: fn(&mut SbufHeader)| {
            let mut header = good;
            change(&mut header);
            Writer::new(&header, 32).unwrap_err()
        };
        assert_eq!(refused(|h| h.magic = 1), BadRing::Magic(1));
        let (found, wanted) = (16, 32);
        assert_eq!(
            refused(|h| h.element_size = 16),
            BadRing::Element { found, wanted }
        );
        let size = |count, size| BadRing::Size { count, size };
        assert_eq!(refused(|h| h.size = 0), size(8, 0));
        assert_eq!(refused(|h| h.element_count = 1 << 28), size(1 << 28, 256));
        assert_eq!(
            refused(|h| (h.element_count, h.size) = (1, 32)),
            size(1, 32)
        );
        let most = sbuf::MAX_SIZE / 32;
        assert_eq!(
            Writer::new(&SbufHeader::new(most, 32, 0), 32).unwrap_err(),
            size(most, sbuf::MAX_SIZE)
        );
        let (head, tail) = (0, 32);
        assert_eq!(refused(|h| h.tail = 32), BadRing::Used { head, tail });
    }
}
