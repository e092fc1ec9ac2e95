//! The invalidation queue (6.5.2): one page of descriptors, written at the tail.

use crate::capability::Capabilities;
use acrn_abi::{Hpa, PAGE_SIZE, Vector};

/// Descriptors in the queue.
pub const ENTRIES: usize = 256;

/// What the unit is to forget, or to say, as two words, the lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Descriptor(pub [u64; 2]);

const _: () = assert!(size_of::<Descriptor>() * ENTRIES == PAGE_SIZE as usize);

impl Descriptor {
    const CONTEXTS: u64 = 1;
    const TRANSLATIONS: u64 = 2;
    const INTERRUPTS: u64 = 4;
    const WAIT: u64 = 5;
    /// Of everything, rather than of a domain or a part of it.
    const GLOBAL: u64 = 1 << 4;
    /// Of interrupts: of one entry, rather than of all.
    const ONE: u64 = 1 << 4;
    const DRAIN_WRITES: u64 = 1 << 6;
    const DRAIN_READS: u64 = 1 << 7;
    const WRITE_STATUS: u64 = 1 << 5;

    /// Forget all context entries.
    pub const fn all_contexts() -> Self {
        Self([Self::CONTEXTS | Self::GLOBAL, 0])
    }

    /// Forget all translations, and wait for the accesses under way as far as the unit can.
    pub const fn all_translations(unit: &Capabilities) -> Self {
        let mut low = Self::TRANSLATIONS | Self::GLOBAL;
        if unit.drain_writes {
            low |= Self::DRAIN_WRITES;
        }
        if unit.drain_reads {
            low |= Self::DRAIN_READS;
        }
        Self([low, 0])
    }

    /// Forget all entries of the table of interrupts.
    pub const fn all_interrupts() -> Self {
        Self([Self::INTERRUPTS, 0])
    }

    /// Forget an entry of the table of interrupts.
    pub const fn interrupt(entry: Vector) -> Self {
        Self([Self::INTERRUPTS | Self::ONE | (entry.0 as u64) << 32, 0])
    }

    /// Write a word when everything before is done.
    pub const fn wait(status: Hpa, value: u32) -> Self {
        let low = Self::WAIT | Self::WRITE_STATUS | (value as u64) << 32;
        Self([low, status.0 & !3])
    }
}

/// The tail. Whoever waits for each batch before the next never overtakes the unit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queue {
    tail: usize,
}

impl Queue {
    /// An empty queue whose tail register is 0.
    pub const fn new() -> Self {
        Self { tail: 0 }
    }

    /// Takes the next place: its index among the descriptors.
    pub const fn take(&mut self) -> usize {
        let place = self.tail;
        self.tail = (self.tail + 1) % ENTRIES;
        place
    }

    /// What the tail register has to say.
    pub const fn tail_register(&self) -> u64 {
        (self.tail as u64) << 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_bits_of_the_manual() {
        assert_eq!(Descriptor::all_contexts().0, [0x11, 0]);
        let mut unit = Capabilities::new(0x10, 0, 0);
        assert_eq!(Descriptor::all_translations(&unit).0, [0x12, 0]);
        (unit.drain_reads, unit.drain_writes) = (true, true);
        assert_eq!(Descriptor::all_translations(&unit).0, [0xd2, 0]);
        assert_eq!(Descriptor::all_interrupts().0, [4, 0]);
        let one = Descriptor::interrupt(Vector(0x31));
        assert_eq!(one.0, [0x31_0000_0014, 0]);
        assert_eq!(Descriptor::wait(Hpa(0x1000), 7).0, [0x7_0000_0025, 0x1000]);
    }

    #[test]
    fn the_tail_comes_back_to_the_beginning() {
        let mut queue = Queue::new();
        for place in 0..ENTRIES {
            assert_eq!(queue.tail_register(), place as u64 * 16);
            assert_eq!(queue.take(), place);
        }
        assert_eq!((queue.tail_register(), queue.take()), (0, 0));
    }
}
