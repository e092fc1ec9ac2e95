//! The common configuration registers and what they remember (virtio 1.2, 4.1.4.3).
//!
//! Pure state: which field lies at which offset, and how a driver's writes change it. What a
//! write *means* (reset, start) is decided in the transport.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::pci::GuestRam;
use crate::virtio::device::new_ring;

/// Offsets of the fields.
pub mod offset {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const DEVICE_STATUS: u64 = 0x14;
    pub const CONFIG_GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const END: u64 = 0x38;
}

/// Device status bits (virtio 1.2, 2.1).
pub mod status {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// Registers of one queue.
#[derive(Clone, Debug)]
pub struct QueueRegisters {
    /// Largest size, as the device offers it.
    pub max_size: u16,
    /// Size that the driver chose.
    pub size: u16,
    /// The driver enabled the queue.
    pub enabled: bool,
    /// Guest physical addresses of descriptor table, available ring and used ring.
    pub rings: [u64; 3],
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            enabled: false,
            rings: [0; 3],
        }
    }

    /// The ring that the registers describe, if it is one: a possible size, aligned addresses,
    /// all of it in guest RAM.
    pub fn ring(&self, mem: &GuestRam, event_idx: bool) -> Option<Queue> {
        let [table, available, used] = self.rings.map(GuestAddress);
        let mut ring = new_ring(self.max_size);
        ring.try_set_size(self.size).ok()?;
        ring.try_set_desc_table_address(table).ok()?;
        ring.try_set_avail_ring_address(available).ok()?;
        ring.try_set_used_ring_address(used).ok()?;
        ring.set_event_idx(event_idx);
        ring.set_ready(true);
        ring.is_valid(mem).then_some(ring)
    }
}

/// What the driver has written so far.
#[derive(Debug)]
pub struct Registers {
    /// Feature bits that the driver accepted.
    pub driver_features: u64,
    /// Status bits that the driver set.
    pub status: u8,
    /// Queues by number.
    pub queues: Vec<QueueRegisters>,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
}

impl Registers {
    /// After power-on, for queues of these largest sizes.
    pub fn new(queue_sizes: &[u16]) -> Self {
        Self {
            driver_features: 0,
            status: 0,
            queues: queue_sizes
                .iter()
                .map(|size| QueueRegisters::new(*size))
                .collect(),
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        let sizes: Vec<_> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Self::new(&sizes);
    }

    /// Number of the queue that the queue registers show.
    pub fn selected(&self) -> u16 {
        self.queue_select
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// Start and value of the field that holds the byte at `at`, for those fields that are
    /// kept here; `features` are the ones offered.
    pub fn field(&self, at: u64, features: u64) -> (u64, u64) {
        let queue = |get: fn(&QueueRegisters) -> u64| self.queue().map_or(0, get);
        match at {
            0x00..=0x03 => (
                offset::DEVICE_FEATURE_SELECT,
                self.device_feature_select.into(),
            ),
            0x04..=0x07 => (
                offset::DEVICE_FEATURE,
                half(features, self.device_feature_select),
            ),
            0x08..=0x0b => (
                offset::DRIVER_FEATURE_SELECT,
                self.driver_feature_select.into(),
            ),
            0x0c..=0x0f => (
                offset::DRIVER_FEATURE,
                half(self.driver_features, self.driver_feature_select),
            ),
            0x12..=0x13 => (offset::NUM_QUEUES, self.queues.len() as u64),
            0x16..=0x17 => (offset::QUEUE_SELECT, self.queue_select.into()),
            0x18..=0x19 => (offset::QUEUE_SIZE, queue(|queue| queue.size.into())),
            0x1c..=0x1d => (offset::QUEUE_ENABLE, queue(|queue| queue.enabled.into())),
            0x1e..=0x1f => (offset::QUEUE_NOTIFY_OFF, self.queue_select.into()),
            0x20..=0x27 => (offset::QUEUE_DESC, queue(|queue| queue.rings[0])),
            0x28..=0x2f => (offset::QUEUE_DRIVER, queue(|queue| queue.rings[1])),
            0x30..=0x37 => (offset::QUEUE_DEVICE, queue(|queue| queue.rings[2])),
            _ => (at, 0),
        }
    }

    /// Takes a write of `len` bytes over, for those fields that only are remembered. Features
    /// are fixed once `FEATURES_OK` is set, queues once enabled or running.
    pub fn set(&mut self, at: u64, len: usize, value: u64) {
        let low = value as u32;
        match (at, len) {
            (offset::DEVICE_FEATURE_SELECT, 4) => self.device_feature_select = low,
            (offset::DRIVER_FEATURE_SELECT, 4) => self.driver_feature_select = low,
            (offset::DRIVER_FEATURE, 4) => self.set_driver_feature(low),
            (offset::QUEUE_SELECT, 2) => self.queue_select = low as u16,
            (offset::QUEUE_SIZE..offset::END, _) => self.set_queue(at, len, value),
            _ => {}
        }
    }

    fn set_driver_feature(&mut self, value: u32) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        match self.driver_feature_select {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
            1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
            // No features up there: accepting some cannot be remembered and is harmless.
            _ => {}
        }
    }

    fn set_queue(&mut self, at: u64, len: usize, value: u64) {
        let running = self.status & status::DRIVER_OK != 0;
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        if running || queue.enabled {
            return;
        }
        match (at, len) {
            (offset::QUEUE_SIZE, 2) => queue.size = value as u16,
            (offset::QUEUE_ENABLE, 2) => queue.enabled = value == 1,
            (offset::QUEUE_DESC..offset::END, 4 | 8) => {
                let ring = ((at - offset::QUEUE_DESC) / 8) as usize;
                let Some(ring) = queue.rings.get_mut(ring) else {
                    return;
                };
                *ring = match (at % 8, len) {
                    (0, 8) => value,
                    (0, _) => *ring & !0xffff_ffff | value & 0xffff_ffff,
                    (4, 4) => *ring & 0xffff_ffff | value << 32,
                    _ => return,
                };
            }
            _ => {}
        }
    }
}

fn half(features: u64, select: u32) -> u64 {
    match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}
