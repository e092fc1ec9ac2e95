//! Descriptor chains: what a driver offers in one go, checked and translated.
//!
//! A chain is walked exactly once, by [`Chain::walk`]. Every index, flag and address in it is
//! a claim of the guest; the walk is bounded by the size of the table and ends in a
//! [`RingError`] at the first claim that does not hold. What remains are host addresses inside
//! guest RAM, ready for `readv(2)` and its kin without a copy.
//!
//! The virtio-queue crate has an iterator over descriptors too, but it ends silently on a
//! broken chain, which would turn a hostile chain into a short but valid one.

use std::sync::Arc;

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions, VolatileSlice};

use crate::pci::GuestRam;

/// The most pieces a chain may have: what `readv(2)` takes at once (`IOV_MAX`).
pub const MAX_SEGMENTS: usize = 1024;

const DESCRIPTOR_BYTES: u32 = 16;

/// How a driver broke the rules of a virtqueue (virtio 1.2, 2.7). Only a reset of the device
/// mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The available index ran further ahead than the ring has entries, or the rings are not
    /// readable.
    #[error("the available ring cannot be followed")]
    Available,
    /// The used ring cannot be written, or a head outside the table was to be returned.
    #[error("the used ring cannot be written for head {0}")]
    Used(u16),
    /// A descriptor index lies outside its table.
    #[error("descriptor {0} lies outside its table")]
    Index(u16),
    /// A chain visits more descriptors than its table has.
    #[error("the chain of head {0} has a loop")]
    Loop(u16),
    /// A table of indirect descriptors is nested, chained, empty, too long or of a size that
    /// is no multiple of 16 bytes; or the feature was not negotiated.
    #[error("an indirect table of {0} bytes is not acceptable here")]
    Indirect(u32),
    /// A descriptor, or a buffer that it names, is not in guest RAM.
    #[error("{len} bytes at guest address {address:#x} are not RAM")]
    Address {
        /// Guest physical address.
        address: u64,
        /// Length in bytes.
        len: u32,
    },
    /// A device-readable buffer follows a device-writable one.
    #[error("the chain of head {0} has a readable buffer after a writable one")]
    Order(u16),
    /// The chain has more pieces or bytes than a device accepts.
    #[error("the chain of head {0} is too long")]
    TooLong(u16),
    /// The chain lacks what each request of this device has (a header or a status byte).
    #[error("the request of head {0} is incomplete")]
    Incomplete(u16),
}

/// A run of buffers in guest RAM. Only a [`Chain`] makes them, and it keeps the RAM mapped.
#[derive(Debug)]
pub struct GuestBuffers {
    pieces: Vec<libc::iovec>,
    len: usize,
}

impl GuestBuffers {
    fn new() -> Self {
        Self {
            pieces: Vec::with_capacity(8),
            len: 0,
        }
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }

    /// Number of bytes in all pieces together; below 4 GiB.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, as the vectored system calls want them. At most [`MAX_SEGMENTS`].
    pub fn as_iovecs(&self) -> &[libc::iovec] {
        &self.pieces
    }

    /// Copies the bytes from `offset` on to `target`; returns how many there were.
    pub fn copy_to(&self, offset: usize, target: &mut [u8]) -> usize {
        let mut done = 0;
        self.each_from(offset, |piece| {
            done += piece.copy_to(&mut target[done..]);
            done < target.len()
        });
        done
    }

    /// Overwrites the bytes from `offset` on with `source`; returns how many fitted.
    pub fn copy_from(&self, offset: usize, source: &[u8]) -> usize {
        let mut done = 0;
        self.each_from(offset, |piece| {
            let count = piece.len().min(source.len() - done);
            piece.copy_from(&source[done..done + count]);
            done += count;
            done < source.len()
        });
        done
    }

    /// Hands the pieces from `offset` on to `visit`, until it returns `false`.
    fn each_from(&self, mut offset: usize, mut visit: impl FnMut(VolatileSlice<'_>) -> bool) {
        for piece in &self.pieces {
            if offset >= piece.iov_len {
                offset -= piece.iov_len;
                continue;
            }
            let start = piece.iov_base.cast::<u8>().wrapping_add(offset);
            // SAFETY: the piece was translated by `Chain::walk` from an address range inside
            // guest RAM, `offset` is inside it, and the chain that owns this object holds a
            // reference to the mapping. The guest may write at any time, which volatile
            // accesses allow for.
            let slice = unsafe { VolatileSlice::new(start, piece.iov_len - offset) };
            offset = 0;
            if !visit(slice) {
                return;
            }
        }
    }

    /// Drops the first `count` bytes.
    pub fn skip(&mut self, count: usize) {
        let mut rest = count.min(self.len);
        self.len -= rest;
        let whole = self
            .pieces
            .iter()
            .take_while(|piece| {
                let inside = piece.iov_len <= rest;
                if inside {
                    rest -= piece.iov_len;
                }
                inside
            })
            .count();
        self.pieces.drain(..whole);
        if let Some(first) = self.pieces.first_mut() {
            first.iov_base = first.iov_base.wrapping_byte_add(rest);
            first.iov_len -= rest;
        }
    }

    /// Keeps the first `count` bytes only.
    pub fn truncate(&mut self, count: usize) {
        let mut excess = self.len.saturating_sub(count);
        self.len -= excess;
        while excess > 0 {
            let Some(last) = self.pieces.last_mut() else {
                return;
            };
            if last.iov_len > excess {
                last.iov_len -= excess;
                return;
            }
            excess -= last.iov_len;
            self.pieces.pop();
        }
    }

    fn push(&mut self, mem: &GuestRam, address: u64, len: u32) -> Result<(), RingError> {
        let refused = RingError::Address { address, len };
        let slices = mem
            .get_slices(GuestAddress(address), len as usize, Permissions::ReadWrite)
            .map_err(|_| refused)?;
        for slice in slices {
            let slice = slice.map_err(|_| refused)?;
            self.pieces.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        self.len += len as usize;
        Ok(())
    }
}

/// One request of the driver: buffers that the device reads, then buffers that it writes.
///
/// The object is meant to be reused, so that the data path does not allocate.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    /// What the device reads.
    pub readable: GuestBuffers,
    /// What the device writes.
    pub writable: GuestBuffers,
    status: Option<libc::iovec>,
    mem: Arc<GuestRam>,
}

// SAFETY: the raw pointers lead into guest RAM, which `mem` keeps mapped and which is not tied
// to a thread.
unsafe impl Send for Chain {}

impl Chain {
    /// An empty chain over this RAM.
    pub fn new(mem: Arc<GuestRam>) -> Self {
        let (readable, writable) = (GuestBuffers::new(), GuestBuffers::new());
        Self {
            head: 0,
            readable,
            writable,
            status: None,
            mem,
        }
    }

    /// Index of the first descriptor, by which the driver knows the request.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Splits the last writable byte off, where many devices report a status. `false` when
    /// nothing is writable.
    pub fn split_status(&mut self) -> bool {
        let Some(last) = self.writable.pieces.last() else {
            return false;
        };
        let at = last.iov_base.wrapping_byte_add(last.iov_len - 1);
        self.status = Some(libc::iovec {
            iov_base: at,
            iov_len: 1,
        });
        self.writable.truncate(self.writable.len - 1);
        true
    }

    /// Writes the byte that [`Chain::split_status`] put aside.
    pub fn write_status(&self, value: u8) {
        if let Some(piece) = self.status {
            // SAFETY: one byte of a piece that `walk` found in guest RAM, which `mem` keeps
            // mapped.
            let byte = unsafe { VolatileSlice::<()>::new(piece.iov_base.cast(), 1) };
            byte.copy_from(&[value]);
        }
    }

    /// Reads the chain that starts at `head` of the descriptor table at guest address `table`,
    /// which has `size` entries.
    ///
    /// # Errors
    /// The first rule that the chain breaks; the buffers are empty then.
    pub(super) fn walk(
        &mut self,
        table: u64,
        size: u16,
        head: u16,
        indirect: bool,
    ) -> Result<(), RingError> {
        self.readable.clear();
        self.writable.clear();
        self.status = None;
        self.head = head;
        let walked = self.walk_table(table, u32::from(size), head, indirect);
        if walked.is_err() {
            self.readable.clear();
            self.writable.clear();
        }
        walked
    }

    fn walk_table(
        &mut self,
        mut table: u64,
        mut size: u32,
        head: u16,
        mut indirect: bool,
    ) -> Result<(), RingError> {
        let mut budget = size;
        let mut index = head;
        loop {
            if u32::from(index) >= size {
                return Err(RingError::Index(index));
            }
            budget = budget.checked_sub(1).ok_or(RingError::Loop(head))?;
            let descriptor = self.descriptor(table, index)?;
            let flags = u32::from(descriptor.flags());
            if flags & VRING_DESC_F_INDIRECT != 0 {
                let len = descriptor.len();
                let entries = len / DESCRIPTOR_BYTES;
                let shape =
                    len % DESCRIPTOR_BYTES == 0 && (1..=MAX_SEGMENTS as u32).contains(&entries);
                if !indirect || !shape || flags & VRING_DESC_F_NEXT != 0 {
                    return Err(RingError::Indirect(len));
                }
                table = descriptor.addr().0;
                (size, budget, index, indirect) = (entries, entries, 0, false);
                continue;
            }
            self.add(&descriptor, flags & VRING_DESC_F_WRITE != 0)?;
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next();
        }
    }

    fn descriptor(&self, table: u64, index: u16) -> Result<Descriptor, RingError> {
        let refused = RingError::Address {
            address: table,
            len: DESCRIPTOR_BYTES,
        };
        let offset = u64::from(index) * u64::from(DESCRIPTOR_BYTES);
        let address = table.checked_add(offset).ok_or(refused)?;
        self.mem
            .read_obj(GuestAddress(address))
            .map_err(|_| refused)
    }

    fn add(&mut self, descriptor: &Descriptor, write: bool) -> Result<(), RingError> {
        let (address, len) = (descriptor.addr().0, descriptor.len());
        if !write && !self.writable.pieces.is_empty() {
            return Err(RingError::Order(self.head));
        }
        let total = self.readable.len + self.writable.len + len as usize;
        let list = if write {
            &mut self.writable
        } else {
            &mut self.readable
        };
        if len > 0 {
            list.push(&self.mem, address, len)?;
        }
        let pieces = self.readable.pieces.len() + self.writable.pieces.len();
        if total > u32::MAX as usize || pieces > MAX_SEGMENTS {
            return Err(RingError::TooLong(self.head));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
