//! The interrupts of a VM: lines, the 8259 pair, I/O APICs, and messages to its local APICs.

use super::{Vm, get};
use crate::vcpu::{Vcpu, request};
use crate::{irq, percpu};
use acrn_abi::{Gsi, Vector};
use acrn_vdev::interrupt::{Delivery, DeliveryMode, Destination};
use acrn_vdev::ioapic::VIoApic;
use acrn_vdev::lapic::route;
use acrn_vdev::pic::VPic;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU8, Ordering};

/// Lines that several devices of the hypervisor may share.
pub(super) const SHARED_LINES: usize = 64;

/// Which input of the 8259 pair is the same line as each of the first pins of the IOAPICs.
pub(super) struct PicInputs([AtomicU8; Self::PINS]);

impl PicInputs {
    const PINS: usize = 24;
    const NONE: u8 = u8::MAX;

    /// As in a PC: the numbers are the same, but for the timer, which is on pin 2 of the IOAPIC
    /// and input 0 of the 8259s.
    pub(super) const fn new() -> Self {
        let mut inputs = [const { AtomicU8::new(Self::NONE) }; Self::PINS];
        let mut pin = 0;
        while pin < 16 {
            inputs[pin] = AtomicU8::new(if pin == 2 { 0 } else { pin as u8 });
            pin += 1;
        }
        Self(inputs)
    }

    fn of(&self, gsi: Gsi) -> Option<u8> {
        let input = self.0.get(gsi.0 as usize)?.load(Ordering::Relaxed);
        (input != Self::NONE).then_some(input)
    }
}

impl Vm {
    /// Whether the 8259 pair has an interrupt, from a cached copy: cheap enough for each entry.
    #[inline]
    pub fn pic_output(&self) -> bool {
        self.pic_output.load(Ordering::Relaxed)
    }

    /// Works on the 8259 pair; tells the bootstrap processor when its output rose.
    pub fn with_pic<R>(&self, work: impl FnOnce(&mut VPic) -> R) -> R {
        let mut pic = self.pic.lock();
        let result = work(&mut pic);
        let output = pic.has_interrupt();
        let before = self.pic_output.swap(output, Ordering::Relaxed);
        drop(pic);
        if output && !before && self.vcpu_count() > 0 {
            get(self.id).vcpus[0].ask(request::EXTINT);
        }
        result
    }

    /// Reads a port of the 8259 pair.
    #[inline]
    pub fn read_pic(&self, port: u16) -> u8 {
        let value = self.pic.lock().peek(port);
        value.unwrap_or_else(|| self.with_pic(|pic| pic.read(port)))
    }

    /// Acknowledges the 8259 pair's interrupt, if there still is one.
    pub fn pic_acknowledge(&self) -> Option<u8> {
        self.with_pic(|pic| pic.has_interrupt().then(|| pic.acknowledge().0))
    }

    /// Sends an interrupt message to the local APICs that it addresses.
    pub fn deliver(&self, delivery: Delivery) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let identities = &self.identities[..self.vcpu_count()];
        for index in route(identities, delivery.destination, delivery.mode, turn) {
            let Some(vcpu) = self.vcpu(index) else {
                continue;
            };
            match delivery.mode {
                DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                    vcpu.post(delivery.vector, delivery.level);
                }
                DeliveryMode::Nmi => vcpu.ask(request::NMI),
                DeliveryMode::Init => vcpu.ask(request::INIT),
                DeliveryMode::ExtInt => vcpu.ask(request::EXTINT),
                DeliveryMode::Smi | DeliveryMode::Reserved | DeliveryMode::StartUp => {}
            }
        }
    }

    /// Physical CPU of the first vCPU that a message reaches, for programming hardware.
    pub fn target_cpu(&self, destination: Destination) -> Option<&'static Vcpu> {
        let identities = &self.identities[..self.vcpu_count()];
        let index = route(identities, destination, DeliveryMode::Fixed, 0).next()?;
        self.vcpu(index)
    }

    /// Connects the lines of the machine to the inputs of the 8259 pair as its tables say. Before
    /// the VM runs.
    pub fn connect_pic(&self, input: impl Fn(Gsi) -> Option<u8>) {
        for (pin, slot) in self.pic_inputs.0.iter().enumerate() {
            let input = input(Gsi(pin as u32)).unwrap_or(PicInputs::NONE);
            slot.store(input, Ordering::Relaxed);
        }
    }

    /// Sets an interrupt line: the IOAPIC pin and the 8259 input, where it has one.
    pub fn set_line(&self, gsi: Gsi, asserted: bool) {
        self.with_pin(gsi, |ioapic, pin| ioapic.set_level(pin, asserted));
        if let Some(irq) = self.pic_inputs.of(gsi) {
            self.with_pic(|pic| pic.set_irq(irq, asserted));
        }
    }

    /// One of the devices that share a line asserts it or does not.
    pub fn set_shared_line(&self, gsi: Gsi, source: u8, asserted: bool) {
        let mut lines = self.asserted.lock();
        let Some(by) = lines.get_mut(gsi.0 as usize) else {
            return;
        };
        let bit = 1u32.checked_shl(source.into()).unwrap_or(0);
        *by = if asserted { *by | bit } else { *by & !bit };
        // With the lock, so that nobody undoes a newer level with an older one.
        self.set_line(gsi, *by != 0);
    }

    /// A short pulse on an interrupt line.
    pub fn pulse_line(&self, gsi: Gsi) {
        self.with_pin(gsi, |ioapic, pin| ioapic.pulse(pin));
        if let Some(irq) = self.pic_inputs.of(gsi) {
            self.with_pic(|pic| {
                pic.set_irq(irq, true);
                pic.set_irq(irq, false);
            });
        }
    }

    fn with_pin(&self, gsi: Gsi, work: impl FnOnce(&mut VIoApic, u8) -> Option<Delivery>) {
        let delivery = {
            let mut ioapics = self.ioapics.lock();
            ioapics
                .iter_mut()
                .find_map(|(_, ioapic)| ioapic.pin_of(gsi).map(|pin| (ioapic, pin)))
                .and_then(|(ioapic, pin)| work(ioapic, pin))
        };
        if let Some(delivery) = delivery {
            self.deliver(delivery);
            if delivery.level && self.owns_apics() {
                self.forget_service(delivery.vector);
            }
        }
    }

    /// Nobody will hear of the EOI to a level-triggered interrupt: its pins may send again when their
    /// lines rise again.
    fn forget_service(&self, vector: Vector) {
        let given = |vcpu: &Vcpu| percpu::get(vcpu.pcpu()).is_apic_given();
        if self.active_vcpus().any(given) {
            let mut ioapics = self.ioapics.lock();
            ioapics
                .iter_mut()
                .for_each(|(_, ioapic)| ioapic.forget_service(vector));
        }
    }

    /// A guest ended a level-triggered interrupt: lines that are still high deliver again, and
    /// passed-through ones are opened at the hardware.
    pub fn end_of_interrupt(&self, vector: Vector) {
        let mut again: ArrayVec<Delivery, 8> = ArrayVec::new();
        let mut ended: ArrayVec<Gsi, 8> = ArrayVec::new();
        {
            let mut ioapics = self.ioapics.lock();
            for (_, ioapic) in ioapics.iter_mut() {
                let base = ioapic.gsi_base().0;
                // A passed-through line falls first: the hardware says whether it is still high
                // once its pin is open again.
                for pin in 0..ioapic.pins() {
                    let gsi = Gsi(base + u32::from(pin));
                    let concerned = ioapic.is_asserted(pin)
                        && ioapic
                            .rte(pin)
                            .is_some_and(|r| r.level() && r.vector() == vector)
                        && irq::is_passed_through(self.id, gsi);
                    if concerned && ended.try_push(gsi).is_ok() {
                        let _ = ioapic.set_level(pin, false);
                    }
                }
                ioapic.end_of_interrupt(vector, &mut |_, delivery| {
                    if let Some(delivery) = delivery {
                        let _ = again.try_push(delivery);
                    }
                });
            }
        }
        for gsi in ended {
            if let Some(irq) = self.pic_inputs.of(gsi) {
                self.with_pic(|pic| pic.set_irq(irq, false));
            }
            irq::reopen(self, gsi);
        }
        for delivery in again {
            self.deliver(delivery);
        }
    }
}
