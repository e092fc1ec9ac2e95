//! Packets from the host to the guest.
//!
//! The thread keeps the guest's next buffers translated and reads each packet straight into
//! them. With mergeable buffers a packet spreads over as many as it needs; they are returned
//! together, since the driver expects all once it sees the first.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::HEADER;
use super::options::NAME;
use crate::virtio::chain::{Chain, MAX_SEGMENTS};
use crate::virtio::guest_io;
use crate::virtio::queue::DeviceQueue;
use crate::virtio::worker::{Poll, Stop};

/// Token of packets; the queue has 0.
const PACKET: u64 = 1;
/// Packets between two looks at everything else.
const BATCH: usize = 64;
/// Offset of the number of buffers in the header.
const BUFFERS_AT: usize = 10;

/// What was negotiated for this direction.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveMode {
    /// A packet may spread over several buffers.
    pub mergeable: bool,
    /// Largest packet that the host may hand over, header included.
    pub largest: usize,
}

/// The receiving side of a queue pair.
pub struct Receiver {
    queue: DeviceQueue,
    mode: ReceiveMode,
    /// Buffers taken from the guest and not used yet.
    ready: VecDeque<Chain>,
    /// Bytes in `ready`.
    room: usize,
    /// Chains to take the next buffers with.
    spare: Vec<Chain>,
    pieces: Vec<libc::iovec>,
    used: Vec<(u16, u32)>,
}

// SAFETY: `pieces` is scratch space that is empty between calls; the rest may be sent.
unsafe impl Send for Receiver {}

impl Receiver {
    /// For this queue.
    pub fn new(queue: DeviceQueue, mode: ReceiveMode) -> Self {
        Self {
            queue,
            mode,
            ready: VecDeque::new(),
            room: 0,
            spare: Vec::new(),
            pieces: Vec::new(),
            used: Vec::new(),
        }
    }

    /// Moves packets from `link` until told to stop.
    pub fn serve(mut self, link: BorrowedFd<'_>, stop: &Stop) {
        let Some(mut poll) = Poll::of_queues(NAME, stop, &[&self.queue]) else {
            return;
        };
        if let Err(error) = poll.add_edge(link.as_raw_fd(), PACKET) {
            return log::error!("{NAME}: the network cannot be watched: {error}");
        }
        let mut packets_wait = true;
        loop {
            self.queue.clear_kick();
            self.queue.disable_kicks();
            let mut supplied = self.refill();
            if packets_wait && supplied {
                for _ in 0..BATCH {
                    packets_wait = self.receive(link);
                    supplied = self.refill();
                    if !packets_wait || !supplied {
                        break;
                    }
                }
                self.queue.signal();
            }
            if stop.requested() {
                return;
            }
            if packets_wait && supplied || !supplied && self.queue.enable_kicks() {
                continue;
            }
            if !poll.wait(|token| packets_wait |= token == PACKET) {
                return;
            }
        }
    }

    /// Takes buffers until the largest packet fits; `false` when the guest has not enough.
    fn refill(&mut self) -> bool {
        while !self.supplied() {
            let mut chain = self.spare.pop().unwrap_or_else(|| self.queue.new_chain());
            if !self.queue.pop(&mut chain) {
                self.spare.push(chain);
                return false;
            }
            if chain.writable.len() < HEADER {
                // Not even the header fits: back it goes.
                self.queue.add_used(chain.head(), 0);
                self.spare.push(chain);
                continue;
            }
            self.room += chain.writable.len();
            self.ready.push_back(chain);
        }
        true
    }

    fn supplied(&self) -> bool {
        if !self.mode.mergeable {
            return !self.ready.is_empty();
        }
        // A guest that put all it has into the ring gets packets cut off rather than none.
        self.room >= self.mode.largest || self.ready.len() >= usize::from(self.queue.size())
    }

    /// Reads one packet; `false` when there is none.
    fn receive(&mut self, link: BorrowedFd<'_>) -> bool {
        let chains = if self.mode.mergeable {
            self.ready.len()
        } else {
            1
        };
        self.pieces.clear();
        for chain in self.ready.iter().take(chains) {
            let pieces = chain.writable.as_iovecs();
            if self.pieces.len() + pieces.len() > MAX_SEGMENTS {
                break;
            }
            self.pieces.extend_from_slice(pieces);
        }
        let result = guest_io::readv_pieces(link, &self.pieces);
        self.pieces.clear();
        match result {
            Ok(0) => false,
            Ok(len) => {
                self.deliver(len);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    log::debug!("{NAME}: cannot receive: {error}");
                }
                false
            }
        }
    }

    /// Returns the buffers that a packet of `len` bytes, header included, was read into.
    fn deliver(&mut self, mut len: usize) {
        self.used.clear();
        for chain in &self.ready {
            let part = chain.writable.len().min(len);
            self.used.push((chain.head(), part as u32));
            len -= part;
            if len == 0 {
                break;
            }
        }
        let count = self.used.len() as u16;
        if let Some(first) = self.ready.front() {
            first.writable.copy_from(BUFFERS_AT, &count.to_le_bytes());
        }
        self.queue.add_used_together(&self.used);
        for chain in self.ready.drain(..self.used.len()) {
            self.room -= chain.writable.len();
            self.spare.push(chain);
        }
    }
}
