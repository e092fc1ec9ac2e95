//! Sorted lists of address ranges with a kind: the firmware's memory map, a guest's e820.
//!
//! Firmware reports overlap now and then. The list never does: where two reports meet, the more
//! restrictive kind wins, so memory that anybody called reserved is never handed out.

use core::fmt;

use acrn_abi::{Gpa, Hpa};

/// Ranges that a map holds unless its type says otherwise.
pub const MAP_CAPACITY: usize = 128;

/// Kind of a range, ordered from the least to the most restrictive. The numbers of ACPI 6.5,
/// 15.1 (e820) are in [`MemoryKind::from_e820`] and [`MemoryKind::to_e820`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryKind {
    /// Ordinary memory.
    Usable,
    /// ACPI tables, usable after they have been read.
    Acpi,
    /// ACPI memory to keep over sleep.
    Nvs,
    /// Not to be touched.
    Reserved,
    /// Broken memory.
    Unusable,
}

impl MemoryKind {
    /// From an e820 type; unknown types are reserved.
    pub const fn from_e820(number: u32) -> Self {
        match number {
            1 => Self::Usable,
            3 => Self::Acpi,
            4 => Self::Nvs,
            5 => Self::Unusable,
            _ => Self::Reserved,
        }
    }

    /// As an e820 type.
    pub const fn to_e820(self) -> u32 {
        match self {
            Self::Usable => 1,
            Self::Reserved => 2,
            Self::Acpi => 3,
            Self::Nvs => 4,
            Self::Unusable => 5,
        }
    }
}

/// A kind of address that a map can hold.
pub trait Address: Copy + Ord + fmt::Display {
    /// From its number.
    fn from_u64(value: u64) -> Self;
    /// As a number.
    fn to_u64(self) -> u64;
}

impl Address for Hpa {
    fn from_u64(value: u64) -> Self {
        Self(value)
    }
    fn to_u64(self) -> u64 {
        self.0
    }
}

impl Address for Gpa {
    fn from_u64(value: u64) -> Self {
        Self(value)
    }
    fn to_u64(self) -> u64 {
        self.0
    }
}

/// One range of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<A> {
    /// First address.
    pub start: A,
    /// First address after the range.
    pub end: A,
    /// What is there.
    pub kind: MemoryKind,
}

impl<A: Address> Block<A> {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.end.to_u64() - self.start.to_u64()
    }
}

/// Why a map was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapChangeError {
    /// The range is empty or its end overflows.
    BadRange {
        /// First address.
        start: u64,
        /// Bytes.
        size: u64,
    },
    /// The map would have more ranges than it can hold.
    Full {
        /// How many it can hold.
        capacity: usize,
    },
}

impl fmt::Display for MapChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRange { start, size } => {
                write!(f, "{start:#x} + {size:#x} is no range of addresses")
            }
            Self::Full { capacity } => write!(f, "more than {capacity} ranges of memory"),
        }
    }
}

impl core::error::Error for MapChangeError {}

/// From which end [`MemoryMap::find_free`] searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The lowest address that fits.
    Lowest,
    /// The highest address that fits.
    Highest,
}

/// Sorted, non-overlapping ranges; neighbours of one kind are one range.
#[derive(Clone)]
pub struct MemoryMap<A, const N: usize = MAP_CAPACITY> {
    blocks: [Block<A>; N],
    len: usize,
}

/// Memory of the machine.
pub type HostMap = MemoryMap<Hpa>;
/// Memory as a guest is told.
pub type GuestMap = MemoryMap<Gpa>;

impl<A: Address, const N: usize> Default for MemoryMap<A, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Address + fmt::Debug, const N: usize> fmt::Debug for MemoryMap<A, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<A: Address, const N: usize> MemoryMap<A, N> {
    /// An empty map.
    pub fn new() -> Self {
        let zero = A::from_u64(0);
        let blocks = [Block {
            start: zero,
            end: zero,
            kind: MemoryKind::Reserved,
        }; N];
        Self { blocks, len: 0 }
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Block<A>> + '_ {
        self.as_slice().iter().copied()
    }

    /// The ranges in ascending order, as a slice.
    pub fn as_slice(&self) -> &[Block<A>] {
        &self.blocks[..self.len]
    }

    /// Adds a range; where it overlaps others the more restrictive kind wins.
    ///
    /// # Errors
    /// See [`MapChangeError`]; the map is unchanged then.
    pub fn insert(&mut self, start: A, size: u64, kind: MemoryKind) -> Result<(), MapChangeError> {
        self.paint(start, size, |old| {
            Some(old.map_or(kind, |old| old.max(kind)))
        })
    }

    /// Sets the kind of whatever the map holds in the range, or with `None` takes it out. Holes
    /// stay holes.
    ///
    /// # Errors
    /// See [`MapChangeError`]; the map is unchanged then.
    pub fn carve(
        &mut self,
        start: A,
        size: u64,
        kind: Option<MemoryKind>,
    ) -> Result<(), MapChangeError> {
        self.paint(start, size, |old| old.and(kind))
    }

    /// Sets the kind of the whole range, holes included.
    ///
    /// # Errors
    /// See [`MapChangeError`]; the map is unchanged then.
    pub fn set(&mut self, start: A, size: u64, kind: MemoryKind) -> Result<(), MapChangeError> {
        self.paint(start, size, |_| Some(kind))
    }

    /// The kind at an address; `None` in a hole.
    pub fn kind_at(&self, at: A) -> Option<MemoryKind> {
        self.iter()
            .find(|block| block.start <= at && at < block.end)
            .map(|block| block.kind)
    }

    /// The first address after the last range of this kind; 0 when there is none.
    pub fn top(&self, kind: MemoryKind) -> A {
        self.iter()
            .rfind(|block| block.kind == kind)
            .map_or(A::from_u64(0), |block| block.end)
    }

    /// Bytes of this kind.
    pub fn total(&self, kind: MemoryKind) -> u64 {
        self.iter()
            .filter(|block| block.kind == kind)
            .map(|block| block.size())
            .sum()
    }

    /// A usable place for `size` bytes, aligned to `align` (a power of two), all of it within
    /// `min..max`. The map is not changed: carve the result out to keep it.
    pub fn find_free(&self, size: u64, align: u64, min: A, max: A, side: Side) -> Option<A> {
        if size == 0 || !align.is_power_of_two() {
            return None;
        }
        let fit = |block: Block<A>| {
            if block.kind != MemoryKind::Usable {
                return None;
            }
            let (start, end) = (block.start.max(min).to_u64(), block.end.min(max).to_u64());
            let last = end.checked_sub(size)? & !(align - 1);
            let first = start.checked_add(align - 1)? & !(align - 1);
            let place = if side == Side::Lowest { first } else { last };
            (first <= last).then(|| A::from_u64(place))
        };
        match side {
            Side::Lowest => self.iter().find_map(fit),
            Side::Highest => self.iter().rev().find_map(fit),
        }
    }

    /// Rewrites the kinds within a range; `new` gets the old kind, `None` for a hole.
    fn paint(
        &mut self,
        start: A,
        size: u64,
        new: impl Fn(Option<MemoryKind>) -> Option<MemoryKind>,
    ) -> Result<(), MapChangeError> {
        let from = start.to_u64();
        let to = match from.checked_add(size) {
            Some(end) if size > 0 => end,
            _ => return Err(MapChangeError::BadRange { start: from, size }),
        };
        let mut out = Self::new();
        let mut done = from;
        for block in self.iter() {
            let (first, last) = (block.start.to_u64(), block.end.to_u64());
            out.push(first, last.min(from), Some(block.kind))?;
            let (inner, outer) = (first.max(from), last.min(to));
            if inner < outer {
                out.push(done, inner, new(None))?;
                out.push(inner, outer, new(Some(block.kind)))?;
                done = outer;
            }
            if last > to {
                out.push(done, to, new(None))?;
                done = to;
                out.push(first.max(to), last, Some(block.kind))?;
            }
        }
        out.push(done, to, new(None))?;
        *self = out;
        Ok(())
    }

    /// Appends `start..end`, if that is a range and has a kind, and joins it to its neighbour.
    fn push(
        &mut self,
        start: u64,
        end: u64,
        kind: Option<MemoryKind>,
    ) -> Result<(), MapChangeError> {
        let Some(kind) = kind else { return Ok(()) };
        if start >= end {
            return Ok(());
        }
        let (start, end) = (A::from_u64(start), A::from_u64(end));
        if let Some(last) = self.blocks[..self.len].last_mut() {
            if last.end == start && last.kind == kind {
                last.end = end;
                return Ok(());
            }
        }
        let Some(slot) = self.blocks.get_mut(self.len) else {
            return Err(MapChangeError::Full { capacity: N });
        };
        *slot = Block { start, end, kind };
        self.len += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryKind::*;
    use proptest::prelude::*;

    fn blocks(map: &HostMap) -> Vec<(u64, u64, MemoryKind)> {
        map.iter().map(|b| (b.start.0, b.end.0, b.kind)).collect()
    }

    #[test]
    fn overlapping_firmware_entries_become_the_more_restrictive_kind() {
        let mut map = HostMap::new();
        map.insert(Hpa(0), 100, Usable).unwrap();
        map.insert(Hpa(50), 100, Reserved).unwrap();
        map.insert(Hpa(90), 100, Usable).unwrap();
        assert_eq!(
            blocks(&map),
            [(0, 50, Usable), (50, 150, Reserved), (150, 190, Usable)]
        );
    }

    #[test]
    fn carving_retypes_or_removes_and_leaves_holes_alone() {
        let mut map = HostMap::new();
        map.insert(Hpa(0), 100, Usable).unwrap();
        map.insert(Hpa(200), 100, Usable).unwrap();
        map.carve(Hpa(50), 200, Some(Reserved)).unwrap();
        let retyped = [
            (0, 50, Usable),
            (50, 100, Reserved),
            (200, 250, Reserved),
            (250, 300, Usable),
        ];
        assert_eq!(blocks(&map), retyped);
        map.carve(Hpa(90), 200, None).unwrap();
        assert_eq!(
            blocks(&map),
            [(0, 50, Usable), (50, 90, Reserved), (290, 300, Usable)]
        );
    }

    #[test]
    fn a_full_map_refuses_and_stays() {
        let mut map = MemoryMap::<Gpa, 2>::new();
        map.insert(Gpa(0), 100, Usable).unwrap();
        let full = MapChangeError::Full { capacity: 2 };
        assert_eq!(map.carve(Gpa(10), 10, Some(Acpi)), Err(full));
        assert_eq!(map.as_slice().len(), 1);
        let bad = MapChangeError::BadRange {
            start: u64::MAX,
            size: 2,
        };
        assert_eq!(map.insert(Gpa(u64::MAX), 2, Usable), Err(bad));
        assert!(map.insert(Gpa(0), 0, Usable).is_err());
    }

    #[test]
    fn free_memory_is_found_from_either_end() {
        let mut map = HostMap::new();
        map.insert(Hpa(0x1800), 0x5000, Usable).unwrap();
        map.insert(Hpa(0x10000), 0x4000, Usable).unwrap();
        let find = |size, min, max, side| {
            map.find_free(size, 0x1000, Hpa(min), Hpa(max), side)
                .map(|hpa| hpa.0)
        };
        assert_eq!(find(0x1000, 0, u64::MAX, Side::Lowest), Some(0x2000));
        assert_eq!(find(0x1000, 0, u64::MAX, Side::Highest), Some(0x13000));
        assert_eq!(find(0x1000, 0, 0x10000, Side::Highest), Some(0x5000));
        assert_eq!(find(0x4000, 0x3000, u64::MAX, Side::Lowest), Some(0x10000));
        assert_eq!(find(0x8000, 0, u64::MAX, Side::Lowest), None);
    }

    #[test]
    fn unknown_e820_types_are_reserved() {
        assert_eq!(MemoryKind::from_e820(77), Reserved);
        for kind in [Usable, Reserved, Acpi, Nvs, Unusable] {
            assert_eq!(MemoryKind::from_e820(kind.to_e820()), kind);
        }
    }

    proptest! {
        #[test]
        fn the_map_agrees_with_an_array_of_bytes(
            steps in prop::collection::vec((0u8..3, 0u64..60, 1u64..20, 0u32..6), 1..40),
        ) {
            let mut map = HostMap::new();
            let mut model = [None; 80];
            for (what, start, size, number) in steps {
                let kind = MemoryKind::from_e820(number);
                let carved = (number > 0).then_some(kind);
                match what {
                    0 => map.insert(Hpa(start), size, kind),
                    1 => map.carve(Hpa(start), size, carved),
                    _ => map.set(Hpa(start), size, kind),
                }.unwrap();
                for old in &mut model[start as usize..(start + size) as usize] {
                    *old = match what {
                        0 => Some(old.map_or(kind, |old: MemoryKind| old.max(kind))),
                        1 => old.and(carved),
                        _ => Some(kind),
                    };
                }
                for (at, kind) in model.iter().enumerate() {
                    prop_assert_eq!(map.kind_at(Hpa(at as u64)), *kind);
                }
                for pair in map.as_slice().windows(2) {
                    let joined = pair[0].end == pair[1].start && pair[0].kind == pair[1].kind;
                    prop_assert!(pair[0].end <= pair[1].start && !joined);
                }
            }
        }
    }
}
