//! Room for the MSI-X tables of all functions.

use acrn_vdev::pci::{MsiMessage, MsixEntry, MsixTable};
use arrayvec::ArrayVec;
use spin::{Mutex, MutexGuard};

/// Entries for the whole machine.
const TOTAL: usize = 2048;
/// Most entries of one function that can be used; what is beyond stays masked.
const MOST: usize = 256;

const BLANK: MsixEntry = MsixEntry {
    message: MsiMessage {
        address: 0,
        data: 0,
    },
    masked: false,
};

static ENTRIES: Mutex<[MsixEntry; TOTAL]> = Mutex::new([BLANK; TOTAL]);
static VECTORS: Mutex<[u8; TOTAL]> = Mutex::new([0; TOTAL]);

/// A table as its guest sees it.
pub struct Piece {
    /// What the guest wrote.
    pub shadow: MsixTable<&'static mut [MsixEntry]>,
    /// Host vector of each entry, 0 for none.
    pub vectors: &'static mut [u8],
}

/// What is left.
pub struct Storage {
    entries: &'static mut [MsixEntry],
    vectors: &'static mut [u8],
    returned: ArrayVec<Piece, 32>,
}

impl Storage {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            entries: &mut [],
            vectors: &mut [],
            returned: ArrayVec::new_const(),
        }
    }

    /// Takes the static arrays over, once.
    pub fn open(&mut self) {
        if let (Some(entries), Some(vectors)) = (ENTRIES.try_lock(), VECTORS.try_lock()) {
            // They stay locked for ever: the storage is their only user.
            self.entries = &mut MutexGuard::leak(entries)[..];
            self.vectors = &mut MutexGuard::leak(vectors)[..];
        }
    }

    /// Room for a table of `count` entries, or for as many of them as can be.
    pub fn take(&mut self, count: u16) -> Piece {
        let count = usize::from(count).min(MOST);
        let mut returned = self.returned.iter();
        if let Some(index) = returned.position(|p| p.vectors.len() >= count) {
            let mut piece = self.returned.swap_remove(index);
            piece.shadow.reset();
            return piece;
        }
        let count = count.min(self.entries.len());
        let (own, rest) = core::mem::take(&mut self.entries).split_at_mut(count);
        self.entries = rest;
        let (vectors, rest) = core::mem::take(&mut self.vectors).split_at_mut(count);
        self.vectors = rest;
        Piece {
            shadow: MsixTable::new(own),
            vectors,
        }
    }

    /// Takes room back.
    pub fn give_back(&mut self, piece: Piece) {
        let _ = self.returned.try_push(piece);
    }
}
