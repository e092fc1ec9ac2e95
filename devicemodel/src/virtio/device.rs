//! What a virtio device is, apart from the bus that it sits on.

use std::sync::Arc;

use virtio_queue::QueueT;

use super::queue::{DeviceQueue, DriverEvents};
use crate::pci::{DeviceError, GuestRam};

/// Number of a virtio device type (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType(pub u16);

impl DeviceType {
    /// Network card.
    pub const NET: Self = Self(1);
    /// Block device.
    pub const BLOCK: Self = Self(2);
    /// Console.
    pub const CONSOLE: Self = Self(3);
    /// Entropy source.
    pub const RNG: Self = Self(4);

    /// PCI class, subclass and programming interface that suit the type.
    pub fn pci_class(self) -> [u8; 3] {
        match self {
            Self::NET => [0x02, 0x00, 0x00],
            Self::BLOCK => [0x01, 0x80, 0x00],
            Self::CONSOLE => [0x07, 0x80, 0x00],
            _ => [0xff, 0x00, 0x00],
        }
    }
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// Guest RAM.
    pub mem: Arc<GuestRam>,
    /// The negotiated feature bits.
    pub features: u64,
    /// By number; `None` where the driver did not enable the queue.
    pub queues: Vec<Option<DeviceQueue>>,
    /// How to reach the driver.
    pub events: Arc<dyn DriverEvents>,
}

impl Activation {
    /// Takes the queue of this number out.
    pub fn take(&mut self, index: usize) -> Option<DeviceQueue> {
        self.queues.get_mut(index)?.take()
    }
}

/// A virtio device. The transport serialises all calls.
pub trait VirtioDevice: Send {
    /// Name for logs and errors, such as `virtio-blk`.
    fn name(&self) -> &'static str;
    /// The type.
    fn device_type(&self) -> DeviceType;
    /// Feature bits of the device itself; the transport adds those of ring and transport.
    fn features(&self) -> u64;
    /// Largest size of each queue, powers of two.
    fn queue_sizes(&self) -> &[u16];
    /// Reads the device's configuration. Bytes beyond it read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes the device's configuration; most devices have nothing to write.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// The driver accepted these features, all of them offered. Called before
    /// [`VirtioDevice::activate`].
    fn ack_features(&mut self, _features: u64) {}
    /// Puts the medium of this name into a drive that has none. The transport tells the driver.
    ///
    /// # Errors
    /// This is no such drive, or the medium cannot be used.
    fn insert(&mut self, medium: &str) -> Result<(), DeviceError> {
        Err(DeviceError::Option {
            device: self.name(),
            option: medium.to_owned(),
            remedy: "it takes no medium: name the slot of a virtio-blk with nodisk".to_owned(),
        })
    }
    /// Starts the workers.
    ///
    /// # Errors
    /// When the host refuses a thread or a descriptor; the driver sees `NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError>;
    /// Stops the workers and waits for them; no request is under way afterwards and guest RAM
    /// is no longer touched. The device can be activated again.
    fn reset(&mut self);
    /// The VM ends. What is cached is written back.
    fn stop(&mut self) {
        self.reset();
    }
}

/// Answers a read of a configuration that is kept as plain bytes.
pub fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(rest) = usize::try_from(offset).ok().and_then(|at| config.get(at..)) else {
        return;
    };
    let count = rest.len().min(data.len());
    data[..count].copy_from_slice(&rest[..count]);
}

/// Whether feature bit `bit` is in `features`.
pub fn has_feature(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}

/// An unused queue of this largest size; sizes are constants of the devices.
pub(super) fn new_ring(max_size: u16) -> virtio_queue::Queue {
    virtio_queue::Queue::new(max_size).unwrap_or_default()
}
