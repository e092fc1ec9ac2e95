//! What the hypervisor tells programs in the Service VM while it runs: trace entries and log lines,
//! through rings in memory of the Service VM.
//!
//! * [`writer`]: the hypervisor's end of a ring, which believes nothing that the other end can change;
//! * [`reader`]: the tools' end;
//! * [`event`]: what a trace entry means;
//! * [`mod@line`]: log lines as elements of a ring.
//!
//! The layouts are [`acrn_abi::sbuf`]. Nothing here touches memory by itself: a ring is reached
//! through [`RingMemory`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod event;
pub mod line;
pub mod reader;
pub mod writer;

pub use event::{Event, REASONS, Record, Who};
pub use reader::Reader;
pub use writer::{BadRing, Writer};

/// The memory of a ring, header included. Offsets are in bytes from the header and below the size
/// that was agreed on; 32-bit words are aligned and read and written in one access.
pub trait RingMemory {
    /// Reads a word.
    fn load(&self, offset: u32) -> u32;
    /// Writes a word, after everything that was written before.
    fn store(&mut self, offset: u32, value: u32);
    /// Copies bytes out, from the beginning of a word.
    fn read(&self, offset: u32, bytes: &mut [u8]) {
        for (at, piece) in (offset..).step_by(4).zip(bytes.chunks_mut(4)) {
            piece.copy_from_slice(&self.load(at).to_le_bytes()[..piece.len()]);
        }
    }
    /// Copies bytes in, to the beginning of a word. What is left of the last word becomes zero.
    fn write(&mut self, offset: u32, bytes: &[u8]) {
        for (at, piece) in (offset..).step_by(4).zip(bytes.chunks(4)) {
            let mut word = [0; 4];
            word[..piece.len()].copy_from_slice(piece);
            self.store(at, u32::from_le_bytes(word));
        }
    }
}

/// Offsets of the words of [`SbufHeader`](acrn_abi::sbuf::SbufHeader) that change.
mod word {
    use acrn_abi::sbuf::SbufHeader;
    use core::mem::offset_of;

    pub const HEAD: u32 = offset_of!(SbufHeader, head) as u32;
    pub const TAIL: u32 = offset_of!(SbufHeader, tail) as u32;
    pub const OVERRUNS: u32 = offset_of!(SbufHeader, overrun_count) as u32;
    pub const ELEMENTS: u32 = size_of::<SbufHeader>() as u32;
}

#[cfg(test)]
mod tests {
    use super::*;
    use acrn_abi::sbuf::{self, SbufHeader};
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    /// A ring in a vector.
    pub struct Block(pub Vec<u8>);

    impl RingMemory for Block {
        fn load(&self, offset: u32) -> u32 {
            let at = offset as usize;
            u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
        }
        fn store(&mut self, offset: u32, value: u32) {
            let at = offset as usize;
            self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Both ends of a ring of `count` elements of four bytes.
    pub fn ring(count: u32, flags: u32) -> (Block, Writer, Reader) {
        let header = SbufHeader::new(count, 4, flags);
        let mut block = vec![0; 64 + 4 * count as usize];
        block[..64].copy_from_slice(header.as_bytes());
        let writer = Writer::new(&header, 4).unwrap();
        (Block(block), writer, Reader::new(&header))
    }

    fn take(reader: &mut Reader, memory: &mut Block) -> Option<u32> {
        let mut bytes = [0; 4];
        reader
            .take(memory, &mut bytes)
            .then(|| u32::from_le_bytes(bytes))
    }

    #[test]
    fn elements_come_out_as_they_went_in() {
        let (mut memory, mut writer, mut reader) = ring(4, 0);
        for value in 0..100u32 {
            assert!(writer.push(&mut memory, &value.to_le_bytes()));
            assert!(writer.push(&mut memory, &(!value).to_le_bytes()));
            assert_eq!(take(&mut reader, &mut memory), Some(value));
            assert_eq!(take(&mut reader, &mut memory), Some(!value));
            assert_eq!(take(&mut reader, &mut memory), None);
        }
    }

    #[test]
    fn a_full_ring_keeps_what_it_has_and_counts_the_rest() {
        let (mut memory, mut writer, mut reader) = ring(4, sbuf::FLAG_COUNT_OVERRUNS);
        let kept = (0..6u32).filter(|n| writer.push(&mut memory, &n.to_le_bytes()));
        assert_eq!(kept.collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(reader.lost(&memory), 3);
        assert_eq!(take(&mut reader, &mut memory), Some(0));
        assert!(writer.push(&mut memory, &[7; 4]));
    }

    #[test]
    fn a_ring_that_overwrites_keeps_the_newest() {
        let (mut memory, mut writer, mut reader) = ring(4, sbuf::FLAG_OVERWRITE);
        for value in 0..6u32 {
            assert!(writer.push(&mut memory, &value.to_le_bytes()));
        }
        let left: Vec<_> = core::iter::from_fn(|| take(&mut reader, &mut memory)).collect();
        assert_eq!(left, [3, 4, 5]);
    }

    #[test]
    fn there_is_room_for_one_element_less_than_the_ring_has() {
        let (mut memory, mut writer, mut reader) = ring(8, 0);
        assert_eq!(writer.room(&memory), 7);
        assert!(writer.push(&mut memory, &[1; 4]));
        assert_eq!(writer.room(&memory), 6);
        assert_eq!(take(&mut reader, &mut memory), Some(0x0101_0101));
        assert_eq!(writer.room(&memory), 7);
    }

    proptest! {
        /// `Block` panics on any access outside of the ring.
        #[test]
        fn no_header_makes_the_writer_leave_the_ring(
            count in 2u32..9,
            flags in 0u32..4,
            steps in proptest::collection::vec((0u32..64, any::<u32>(), 0u32..4), 0..64),
        ) {
            let (mut memory, mut writer, _) = ring(count, flags);
            for (offset, value, pushes) in steps {
                memory.store(offset & !3, value);
                for _ in 0..pushes {
                    writer.push(&mut memory, &[0xA5; 4]);
                }
                prop_assert!(writer.room(&memory) < count);
            }
        }

        #[test]
        fn no_header_makes_the_reader_leave_the_ring(
            count in 2u32..9,
            steps in proptest::collection::vec((0u32..64, any::<u32>()), 0..64),
        ) {
            let (mut memory, _, mut reader) = ring(count, 0);
            for (offset, value) in steps {
                memory.store(offset & !3, value);
                take(&mut reader, &mut memory);
            }
        }
    }
}
