//! virtio-blk: a disk in a raw file, a partition or a whole disk (virtio 1.2, 5.2).
//!
//! Writes go through to the medium unless the options say `writeback` or the guest switches
//! the write cache on; a guest that knows flushes then decides for itself. An image that is
//! written by one VM is locked against all others. A disk that fails, shrinks or is asked for
//! sectors that it does not have answers with an I/O error; the VM goes on.

pub mod disk;
pub mod options;
pub mod request;
pub mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};

use self::disk::Disk;
use self::options::{BlockOptions, Engine, NAME};
use self::worker::{Shared, UringQueue};
use super::device::{Activation, DeviceType, VirtioDevice, has_feature, read_config_bytes};
use super::queue::DeviceQueue;
use super::worker::{Stop, Worker};
use crate::pci::DeviceError;

/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// Offset of the write cache switch in the configuration.
const CONFIG_WRITEBACK: u64 = 32;
const CONFIG_BYTES: usize = 60;

/// What is in the drive. It changes at most once: when a drive without a medium gets one.
#[derive(Clone)]
pub struct Drive(Arc<RwLock<Arc<Disk>>>);

impl Drive {
    fn new(disk: Disk) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(disk))))
    }

    /// What is in it now.
    pub fn disk(&self) -> Arc<Disk> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn insert(&self, disk: Disk) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(disk);
    }
}

/// The block device.
pub struct Block {
    options: BlockOptions,
    disk: Drive,
    write_cache: Arc<AtomicBool>,
    queue_sizes: Vec<u16>,
    thread_name: String,
    workers: Vec<Worker>,
}

impl Block {
    /// From ACRN's options.
    ///
    /// # Errors
    /// Options that are not understood, or a file that cannot be used.
    pub fn new(options: &str, vm_name: &str) -> Result<Self, DeviceError> {
        let options = BlockOptions::parse(options)?;
        if options.engine == Engine::IoUring {
            worker::probe_uring().map_err(|source| DeviceError::Host {
                device: NAME,
                action: "use io_uring (drop aio=io_uring, or allow it in kernel.io_uring_disabled)",
                source,
            })?;
        }
        let disk = Drive::new(Disk::open(&options)?);
        Ok(Self {
            write_cache: Arc::new(AtomicBool::new(options.writeback)),
            queue_sizes: vec![QUEUE_SIZE; options.queues.into()],
            thread_name: format!("blk-{vm_name}"),
            workers: Vec::new(),
            options,
            disk,
        })
    }

    /// The configuration as the driver reads it (virtio 1.2, 5.2.4).
    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        let disk = self.disk.disk();
        let (logical, physical) = disk.block_size();
        let exponent = (physical / logical).trailing_zeros() as u8;
        put(0, &disk.sectors().to_le_bytes());
        // Header and status take a descriptor each.
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(20, &logical.to_le_bytes());
        put(24, &[exponent, 0]);
        put(26, &((physical / logical) as u16).to_le_bytes());
        put(
            CONFIG_WRITEBACK as usize,
            &[self.write_cache.load(Ordering::Relaxed).into()],
        );
        put(34, &self.options.queues.to_le_bytes());
        if let Some(limits) = self.options.discard {
            put(36, &limits.sectors.to_le_bytes());
            put(40, &limits.segments.to_le_bytes());
            put(44, &limits.alignment.to_le_bytes());
        }
        put(48, &request::MOST_ZEROES.to_le_bytes());
        put(52, &request::MOST_ZERO_SEGMENTS.to_le_bytes());
        // Zeroing may give space back.
        put(56, &[1]);
        config
    }
}

impl VirtioDevice for Block {
    fn name(&self) -> &'static str {
        NAME
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }

    fn features(&self) -> u64 {
        let mut features = 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_TOPOLOGY
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_CONFIG_WCE;
        if self.options.queues > 1 {
            features |= 1 << VIRTIO_BLK_F_MQ;
        }
        if self.disk.disk().read_only() {
            return features | 1 << VIRTIO_BLK_F_RO;
        }
        if self.options.discard.is_some() {
            features |= 1 << VIRTIO_BLK_F_DISCARD;
        }
        features | 1 << VIRTIO_BLK_F_WRITE_ZEROES
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (CONFIG_WRITEBACK, [value]) = (offset, data) {
            self.write_cache.store(*value != 0, Ordering::Relaxed);
        }
    }

    fn insert(&mut self, medium: &str) -> Result<(), DeviceError> {
        if self.options.path.is_some() {
            return Err(options::refuse_medium(medium));
        }
        let options = BlockOptions {
            path: Some(PathBuf::from(medium)),
            ..self.options.clone()
        };
        self.disk.insert(Disk::open(&options)?);
        self.options = options;
        log::info!("{NAME}: {medium} is in the drive");
        Ok(())
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let discard = has_feature(activation.features, VIRTIO_BLK_F_DISCARD);
        if !has_feature(activation.features, VIRTIO_BLK_F_FLUSH) {
            // A driver that cannot flush relies on each write.
            self.write_cache.store(false, Ordering::Relaxed);
        }
        let shared = Shared {
            drive: self.disk.clone(),
            write_cache: self.write_cache.clone(),
            discard: self.options.discard.filter(|_| discard),
        };
        for queue in activation.queues.into_iter().flatten() {
            let name = format!("{}.{}", self.thread_name, queue.index());
            let (shared, engine) = (shared.clone(), self.options.engine);
            let body = move |stop: Stop| serve(queue, shared, engine, &stop);
            self.workers.push(Worker::spawn(NAME, &name, body)?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
        self.write_cache
            .store(self.options.writeback, Ordering::Relaxed);
    }

    fn stop(&mut self) {
        self.reset();
        if let Err(error) = self.disk.disk().flush() {
            log::error!("{NAME}: the last writes may be lost: {error}");
        }
    }
}

fn serve(queue: DeviceQueue, shared: Shared, engine: Engine, stop: &Stop) {
    if engine == Engine::Threads {
        return worker::serve_in_turn(queue, &shared, stop);
    }
    match UringQueue::new(queue, shared) {
        Ok(ring) => ring.serve(stop),
        Err((queue, shared)) => worker::serve_in_turn(queue, &shared, stop),
    }
}

#[cfg(test)]
mod tests;
