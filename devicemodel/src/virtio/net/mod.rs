//! virtio-net: a network card behind a TAP interface (virtio 1.2, 5.1).
//!
//! Each queue has a thread: receivers read packets straight into the guest's buffers,
//! transmitters write them straight from there. Checksums and segmentation are left to
//! whoever can do them best, so that a guest moves 64 KiB at a time. With `vhost` the Service
//! VM's kernel serves the rings and no thread is needed.

pub mod control;
pub mod link;
pub mod options;
pub mod receive;
pub mod tap;
pub mod transmit;
pub mod vhost;

use std::sync::Arc;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
};

use self::control::Control;
use self::link::{Link, OFFLOAD_CSUM, OFFLOAD_TSO_ECN, OFFLOAD_TSO4, OFFLOAD_TSO6};
use self::options::{Mac, NAME, NetOptions};
use self::receive::{ReceiveMode, Receiver};
use self::tap::Tap;
use self::vhost::VhostNet;
use super::device::{Activation, DeviceType, VirtioDevice, has_feature, read_config_bytes};
use super::queue::DeviceQueue;
use super::worker::{Stop, Worker};
use crate::pci::{DeviceError, PciContext};

/// Bytes of the header before each packet.
pub const HEADER: usize = 12;
/// Ethernet header with a VLAN tag.
const ETHERNET: usize = 18;
/// Entries of the queues for packets.
const QUEUE_SIZE: u16 = 256;
/// Entries of the control queue.
const CONTROL_SIZE: u16 = 64;
/// Status in the configuration: the link is up.
const LINK_UP: u16 = 1;

/// Guest features that let the host send large or unfinished packets, and the host's names.
const GUEST_OFFLOADS: [(u32, u32); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, OFFLOAD_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, OFFLOAD_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, OFFLOAD_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, OFFLOAD_TSO_ECN),
];

/// The network card.
pub struct Net {
    link: Arc<dyn Link>,
    mac: Mac,
    pairs: u16,
    vhost: Vec<VhostNet>,
    queue_sizes: Vec<u16>,
    thread_name: String,
    workers: Vec<Worker>,
}

impl Net {
    /// From ACRN's options.
    ///
    /// # Errors
    /// Options that are not understood, or an interface that cannot be used.
    pub fn new(options: &str, context: &PciContext) -> Result<Self, DeviceError> {
        let options = NetOptions::parse(options)?;
        let mac = options.mac.unwrap_or_else(|| derive_mac(&options, context));
        let tap = Tap::open(&options.tap, options.pairs)?;
        let mut net = Self::over(Arc::new(tap), mac, options.pairs, &context.vm_name);
        if options.vhost {
            net.vhost = (0..options.pairs)
                .map(|_| VhostNet::open())
                .collect::<Result<_, _>>()?;
        }
        log::info!("{NAME}: {} has the address {mac}", options.tap);
        Ok(net)
    }

    /// A card over any link.
    pub fn over(link: Arc<dyn Link>, mac: Mac, pairs: u16, vm_name: &str) -> Self {
        let mut queue_sizes = vec![QUEUE_SIZE; usize::from(pairs) * 2];
        queue_sizes.push(CONTROL_SIZE);
        Self {
            link,
            mac,
            pairs,
            vhost: Vec::new(),
            queue_sizes,
            thread_name: format!("net-{vm_name}"),
            workers: Vec::new(),
        }
    }

    fn spawn(
        &mut self,
        role: &str,
        body: impl FnOnce(Stop) + Send + 'static,
    ) -> Result<(), DeviceError> {
        let name = format!("{role}-{}", self.thread_name);
        self.workers.push(Worker::spawn(NAME, &name, body)?);
        Ok(())
    }

    fn spawn_pair(
        &mut self,
        pair: usize,
        queues: [Option<DeviceQueue>; 2],
        mode: ReceiveMode,
    ) -> Result<(), DeviceError> {
        let [receive, transmit] = queues;
        if let Some(queue) = receive {
            let link = self.link.clone();
            self.spawn(&format!("rx{pair}"), move |stop| {
                if let Some(fd) = link.queue(pair) {
                    Receiver::new(queue, mode).serve(fd, &stop);
                }
            })?;
        }
        if let Some(queue) = transmit {
            let link = self.link.clone();
            self.spawn(&format!("tx{pair}"), move |stop| {
                if let Some(fd) = link.queue(pair) {
                    transmit::serve(queue, fd, &stop);
                }
            })?;
        }
        Ok(())
    }

    fn receive_mode(&self, features: u64) -> ReceiveMode {
        let large = has_feature(features, VIRTIO_NET_F_GUEST_TSO4)
            || has_feature(features, VIRTIO_NET_F_GUEST_TSO6);
        let packet = if large {
            usize::from(u16::MAX)
        } else {
            self.link.mtu().into()
        };
        ReceiveMode {
            mergeable: has_feature(features, VIRTIO_NET_F_MRG_RXBUF),
            largest: HEADER + ETHERNET + packet,
        }
    }

    fn prepare_link(&self, features: u64) {
        let settings = self
            .link
            .set_offloads(offloads(features))
            .and(self.link.set_pairs(1));
        if let Err(error) = settings {
            log::warn!("{NAME}: the host refuses the guest's settings: {error}");
        }
    }
}

impl VirtioDevice for Net {
    fn name(&self) -> &'static str {
        NAME
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::NET
    }

    fn features(&self) -> u64 {
        let always = [
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_MTU,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
        ];
        let features = always.iter().fold(0, |bits, bit| bits | 1 << bit);
        if self.pairs > 1 {
            features | 1 << VIRTIO_NET_F_MQ
        } else {
            features
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac.0);
        config[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        config[8..10].copy_from_slice(&self.pairs.to_le_bytes());
        config[10..].copy_from_slice(&self.link.mtu().to_le_bytes());
        read_config_bytes(&config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), DeviceError> {
        let features = activation.features;
        self.prepare_link(features);
        // A driver without multi-queue has its control queue after the first pair.
        let pairs = if has_feature(features, VIRTIO_NET_F_MQ) {
            self.pairs.into()
        } else {
            1
        };
        let mode = self.receive_mode(features);
        for pair in 0..pairs {
            let queues = [activation.take(pair * 2), activation.take(pair * 2 + 1)];
            match (self.vhost.get_mut(pair), self.link.queue(pair)) {
                (Some(vhost), Some(link)) => {
                    let relays = vhost.start(queues, link, features, &activation.mem)?;
                    self.workers.extend(relays);
                }
                _ => self.spawn_pair(pair, queues, mode)?,
            }
        }
        if let Some(queue) = activation.take(pairs * 2) {
            let features = GUEST_OFFLOADS
                .iter()
                .fold(0, |all, (bit, _)| all | features & 1 << bit);
            let control = Control {
                link: self.link.clone(),
                pairs: pairs as u16,
                features,
            };
            self.spawn("ctl", move |stop| control.serve(queue, &stop))?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        for vhost in &mut self.vhost {
            vhost.stop();
        }
        self.workers.clear();
        self.prepare_link(0);
    }
}

/// The host's offload flags for negotiated guest features.
fn offloads(features: u64) -> u32 {
    GUEST_OFFLOADS
        .iter()
        .filter(|(bit, _)| has_feature(features, *bit))
        .fold(0, |flags, (_, flag)| flags | flag)
}

/// An address from the seed, or from the host's identity, the VM's name and the slot.
fn derive_mac(options: &NetOptions, context: &PciContext) -> Mac {
    let host = std::fs::read("/etc/machine-id").unwrap_or_default();
    let seed = options
        .seed
        .as_deref()
        .map_or(host.as_slice(), str::as_bytes);
    Mac::derived(&[
        seed,
        context.vm_name.as_bytes(),
        &context.bdf.0.to_le_bytes(),
    ])
}

#[cfg(test)]
mod tests;
