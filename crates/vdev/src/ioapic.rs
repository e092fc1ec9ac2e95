//! I/O APIC (82093AA data sheet, with the EOI register of version 0x20).
//!
//! Each pin has a line that its sources drive and a redirection table entry (RTE). The caller
//! counts how many sources share a line and says when it is asserted; polarity is the caller's
//! too. What a pin sends is returned as a [`Delivery`] for the local APICs.
//!
//! A level-triggered pin sends once, sets its remote IRR, and sends again only after the EOI of
//! its vector, if the line is still asserted. An edge on a masked pin is lost, as on the chip.

use acrn_abi::{Gsi, Vector};

use crate::interrupt::{Delivery, DeliveryMode, Destination};

/// Most pins an IOAPIC can have here.
pub const MAX_PINS: u8 = 120;

/// Offsets in the register page.
mod page {
    pub const SELECT: u16 = 0x00;
    pub const WINDOW: u16 = 0x10;
    pub const EOI: u16 = 0x40;
}

/// Registers behind the window.
mod reg {
    pub const ID: u8 = 0;
    pub const VERSION: u8 = 1;
    pub const ARBITRATION: u8 = 2;
    pub const TABLE: u8 = 0x10;
}

/// Has the EOI register.
const VERSION: u32 = 0x20;

/// Redirection table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rte(pub u64);

impl Rte {
    const REMOTE_IRR: u64 = 1 << 14;
    const LEVEL: u64 = 1 << 15;
    const MASKED: u64 = 1 << 16;
    const WRITABLE: u64 = 0xff00_0000_0001_afff;
    /// After reset: masked, all else zero.
    pub const RESET: Self = Self(Self::MASKED);

    /// Vector.
    pub const fn vector(self) -> Vector {
        Vector(self.0 as u8)
    }
    /// Delivery mode.
    pub const fn mode(self) -> DeliveryMode {
        DeliveryMode::from_bits((self.0 >> 8) as u8)
    }
    /// Destination, widened to 32 bits.
    pub const fn destination(self) -> Destination {
        Destination::from_xapic((self.0 >> 56) as u8, self.0 & 1 << 11 != 0)
    }
    /// Whether the pin is active low; for whoever drives the line or programs a physical pin.
    pub const fn active_low(self) -> bool {
        self.0 & 1 << 13 != 0
    }
    /// Whether an EOI is awaited.
    pub const fn remote_irr(self) -> bool {
        self.0 & Self::REMOTE_IRR != 0
    }
    /// Whether the trigger mode bit says level.
    pub const fn level(self) -> bool {
        self.0 & Self::LEVEL != 0
    }
    /// Whether the pin is masked.
    pub const fn masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }
    /// Level triggered with an EOI to come: modes without a vector act on edges whatever the
    /// trigger bit says.
    const fn awaits_eoi(self) -> bool {
        self.level() && self.mode().uses_vector()
    }
    const fn delivery(self) -> Delivery {
        Delivery {
            destination: self.destination(),
            mode: self.mode(),
            vector: self.vector(),
            level: self.awaits_eoi(),
        }
    }
}

/// What a register write asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum IoApicAction {
    /// Nothing.
    None,
    /// The entry of `pin` changed; a physical pin behind it follows. `delivery` is what the pin
    /// sends at once, because its line was asserted behind the mask.
    RteChanged {
        /// Pin number.
        pin: u8,
        /// Entry before the write.
        old: Rte,
        /// Entry after the write.
        new: Rte,
        /// Interrupt to deliver now.
        delivery: Option<Delivery>,
    },
    /// The guest wrote the EOI register: call `end_of_interrupt`.
    Eoi(Vector),
}

/// A virtual I/O APIC.
#[derive(Debug)]
pub struct VIoApic {
    id: u8,
    pins: u8,
    gsi_base: Gsi,
    select: u8,
    /// Without remote IRR, which is kept in `remote_irr`.
    table: [Rte; MAX_PINS as usize],
    /// Bit n: pin n.
    lines: u128,
    remote_irr: u128,
}

impl VIoApic {
    /// An IOAPIC after reset. `id` has 4 bits; `pins` is cut to 1..=[`MAX_PINS`].
    pub const fn new(id: u8, gsi_base: Gsi, pins: u8) -> Self {
        let pins = match pins {
            0 => 1,
            1..=MAX_PINS => pins,
            _ => MAX_PINS,
        };
        Self {
            id: id & 0xf,
            pins,
            gsi_base,
            select: 0,
            table: [Rte::RESET; MAX_PINS as usize],
            lines: 0,
            remote_irr: 0,
        }
    }

    /// Reset: every entry masked. The lines stay as their sources drive them.
    pub fn reset(&mut self) {
        self.select = 0;
        self.table = [Rte::RESET; MAX_PINS as usize];
        self.remote_irr = 0;
    }

    /// Number of pins.
    pub fn pins(&self) -> u8 {
        self.pins
    }

    /// The GSI of pin 0.
    pub fn gsi_base(&self) -> Gsi {
        self.gsi_base
    }

    /// The pin of a GSI, if it is one of this IOAPIC's.
    pub fn pin_of(&self, gsi: Gsi) -> Option<u8> {
        let pin = gsi.0.checked_sub(self.gsi_base.0)?;
        (pin < u32::from(self.pins)).then_some(pin as u8)
    }

    /// The entry of `pin` as the guest reads it.
    pub fn rte(&self, pin: u8) -> Option<Rte> {
        let rte = self.entry(pin)?;
        let remote_irr = if self.remote_irr & bit(pin) != 0 {
            Rte::REMOTE_IRR
        } else {
            0
        };
        Some(Rte(rte.0 | remote_irr))
    }

    fn entry(&self, pin: u8) -> Option<Rte> {
        if pin < self.pins {
            self.table.get(usize::from(pin)).copied()
        } else {
            None
        }
    }

    /// 32-bit read at `offset` of the register page.
    pub fn read(&self, offset: u16) -> u32 {
        match offset {
            page::SELECT => self.select.into(),
            page::WINDOW => self.read_window(),
            _ => 0,
        }
    }

    fn read_window(&self) -> u32 {
        match self.select {
            reg::ID | reg::ARBITRATION => u32::from(self.id) << 24,
            reg::VERSION => u32::from(self.pins - 1) << 16 | VERSION,
            reg::TABLE.. => {
                let index = self.select - reg::TABLE;
                match self.rte(index / 2) {
                    Some(rte) => (rte.0 >> (index % 2 * 32)) as u32,
                    None => u32::MAX,
                }
            }
            _ => 0,
        }
    }

    /// 32-bit write at `offset` of the register page.
    pub fn write(&mut self, offset: u16, value: u32) -> IoApicAction {
        match offset {
            page::SELECT => self.select = value as u8,
            page::WINDOW => return self.write_window(value),
            page::EOI => return IoApicAction::Eoi(Vector(value as u8)),
            _ => {}
        }
        IoApicAction::None
    }

    fn write_window(&mut self, value: u32) -> IoApicAction {
        match self.select {
            reg::ID => self.id = (value >> 24) as u8 & 0xf,
            reg::TABLE.. => {
                let index = self.select - reg::TABLE;
                return self.write_rte(index / 2, index % 2 != 0, value);
            }
            _ => {}
        }
        IoApicAction::None
    }

    fn write_rte(&mut self, pin: u8, high: bool, value: u32) -> IoApicAction {
        let Some(old) = self.rte(pin) else {
            return IoApicAction::None;
        };
        let merged = if high {
            old.0 & 0xffff_ffff | u64::from(value) << 32
        } else {
            old.0 & !0xffff_ffff | u64::from(value)
        };
        let rte = Rte(merged & Rte::WRITABLE);
        if let Some(entry) = self.table.get_mut(usize::from(pin)) {
            *entry = rte;
        }
        if !rte.awaits_eoi() {
            // Guests switch a pin to edge and back to clear a stuck remote IRR.
            self.remote_irr &= !bit(pin);
        }
        let delivery = self.send_if_asserted(pin, rte);
        let new = self.rte(pin).unwrap_or(rte);
        IoApicAction::RteChanged {
            pin,
            old,
            new,
            delivery,
        }
    }

    /// Drives the line of `pin`; what the pin sends. Pins beyond the last have no effect.
    #[inline]
    pub fn set_level(&mut self, pin: u8, asserted: bool) -> Option<Delivery> {
        let rte = self.entry(pin)?;
        let was = self.lines & bit(pin) != 0;
        if !asserted {
            self.lines &= !bit(pin);
            return None;
        }
        self.lines |= bit(pin);
        if rte.awaits_eoi() {
            self.send_if_asserted(pin, rte)
        } else {
            (!was && !rte.masked()).then_some(rte.delivery())
        }
    }

    /// Asserts and deasserts the line of `pin`: one interrupt, in either trigger mode.
    pub fn pulse(&mut self, pin: u8) -> Option<Delivery> {
        self.set_level(pin, false);
        let delivery = self.set_level(pin, true);
        self.set_level(pin, false);
        delivery
    }

    /// Whether the line of `pin` is asserted.
    pub fn is_asserted(&self, pin: u8) -> bool {
        pin < self.pins && self.lines & bit(pin) != 0
    }

    /// What a level-triggered pin sends because its line is asserted.
    fn send_if_asserted(&mut self, pin: u8, rte: Rte) -> Option<Delivery> {
        let blocked = rte.masked() || self.remote_irr & bit(pin) != 0;
        if blocked || !rte.awaits_eoi() || self.lines & bit(pin) == 0 {
            return None;
        }
        self.remote_irr |= bit(pin);
        Some(rte.delivery())
    }

    /// Nobody will say when the level-triggered `vector` is finished: pins with it send again when
    /// their lines are driven again.
    pub fn forget_service(&mut self, vector: Vector) {
        for pin in 0..self.pins {
            if self.entry(pin).is_some_and(|rte| rte.vector() == vector) {
                self.remote_irr &= !bit(pin);
            }
        }
    }

    /// A local APIC finished the level-triggered `vector`. Calls `done` for each pin that waited
    /// for it, with the interrupt that the pin sends again because its line is still asserted.
    /// A pass-through pin is to be unmasked or acknowledged there.
    #[inline]
    pub fn end_of_interrupt(
        &mut self,
        vector: Vector,
        done: &mut impl FnMut(u8, Option<Delivery>),
    ) {
        let mut waiting = self.remote_irr;
        while waiting != 0 {
            let pin = waiting.trailing_zeros() as u8;
            waiting &= waiting - 1;
            let Some(rte) = self.entry(pin) else { return };
            if rte.vector() == vector {
                self.remote_irr &= !bit(pin);
                done(pin, self.send_if_asserted(pin, rte));
            }
        }
    }
}

/// The bit of a pin below [`MAX_PINS`].
const fn bit(pin: u8) -> u128 {
    1 << (pin & 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EDGE: u32 = 0x0031;
    const LEVEL: u32 = 0x8031;
    const MASKED: u32 = 0x1_0000;

    fn program(ioapic: &mut VIoApic, pin: u8, low: u32) -> Option<Delivery> {
        let _ = ioapic.write(0, (0x10 + 2 * pin).into());
        match ioapic.write(0x10, low) {
            IoApicAction::RteChanged { delivery, .. } => delivery,
            _ => None,
        }
    }

    fn with_pin(low: u32) -> VIoApic {
        let mut ioapic = VIoApic::new(2, Gsi(24), 24);
        program(&mut ioapic, 5, low);
        ioapic
    }

    fn eoi(ioapic: &mut VIoApic, vector: u8) -> Vec<(u8, bool)> {
        let mut done = Vec::new();
        ioapic.end_of_interrupt(Vector(vector), &mut |pin, again| {
            done.push((pin, again.is_some()))
        });
        done
    }

    #[test]
    fn the_registers_describe_the_chip() {
        let mut ioapic = VIoApic::new(2, Gsi(24), 24);
        let mut read = |index: u32| {
            let _ = ioapic.write(0, index);
            ioapic.read(0x10)
        };
        assert_eq!(read(0), 0x0200_0000);
        assert_eq!(read(1), 0x0017_0020);
        assert_eq!(read(0x10), MASKED);
        assert_eq!(read(0x3f), 0);
        assert_eq!(read(0x40), u32::MAX);
        assert_eq!(read(5), 0);
        assert_eq!(ioapic.pin_of(Gsi(47)), Some(23));
        assert_eq!(
            (ioapic.pin_of(Gsi(48)), ioapic.pin_of(Gsi(23))),
            (None, None)
        );
    }

    #[test]
    fn an_edge_sends_once() {
        let mut ioapic = with_pin(EDGE);
        let delivery = ioapic.set_level(5, true).unwrap();
        assert_eq!((delivery.vector, delivery.level), (Vector(0x31), false));
        assert_eq!(ioapic.set_level(5, true), None);
        ioapic.set_level(5, false);
        assert!(ioapic.set_level(5, true).is_some());
        assert!(ioapic.pulse(5).is_some());
    }

    #[test]
    fn an_edge_on_a_masked_pin_is_lost() {
        let mut ioapic = with_pin(EDGE | MASKED);
        assert_eq!(ioapic.set_level(5, true), None);
        assert_eq!(program(&mut ioapic, 5, EDGE), None);
    }

    #[test]
    fn eoi_of_a_level_interrupt_reasserts_while_the_line_is_high() {
        let mut ioapic = with_pin(LEVEL);
        assert!(
            ioapic
                .set_level(5, true)
                .is_some_and(|delivery| delivery.level)
        );
        assert!(ioapic.rte(5).unwrap().remote_irr());
        assert_eq!(ioapic.set_level(5, true), None);
        assert_eq!(eoi(&mut ioapic, 0x32), []);
        assert_eq!(eoi(&mut ioapic, 0x31), [(5, true)]);
        ioapic.set_level(5, false);
        assert_eq!(eoi(&mut ioapic, 0x31), [(5, false)]);
        assert_eq!(eoi(&mut ioapic, 0x31), []);
    }

    #[test]
    fn unmasking_a_level_pin_while_its_line_is_high_delivers() {
        let mut ioapic = with_pin(LEVEL | MASKED);
        assert_eq!(ioapic.set_level(5, true), None);
        assert!(program(&mut ioapic, 5, LEVEL).is_some());
        assert_eq!(program(&mut ioapic, 5, LEVEL), None);
    }

    #[test]
    fn a_pulse_on_a_level_pin_is_one_interrupt() {
        let mut ioapic = with_pin(LEVEL);
        assert!(ioapic.pulse(5).is_some());
        assert_eq!(ioapic.pulse(5), None);
        assert_eq!(eoi(&mut ioapic, 0x31), [(5, false)]);
    }

    #[test]
    fn switching_to_edge_clears_a_stuck_remote_irr() {
        let mut ioapic = with_pin(LEVEL);
        ioapic.set_level(5, true);
        program(&mut ioapic, 5, EDGE | MASKED);
        assert!(!ioapic.rte(5).unwrap().remote_irr());
        assert!(program(&mut ioapic, 5, LEVEL).is_some());
    }

    #[test]
    fn two_pins_with_one_vector_both_end() {
        let mut ioapic = with_pin(LEVEL);
        program(&mut ioapic, 9, LEVEL);
        ioapic.set_level(5, true);
        ioapic.set_level(9, true);
        ioapic.set_level(9, false);
        assert_eq!(eoi(&mut ioapic, 0x31), [(5, true), (9, false)]);
    }

    #[test]
    fn read_only_bits_stay_and_the_old_entry_is_reported() {
        let mut ioapic = with_pin(LEVEL);
        let _ = ioapic.write(0, 0x10 + 10);
        let IoApicAction::RteChanged { pin, old, new, .. } = ioapic.write(0x10, u32::MAX) else {
            panic!()
        };
        assert_eq!((pin, old), (5, Rte(LEVEL.into())));
        assert_eq!(new, Rte(0x1_afff));
        let _ = ioapic.write(0, 0x11 + 10);
        let _ = ioapic.write(0x10, u32::MAX);
        assert_eq!(ioapic.rte(5), Some(Rte(0xff00_0000_0001_afff)));
        assert_eq!(ioapic.rte(5).unwrap().destination().id, u32::MAX);
    }

    #[test]
    fn nmi_and_extint_pins_never_wait_for_an_eoi() {
        let mut ioapic = with_pin(0x8400);
        assert_eq!(ioapic.set_level(5, true).unwrap().mode, DeliveryMode::Nmi);
        assert_eq!(ioapic.set_level(5, true), None);
        assert!(!ioapic.rte(5).unwrap().remote_irr());
    }

    #[test]
    fn the_eoi_register_names_a_vector() {
        let mut ioapic = with_pin(LEVEL);
        assert_eq!(ioapic.write(0x40, 0x31), IoApicAction::Eoi(Vector(0x31)));
    }

    #[test]
    fn pins_that_do_not_exist_do_nothing() {
        let mut ioapic = VIoApic::new(0, Gsi(0), 255);
        assert_eq!(ioapic.pins(), MAX_PINS);
        assert_eq!(
            (ioapic.set_level(120, true), ioapic.pulse(255)),
            (None, None)
        );
        assert!(!ioapic.is_asserted(128));
    }

    proptest! {
        #[test]
        fn remote_irr_implies_an_unfinished_level_interrupt(
            ops in prop::collection::vec((0u8..5, any::<u8>(), any::<u32>()), 0..200),
        ) {
            let mut ioapic = VIoApic::new(1, Gsi(0), 32);
            for (kind, pin, value) in ops {
                match kind {
                    0 => drop(ioapic.write(0, value)),
                    1 => drop(ioapic.write(0x10, value)),
                    2 => drop(ioapic.set_level(pin, value & 1 != 0)),
                    3 => drop(ioapic.pulse(pin)),
                    _ => ioapic.end_of_interrupt(Vector(value as u8), &mut |_, _| {}),
                }
                ioapic.read(value as u16 & 0x10);
                for pin in 0..32 {
                    let rte = ioapic.rte(pin).unwrap();
                    prop_assert!(!rte.remote_irr() || rte.awaits_eoi());
                    let must_send = rte.awaits_eoi() && !rte.masked() && ioapic.is_asserted(pin);
                    prop_assert!(!must_send || rte.remote_irr());
                }
            }
        }
    }
}
