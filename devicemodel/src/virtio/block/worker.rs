//! The thread behind one queue of a disk.
//!
//! With io_uring, requests of a queue run side by side: each occupies a [`Slot`] whose chain
//! holds the buffers until the kernel is done with them. Without it, the thread makes one
//! system call at a time. Rare requests (discard, serial number) are made in place in both.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

use super::Drive;
use super::disk::Disk;
use super::options::{DiscardLimits, NAME};
use super::request::{OK, Refusal, Request, status};
use crate::pci::EventFd;
use crate::virtio::chain::{Chain, RingError};
use crate::virtio::queue::DeviceQueue;
use crate::virtio::worker::{Poll, Stop};

/// Token of completions; the queue has 0.
const DONE: u64 = 1;

/// What all queues of a disk share.
#[derive(Clone)]
pub struct Shared {
    /// The drive with the disk.
    pub drive: Drive,
    /// Whether finished writes may be volatile until a flush.
    pub write_cache: Arc<AtomicBool>,
    /// Limits of discard, when it was negotiated.
    pub discard: Option<DiscardLimits>,
}

impl Shared {
    fn durable(&self) -> bool {
        !self.write_cache.load(Ordering::Relaxed)
    }

    fn execute(&self, request: Request, chain: &mut Chain, disk: &Disk) -> u8 {
        request.execute(chain, disk, self.durable(), self.discard)
    }
}

/// Whether this kernel lets us use io_uring.
///
/// # Errors
/// Why not.
pub fn probe_uring() -> io::Result<()> {
    IoUring::new(2).map(|_| ())
}

/// Serves `queue` until told to stop, with at most one request at a time.
pub fn serve_in_turn(mut queue: DeviceQueue, shared: &Shared, stop: &Stop) {
    let Some(mut poll) = Poll::of_queues(NAME, stop, &[&queue]) else {
        return;
    };
    let mut chain = queue.new_chain();
    loop {
        queue.clear_kick();
        queue.disable_kicks();
        let disk = shared.drive.disk();
        while !stop.requested() && queue.pop(&mut chain) {
            let (request, len) = match parse(&mut chain, &disk, &mut queue) {
                Some(parsed) => parsed,
                None => continue,
            };
            let status = match request {
                Ok(request) => shared.execute(request, &mut chain, &disk),
                Err(status) => status,
            };
            chain.write_status(status);
            queue.add_used(chain.head(), len);
        }
        queue.signal();
        if queue.enable_kicks() && !stop.requested() {
            continue;
        }
        if !poll.wait(|_| ()) {
            return;
        }
    }
}

/// The request of a chain, or the status that refuses it, with the number of bytes to report
/// as written. `None` after the driver broke a rule.
fn parse(
    chain: &mut Chain,
    disk: &Disk,
    queue: &mut DeviceQueue,
) -> Option<(Result<Request, u8>, u32)> {
    let len = chain.writable.len() as u32;
    match Request::parse(chain, disk) {
        Ok(request) => Some((Ok(request), len)),
        Err(Refusal::Status(status)) => Some((Err(status), len)),
        Err(Refusal::Ring(error)) => {
            queue.fail(error);
            None
        }
    }
}

/// A request under way.
struct Slot {
    chain: Chain,
    request: Request,
    len: u32,
}

/// A queue served through io_uring.
pub struct UringQueue {
    queue: DeviceQueue,
    shared: Shared,
    /// The disk of the requests under way. A drive without a medium has none of them, so it can
    /// be looked up anew for each round.
    disk: Arc<Disk>,
    ring: IoUring,
    done: EventFd,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// End of the file, looked up at most once for each round of requests.
    end: Option<u64>,
}

impl UringQueue {
    /// Sets the ring up.
    ///
    /// # Errors
    /// When the kernel has no io_uring or no memory for another; the queue comes back.
    pub fn new(queue: DeviceQueue, shared: Shared) -> Result<Self, (DeviceQueue, Shared)> {
        let setup = || -> io::Result<_> {
            let ring = IoUring::new(queue.size().into())?;
            let done = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
            ring.submitter().register_eventfd(done.as_raw_fd())?;
            Ok((ring, done))
        };
        let (ring, done) = match setup() {
            Ok(parts) => parts,
            Err(error) => {
                log::info!("{NAME}: io_uring is not available ({error}), using blocking calls");
                return Err((queue, shared));
            }
        };
        let count = usize::from(queue.size());
        let slot = || Slot {
            chain: queue.new_chain(),
            request: Request::Flush,
            len: 0,
        };
        let slots = (0..count).map(|_| slot()).collect();
        let free = (0..count).rev().collect();
        Ok(Self {
            disk: shared.drive.disk(),
            queue,
            shared,
            ring,
            done,
            slots,
            free,
            end: None,
        })
    }

    /// Serves the queue until told to stop, and returns when the kernel has finished all
    /// requests.
    pub fn serve(mut self, stop: &Stop) {
        let Some(mut poll) = Poll::of_queues(NAME, stop, &[&self.queue]) else {
            return;
        };
        if poll.add(self.done.as_raw_fd(), DONE).is_err() {
            return log::error!("{NAME}: cannot wait for io_uring");
        }
        loop {
            self.queue.clear_kick();
            self.queue.disable_kicks();
            self.start_requests(stop);
            self.submit();
            self.finish_requests();
            self.queue.signal();
            // Without a free slot nothing could be started; a completion wakes us then.
            if !self.free.is_empty() && self.queue.enable_kicks() && !stop.requested() {
                continue;
            }
            let done = &self.done;
            let more = poll.wait(|token| {
                if token == DONE {
                    let _ = done.read();
                }
            });
            if !more {
                return self.drain();
            }
        }
    }

    fn start_requests(&mut self, stop: &Stop) {
        self.end = None;
        self.disk = self.shared.drive.disk();
        while !stop.requested()
            && let Some(index) = self.free.pop()
        {
            if !self.queue.pop(&mut self.slots[index].chain) {
                self.free.push(index);
                return;
            }
            self.start(index);
        }
    }

    fn start(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some((request, len)) = parse(&mut slot.chain, &self.disk, &mut self.queue) else {
            return self.free.push(index);
        };
        slot.len = len;
        let status = match request {
            Err(status) => status,
            Ok(request) => {
                slot.request = request;
                if self.start_async(index) {
                    return;
                }
                let slot = &mut self.slots[index];
                self.shared.execute(request, &mut slot.chain, &self.disk)
            }
        };
        self.complete(index, status);
    }

    /// Hands a read, write or flush to the kernel. `false` when it is to be done in place.
    fn start_async(&mut self, index: usize) -> bool {
        let slot = &self.slots[index];
        let disk = &self.disk;
        let fd = types::Fd(disk.file().as_raw_fd());
        let (readable, writable) = (&slot.chain.readable, &slot.chain.writable);
        let entry = match slot.request {
            Request::Read(offset) if !writable.is_empty() => {
                let pieces = writable.as_iovecs();
                opcode::Readv::new(fd, pieces.as_ptr(), pieces.len() as u32)
                    .offset(offset)
                    .build()
            }
            Request::Write(offset) if !readable.is_empty() => {
                let end = *self.end.get_or_insert_with(|| disk.end());
                if offset + readable.len() as u64 > end {
                    return false;
                }
                let pieces = readable.as_iovecs();
                let flags = if self.shared.durable() {
                    libc::RWF_DSYNC
                } else {
                    0
                };
                opcode::Writev::new(fd, pieces.as_ptr(), pieces.len() as u32)
                    .offset(offset)
                    .rw_flags(flags)
                    .build()
            }
            Request::Flush if disk.sectors() > 0 && !disk.read_only() => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            _ => return false,
        };
        let entry = entry.user_data(index as u64);
        // SAFETY: the pieces belong to the slot's chain, which is neither changed nor dropped
        // before the completion with this index has been seen (`drain` waits for all), and
        // lead into RAM that the chain keeps mapped.
        unsafe { self.ring.submission().push(&entry).is_ok() }
    }

    fn submit(&mut self) {
        for _ in 0..1000 {
            if self.ring.submission().is_empty() {
                return;
            }
            match self.ring.submit() {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Out of some resource: finished requests give it back.
                Err(_) => {
                    self.finish_requests();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        log::error!("{NAME}: the kernel takes no requests from io_uring");
        self.queue.fail(RingError::Available);
    }

    fn finish_requests(&mut self) {
        while let Some((index, result)) = self.next_finished() {
            if index < self.slots.len() {
                let status = self.result(index, result);
                self.complete(index, status);
            }
        }
    }

    fn next_finished(&mut self) -> Option<(usize, i32)> {
        let entry = self.ring.completion().next()?;
        Some((entry.user_data() as usize, entry.result()))
    }

    /// The status of a request that the kernel ended with `result`. A short transfer is
    /// carried on in place, where the end of a shrunk file shows as an error.
    fn result(&mut self, index: usize, result: i32) -> u8 {
        let slot = &mut self.slots[index];
        let done = match usize::try_from(result) {
            Ok(done) => done,
            Err(_) if matches!(-result, libc::EAGAIN | libc::EINTR) => 0,
            Err(_) => return status(Err(io::Error::from_raw_os_error(-result))),
        };
        let rest = match slot.request {
            Request::Read(offset) => {
                slot.chain.writable.skip(done);
                (!slot.chain.writable.is_empty()).then(|| Request::Read(offset + done as u64))
            }
            Request::Write(offset) => {
                slot.chain.readable.skip(done);
                (!slot.chain.readable.is_empty()).then(|| Request::Write(offset + done as u64))
            }
            Request::Flush if result < 0 => Some(Request::Flush),
            _ => None,
        };
        rest.map_or(OK, |rest| {
            self.shared.execute(rest, &mut slot.chain, &self.disk)
        })
    }

    fn complete(&mut self, index: usize, status: u8) {
        let slot = &self.slots[index];
        slot.chain.write_status(status);
        self.queue.add_used(slot.chain.head(), slot.len);
        self.free.push(index);
    }

    /// Waits for what the kernel still works on.
    fn drain(&mut self) {
        while self.free.len() < self.slots.len() {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::error!("{NAME}: cannot wait for io_uring: {error}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            self.finish_requests();
        }
        self.queue.signal();
    }
}
