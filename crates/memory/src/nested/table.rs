//! The walker: map, unmap, protect, translate, visit, destroy.

use core::fmt;
use core::marker::PhantomData;

use acrn_abi::{Gpa, Hpa, PAGE_SIZE};

use super::FrameStore;
use super::format::{Access, Format, MemType, level_shift};

const ENTRIES: usize = 512;
const LEVELS: u8 = 4;

/// What the processor can address and which large pages it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Width of guest physical addresses; four levels reach 48 bits.
    pub guest_bits: u8,
    /// Width of host physical addresses (CPUID 0x8000_0008 EAX), at most 52.
    pub host_bits: u8,
    /// Whether 1 GiB pages may be used.
    pub gib_pages: bool,
}

/// Why a table was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Addresses and size must be multiples of 4 KiB and the size not 0.
    Misaligned {
        /// First guest address.
        gpa: Gpa,
        /// First host address; 0 for operations that have none.
        hpa: Hpa,
        /// Bytes.
        size: u64,
    },
    /// The guest range leaves the guest's address space.
    GuestRange {
        /// First guest address.
        gpa: Gpa,
        /// Bytes.
        size: u64,
    },
    /// The host range leaves the host's address space.
    HostRange {
        /// First host address.
        hpa: Hpa,
        /// Bytes.
        size: u64,
    },
    /// Neither format can express these rights: nothing, or anything without reading.
    Access(Access),
    /// The frame store could not give the `needed` table frames.
    OutOfFrames {
        /// Frames that the change takes.
        needed: u64,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned { gpa, hpa, size } => {
                write!(
                    f,
                    "guest {gpa}, host {hpa} and size {size:#x} must be whole pages"
                )
            }
            Self::GuestRange { gpa, size } => {
                write!(
                    f,
                    "guest range {gpa} + {size:#x} is beyond the guest's address width"
                )
            }
            Self::HostRange { hpa, size } => {
                write!(
                    f,
                    "host range {hpa} + {size:#x} is beyond the host's address width"
                )
            }
            Self::Access(access) => write!(f, "a page cannot have the rights {access:?}"),
            Self::OutOfFrames { needed } => write!(f, "{needed} page-table frames are not left"),
        }
    }
}

impl core::error::Error for MapError {}

/// A translation, or a piece of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Guest address that was asked for, or where the piece starts.
    pub gpa: Gpa,
    /// Host address that `gpa` leads to.
    pub hpa: Hpa,
    /// From [`NestedTable::translate`]: size of the page that holds `gpa`, in bytes.
    /// From a visitor: bytes of the piece.
    pub size: u64,
    /// What the guest may do.
    pub access: Access,
    /// Memory type.
    pub mem_type: MemType,
}

/// A nested page table of one guest. See the module for its rules.
///
/// Dropping it leaks its frames; [`NestedTable::destroy`] gives them back.
pub struct NestedTable<F: Format> {
    root: Hpa,
    limits: Limits,
    frames: u64,
    format: PhantomData<F>,
}

impl<F: Format> fmt::Debug for NestedTable<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NestedTable {{ root: {}, frames: {} }}",
            self.root, self.frames
        )
    }
}

/// A change of a guest range, done entry by entry.
#[derive(Clone, Copy)]
enum Change {
    Map {
        gpa: u64,
        hpa: u64,
        access: Access,
        mem_type: MemType,
    },
    Unmap,
    Protect(Access),
}

impl Change {
    /// The host address that a `Map` gives to `gpa`.
    fn target(self, at: u64) -> Option<u64> {
        match self {
            Self::Map { gpa, hpa, .. } => Some(hpa + (at - gpa)),
            _ => None,
        }
    }
}

/// Frames set aside for one change, chained through their first entries.
struct Reserve {
    head: Hpa,
    left: u64,
}

impl Reserve {
    fn new(store: &mut impl FrameStore, needed: u64) -> Result<Self, MapError> {
        let mut reserve = Self {
            head: Hpa(0),
            left: 0,
        };
        while reserve.left < needed {
            let Some(frame) = store.alloc() else {
                while let Some(frame) = reserve.take(store) {
                    store.free(frame);
                }
                return Err(MapError::OutOfFrames { needed });
            };
            if reserve.left > 0 {
                store.write(frame, 0, reserve.head.0);
            }
            reserve.head = frame;
            reserve.left += 1;
        }
        Ok(reserve)
    }

    fn take(&mut self, store: &mut impl FrameStore) -> Option<Hpa> {
        self.left = self.left.checked_sub(1)?;
        let frame = self.head;
        self.head = Hpa(store.read(frame, 0));
        store.write(frame, 0, 0);
        Some(frame)
    }
}

/// The entries of a table at `level` that `start..end` touches: index and the part of the range in
/// each.
fn entries(level: u8, start: u64, end: u64) -> impl Iterator<Item = (usize, u64, u64)> {
    let shift = level_shift(level);
    let mut at = start;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let stop = (((at >> shift) + 1) << shift).min(end);
        let item = ((at >> shift) as usize % ENTRIES, at, stop);
        at = stop;
        Some(item)
    })
}

impl<F: Format> NestedTable<F> {
    /// An empty table. Widths above what the format holds are cut to it.
    ///
    /// # Errors
    /// [`MapError::OutOfFrames`] when there is no frame for the root.
    pub fn new(store: &mut impl FrameStore, limits: Limits) -> Result<Self, MapError> {
        let root = store.alloc().ok_or(MapError::OutOfFrames { needed: 1 })?;
        let limits = Limits {
            guest_bits: limits.guest_bits.min(48),
            host_bits: limits.host_bits.min(52),
            ..limits
        };
        Ok(Self {
            root,
            limits,
            frames: 1,
            format: PhantomData,
        })
    }

    /// The root table.
    pub const fn root(&self) -> Hpa {
        self.root
    }

    /// The value for VMCB.N_CR3 or the VMCS's EPTP.
    pub fn root_pointer(&self) -> u64 {
        F::root_pointer(self.root)
    }

    /// Table frames in use, the root included.
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Maps `size` bytes from `gpa` to `hpa` with the largest pages that alignment and limits
    /// allow. What was mapped there before is replaced: ask [`NestedTable::visit`] first where
    /// that matters.
    ///
    /// # Errors
    /// See [`MapError`]; the table is unchanged then.
    pub fn map(
        &mut self,
        store: &mut impl FrameStore,
        gpa: Gpa,
        hpa: Hpa,
        size: u64,
        access: Access,
        mem_type: MemType,
    ) -> Result<(), MapError> {
        self.check_guest(gpa, hpa, size)?;
        if hpa
            .checked_add(size)
            .is_none_or(|end| end.0 > 1 << self.limits.host_bits)
        {
            return Err(MapError::HostRange { hpa, size });
        }
        check_access(access)?;
        let change = Change::Map {
            gpa: gpa.0,
            hpa: hpa.0,
            access,
            mem_type,
        };
        self.run(store, change, gpa, size)
    }

    /// Removes whatever is mapped in the range; holes are no error. Tables that become empty are
    /// freed.
    ///
    /// # Errors
    /// See [`MapError`]; frames are needed where a large page is cut. The table is unchanged then.
    pub fn unmap(
        &mut self,
        store: &mut impl FrameStore,
        gpa: Gpa,
        size: u64,
    ) -> Result<(), MapError> {
        self.check_guest(gpa, Hpa(0), size)?;
        self.run(store, Change::Unmap, gpa, size)
    }

    /// Changes the rights of whatever is mapped in the range; holes stay holes.
    ///
    /// # Errors
    /// As for [`NestedTable::unmap`], and [`MapError::Access`].
    pub fn protect(
        &mut self,
        store: &mut impl FrameStore,
        gpa: Gpa,
        size: u64,
        access: Access,
    ) -> Result<(), MapError> {
        self.check_guest(gpa, Hpa(0), size)?;
        check_access(access)?;
        self.run(store, Change::Protect(access), gpa, size)
    }

    /// Where `gpa` leads; `None` when nothing is mapped there.
    #[inline]
    pub fn translate(&self, store: &impl FrameStore, gpa: Gpa) -> Option<Mapping> {
        if gpa.0 >> self.limits.guest_bits != 0 {
            return None;
        }
        let mut table = self.root;
        let mut level = LEVELS;
        loop {
            let shift = level_shift(level);
            let entry = store.read(table, (gpa.0 >> shift) as usize % ENTRIES);
            if !F::is_present(entry) {
                return None;
            }
            if level < LEVELS && F::is_leaf(entry, level) {
                let offset = gpa.0 & ((1 << shift) - 1);
                return Some(Mapping {
                    gpa,
                    hpa: Hpa(F::address(entry, level).0 | offset),
                    size: 1 << shift,
                    access: F::access(entry),
                    mem_type: F::mem_type(entry, level),
                });
            }
            table = F::address(entry, level);
            level -= 1;
        }
    }

    /// Shows every mapped piece of the range, in ascending order, one call for each page, cut to
    /// the range.
    ///
    /// # Errors
    /// [`MapError::Misaligned`] and [`MapError::GuestRange`], and whatever `visitor` returns ends
    /// the visit.
    pub fn visit<E: From<MapError>>(
        &self,
        store: &impl FrameStore,
        gpa: Gpa,
        size: u64,
        mut visitor: impl FnMut(Mapping) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check_guest(gpa, Hpa(0), size)?;
        Self::visit_level(store, self.root, LEVELS, gpa.0, gpa.0 + size, &mut visitor)
    }

    /// Shows every leaf to `visitor` (guest address, host address, bytes), then frees every table
    /// frame. No CPU may use the table any more.
    pub fn destroy(self, store: &mut impl FrameStore, mut visitor: impl FnMut(Gpa, Hpa, u64)) {
        Self::destroy_level(store, self.root, LEVELS, 0, &mut visitor);
    }

    fn check_guest(&self, gpa: Gpa, hpa: Hpa, size: u64) -> Result<(), MapError> {
        if size == 0 || (gpa.0 | hpa.0 | size) % PAGE_SIZE != 0 {
            return Err(MapError::Misaligned { gpa, hpa, size });
        }
        if gpa
            .checked_add(size)
            .is_none_or(|end| end.0 > 1 << self.limits.guest_bits)
        {
            return Err(MapError::GuestRange { gpa, size });
        }
        Ok(())
    }

    fn run(
        &mut self,
        store: &mut impl FrameStore,
        change: Change,
        gpa: Gpa,
        size: u64,
    ) -> Result<(), MapError> {
        let (start, end) = (gpa.0, gpa.0 + size);
        let needed = self.count_level(store, change, Some(self.root), LEVELS, start, end);
        let mut reserve = Reserve::new(store, needed)?;
        self.frames += needed;
        self.change_level(store, change, &mut reserve, self.root, LEVELS, start, end);
        Ok(())
    }

    /// Whether a change of `start..stop`, which lies in one entry of `level`, is done in that
    /// entry itself, given that the entry is not a table.
    fn fits_entry(&self, change: Change, level: u8, start: u64, stop: u64) -> bool {
        let size = 1u64 << level_shift(level);
        let allowed = level <= 2 || level == 3 && self.limits.gib_pages;
        let aligned = change.target(start).is_none_or(|hpa| hpa % size == 0);
        match change {
            Change::Map { .. } => allowed && aligned && stop - start == size,
            Change::Unmap | Change::Protect(_) => stop - start == size,
        }
    }

    /// Frames that the change needs below `table`; without a table, as if all of it were cut out
    /// of one large page or a hole.
    fn count_level(
        &self,
        store: &impl FrameStore,
        change: Change,
        table: Option<Hpa>,
        level: u8,
        start: u64,
        end: u64,
    ) -> u64 {
        if level == 1 {
            return 0;
        }
        let is_map = matches!(change, Change::Map { .. });
        let mut needed = 0;
        for (index, at, stop) in entries(level, start, end) {
            if is_map && self.fits_entry(change, level, at, stop) {
                continue;
            }
            let entry = table.map(|table| store.read(table, index));
            let child = match entry {
                Some(entry) if F::is_present(entry) && !F::is_leaf(entry, level) => {
                    Some(F::address(entry, level))
                }
                Some(entry) if !F::is_present(entry) && !is_map => continue,
                _ if !is_map && self.fits_entry(change, level, at, stop) => continue,
                _ => {
                    needed += 1;
                    None
                }
            };
            needed += self.count_level(store, change, child, level - 1, at, stop);
        }
        needed
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one recursion, every argument varies"
    )]
    fn change_level(
        &mut self,
        store: &mut impl FrameStore,
        change: Change,
        reserve: &mut Reserve,
        table: Hpa,
        level: u8,
        start: u64,
        end: u64,
    ) {
        for (index, at, stop) in entries(level, start, end) {
            let entry = store.read(table, index);
            let is_table = level > 1 && F::is_present(entry) && !F::is_leaf(entry, level);
            let is_map = matches!(change, Change::Map { .. });
            if !F::is_present(entry) && !is_map {
                continue;
            }
            if (is_map || !is_table) && self.fits_entry(change, level, at, stop) {
                store.write(table, index, Self::changed(change, entry, level, at));
                if is_table {
                    self.free_tables(store, F::address(entry, level), level - 1);
                }
                continue;
            }
            let child = if is_table {
                F::address(entry, level)
            } else {
                let Some(child) = reserve.take(store) else {
                    debug_assert!(false, "the first pass counted too few frames");
                    return;
                };
                Self::fill_from(store, child, entry, level);
                store.write(table, index, F::table(child));
                child
            };
            self.change_level(store, change, reserve, child, level - 1, at, stop);
            if matches!(change, Change::Unmap) && Self::is_empty(store, child) {
                store.write(table, index, 0);
                store.free(child);
                self.frames -= 1;
            }
        }
    }

    /// The new value of an entry that is changed as a whole.
    fn changed(change: Change, entry: u64, level: u8, at: u64) -> u64 {
        match change {
            Change::Map {
                gpa,
                hpa,
                access,
                mem_type,
            } => F::leaf(Hpa(hpa + (at - gpa)), level, access, mem_type),
            Change::Unmap => 0,
            Change::Protect(access) => F::leaf(
                F::address(entry, level),
                level,
                access,
                F::mem_type(entry, level),
            ),
        }
    }

    /// Fills a fresh table with what the large page `entry` of `level` maps, if it maps anything.
    fn fill_from(store: &mut impl FrameStore, table: Hpa, entry: u64, level: u8) {
        if !F::is_present(entry) {
            return;
        }
        let (page, access) = (F::address(entry, level), F::access(entry));
        let mem_type = F::mem_type(entry, level);
        for index in 0..ENTRIES {
            let part = Hpa(page.0 + ((index as u64) << level_shift(level - 1)));
            store.write(table, index, F::leaf(part, level - 1, access, mem_type));
        }
    }

    fn is_empty(store: &impl FrameStore, table: Hpa) -> bool {
        (0..ENTRIES).all(|index| !F::is_present(store.read(table, index)))
    }

    /// Frees a table of `level` and all below it.
    fn free_tables(&mut self, store: &mut impl FrameStore, table: Hpa, level: u8) {
        if level > 1 {
            for index in 0..ENTRIES {
                let entry = store.read(table, index);
                if F::is_present(entry) && !F::is_leaf(entry, level) {
                    self.free_tables(store, F::address(entry, level), level - 1);
                }
            }
        }
        store.free(table);
        self.frames -= 1;
    }

    fn visit_level<E>(
        store: &impl FrameStore,
        table: Hpa,
        level: u8,
        start: u64,
        end: u64,
        visitor: &mut impl FnMut(Mapping) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, at, stop) in entries(level, start, end) {
            let entry = store.read(table, index);
            if !F::is_present(entry) {
                continue;
            }
            let address = F::address(entry, level);
            if level == LEVELS || !F::is_leaf(entry, level) {
                Self::visit_level(store, address, level - 1, at, stop, visitor)?;
                continue;
            }
            let offset = at & ((1 << level_shift(level)) - 1);
            visitor(Mapping {
                gpa: Gpa(at),
                hpa: Hpa(address.0 + offset),
                size: stop - at,
                access: F::access(entry),
                mem_type: F::mem_type(entry, level),
            })?;
        }
        Ok(())
    }

    fn destroy_level(
        store: &mut impl FrameStore,
        table: Hpa,
        level: u8,
        base: u64,
        visitor: &mut impl FnMut(Gpa, Hpa, u64),
    ) {
        for index in 0..ENTRIES {
            let entry = store.read(table, index);
            if !F::is_present(entry) {
                continue;
            }
            let gpa = base + ((index as u64) << level_shift(level));
            let address = F::address(entry, level);
            if level < LEVELS && F::is_leaf(entry, level) {
                visitor(Gpa(gpa), address, 1 << level_shift(level));
            } else {
                Self::destroy_level(store, address, level - 1, gpa, visitor);
            }
        }
        store.free(table);
    }
}

fn check_access(access: Access) -> Result<(), MapError> {
    if access.contains(Access::READ) {
        Ok(())
    } else {
        Err(MapError::Access(access))
    }
}
