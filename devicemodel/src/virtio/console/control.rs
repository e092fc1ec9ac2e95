//! Control messages of a console with several ports (virtio 1.2, 5.3.6.2).
//!
//! The driver says that it is ready and is told of each port; it says that a port is ready and
//! is told the port's name, whether it is a console, and that it may be used. Whether a client
//! is connected to a back end is not reported: what nobody reads is dropped.

use std::collections::VecDeque;

use super::options::NAME;
use crate::virtio::chain::Chain;
use crate::virtio::queue::DeviceQueue;
use crate::virtio::throttle;
use crate::virtio::worker::{Poll, Stop};

/// From the driver: it is ready for messages.
pub(super) const DEVICE_READY: u16 = 0;
/// To the driver: a port exists.
pub(super) const PORT_ADD: u16 = 1;
/// From the driver: it knows the port.
pub(super) const PORT_READY: u16 = 3;
/// To the driver: the port is a console.
pub(super) const CONSOLE_PORT: u16 = 4;
/// Both ways: the port is open at the sender's end.
pub(super) const PORT_OPEN: u16 = 6;
/// To the driver: the port's name follows.
pub(super) const PORT_NAME: u16 = 7;

/// Port, event and value.
const HEADER: usize = 8;
/// Messages that may wait for the guest's buffers. A driver that asks for more without taking
/// them loses the rest.
const MAX_WAITING: usize = 256;

/// A port as the driver learns of it.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// Name, under which Linux makes a link in `/dev/virtio-ports`.
    pub(super) name: String,
    /// The kernel may use it as a console.
    pub(super) console: bool,
}

/// The device's side of the control queues.
pub(super) struct Control {
    ports: Vec<Port>,
    to_guest: DeviceQueue,
    from_guest: DeviceQueue,
    waiting: VecDeque<Vec<u8>>,
}

impl Control {
    /// For these ports and queues.
    pub(super) fn new(ports: Vec<Port>, to_guest: DeviceQueue, from_guest: DeviceQueue) -> Self {
        Self {
            ports,
            to_guest,
            from_guest,
            waiting: VecDeque::new(),
        }
    }

    /// Answers messages until told to stop.
    pub(super) fn serve(&mut self, stop: &Stop) {
        let queues = [&self.to_guest, &self.from_guest];
        let Some(mut poll) = Poll::of_queues(NAME, stop, &queues) else {
            return;
        };
        let mut incoming = self.from_guest.new_chain();
        let mut outgoing = self.to_guest.new_chain();
        loop {
            self.from_guest.clear_kick();
            self.to_guest.clear_kick();
            while !stop.requested() && self.from_guest.pop(&mut incoming) {
                self.receive(&incoming);
                self.from_guest.add_used(incoming.head(), 0);
            }
            self.from_guest.signal();
            self.deliver(&mut outgoing, stop);
            let wants_buffers = !self.waiting.is_empty();
            let more =
                self.from_guest.enable_kicks() || wants_buffers && self.to_guest.enable_kicks();
            if more && !stop.requested() {
                continue;
            }
            if !poll.wait(|_| ()) {
                return;
            }
        }
    }

    /// Acts on a message of the driver.
    fn receive(&mut self, chain: &Chain) {
        let mut header = [0; HEADER];
        if chain.readable.copy_to(0, &mut header) != HEADER {
            return;
        }
        let [p0, p1, p2, p3, e0, e1, v0, v1] = header;
        let port = u32::from_le_bytes([p0, p1, p2, p3]);
        let event = u16::from_le_bytes([e0, e1]);
        let value = u16::from_le_bytes([v0, v1]);
        match (event, value) {
            (DEVICE_READY, 1) => {
                for port in 0..self.ports.len() as u32 {
                    self.send(port, PORT_ADD, 1, "");
                }
            }
            (PORT_READY, 1) => self.describe(port),
            // What the driver opens and closes changes nothing here.
            _ => {}
        }
    }

    /// Tells the driver what a port is.
    fn describe(&mut self, index: u32) {
        let port = usize::try_from(index)
            .ok()
            .and_then(|at| self.ports.get(at));
        let Some(Port { name, console }) = port.cloned() else {
            return;
        };
        if console {
            self.send(index, CONSOLE_PORT, 1, "");
        }
        if !name.is_empty() {
            self.send(index, PORT_NAME, 1, &name);
        }
        self.send(index, PORT_OPEN, 1, "");
    }

    fn send(&mut self, port: u32, event: u16, value: u16, text: &str) {
        if self.waiting.len() >= MAX_WAITING {
            if throttle::may_log() {
                log::warn!("{NAME}: the driver takes no control messages");
            }
            return;
        }
        let mut message = port.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(text.as_bytes());
        self.waiting.push_back(message);
    }

    /// Hands messages over while the driver has buffers.
    fn deliver(&mut self, chain: &mut Chain, stop: &Stop) {
        while !stop.requested() && !self.waiting.is_empty() && self.to_guest.pop(chain) {
            let Some(message) = self.waiting.pop_front() else {
                break;
            };
            let written = chain.writable.copy_from(0, &message);
            self.to_guest.add_used(chain.head(), written as u32);
        }
        self.to_guest.signal();
    }
}
