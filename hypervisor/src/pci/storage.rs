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

struct Storage {
    entries: &'static mut [MsixEntry],
    vectors: &'static mut [u8],
    returned: ArrayVec<Piece, 32>,
}

/// What is left. Apart from the functions, which can so begin as zeros in the image.
static STORAGE: Mutex<Storage> = Mutex::new(Storage {
    entries: &mut [],
    vectors: &mut [],
    returned: ArrayVec::new_const(),
});

/// Takes the static arrays over, once.
pub fn open() {
    if let (Some(entries), Some(vectors)) = (ENTRIES.try_lock(), VECTORS.try_lock()) {
        let mut storage = STORAGE.lock();
        // They stay locked for ever: the storage is their only user.
        storage.entries = &mut MutexGuard::leak(entries)[..];
        storage.vectors = &mut MutexGuard::leak(vectors)[..];
    }
}

/// Room for a table of `count` entries, or for as many of them as can be.
pub fn take(count: u16) -> Piece {
    let mut storage = STORAGE.lock();
    let count = usize::from(count).min(MOST);
    let mut returned = storage.returned.iter();
    if let Some(index) = returned.position(|p| p.vectors.len() >= count) {
        let mut piece = storage.returned.swap_remove(index);
        piece.shadow.reset();
        return piece;
    }
    let count = count.min(storage.entries.len());
    let (own, rest) = core::mem::take(&mut storage.entries).split_at_mut(count);
    storage.entries = rest;
    let (vectors, rest) = core::mem::take(&mut storage.vectors).split_at_mut(count);
    storage.vectors = rest;
    Piece {
        shadow: MsixTable::new(own),
        vectors,
    }
}

/// Takes room back.
pub fn give_back(piece: Piece) {
    let _ = STORAGE.lock().returned.try_push(piece);
}
