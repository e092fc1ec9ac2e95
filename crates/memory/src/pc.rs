//! Memory of a PC that is made of host ranges: RAM below 2 GiB, the rest above 4 GiB, and the holes
//! that [`guest_map`] names.

use acrn_abi::{Gpa, Hpa, guest_map};

use crate::map::{MemoryKind, MemoryMap};

/// Where firmware tables are, and room for them. Systems that are not told look here.
pub const TABLES: Gpa = Gpa(0xe_0000);
/// Size of that place.
pub const TABLES_SIZE: u64 = 0x2_0000;

/// A guest's map of a PC, with room for what a loader takes out of it.
pub type PcMap = MemoryMap<Gpa, 16>;

/// A piece of host memory and where the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First guest address.
    pub gpa: Gpa,
    /// First host address.
    pub hpa: Hpa,
    /// Bytes.
    pub size: u64,
}

/// The host ranges that a guest sees, in its order. Addresses run on from one range to the next; what
/// lies behind the video memory's hole of the guest is left out.
pub fn pieces(ranges: impl IntoIterator<Item = (Hpa, u64)>) -> impl Iterator<Item = Piece> {
    let mut offset = 0u64;
    ranges.into_iter().flat_map(move |(hpa, size)| {
        let start = offset;
        offset = offset.saturating_add(size);
        SEEN.into_iter().filter_map(move |(from, to, gpa)| {
            let first = from.max(start);
            let end = to.min(start.saturating_add(size));
            (first < end).then(|| Piece {
                gpa: Gpa(gpa + (first - from)),
                hpa: Hpa(hpa.0 + (first - start)),
                size: end - first,
            })
        })
    })
}

/// Parts of the ranges, counted from the start of the first one, and where the guest has them.
const SEEN: [(u64, u64, u64); 3] = [
    (0, guest_map::LOW_RAM_END.0, 0),
    (TABLES.0, guest_map::LOW_MEMORY_LIMIT.0, TABLES.0),
    (
        guest_map::LOW_MEMORY_LIMIT.0,
        u64::MAX,
        guest_map::HIGH_RAM_BASE.0,
    ),
];

/// What a guest with `size` bytes is told of its memory.
pub fn map(size: u64) -> PcMap {
    let mut map = PcMap::new();
    let mut set = |start: u64, end: u64, kind| {
        if start < end {
            // A few ranges that do not touch each other always fit.
            let _ = map.set(Gpa(start), end - start, kind);
        }
    };
    let low = size.min(guest_map::LOW_MEMORY_LIMIT.0);
    set(0, low.min(guest_map::LOW_RAM_END.0), MemoryKind::Usable);
    set(TABLES.0, TABLES.0 + TABLES_SIZE, MemoryKind::Acpi);
    set(guest_map::EXTENDED_RAM_BASE.0, low, MemoryKind::Usable);
    let ecam = guest_map::PCI_ECAM;
    set(ecam.start, ecam.end, MemoryKind::Reserved);
    let high = guest_map::HIGH_RAM_BASE.0;
    let above = size - low;
    set(high, high.saturating_add(above), MemoryKind::Usable);
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn seen(ranges: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
        let ranges = ranges.iter().map(|(start, size)| (Hpa(*start), *size));
        pieces(ranges).map(|p| (p.gpa.0, p.hpa.0, p.size)).collect()
    }

    #[test]
    fn a_range_is_seen_but_for_the_video_memory() {
        assert_eq!(
            seen(&[(4 * GIB, 64 * MIB)]),
            [
                (0, 4 * GIB, 0xa_0000),
                (0xe_0000, 4 * GIB + 0xe_0000, 64 * MIB - 0xe_0000),
            ]
        );
    }

    #[test]
    fn what_is_beyond_2_gib_continues_at_4_gib_whatever_range_it_is_of() {
        let ranges = [(4 * GIB, GIB), (8 * GIB, 2 * GIB), (16 * GIB, 2 * MIB)];
        assert_eq!(
            seen(&ranges)[2..],
            [
                (GIB, 8 * GIB, GIB),
                (4 * GIB, 9 * GIB, GIB),
                (5 * GIB, 16 * GIB, 2 * MIB),
            ]
        );
    }

    proptest! {
        #[test]
        fn all_that_the_map_calls_memory_is_there_and_nothing_twice(
            sizes in proptest::collection::vec(1u64..3000, 1..6),
        ) {
            let mut at = 4 * GIB;
            let ranges: Vec<_> = sizes.iter().map(|mib| {
                let range = (at, mib * MIB);
                at += (mib + 7) * MIB;
                range
            }).collect();
            let total: u64 = ranges.iter().map(|range| range.1).sum();
            let pieces = seen(&ranges);
            for pair in pieces.windows(2) {
                prop_assert!(pair[0].0 + pair[0].2 <= pair[1].0);
                prop_assert!(pair[0].1 + pair[0].2 <= pair[1].1);
            }
            let map = map(total);
            let is_memory = |kind| matches!(kind, MemoryKind::Usable | MemoryKind::Acpi);
            for block in map.iter().filter(|block| is_memory(block.kind)) {
                let mut at = block.start.0;
                for piece in &pieces {
                    if piece.0 <= at {
                        at = at.max(piece.0 + piece.2);
                    }
                }
                prop_assert!(at >= block.end.0, "{block:x?} in {pieces:x?}");
            }
        }
    }
}
