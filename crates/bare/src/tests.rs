//! Each function against what Rust says of the same bytes.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn ranges_are_moved_whole_however_they_overlap(
        bytes in proptest::collection::vec(any::<u8>(), 1..200),
        to: prop::sample::Index,
        from: prop::sample::Index,
        length: prop::sample::Index,
    ) {
        let (to, from) = (to.index(bytes.len()), from.index(bytes.len()));
        let length = length.index(bytes.len() - to.max(from) + 1);
        let mut expected = bytes.clone();
        expected.copy_within(from..from + length, to);
        let mut moved = bytes;
        let base = moved.as_mut_ptr();
        // SAFETY: both ranges are within the vector.
        let result = unsafe { memmove(base.add(to), base.add(from), length) };
        prop_assert_eq!(result, base.wrapping_add(to));
        prop_assert_eq!(moved, expected);
    }

    #[test]
    fn a_copy_and_a_fill_touch_their_range_only(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        around in 0..20usize,
        value: u8,
    ) {
        let length = bytes.len();
        let mut room = vec![0x5a; length + 2 * around];
        // SAFETY: the room has that many bytes behind its first part.
        unsafe { memcpy(room.as_mut_ptr().add(around), bytes.as_ptr(), length) };
        prop_assert_eq!(&room[around..around + length], &bytes[..]);
        // SAFETY: as before. Only the lowest byte of the value counts.
        unsafe { memset(room.as_mut_ptr().add(around), i32::from(value) | 0x700, length) };
        prop_assert!(room[around..around + length].iter().all(|byte| *byte == value));
        let outside = room[..around].iter().chain(&room[around + length..]);
        prop_assert!(outside.copied().all(|byte| byte == 0x5a));
    }

    #[test]
    fn comparisons_have_the_order_of_bytes(
        a in proptest::collection::vec(0..3u8, 0..6),
        b in proptest::collection::vec(0..3u8, 0..6),
    ) {
        let length = a.len().min(b.len());
        // SAFETY: both have that many bytes.
        let (order, same) = unsafe {
            (memcmp(a.as_ptr(), b.as_ptr(), length), bcmp(a.as_ptr(), b.as_ptr(), length))
        };
        prop_assert_eq!(order.cmp(&0), a[..length].cmp(&b[..length]));
        prop_assert_eq!(same == 0, a[..length] == b[..length]);
    }
}

#[test]
fn a_text_ends_before_its_nul() {
    for text in [c"", c"a", c"four", c"twelve bytes"] {
        // SAFETY: the text ends with a NUL byte.
        let length = unsafe { strlen(text.as_ptr().cast()) };
        assert_eq!(length, text.to_bytes().len());
    }
}
