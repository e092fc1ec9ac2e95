//! Interrupts and doorbells for devices, made from the driver's ioctls.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use acrn_abi::hsm::{IoEventFd, IrqFd};
use acrn_abi::hypercall::{IrqLine, MsiEntry};
use acrn_abi::types::Gsi;
use vmm_sys_util::eventfd::EventFd;

use super::Hsm;
use crate::pci::{InterruptLine, IoEventAddress, IoEventSink, MsiSink};

/// Pins of the virtual IOAPIC.
pub const GSI_COUNT: u32 = 48;

/// Message-signalled interrupts and doorbells of one VM.
pub struct Sinks(Arc<dyn Hsm>);

impl Sinks {
    /// For the VM behind `hsm`.
    pub fn new(hsm: Arc<dyn Hsm>) -> Arc<Self> {
        Arc::new(Self(hsm))
    }
}

impl MsiSink for Sinks {
    fn inject(&self, address: u64, data: u32) {
        if let Err(error) = self.0.inject_msi(&MsiEntry {
            address,
            data: data.into(),
        }) {
            // The guest chooses address and data, so this is no news for an operator.
            log::debug!("message {data:#x} to {address:#x} was refused: {error}");
        }
    }

    fn bind_irqfd(&self, fd: &EventFd, address: u64, data: u32) -> io::Result<()> {
        let msi = MsiEntry {
            address,
            data: data.into(),
        };
        self.0.irq_fd(&IrqFd {
            fd: fd.as_raw_fd(),
            flags: 0,
            msi,
        })
    }

    fn unbind_irqfd(&self, fd: &EventFd) -> io::Result<()> {
        let msi = MsiEntry::default();
        self.0.irq_fd(&IrqFd {
            fd: fd.as_raw_fd(),
            flags: IrqFd::DEASSIGN,
            msi,
        })
    }
}

fn event(
    fd: &EventFd,
    addr: IoEventAddress,
    len: u32,
    datamatch: Option<u64>,
    flags: u32,
) -> IoEventFd {
    let (address, space) = match addr {
        IoEventAddress::Pio(port) => (u64::from(port), IoEventFd::PIO),
        IoEventAddress::Mmio(address) => (address, 0),
    };
    let matching = if datamatch.is_some() {
        IoEventFd::DATAMATCH
    } else {
        0
    };
    IoEventFd {
        fd: fd.as_raw_fd() as u32,
        flags: flags | space | matching,
        address,
        len,
        reserved: 0,
        data: datamatch.unwrap_or(0),
    }
}

impl IoEventSink for Sinks {
    fn bind(
        &self,
        fd: &EventFd,
        addr: IoEventAddress,
        len: u32,
        datamatch: Option<u64>,
    ) -> io::Result<()> {
        self.0.io_event_fd(&event(fd, addr, len, datamatch, 0))
    }

    fn unbind(
        &self,
        fd: &EventFd,
        addr: IoEventAddress,
        len: u32,
        datamatch: Option<u64>,
    ) -> io::Result<()> {
        self.0
            .io_event_fd(&event(fd, addr, len, datamatch, IoEventFd::DEASSIGN))
    }
}

/// All interrupt lines of a VM, each shared by up to 64 sources.
pub struct Lines {
    hsm: Arc<dyn Hsm>,
    state: Mutex<LinesState>,
}

struct LinesState {
    /// Sources that assert each line, one bit each.
    asserted: [u64; GSI_COUNT as usize],
    /// Number of sources handed out for each line.
    sources: [u32; GSI_COUNT as usize],
}

impl Lines {
    /// For the VM behind `hsm`, with all lines low.
    pub fn new(hsm: Arc<dyn Hsm>) -> Arc<Self> {
        let state = LinesState {
            asserted: [0; GSI_COUNT as usize],
            sources: [0; GSI_COUNT as usize],
        };
        Arc::new(Self {
            hsm,
            state: Mutex::new(state),
        })
    }

    /// A new source on `gsi`.
    pub fn line(self: &Arc<Self>, gsi: Gsi) -> Arc<dyn InterruptLine> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let source = match state.sources.get_mut(gsi.index()) {
            Some(count) => {
                *count += 1;
                (*count - 1) % 64
            }
            None => 0,
        };
        drop(state);
        Arc::new(Line {
            lines: self.clone(),
            gsi,
            mask: 1 << source,
        })
    }

    /// A short pulse on `gsi`, for edge-triggered sources.
    pub fn pulse(&self, gsi: Gsi) {
        self.send(gsi, IrqLine::RISING_PULSE);
    }

    fn send(&self, gsi: Gsi, operation: u32) {
        if let Err(error) = self.hsm.set_irq_line(IrqLine {
            gsi: gsi.0,
            operation,
        }) {
            log::debug!("interrupt line {gsi} could not be set: {error}");
        }
    }

    fn set(&self, gsi: Gsi, mask: u64, level: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asserted) = state.asserted.get_mut(gsi.index()) else {
            return;
        };
        let before = *asserted;
        *asserted = if level { before | mask } else { before & !mask };
        let after = *asserted;
        // Sent under the lock, so that two sources cannot overtake each other.
        if (before == 0) != (after == 0) {
            self.send(gsi, if level { IrqLine::HIGH } else { IrqLine::LOW });
        }
    }
}

struct Line {
    lines: Arc<Lines>,
    gsi: Gsi,
    mask: u64,
}

impl InterruptLine for Line {
    fn set(&self, level: bool) {
        self.lines.set(self.gsi, self.mask, level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::fake::{Call, FakeHsm};

    #[test]
    fn a_shared_line_falls_when_its_last_source_lets_go() {
        let hsm = FakeHsm::new();
        let lines = Lines::new(hsm.clone());
        let (one, two) = (lines.line(Gsi(17)), lines.line(Gsi(17)));
        one.set(true);
        two.set(true);
        one.set(false);
        assert_eq!(hsm.take_calls(), [Call::IrqLine(17, IrqLine::HIGH)]);
        two.set(false);
        two.set(false);
        assert_eq!(hsm.take_calls(), [Call::IrqLine(17, IrqLine::LOW)]);
    }

    #[test]
    fn a_line_that_does_not_exist_is_ignored() {
        let hsm = FakeHsm::new();
        Lines::new(hsm.clone()).line(Gsi(1000)).set(true);
        assert!(hsm.take_calls().is_empty());
    }

    #[test]
    fn a_doorbell_carries_its_place_and_value() {
        let hsm = FakeHsm::new();
        let sinks = Sinks::new(hsm.clone());
        let fd = EventFd::new(0).unwrap();
        IoEventSink::bind(&*sinks, &fd, IoEventAddress::Pio(0x2010), 2, Some(1)).unwrap();
        let [Call::IoEvent(address, flags, data)] = hsm.take_calls()[..] else {
            panic!()
        };
        assert_eq!(
            (address, flags, data),
            (0x2010, IoEventFd::PIO | IoEventFd::DATAMATCH, 1)
        );
    }
}
