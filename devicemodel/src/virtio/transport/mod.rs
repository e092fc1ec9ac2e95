//! virtio over PCI, modern only (virtio 1.2, 4.1).
//!
//! BAR 4 holds all registers, one 4 KiB page per structure; BAR 1 the MSI-X table. Each queue
//! has a doorbell of its own in the notification page, so that the Service VM's kernel can
//! tell them apart by address alone and wakes the right worker without the Device Model.
//!
//! Life cycle: the driver negotiates features, describes the queues, sets `DRIVER_OK`; then
//! the rings are validated and the device is activated. A write of 0 to the status stops the
//! workers and joins them before the register reads 0, so that the driver may reuse its
//! memory. A ring or request that breaks the rules sets `NEEDS_RESET`, and nothing else
//! happens until the driver resets.

pub mod interrupts;
pub mod registers;

use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

use self::interrupts::Interrupts;
use self::registers::{Registers, offset, status};
use super::device::{Activation, VirtioDevice, has_feature};
use super::queue::{DeviceQueue, DriverEvents};
use super::throttle;
use crate::pci::msix::Msix;
use crate::pci::{
    BarKind, ConfigSpace, DeviceError, EventFd, Identity, IoEventAddress, PciContext, PciDevice,
};

const VENDOR: u16 = 0x1af4;
/// Subsystem of devices without the legacy interface; any number from 0x40 on.
const SUBSYSTEM: u16 = 0x1100;

/// BAR of the MSI-X table.
const MSIX_BAR: u8 = 1;
/// BAR of the registers.
pub const REGISTER_BAR: u8 = 4;
/// Size of the register BAR.
const REGISTER_SIZE: u64 = 0x4000;
/// Common configuration, in the register BAR.
pub const COMMON: u64 = 0x0000;
/// ISR byte, in the register BAR.
pub const ISR: u64 = 0x1000;
/// Configuration of the device, in the register BAR.
pub const DEVICE: u64 = 0x2000;
/// Doorbells, in the register BAR.
pub const NOTIFY: u64 = 0x3000;
/// Bytes between the doorbells of two queues.
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// Bytes of a register page that are in use at most.
const PAGE: u64 = 0x1000;

const CAPABILITY_VENDOR: u8 = 0x09;
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;
/// In the capability for access through configuration space: which BAR.
const WINDOW_BAR: u16 = 4;
/// In that capability: the offset in the BAR.
const WINDOW_OFFSET: u16 = 8;
/// In that capability: the width.
const WINDOW_LENGTH: u16 = 12;
/// In that capability: the data.
const WINDOW_DATA: u16 = 16;

/// One doorbell.
struct Doorbell {
    kick: EventFd,
    /// Guest address that the kernel watches.
    bound: Option<u64>,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    device: Box<dyn VirtioDevice>,
    context: PciContext,
    config: ConfigSpace,
    msix: Msix,
    interrupts: Arc<Interrupts>,
    registers: Registers,
    doorbells: Vec<Doorbell>,
    /// Offset of the capability for access through configuration space.
    window: u16,
    active: bool,
}

impl VirtioPci {
    /// Puts `device` on the bus.
    ///
    /// # Errors
    /// No event descriptors left, or a layout that does not fit.
    pub fn new(device: Box<dyn VirtioDevice>, context: PciContext) -> Result<Self, DeviceError> {
        let name = device.name();
        let layout = |source| DeviceError::Layout {
            device: name,
            source,
        };
        let mut config = ConfigSpace::new(identity(device.as_ref()));
        config.set_interrupt(1, 0);
        config
            .add_bar(
                REGISTER_BAR.into(),
                BarKind::Memory64 {
                    prefetchable: false,
                },
                REGISTER_SIZE,
            )
            .map_err(layout)?;
        let queues = device.queue_sizes().len();
        let vectors = u16::try_from(queues + 1).unwrap_or(u16::MAX);
        let msix = Msix::with_own_bar(&mut config, vectors, MSIX_BAR, context.msi.clone())
            .map_err(layout)?;
        let window = add_capabilities(&mut config, queues).map_err(layout)?;
        let interrupts = Interrupts::new(msix.signaller(), vectors, context.intx.clone(), queues);
        let doorbells = (0..queues)
            .map(|_| new_doorbell())
            .collect::<Result<_, _>>();
        let doorbells = doorbells.map_err(|source| DeviceError::Host {
            device: name,
            action: "create an event descriptor",
            source,
        })?;
        Ok(Self {
            registers: Registers::new(device.queue_sizes()),
            device,
            context,
            config,
            msix,
            interrupts: Arc::new(interrupts),
            doorbells,
            window,
            active: false,
        })
    }

    /// All feature bits that the driver is offered.
    fn features(&self) -> u64 {
        self.device.features()
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_common(&self, at: u64, data: &mut [u8]) {
        let (start, value) = match at {
            0x10..=0x11 => (
                offset::CONFIG_MSIX_VECTOR,
                self.interrupts.config_vector().into(),
            ),
            0x14 => (offset::DEVICE_STATUS, self.status().into()),
            0x15 => (
                offset::CONFIG_GENERATION,
                self.interrupts.generation().into(),
            ),
            0x1a..=0x1b => {
                let vector = self.interrupts.queue_vector(self.registers.selected());
                (offset::QUEUE_MSIX_VECTOR, vector.into())
            }
            _ => self.registers.field(at, self.features()),
        };
        let bytes: [u8; 8] = value.to_le_bytes();
        // Every field is at most 8 bytes long and starts at or before `at`.
        let skipped = bytes.iter().skip((at - start) as usize);
        for (out, byte) in data.iter_mut().zip(skipped.chain(std::iter::repeat(&0))) {
            *out = *byte;
        }
    }

    fn write_common(&mut self, at: u64, data: &[u8]) {
        let mut bytes = [0; 8];
        let count = data.len().min(8);
        bytes[..count].copy_from_slice(&data[..count]);
        let value = u64::from_le_bytes(bytes);
        match (at, count) {
            (offset::CONFIG_MSIX_VECTOR, 2) => self.interrupts.set_config_vector(value as u16),
            (offset::QUEUE_MSIX_VECTOR, 2) => {
                self.interrupts
                    .set_queue_vector(self.registers.selected(), value as u16);
            }
            (offset::DEVICE_STATUS, 1) => self.set_status(value as u8),
            _ => self.registers.set(at, count, value),
        }
    }

    fn status(&self) -> u8 {
        let broken = if self.interrupts.broken() {
            status::NEEDS_RESET
        } else {
            0
        };
        self.registers.status | broken
    }

    /// The driver's step through initialisation (virtio 1.2, 3.1). Bits are only ever added;
    /// writing 0 resets.
    fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset_device();
        }
        let new = value & !self.registers.status & !status::NEEDS_RESET;
        let wants = |bit| new & bit != 0;
        self.registers.status |= new & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        if wants(status::FEATURES_OK) && self.features_acceptable() {
            self.registers.status |= status::FEATURES_OK;
            self.device.ack_features(self.registers.driver_features);
        }
        if wants(status::DRIVER_OK) && self.registers.status & status::FEATURES_OK != 0 {
            self.registers.status |= status::DRIVER_OK;
            self.activate();
        }
    }

    fn features_acceptable(&self) -> bool {
        let accepted = self.registers.driver_features;
        accepted & !self.features() == 0 && has_feature(accepted, VIRTIO_F_VERSION_1)
    }

    fn activate(&mut self) {
        let name = self.device.name();
        let Some(queues) = self.build_queues() else {
            if throttle::may_log() {
                log::warn!("{name}: the driver described a queue that is not in its memory");
            }
            return self.interrupts.needs_reset();
        };
        let activation = Activation {
            mem: self.context.memory.clone(),
            features: self.registers.driver_features,
            queues,
            events: self.interrupts.clone(),
        };
        self.active = true;
        if let Err(error) = self.device.activate(activation) {
            log::error!("{error}");
            self.interrupts.needs_reset();
        }
    }

    /// The enabled queues; `None` when one is not valid.
    fn build_queues(&self) -> Option<Vec<Option<DeviceQueue>>> {
        let features = self.registers.driver_features;
        let event_idx = has_feature(features, VIRTIO_RING_F_EVENT_IDX);
        let indirect = has_feature(features, VIRTIO_RING_F_INDIRECT_DESC);
        let queues = self.registers.queues.iter().zip(&self.doorbells);
        let build = |(index, (queue, doorbell)): (u16, (&registers::QueueRegisters, &Doorbell))| {
            if !queue.enabled {
                return Some(None);
            }
            let mem = self.context.memory.clone();
            let ring = queue.ring(&mem, event_idx)?;
            let kick = doorbell.kick.try_clone().ok()?;
            // Requests that were announced before the worker started must not be missed.
            let _ = kick.write(1);
            let events = self.interrupts.clone();
            Some(Some(DeviceQueue::new(
                index, ring, mem, kick, events, indirect,
            )))
        };
        (0u16..).zip(queues).map(build).collect()
    }

    fn reset_device(&mut self) {
        if std::mem::take(&mut self.active) {
            self.device.reset();
        }
        self.registers.reset();
        self.interrupts.reset();
        for doorbell in &self.doorbells {
            let _ = doorbell.kick.read();
        }
    }

    fn ring(&self, at: u64) {
        let queue = usize::try_from(at / u64::from(NOTIFY_MULTIPLIER)).unwrap_or(usize::MAX);
        if let Some(doorbell) = self.doorbells.get(queue) {
            // Fails only when the counter is full, and then the worker is awake anyway.
            let _ = doorbell.kick.write(1);
        }
    }

    /// Moves the doorbells to where the register BAR is now.
    fn place_doorbells(&mut self, base: Option<u64>) {
        let sink = &self.context.io_events;
        for (index, doorbell) in (0u64..).zip(&mut self.doorbells) {
            let at = |bar: u64| bar + NOTIFY + index * u64::from(NOTIFY_MULTIPLIER);
            let wanted = base.map(at);
            if doorbell.bound == wanted {
                continue;
            }
            if let Some(old) = doorbell.bound.take() {
                let place = IoEventAddress::Mmio(old);
                if let Err(error) = sink.unbind(&doorbell.kick, place, NOTIFY_MULTIPLIER, None) {
                    log::warn!(
                        "{}: a doorbell stays at {old:#x}: {error}",
                        self.device.name()
                    );
                }
            }
            let Some(new) = wanted else { continue };
            let place = IoEventAddress::Mmio(new);
            match sink.bind(&doorbell.kick, place, NOTIFY_MULTIPLIER, None) {
                Ok(()) => doorbell.bound = Some(new),
                // The write then arrives in `bar_write`: slower, but nothing is lost.
                Err(error) => {
                    log::warn!(
                        "{}: no kernel doorbell at {new:#x}: {error}",
                        self.device.name()
                    );
                }
            }
        }
    }

    /// What the capability for access through configuration space points to, if that is an
    /// acceptable access to the register BAR.
    fn window_target(&self) -> Option<(u64, usize)> {
        let at = u64::from(self.config.read_u32(self.window + WINDOW_OFFSET));
        let len = self.config.read_u32(self.window + WINDOW_LENGTH);
        let bar = self.config.read_u8(self.window + WINDOW_BAR);
        let fits = matches!(len, 1 | 2 | 4)
            && at % u64::from(len) == 0
            && at + u64::from(len) <= REGISTER_SIZE;
        (bar == REGISTER_BAR && fits).then_some((at, len as usize))
    }

    fn touches_window(&self, reg: u16, size: u8) -> bool {
        let data = self.window + WINDOW_DATA;
        reg < data + 4 && reg.saturating_add(size.into()) > data
    }

    fn read_register(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..ISR => self.read_common(offset - COMMON, data),
            ISR => {
                if let Some(first) = data.first_mut() {
                    *first = self.interrupts.take_isr();
                }
            }
            DEVICE..NOTIFY => self.device.read_config(offset - DEVICE, data),
            _ => {}
        }
    }

    fn write_register(&mut self, offset: u64, data: &[u8]) {
        match offset {
            COMMON..ISR => self.write_common(offset - COMMON, data),
            DEVICE..NOTIFY => self.device.write_config(offset - DEVICE, data),
            NOTIFY.. => self.ring(offset - NOTIFY),
            _ => {}
        }
    }
}

impl PciDevice for VirtioPci {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_reading(&mut self, reg: u16, size: u8) {
        self.config
            .set_interrupt_status(self.interrupts.intx_pending());
        if self.touches_window(reg, size)
            && let Some((at, len)) = self.window_target()
        {
            let mut data = [0; 4];
            self.read_register(at, &mut data[..len]);
            self.config
                .store_u32(self.window + WINDOW_DATA, u32::from_le_bytes(data));
        }
    }

    fn config_written(&mut self, reg: u16, size: u8) {
        self.msix.config_written(&self.config, reg, size);
        let disabled = self.config.intx_disabled() || self.msix.signaller().enabled();
        self.interrupts.set_intx_disabled(disabled);
        if self.touches_window(reg, size)
            && let Some((at, len)) = self.window_target()
        {
            let data = self
                .config
                .read_u32(self.window + WINDOW_DATA)
                .to_le_bytes();
            self.write_register(at, &data[..len]);
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        match bar {
            REGISTER_BAR => self.read_register(offset, data),
            MSIX_BAR => self.msix.read(offset, data),
            _ => data.fill(0xff),
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        match bar {
            REGISTER_BAR => self.write_register(offset, data),
            MSIX_BAR => self.msix.write(offset, data),
            _ => {}
        }
    }

    fn bars_moved(&mut self) {
        self.place_doorbells(self.config.bar(REGISTER_BAR.into()));
    }

    fn insert(&mut self, medium: &str) -> Result<(), DeviceError> {
        self.device.insert(medium)?;
        if self.active {
            self.interrupts.config_changed();
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.reset_device();
        self.interrupts.set_intx_disabled(false);
        self.msix.reset();
        self.place_doorbells(self.config.bar(REGISTER_BAR.into()));
    }

    fn stop(&mut self) {
        self.device.stop();
        self.active = false;
        self.place_doorbells(None);
        self.msix.reset();
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.stop();
    }
}

fn identity(device: &dyn VirtioDevice) -> Identity {
    let kind = device.device_type();
    let [class, subclass, interface] = kind.pci_class();
    Identity {
        vendor: VENDOR,
        device: 0x1040 + kind.0,
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
        class: u32::from_be_bytes([0, class, subclass, interface]),
        revision: 1,
    }
}

fn new_doorbell() -> std::io::Result<Doorbell> {
    Ok(Doorbell {
        kick: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        bound: None,
    })
}

/// Adds the capabilities that point to the structures; returns the offset of the one for
/// access through configuration space.
fn add_capabilities(
    config: &mut ConfigSpace,
    queues: usize,
) -> Result<u16, crate::pci::SetupError> {
    let doorbells = queues as u32 * NOTIFY_MULTIPLIER;
    let structures = [
        (CFG_COMMON, COMMON, offset::END as u32),
        (CFG_ISR, ISR, 1),
        (CFG_DEVICE, DEVICE, PAGE as u32),
    ];
    for (kind, at, len) in structures {
        config.add_capability(
            CAPABILITY_VENDOR,
            &capability(kind, at as u32, len, 16),
            &[],
        )?;
    }
    let mut notify = capability(CFG_NOTIFY, NOTIFY as u32, doorbells, 20).to_vec();
    notify.extend(NOTIFY_MULTIPLIER.to_le_bytes());
    config.add_capability(CAPABILITY_VENDOR, &notify, &[])?;

    let mut window = capability(CFG_PCI, 0, 0, 20).to_vec();
    window.extend([0; 4]);
    // Writable: BAR, offset, length and data.
    let mut writable = [0xff; 18];
    for fixed in [0, 1, 3, 4, 5] {
        writable[fixed] = 0;
    }
    config.add_capability(CAPABILITY_VENDOR, &window, &writable)
}

/// A capability as it follows id and next pointer (virtio 1.2, 4.1.4).
fn capability(kind: u8, offset: u32, len: u32, total: u8) -> [u8; 14] {
    let mut body = [0; 14];
    body[..3].copy_from_slice(&[total, kind, REGISTER_BAR]);
    body[6..10].copy_from_slice(&offset.to_le_bytes());
    body[10..].copy_from_slice(&len.to_le_bytes());
    body
}

#[cfg(test)]
mod tests;
