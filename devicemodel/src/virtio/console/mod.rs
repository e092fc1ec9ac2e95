//! virtio-console with one port (virtio 1.2, 5.3).
//!
//! One thread moves bytes both ways. Input is read only while the guest has a buffer for it,
//! so nothing is lost on the way in; output that nobody reads is dropped, so that an
//! unwatched console never blocks the guest.

pub mod backend;
pub mod options;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use self::backend::Backend;
use self::options::{ConsoleOptions, NAME};
use super::chain::Chain;
use super::device::{Activation, DeviceType, VirtioDevice};
use super::guest_io;
use super::queue::DeviceQueue;
use super::worker::{Poll, Stop, Worker};
use crate::pci::DeviceError;

const QUEUE_SIZES: [u16; 2] = [128, 128];
const RECEIVE: u64 = 0;
const TRANSMIT: u64 = 1;
const INPUT: u64 = 2;
const CONNECT: u64 = 3;
/// Bytes copied at once from the guest.
const CHUNK: usize = 4096;

/// The console.
pub struct Console {
    backend: Arc<Mutex<Backend>>,
    thread_name: String,
    worker: Option<Worker>,
}

impl Console {
    /// From ACRN's options.
    ///
    /// # Errors
    /// Options that are not understood, or a backend that cannot be opened.
    pub fn new(options: &str, vm_name: &str) -> Result<Self, DeviceError> {
        let backend = Backend::open(&ConsoleOptions::parse(options)?)?;
        let thread_name = format!("con-{vm_name}");
        Ok(Self {
            backend: Arc::new(Mutex::new(backend)),
            thread_name,
            worker: None,
        })
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &'static str {
        NAME
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::CONSOLE
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let (Some(receive), Some(transmit)) = (activation.take(0), activation.take(1)) else {
            log::warn!("{NAME}: the driver enabled one queue only");
            return Ok(());
        };
        let backend = self.backend.clone();
        let body = move |stop: Stop| {
            // One worker at a time: the one before was joined.
            let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
            let mut mover = Mover::new(receive, transmit, &mut backend);
            if let Err(error) = mover.serve(&stop) {
                log::error!("{NAME}: no event polling: {error}");
            }
        };
        self.worker = Some(Worker::spawn(NAME, &self.thread_name, body)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

/// The thread's state.
struct Mover<'a> {
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
    fn new(receive: DeviceQueue, transmit: DeviceQueue, backend: &'a mut Backend) -> Self {
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

    fn serve(&mut self, stop: &Stop) -> io::Result<()> {
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

#[cfg(test)]
mod tests;
