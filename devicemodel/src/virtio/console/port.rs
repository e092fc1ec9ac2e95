//! One port: a thread that moves bytes between two queues and a back end.
//!
//! Input is read only while the guest has a buffer for it, so nothing is lost on the way in;
//! output that nobody reads is dropped, so that an unwatched port never blocks the guest.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::backend::Backend;
use super::options::NAME;
use crate::virtio::chain::Chain;
use crate::virtio::guest_io;
use crate::virtio::queue::DeviceQueue;
use crate::virtio::worker::{Poll, Stop};

const RECEIVE: u64 = 0;
const TRANSMIT: u64 = 1;
const INPUT: u64 = 2;
const CONNECT: u64 = 3;
/// Bytes copied at once from the guest.
const CHUNK: usize = 4096;

/// The thread's state.
pub(super) struct Mover<'a> {
    receive: DeviceQueue,
    transmit: DeviceQueue,
    backend: &'a mut Backend,
    /// The guest's next input buffer, once taken.
    buffer: Chain,
    has_buffer: bool,
    watched: Watched,
}

/// What the poll looks at besides the kicks.
#[derive(Default)]
struct Watched {
    input: Option<RawFd>,
    listener: Option<RawFd>,
}

impl<'a> Mover<'a> {
    /// Between the guest's `receive` and `transmit` queues and the back end.
    pub(super) fn new(
        receive: DeviceQueue,
        transmit: DeviceQueue,
        backend: &'a mut Backend,
    ) -> Self {
        let buffer = receive.new_chain();
        let watched = Watched::default();
        Self {
            receive,
            transmit,
            backend,
            buffer,
            has_buffer: false,
            watched,
        }
    }

    /// Moves bytes until told to stop.
    ///
    /// # Errors
    /// No event polling.
    pub(super) fn serve(&mut self, stop: &Stop) -> io::Result<()> {
        let mut poll = Poll::new(stop)?;
        poll.add(self.receive.kick().as_raw_fd(), RECEIVE)?;
        poll.add(self.transmit.kick().as_raw_fd(), TRANSMIT)?;
        let mut chain = self.transmit.new_chain();
        loop {
            self.receive.clear_kick();
            self.transmit.clear_kick();
            self.send(&mut chain, stop);
            self.take_buffer();
            self.watch(&poll);
            let more =
                self.transmit.enable_kicks() || !self.has_buffer && self.receive.enable_kicks();
            if more && !stop.requested() {
                continue;
            }
            let (mut input, mut connect) = (false, false);
            let go_on = poll.wait(|token| match token {
                INPUT => input = true,
                CONNECT => connect = true,
                _ => {}
            });
            if !go_on {
                return Ok(());
            }
            if connect {
                self.backend.accept();
            }
            if input {
                self.fill_buffer(&poll);
            }
        }
    }

    /// Writes the guest's output.
    fn send(&mut self, chain: &mut Chain, stop: &Stop) {
        let mut data = [0; CHUNK];
        while !stop.requested() && self.transmit.pop(chain) {
            let mut at = 0;
            while at < chain.readable.len() && !stop.requested() {
                let count = chain.readable.copy_to(at, &mut data);
                self.backend.write(&data[..count]);
                at += count;
            }
            self.transmit.add_used(chain.head(), 0);
        }
        self.transmit.signal();
    }

    /// Gets hold of a buffer for input.
    fn take_buffer(&mut self) {
        while !self.has_buffer && self.receive.pop(&mut self.buffer) {
            self.has_buffer = !self.buffer.writable.is_empty();
            if !self.has_buffer {
                self.receive.add_used(self.buffer.head(), 0);
            }
        }
    }

    /// Reads what has arrived into the buffer.
    fn fill_buffer(&mut self, poll: &Poll) {
        let Some(input) = self.backend.input().filter(|_| self.has_buffer) else {
            return;
        };
        match guest_io::readv(input, &self.buffer.writable) {
            Ok(count) if count > 0 => {
                self.receive.add_used(self.buffer.head(), count as u32);
                self.has_buffer = false;
                self.receive.signal();
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            _ => {
                // Before the descriptor is closed, so that the number is not watched when it
                // comes to mean something else.
                if let Some(fd) = self.watched.input.take() {
                    poll.remove(fd);
                }
                self.backend.hang_up();
            }
        }
    }

    /// Watches input while there is a buffer for it, and connections while there is none.
    fn watch(&mut self, poll: &Poll) {
        let input = self
            .backend
            .input()
            .filter(|_| self.has_buffer)
            .map(|fd| fd.as_raw_fd());
        follow(poll, &mut self.watched.input, input, INPUT);
        let listener = self.backend.listener().map(|fd| fd.as_raw_fd());
        follow(poll, &mut self.watched.listener, listener, CONNECT);
    }
}

fn follow(poll: &Poll, watched: &mut Option<RawFd>, wanted: Option<RawFd>, token: u64) {
    if *watched == wanted {
        return;
    }
    if let Some(fd) = watched.take() {
        poll.remove(fd);
    }
    if let Some(fd) = wanted {
        // A regular file as standard input cannot be watched and has nothing to say.
        if let Err(error) = poll.add(fd, token) {
            log::debug!("{NAME}: no input: {error}");
        }
        *watched = wanted;
    }
}
