//! The PC's pair of 8259A interrupt controllers, with the edge/level control registers (ELCR) of
//! the chipset.
//!
//! The second chip hangs on input 2 of the first. `has_interrupt` is the INTR line: while it is
//! up and the processor takes external interrupts, the caller runs the acknowledge cycle with
//! `acknowledge`, which returns the vector.
//!
//! Not modelled: MCS-80/85 mode, buffered mode, special fully nested mode on the second chip.

use acrn_abi::Vector;

/// Input of the first chip to which the second is wired.
const CASCADE: u8 = 2;
/// What an empty acknowledge cycle answers: the chip's input 7.
const SPURIOUS: u8 = 7;

/// Initialization sequence: which word the data port expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    Done,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Copy, Debug)]
struct Chip {
    irr: u8,
    isr: u8,
    imr: u8,
    lines: u8,
    elcr: u8,
    /// Inputs that may be level triggered.
    elcr_writable: u8,
    vector_base: u8,
    /// Input with the highest priority.
    first: u8,
    init: Init,
    single: bool,
    expects_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_nested: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    const fn new(elcr_writable: u8) -> Self {
        Self {
            irr: 0,
            isr: 0,
            imr: 0,
            lines: 0,
            elcr: 0,
            elcr_writable,
            vector_base: 0,
            first: 0,
            init: Init::Done,
            single: false,
            expects_icw4: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_nested: false,
            read_isr: false,
            poll: false,
        }
    }

    fn set_line(&mut self, input: u8, asserted: bool) {
        let bit = 1 << (input & 7);
        if !asserted {
            self.lines &= !bit;
            // A level request goes with its line; an edge stays latched, since sources pulse.
            if self.elcr & bit != 0 {
                self.irr &= !bit;
            }
            return;
        }
        if self.elcr & bit != 0 || self.lines & bit == 0 {
            self.irr |= bit;
        }
        self.lines |= bit;
    }

    /// Position of the most urgent of `inputs`, counted from the highest priority; 8 for none.
    fn rank(&self, inputs: u8) -> u32 {
        inputs.rotate_right(self.first.into()).trailing_zeros()
    }

    fn input_at(&self, rank: u32) -> u8 {
        (self.first + rank as u8) & 7
    }

    /// The input that asks for service, given what is in service.
    fn pending(&self) -> Option<u8> {
        let requests = self.irr & !self.imr;
        if requests == 0 {
            return None;
        }
        let rank = self.rank(requests);
        let mut in_service = self.isr;
        if self.special_mask {
            // A masked input does not hold back lower ones.
            in_service &= !self.imr;
        }
        let input = self.input_at(rank);
        let in_service = self.rank(in_service);
        // Special fully nested: the other chip may ask again, with something more urgent.
        let again = self.special_nested && input == CASCADE && rank == in_service;
        (rank < in_service || again).then_some(input)
    }

    /// Acknowledge cycle; the input that is taken, if there is still one.
    fn acknowledge(&mut self) -> Option<u8> {
        let input = self.pending()?;
        let bit = 1 << input;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.first = (input + 1) & 7;
        }
        Some(input)
    }

    fn vector(&self, input: u8) -> u8 {
        self.vector_base | input
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.icw1(value);
        } else if value & 0x08 != 0 {
            self.ocw3(value);
        } else {
            self.ocw2(value);
        }
    }

    /// Starts the initialization: edges are forgotten, level-triggered lines still ask.
    fn icw1(&mut self, value: u8) {
        *self = Self {
            lines: self.lines,
            irr: self.lines & self.elcr,
            elcr: self.elcr,
            vector_base: self.vector_base,
            init: Init::Icw2,
            single: value & 2 != 0,
            expects_icw4: value & 1 != 0,
            ..Self::new(self.elcr_writable)
        };
    }

    /// EOI and rotation commands.
    fn ocw2(&mut self, value: u8) {
        let (rotate, specific, eoi) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        let input = if specific {
            value & 7
        } else if eoi {
            // The most urgent in service; special mask mode leaves masked ones alone.
            let hidden = if self.special_mask { self.imr } else { 0 };
            match self.rank(self.isr & !hidden) {
                8 => return,
                rank => self.input_at(rank),
            }
        } else {
            self.rotate_on_auto_eoi = rotate;
            return;
        };
        if eoi {
            self.isr &= !(1 << input);
        }
        if rotate {
            self.first = (input + 1) & 7;
        }
    }

    fn ocw3(&mut self, value: u8) {
        self.poll = value & 4 != 0;
        if value & 2 != 0 {
            self.read_isr = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    fn write_data(&mut self, value: u8) {
        self.init = match self.init {
            Init::Done => {
                self.imr = value;
                Init::Done
            }
            Init::Icw2 => {
                self.vector_base = value & 0xf8;
                if self.single {
                    self.after_icw3()
                } else {
                    Init::Icw3
                }
            }
            // The wiring is fixed.
            Init::Icw3 => self.after_icw3(),
            Init::Icw4 => {
                self.auto_eoi = value & 2 != 0;
                self.special_nested = value & 0x10 != 0;
                Init::Done
            }
        };
    }

    fn after_icw3(&self) -> Init {
        if self.expects_icw4 {
            Init::Icw4
        } else {
            Init::Done
        }
    }

    /// A read after the poll command is an acknowledge cycle.
    fn read_poll(&mut self) -> u8 {
        self.poll = false;
        self.acknowledge().map_or(0, |input| 0x80 | input)
    }

    fn read_command(&self) -> u8 {
        if self.read_isr { self.isr } else { self.irr }
    }

    fn write_elcr(&mut self, value: u8) {
        self.elcr = value & self.elcr_writable;
        // What became level triggered follows its line.
        self.irr = self.irr & !self.elcr | self.lines & self.elcr;
    }
}

/// Both controllers. Ports 0x20, 0x21, 0xA0, 0xA1, 0x4D0 and 0x4D1.
#[derive(Debug)]
pub struct VPic {
    first: Chip,
    second: Chip,
}

impl VPic {
    /// After power-on: edge triggered, not yet initialized.
    pub const fn new() -> Self {
        // Timer, keyboard, cascade; real-time clock and coprocessor: always edge triggered.
        Self {
            first: Chip::new(0xf8),
            second: Chip::new(0xde),
        }
    }

    /// Whether `port` is one of the controllers'.
    pub const fn decodes(port: u16) -> bool {
        matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1)
    }

    /// Byte read; all ones from a port that is not the controllers'.
    pub fn read(&mut self, port: u16) -> u8 {
        if let Some(value) = self.peek(port) {
            return value;
        }
        let value = match port {
            0x20 | 0x21 => self.poll_first(),
            _ => self.second.read_poll(),
        };
        self.update_cascade();
        value
    }

    /// Byte read that changes nothing; `None` after a poll command, when a read acknowledges.
    #[inline]
    pub fn peek(&self, port: u16) -> Option<u8> {
        let (chip, value) = match port {
            0x20 => (&self.first, self.first.read_command()),
            0x21 => (&self.first, self.first.imr),
            0xa0 => (&self.second, self.second.read_command()),
            0xa1 => (&self.second, self.second.imr),
            0x4d0 => return Some(self.first.elcr),
            0x4d1 => return Some(self.second.elcr),
            _ => return Some(0xff),
        };
        (!chip.poll).then_some(value)
    }

    fn poll_first(&mut self) -> u8 {
        let value = self.first.read_poll();
        if value == 0x80 | CASCADE {
            self.second.acknowledge();
        }
        value
    }

    /// Byte write.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.first.write_command(value),
            0x21 => self.first.write_data(value),
            0xa0 => self.second.write_command(value),
            0xa1 => self.second.write_data(value),
            0x4d0 => self.first.write_elcr(value),
            0x4d1 => self.second.write_elcr(value),
            _ => return,
        }
        self.update_cascade();
    }

    /// Drives input `irq`, 0..=15. Input 2 is the cascade and cannot be driven.
    pub fn set_irq(&mut self, irq: u8, asserted: bool) {
        match irq {
            CASCADE => {}
            0..=7 => self.first.set_line(irq, asserted),
            8..=15 => {
                self.second.set_line(irq - 8, asserted);
                self.update_cascade();
            }
            _ => {}
        }
    }

    /// The second chip's INTR is a line of the first. It counts as level triggered, so that the
    /// first asks again while the second has more, and stops when it has none.
    fn update_cascade(&mut self) {
        let bit = 1 << CASCADE;
        if self.second.pending().is_some() {
            self.first.irr |= bit;
        } else {
            self.first.irr &= !bit;
        }
    }

    /// The INTR line.
    #[inline]
    pub fn has_interrupt(&self) -> bool {
        self.first.pending().is_some()
    }

    /// Interrupt acknowledge cycle: the vector. When the request has gone meanwhile, the spurious
    /// vector of IRQ 7 or 15, which is not put in service.
    pub fn acknowledge(&mut self) -> Vector {
        let vector = match self.first.acknowledge() {
            Some(CASCADE) => {
                let input = self.second.acknowledge().unwrap_or(SPURIOUS);
                self.second.vector(input)
            }
            Some(input) => self.first.vector(input),
            None => self.first.vector(SPURIOUS),
        };
        self.update_cascade();
        Vector(vector)
    }

    /// Whether `irq` is level triggered.
    pub fn is_level(&self, irq: u8) -> bool {
        match irq {
            0..=7 => self.first.elcr & 1 << irq != 0,
            8..=15 => self.second.elcr & 1 << (irq - 8) != 0,
            _ => false,
        }
    }

    /// Whether `irq` is masked at its own chip.
    pub fn is_masked(&self, irq: u8) -> bool {
        match irq {
            0..=7 => self.first.imr & 1 << irq != 0,
            8..=15 => self.second.imr & 1 << (irq - 8) != 0,
            _ => true,
        }
    }
}

impl Default for VPic {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
