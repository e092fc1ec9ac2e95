//! virtio-rnd: entropy from the Service VM's kernel (virtio 1.2, 5.4).
//!
//! The kernel's generator never blocks after boot, so one thread and `getrandom(2)` straight
//! into the driver's buffers are enough. A request is answered with at most
//! [`MOST_BYTES`], which the specification allows, so that a huge buffer cannot keep the
//! thread busy.

use super::device::{Activation, DeviceType, VirtioDevice};
use super::guest_io;
use super::options::{OptionList, refuse};
use super::queue::DeviceQueue;
use super::worker::{Poll, Stop, Worker};
use crate::pci::DeviceError;

const NAME: &str = "virtio-rnd";
/// Most bytes that one request gets.
pub const MOST_BYTES: usize = 64 << 10;
const QUEUE_SIZES: [u16; 1] = [64];

/// The entropy device.
pub struct Rng {
    thread_name: String,
    worker: Option<Worker>,
}

impl Rng {
    /// From ACRN's options: none, or the historical `kernel=on`.
    ///
    /// # Errors
    /// Any other option.
    pub fn new(options: &str, vm_name: &str) -> Result<Self, DeviceError> {
        for option in OptionList::new(options) {
            if option.text != "kernel=on" {
                return Err(refuse(NAME, option.text, "it takes no options".into()));
            }
        }
        Ok(Self {
            thread_name: format!("rng-{vm_name}"),
            worker: None,
        })
    }
}

impl VirtioDevice for Rng {
    fn name(&self) -> &'static str {
        NAME
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
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
        if let Some(queue) = activation.take(0) {
            let body = move |stop| serve(queue, &stop);
            self.worker = Some(Worker::spawn(NAME, &self.thread_name, body)?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

fn serve(mut queue: DeviceQueue, stop: &Stop) {
    let Some(mut poll) = Poll::of_queues(NAME, stop, &[&queue]) else {
        return;
    };
    let mut chain = queue.new_chain();
    loop {
        queue.clear_kick();
        while !stop.requested() && queue.pop(&mut chain) {
            chain.writable.truncate(MOST_BYTES);
            let filled = guest_io::random(&chain.writable).unwrap_or(0);
            queue.add_used(chain.head(), filled as u32);
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
