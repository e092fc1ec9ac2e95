//! The control queue: number of queue pairs, offloads (virtio 1.2, 5.1.6.5).

use std::sync::Arc;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MQ,
    VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
};

use super::link::Link;
use super::options::NAME;
use crate::virtio::chain::{Chain, RingError};
use crate::virtio::queue::DeviceQueue;
use crate::virtio::worker::{Poll, Stop};

const ACK_OK: u8 = 0;
const ACK_ERROR: u8 = 1;
/// Class and command.
const HEADER: usize = 2;

/// What the control queue may change.
pub struct Control {
    /// The host's end.
    pub link: Arc<dyn Link>,
    /// Number of queue pairs.
    pub pairs: u16,
    /// Guest offloads that were negotiated, as feature bits.
    pub features: u64,
}

impl Control {
    /// Carries out commands until told to stop.
    pub fn serve(&self, mut queue: DeviceQueue, stop: &Stop) {
        let Some(mut poll) = Poll::of_queues(NAME, stop, &[&queue]) else {
            return;
        };
        let mut chain = queue.new_chain();
        loop {
            queue.clear_kick();
            while !stop.requested() && queue.pop(&mut chain) {
                if !chain.split_status() {
                    queue.fail(RingError::Incomplete(chain.head()));
                    break;
                }
                chain.write_status(self.command(&chain));
                queue.add_used(chain.head(), 1);
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

    fn command(&self, chain: &Chain) -> u8 {
        let mut header = [0xff; HEADER];
        chain.readable.copy_to(0, &mut header);
        let done = match header.map(u32::from) {
            [VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET] => self.set_pairs(chain),
            [
                VIRTIO_NET_CTRL_GUEST_OFFLOADS,
                VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
            ] => self.set_offloads(chain),
            _ => None,
        };
        if done.is_some() { ACK_OK } else { ACK_ERROR }
    }

    fn set_pairs(&self, chain: &Chain) -> Option<()> {
        let pairs = u16::from_le_bytes(data(chain)?);
        if !(1..=self.pairs).contains(&pairs) {
            return None;
        }
        accepted(self.link.set_pairs(pairs.into()))
    }

    fn set_offloads(&self, chain: &Chain) -> Option<()> {
        let wanted = u64::from_le_bytes(data(chain)?);
        if wanted & !self.features != 0 {
            return None;
        }
        accepted(self.link.set_offloads(super::offloads(wanted)))
    }
}

/// The command's data, if there are enough bytes.
fn data<const N: usize>(chain: &Chain) -> Option<[u8; N]> {
    let mut data = [0; N];
    (chain.readable.copy_to(HEADER, &mut data) == N).then_some(data)
}

fn accepted(result: std::io::Result<()>) -> Option<()> {
    result
        .map_err(|error| log::warn!("{NAME}: the host refuses a setting: {error}"))
        .ok()
}
