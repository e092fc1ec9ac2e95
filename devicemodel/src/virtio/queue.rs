//! A virtqueue as a device's worker uses it: take requests, return them, signal.
//!
//! Exactly one thread owns a [`DeviceQueue`]. When the driver breaks a rule, the queue turns
//! itself off, the device status gets `NEEDS_RESET`, and the worker merely sees an empty
//! queue; so no device has to think about hostile rings.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::chain::{Chain, RingError};
use crate::pci::{EventFd, GuestRam};

/// What a device tells its driver, from any thread.
pub trait DriverEvents: Send + Sync {
    /// Buffers of this queue were used: sends its interrupt.
    fn queue_used(&self, queue: u16);
    /// The device's configuration changed: raises the generation, sends the interrupt.
    fn config_changed(&self);
    /// The driver broke a rule: sets `NEEDS_RESET` and tells it (virtio 1.2, 2.1.2).
    fn needs_reset(&self);
}

/// One virtqueue, in the hands of its worker.
pub struct DeviceQueue {
    index: u16,
    ring: Queue,
    mem: Arc<GuestRam>,
    kick: EventFd,
    events: Arc<dyn DriverEvents>,
    indirect: bool,
    broken: bool,
    unsignalled: bool,
}

impl DeviceQueue {
    /// A queue over `ring`, which the transport has validated. `kick` is signalled by the
    /// driver's notifications; `indirect` says whether indirect descriptors were negotiated.
    pub fn new(
        index: u16,
        ring: Queue,
        mem: Arc<GuestRam>,
        kick: EventFd,
        events: Arc<dyn DriverEvents>,
        indirect: bool,
    ) -> Self {
        Self {
            index,
            ring,
            mem,
            kick,
            events,
            indirect,
            broken: false,
            unsignalled: false,
        }
    }

    /// Number of the queue within its device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The guest RAM that the queue is in.
    pub fn memory(&self) -> &Arc<GuestRam> {
        &self.mem
    }

    /// Readable after the driver notified the queue.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// An empty chain to pop into.
    pub fn new_chain(&self) -> Chain {
        Chain::new(self.mem.clone())
    }

    /// Forgets the notifications received so far. Done before the queue is looked at, so that
    /// none is lost.
    pub fn clear_kick(&self) {
        // The descriptor is non-blocking: an error says that there was nothing to forget.
        let _ = self.kick.read();
    }

    /// Takes the next request into `chain`; `false` when there is none, or the driver broke
    /// a rule.
    pub fn pop(&mut self, chain: &mut Chain) -> bool {
        if self.broken {
            return false;
        }
        match self.try_pop(chain) {
            Ok(found) => found,
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    fn try_pop(&mut self, chain: &mut Chain) -> Result<bool, RingError> {
        let mut available = self
            .ring
            .iter(&*self.mem)
            .map_err(|_| RingError::Available)?;
        let Some(head) = available.next().map(|found| found.head_index()) else {
            return Ok(false);
        };
        chain.walk(
            self.ring.desc_table(),
            self.ring.size(),
            head,
            self.indirect,
        )?;
        Ok(true)
    }

    /// Returns the request of `head`, with `len` bytes written to its writable buffers.
    pub fn add_used(&mut self, head: u16, len: u32) {
        if self.broken {
            return;
        }
        match self.ring.add_used(&*self.mem, head, len) {
            Ok(()) => self.unsignalled = true,
            Err(_) => self.fail(RingError::Used(head)),
        }
    }

    /// Interrupts the driver for what was returned since the last call, unless it asked not to
    /// be.
    pub fn signal(&mut self) {
        if std::mem::take(&mut self.unsignalled) && self.wants_interrupt() {
            self.events.queue_used(self.index);
        }
    }

    fn wants_interrupt(&mut self) -> bool {
        // This call also orders the used ring before the reads of the driver's wishes.
        let wanted = self.ring.needs_notification(&*self.mem).unwrap_or(true);
        if self.ring.event_idx_enabled() {
            return wanted;
        }
        let flags = self
            .mem
            .load(GuestAddress(self.ring.avail_ring()), Ordering::Relaxed);
        flags.map_or(true, |flags| {
            u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0
        })
    }

    /// Asks the driver for no further notifications while the queue is being worked on.
    pub fn disable_kicks(&mut self) {
        let _ = self.ring.disable_notification(&*self.mem);
    }

    /// Asks for notifications again; `true` when requests came in meanwhile, which nobody will
    /// announce.
    pub fn enable_kicks(&mut self) -> bool {
        !self.broken && self.ring.enable_notification(&*self.mem).unwrap_or(false)
    }

    /// Whether requests wait.
    pub fn has_work(&self) -> bool {
        let seen = Wrapping(self.ring.next_avail());
        !self.broken
            && self
                .ring
                .avail_idx(&*self.mem, Ordering::Acquire)
                .is_ok_and(|i| i != seen)
    }

    /// Turns the queue off after a violation and reports it to the driver.
    pub fn fail(&mut self, error: RingError) {
        if !std::mem::replace(&mut self.broken, true) {
            log::warn!(
                "virtio: queue {} stopped until the driver resets: {error}",
                self.index
            );
            self.events.needs_reset();
        }
    }
}
