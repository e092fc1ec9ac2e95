//! A virtqueue as a device's worker uses it: take requests, return them, signal.
//!
//! Exactly one thread owns a [`DeviceQueue`]. When the driver breaks a rule, the queue turns
//! itself off, the device status gets `NEEDS_RESET`, and the worker merely sees an empty
//! queue; so no device has to think about hostile rings.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::chain::{Chain, RingError};
use super::throttle;
use crate::pci::{EventFd, GuestRam};

/// What a device tells its driver, from any thread.
pub trait DriverEvents: Send + Sync {
    /// Buffers of this queue were used: sends its interrupt.
    fn queue_used(&self, queue: u16);
    /// The device's configuration changed: raises the generation, sends the interrupt.
    fn config_changed(&self);
    /// A descriptor whose signal interrupts the driver for this queue from the kernel, where
    /// the driver uses MSI-X.
    fn irqfd(&self, queue: u16) -> Option<EventFd> {
        let _ = queue;
        None
    }
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
    /// Used index up to which the driver was told.
    signalled: u16,
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
            signalled: 0,
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

    /// Guest addresses of descriptor table, available ring and used ring. All are in RAM.
    pub fn ring_addresses(&self) -> [u64; 3] {
        [
            self.ring.desc_table(),
            self.ring.avail_ring(),
            self.ring.used_ring(),
        ]
    }

    /// How to reach the driver, for devices that serve the ring elsewhere.
    pub fn events(&self) -> &Arc<dyn DriverEvents> {
        &self.events
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
        self.add_used_together(&[(head, len)]);
    }

    /// Returns several requests so that the driver sees all of them or none.
    pub fn add_used_together(&mut self, requests: &[(u16, u32)]) {
        if !self.broken
            && let Err(error) = self.try_add_used(requests)
        {
            self.fail(error);
        }
    }

    fn try_add_used(&mut self, requests: &[(u16, u32)]) -> Result<(), RingError> {
        let used = self.ring.used_ring();
        let size = self.ring.size().max(1);
        let mut index = self.ring.next_used();
        for (head, len) in requests {
            let at = used + 4 + u64::from(index % size) * 8;
            // Head in the lower half, length in the upper one.
            let element = (u64::from(*len) << 32 | u64::from(*head)).to_le();
            self.mem
                .write_obj(element, GuestAddress(at))
                .map_err(|_| RingError::Used(*head))?;
            index = index.wrapping_add(1);
        }
        self.ring.set_next_used(index);
        // Release: a driver that sees the index sees the elements and the data, too.
        self.mem
            .store(index.to_le(), GuestAddress(used + 2), Ordering::Release)
            .map_err(|_| RingError::Used(index))
    }

    /// Interrupts the driver for what was returned since the last call, unless it asked not to
    /// be.
    pub fn signal(&mut self) {
        let (old, new) = (self.signalled, self.ring.next_used());
        if old != new && !self.broken {
            self.signalled = new;
            if self.wants_interrupt(old, new) {
                self.events.queue_used(self.index);
            }
        }
    }

    /// Whether the driver wants to hear that the used index went from `old` to `new` (virtio
    /// 1.2, 2.7.10). When in doubt, it does.
    fn wants_interrupt(&self, old: u16, new: u16) -> bool {
        // The used index must be visible before the driver's wish is read, or both sides could
        // wait for each other.
        fence(Ordering::SeqCst);
        let available = self.ring.avail_ring();
        if self.ring.event_idx_enabled() {
            let at = available + 4 + u64::from(self.ring.size()) * 2;
            return self
                .mem
                .load(GuestAddress(at), Ordering::Relaxed)
                .map_or(true, |event| {
                    let event = u16::from_le(event);
                    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
                });
        }
        self.mem
            .load(GuestAddress(available), Ordering::Relaxed)
            .map_or(true, |flags| {
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
            if throttle::may_log() {
                log::warn!(
                    "virtio: queue {} stopped until the driver resets: {error}",
                    self.index
                );
            }
            self.events.needs_reset();
        }
    }
}
