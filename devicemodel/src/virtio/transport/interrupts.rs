//! How a virtio device reaches its driver: MSI-X vectors, or INTx with the ISR byte.
//!
//! Shared by the transport, which programs it from the driver's register writes, and by the
//! workers, which signal from their threads. With MSI-X a signal is one message through the
//! function's masks; without, it sets the ISR bit and raises the line until the driver reads
//! the ISR (virtio 1.2, 4.1.5.3 and 4.1.5.4).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::pci::msix::MsixSignaller;
use crate::pci::{EventFd, InterruptLine};
use crate::virtio::queue::DriverEvents;

/// Vector number for "no interrupt".
pub const NO_VECTOR: u16 = 0xffff;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// INTx state, changed under one lock so that line and ISR agree.
#[derive(Default)]
struct Intx {
    isr: u8,
    disabled: bool,
}

/// The interrupts of one device.
pub struct Interrupts {
    msix: MsixSignaller,
    vectors: u16,
    line: Arc<dyn InterruptLine>,
    intx: Mutex<Intx>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    generation: AtomicU8,
    needs_reset: AtomicBool,
}

impl Interrupts {
    /// For a device with `queues` queues and `vectors` entries in its MSI-X table.
    pub fn new(
        msix: MsixSignaller,
        vectors: u16,
        line: Arc<dyn InterruptLine>,
        queues: usize,
    ) -> Self {
        Self {
            msix,
            vectors,
            line,
            intx: Mutex::default(),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
        }
    }

    /// A vector as the driver may set it: one that exists, or none.
    fn checked(&self, vector: u16) -> u16 {
        if vector < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// The vector for configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Relaxed)
    }

    /// Sets the vector for configuration changes.
    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector
            .store(self.checked(vector), Ordering::Relaxed);
    }

    /// The vector of a queue; none for a queue that does not exist.
    pub fn queue_vector(&self, queue: u16) -> u16 {
        let vector = self.queue_vectors.get(usize::from(queue));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed))
    }

    /// Sets the vector of a queue.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(slot) = self.queue_vectors.get(usize::from(queue)) {
            slot.store(self.checked(vector), Ordering::Relaxed);
        }
    }

    /// Counts the changes of the device's configuration.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a driver's error stopped the device.
    pub fn broken(&self) -> bool {
        self.needs_reset.load(Ordering::Relaxed)
    }

    /// What the ISR byte holds; reading it acknowledges.
    pub fn take_isr(&self) -> u8 {
        let mut intx = self.lock();
        let isr = std::mem::take(&mut intx.isr);
        if isr != 0 {
            self.line.set(false);
        }
        isr
    }

    /// Whether an INTx interrupt waits, for the status register.
    pub fn intx_pending(&self) -> bool {
        self.lock().isr != 0
    }

    /// Follows the guest's INTx disable bit and MSI-X enable bit.
    pub fn set_intx_disabled(&self, disabled: bool) {
        let mut intx = self.lock();
        if disabled != intx.disabled {
            intx.disabled = disabled;
            if intx.isr != 0 {
                self.line.set(!disabled);
            }
        }
    }

    /// Back to the state after a device reset.
    pub fn reset(&self) {
        self.take_isr();
        self.config_vector.store(NO_VECTOR, Ordering::Relaxed);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
        self.needs_reset.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Intx> {
        self.intx.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, vector: u16, isr: u8) {
        if self.msix.enabled() {
            if vector != NO_VECTOR {
                self.msix.signal(vector);
            }
            return;
        }
        let mut intx = self.lock();
        intx.isr |= isr;
        if !intx.disabled {
            self.line.set(true);
        }
    }
}

impl DriverEvents for Interrupts {
    fn queue_used(&self, queue: u16) {
        self.send(self.queue_vector(queue), ISR_QUEUE);
    }

    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.send(self.config_vector(), ISR_CONFIG);
    }

    fn irqfd(&self, queue: u16) -> Option<EventFd> {
        if !self.msix.enabled() {
            return None;
        }
        self.msix.event_fd(self.queue_vector(queue)).ok()
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Relaxed);
        self.config_changed();
    }
}
