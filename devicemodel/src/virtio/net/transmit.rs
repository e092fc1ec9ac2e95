//! Packets from the guest to the host.

use std::io;
use std::os::fd::BorrowedFd;

use super::HEADER;
use super::options::NAME;
use crate::virtio::guest_io;
use crate::virtio::queue::DeviceQueue;
use crate::virtio::worker::{Poll, Stop};

/// Header, Ethernet header and the largest IP packet.
const LARGEST: usize = HEADER + 18 + 65536;
/// Packets between two interrupts for their return.
const BATCH: usize = 64;

/// Sends what the guest puts into `queue` to `link`, until told to stop. A packet that the
/// host does not take is lost, as on any network.
pub fn serve(mut queue: DeviceQueue, link: BorrowedFd<'_>, stop: &Stop) {
    let Some(mut poll) = Poll::of_queues(NAME, stop, &[&queue]) else {
        return;
    };
    let mut chain = queue.new_chain();
    loop {
        queue.clear_kick();
        queue.disable_kicks();
        let mut pending = 0;
        while !stop.requested() && queue.pop(&mut chain) {
            let sendable = (HEADER + 1..=LARGEST).contains(&chain.readable.len());
            if sendable && let Err(error) = guest_io::writev(link, &chain.readable) {
                report(&error);
            }
            queue.add_used(chain.head(), 0);
            pending += 1;
            if pending % BATCH == 0 {
                queue.signal();
            }
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

fn report(error: &io::Error) {
    if error.kind() != io::ErrorKind::WouldBlock {
        log::debug!("{NAME}: cannot send: {error}");
    }
}
