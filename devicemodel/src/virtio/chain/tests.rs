//! Chains from honest and dishonest descriptors.

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::{HOLE, RAM_END, guest_ram};

const TABLE: u64 = 0x1000;
const SIZE: u16 = 16;

/// A RAM with these descriptors `(address, len, flags, next)` in its table.
fn table(descriptors: &[(u64, u32, u16, u16)]) -> Chain {
    let mem = guest_ram();
    for (at, (address, len, flags, next)) in (TABLE..).step_by(16).zip(descriptors) {
        mem.write_obj(*address, GuestAddress(at)).unwrap();
        mem.write_obj(*len, GuestAddress(at + 8)).unwrap();
        mem.write_obj(*flags, GuestAddress(at + 12)).unwrap();
        mem.write_obj(*next, GuestAddress(at + 14)).unwrap();
    }
    Chain::new(mem)
}

fn walk(chain: &mut Chain) -> Result<(), RingError> {
    chain.walk(TABLE, SIZE, 0, true)
}

#[test]
fn buffers_are_found_in_order_and_zero_lengths_skipped() {
    let mut chain = table(&[
        (0x8000, 4, 1, 1),
        (0x9000, 0, 1, 2),
        (0xa000, 6, 1, 3),
        (0xb000, 8, 2, 0),
    ]);
    assert_eq!(walk(&mut chain), Ok(()));
    assert_eq!((chain.readable.len(), chain.writable.len()), (10, 8));
    assert_eq!(chain.readable.as_iovecs().len(), 2);
}

#[test]
fn bytes_are_copied_across_pieces() {
    let mut chain = table(&[(0x8000, 3, 3, 1), (0x9000, 5, 2, 0)]);
    walk(&mut chain).unwrap();
    assert_eq!(chain.writable.copy_from(1, b"abcdefghij"), 7);
    let mut found = [0; 6];
    assert_eq!(chain.writable.copy_to(2, &mut found), 6);
    assert_eq!(&found, b"bcdefg");
    assert_eq!(chain.writable.copy_to(8, &mut found), 0);
    let mut at_second = [0; 5];
    chain
        .mem
        .read_slice(&mut at_second, GuestAddress(0x9000))
        .unwrap();
    assert_eq!(&at_second, b"cdefg");
}

#[test]
fn buffers_shrink_at_both_ends() {
    let mut chain = table(&[(0x8000, 4, 1, 1), (0x9000, 4, 1, 2), (0xa000, 4, 0, 0)]);
    walk(&mut chain).unwrap();
    let buffers = &mut chain.readable;
    buffers.skip(5);
    buffers.truncate(4);
    assert_eq!(buffers.len(), 4);
    let lens: Vec<_> = buffers
        .as_iovecs()
        .iter()
        .map(|piece| piece.iov_len)
        .collect();
    assert_eq!(lens, [3, 1]);
    buffers.skip(usize::MAX);
    assert!(buffers.is_empty() && buffers.as_iovecs().is_empty());
    buffers.truncate(0);
}

#[test]
fn the_status_is_the_very_last_byte() {
    let mut chain = table(&[(0x8000, 4, 3, 1), (0x9000, 1, 2, 0)]);
    walk(&mut chain).unwrap();
    assert!(chain.split_status());
    chain.write_status(0x5a);
    assert_eq!(chain.writable.len(), 4);
    assert_eq!(
        chain.mem.read_obj::<u8>(GuestAddress(0x9000)).unwrap(),
        0x5a
    );
}

#[test]
fn each_lie_has_its_error() {
    let cases = [
        (
            (HOLE - 4, 8, 0, 0),
            RingError::Address {
                address: HOLE - 4,
                len: 8,
            },
        ),
        (
            (RAM_END, 1, 2, 0),
            RingError::Address {
                address: RAM_END,
                len: 1,
            },
        ),
        (
            (u64::MAX, 8, 0, 0),
            RingError::Address {
                address: u64::MAX,
                len: 8,
            },
        ),
        (
            (0x8000, u32::MAX, 0, 0),
            RingError::Address {
                address: 0x8000,
                len: u32::MAX,
            },
        ),
        ((0x8000, 4, 1, SIZE), RingError::Index(SIZE)),
        ((0x8000, 4, 1, 0), RingError::Loop(0)),
        ((0x8000, 8, 4, 0), RingError::Indirect(8)),
        ((0x8000, 0, 4, 0), RingError::Indirect(0)),
        ((0x8000, 16, 5, 0), RingError::Indirect(16)),
        ((0x8000, 16 * 1025, 4, 0), RingError::Indirect(16 * 1025)),
    ];
    for (descriptor, error) in cases {
        let mut chain = table(&[descriptor]);
        assert_eq!(walk(&mut chain), Err(error));
        assert!(chain.readable.is_empty() && chain.writable.is_empty());
    }
}

#[test]
fn indirect_tables_need_the_feature() {
    let mut chain = table(&[(TABLE + 16, 16, 4, 0), (0x8000, 4, 0, 0)]);
    assert_eq!(walk(&mut chain), Ok(()));
    assert_eq!(
        chain.walk(TABLE, SIZE, 0, false),
        Err(RingError::Indirect(16))
    );
}

proptest! {
    #[test]
    fn no_table_of_descriptors_does_harm(
        noise in prop::collection::vec(
            (
                prop_oneof![0u64..RAM_END, any::<u64>(), Just(TABLE)],
                prop_oneof![0u32..0x3000, any::<u32>(), (0u32..40).prop_map(|n| n * 16)],
                prop_oneof![0u16..8, any::<u16>()],
                prop_oneof![0u16..SIZE, any::<u16>()],
            ),
            SIZE as usize,
        ),
        head in 0u16..SIZE + 2,
        at in prop_oneof![Just(TABLE), any::<u64>()],
    ) {
        let mut chain = table(&noise);
        if chain.walk(at, SIZE, head, true).is_ok() {
            prop_assert!(chain.readable.as_iovecs().len() <= MAX_SEGMENTS);
            chain.readable.copy_to(3, &mut [0; 100]);
            chain.split_status();
            chain.write_status(1);
            chain.writable.truncate(1000);
            chain.writable.copy_from(7, &[0; 100]);
            chain.readable.skip(16);
        }
    }
}
