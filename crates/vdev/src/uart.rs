//! Serial port, 16550A (National Semiconductor PC16550D data sheet).
//!
//! No baud rate, parity or modem: a character that the guest writes is in the transmit ring at
//! once, where the other side takes it (`transmit`), and a character from outside waits in the
//! receive ring (`receive`) until the guest reads it. The rings are larger than the chip's 16
//! bytes, so that a console neither loses input nor makes the guest wait for each character.
//! While the transmit ring is nearly full the transmitter reads as busy: whoever owns the port
//! drains it even when nobody listens, or the guest's console waits for each character.
//!
//! `irq` is the level of the interrupt line; the caller compares it with what it last drove.

/// Default size of the transmit ring, in bytes.
pub const TX_SIZE: usize = 8192;
/// Size of the receive ring, in bytes.
pub const RX_SIZE: usize = 256;
/// Registers, a byte each.
pub const REGISTERS: u8 = 8;

/// An access of `size` bytes from a register on: of `one` register after the other that it spans, as a bus of
/// bytes does it. There are ones behind the last.
pub fn spread(
    first: u8,
    size: u8,
    write: Option<u64>,
    mut one: impl FnMut(u8, Option<u8>) -> u8,
) -> u64 {
    let mut value = 0;
    for lane in 0..size.min(8) {
        let register = first.saturating_add(lane);
        let read = match register < REGISTERS {
            true => one(register, write.map(|value| (value >> (8 * lane)) as u8)),
            false => 0xff,
        };
        value |= u64::from(read) << (8 * lane);
    }
    value
}

mod reg {
    /// RBR (read), THR (write), DLL.
    pub const DATA: u8 = 0;
    /// IER, DLM.
    pub const IER: u8 = 1;
    /// IIR (read), FCR (write).
    pub const IIR_FCR: u8 = 2;
    pub const LCR: u8 = 3;
    pub const MCR: u8 = 4;
    pub const LSR: u8 = 5;
    pub const MSR: u8 = 6;
    pub const SCR: u8 = 7;
}

const IER_RX: u8 = 1;
const IER_THRE: u8 = 2;
const IER_LINE: u8 = 4;
const IER_MODEM: u8 = 8;

const IIR_NONE: u8 = 1;
const IIR_MODEM: u8 = 0;
const IIR_THRE: u8 = 2;
const IIR_RX: u8 = 4;
const IIR_LINE: u8 = 6;
const IIR_TIMEOUT: u8 = 0xc;
const IIR_FIFO: u8 = 0xc0;

const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RX: u8 = 2;
const FCR_CLEAR_TX: u8 = 4;

const LCR_DLAB: u8 = 0x80;

const MCR_DTR_RTS: u8 = 3;
const MCR_OUT2: u8 = 8;
const MCR_LOOP: u8 = 0x10;
const MCR_WRITABLE: u8 = 0x1f;

const LSR_DATA: u8 = 1;
const LSR_OVERRUN: u8 = 2;
const LSR_BREAK: u8 = 0x10;
const LSR_THRE: u8 = 0x20;
const LSR_TEMT: u8 = 0x40;

/// Carrier, ready, clear to send: somebody listens.
const MSR_CONNECTED: u8 = 0xb0;
/// Of the change bits, the ring indicator's reports only the trailing edge.
const MSR_RI: u8 = 0x40;

#[derive(Clone, Debug)]
struct Ring<const N: usize> {
    bytes: [u8; N],
    start: usize,
    len: usize,
}

impl<const N: usize> Ring<N> {
    const fn new() -> Self {
        Self {
            bytes: [0; N],
            start: 0,
            len: 0,
        }
    }

    fn push(&mut self, byte: u8) -> bool {
        if self.len >= N {
            return false;
        }
        let end = self.start + self.len;
        let end = if end >= N { end - N } else { end };
        if let Some(slot) = self.bytes.get_mut(end) {
            *slot = byte;
        }
        self.len += 1;
        true
    }

    fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.bytes.get(self.start).copied();
        self.start = if self.start + 1 >= N {
            0
        } else {
            self.start + 1
        };
        self.len -= 1;
        byte
    }

    fn clear(&mut self) {
        self.start = 0;
        self.len = 0;
    }
}

/// A virtual 16550A with a transmit ring of `TX` bytes.
#[derive(Clone, Debug)]
pub struct VUart<const TX: usize = TX_SIZE> {
    rx: Ring<RX_SIZE>,
    tx: Ring<TX>,
    divisor: u16,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    /// Overrun and break, until the guest reads the LSR.
    line_errors: u8,
    /// Modem inputs in the upper half, changes since the last read in the lower.
    msr: u8,
    /// The transmitter-empty interrupt, until the guest reads it from the IIR or writes a byte.
    thre_pending: bool,
    lost: u64,
}

impl<const TX: usize> VUart<TX> {
    /// After reset, with a listening peer.
    pub const fn new() -> Self {
        Self {
            rx: Ring::new(),
            tx: Ring::new(),
            divisor: 12,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            line_errors: 0,
            msr: MSR_CONNECTED,
            thre_pending: false,
            lost: 0,
        }
    }

    /// Reads register `register`, 0..=7; the port's offset from the base. Higher bits are ignored.
    pub fn read(&mut self, register: u8) -> u8 {
        let dlab = self.lcr & LCR_DLAB != 0;
        match register & 7 {
            reg::DATA if dlab => self.divisor as u8,
            reg::IER if dlab => (self.divisor >> 8) as u8,
            reg::DATA => self.rx.pop().unwrap_or(0),
            reg::IER => self.ier,
            reg::IIR_FCR => self.read_iir(),
            reg::LCR => self.lcr,
            reg::MCR => self.mcr,
            reg::LSR => self.read_lsr(),
            reg::MSR => self.read_msr(),
            _ => self.scr,
        }
    }

    /// An access of `size` bytes from a register on ([`spread`]).
    #[inline]
    pub fn access(&mut self, first: u8, size: u8, write: Option<u64>) -> u64 {
        spread(first, size, write, |register, write| match write {
            Some(value) => {
                self.write(register, value);
                0
            }
            None => self.read(register),
        })
    }

    /// Writes register `register`, 0..=7.
    pub fn write(&mut self, register: u8, value: u8) {
        let dlab = self.lcr & LCR_DLAB != 0;
        match register & 7 {
            reg::DATA if dlab => self.divisor = self.divisor & 0xff00 | u16::from(value),
            reg::IER if dlab => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            reg::DATA => self.write_data(value),
            reg::IER => self.write_ier(value),
            reg::IIR_FCR => self.write_fcr(value),
            reg::LCR => self.lcr = value,
            reg::MCR => self.write_mcr(value),
            reg::SCR => self.scr = value,
            // LSR and MSR are read only.
            _ => {}
        }
    }

    fn write_data(&mut self, byte: u8) {
        if self.mcr & MCR_LOOP != 0 {
            self.put(byte);
        } else if !self.tx.push(byte) {
            self.lost = self.lost.saturating_add(1);
        }
        self.thre_pending = self.transmitter_ready();
    }

    /// Opening the transmitter interrupt raises it at once when there is room.
    fn write_ier(&mut self, value: u8) {
        if value & !self.ier & IER_THRE != 0 {
            self.thre_pending = self.transmitter_ready();
        }
        self.ier = value & 0xf;
    }

    /// Switching the FIFOs on or off empties both; what is on its way out stays on its way.
    fn write_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.fcr) & FCR_ENABLE != 0;
        let enabled = value & FCR_ENABLE != 0;
        if toggled || enabled && value & FCR_CLEAR_RX != 0 {
            self.rx.clear();
        }
        if enabled && value & FCR_CLEAR_TX != 0 {
            self.thre_pending = self.transmitter_ready();
        }
        // The other bits only count together with the enable bit.
        self.fcr = if enabled { value & 0xc9 } else { 0 };
    }

    fn write_mcr(&mut self, value: u8) {
        self.mcr = value & MCR_WRITABLE;
        self.set_modem_inputs(if self.mcr & MCR_LOOP != 0 {
            // DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD.
            (self.mcr & 1) << 5 | (self.mcr & 2) << 3 | (self.mcr & 0xc) << 4
        } else {
            MSR_CONNECTED
        });
    }

    fn set_modem_inputs(&mut self, inputs: u8) {
        let old = self.msr & 0xf0;
        let mut changes = old ^ inputs;
        if inputs & MSR_RI != 0 {
            changes &= !MSR_RI;
        }
        self.msr = inputs | self.msr & 0xf | changes >> 4;
    }

    /// The guest's view of the transmit ring: room for a whole chip FIFO, since a driver that
    /// sees the transmitter empty writes 16 bytes.
    fn transmitter_ready(&self) -> bool {
        self.tx.len + 16 <= TX || self.tx.len == 0
    }

    fn put(&mut self, byte: u8) -> bool {
        let stored = self.rx.push(byte);
        if !stored {
            self.line_errors |= LSR_OVERRUN;
        }
        stored
    }

    fn read_lsr(&mut self) -> u8 {
        let mut lsr = core::mem::take(&mut self.line_errors);
        if self.rx.len != 0 {
            lsr |= LSR_DATA;
        }
        if self.transmitter_ready() {
            lsr |= LSR_THRE | LSR_TEMT;
        }
        lsr
    }

    fn read_msr(&mut self) -> u8 {
        let value = self.msr;
        self.msr &= 0xf0;
        value
    }

    fn rx_trigger(&self) -> usize {
        match self.fcr >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    /// The most urgent enabled interrupt, as in the IIR.
    fn source(&self) -> u8 {
        if self.ier & IER_LINE != 0 && self.line_errors != 0 {
            IIR_LINE
        } else if self.ier & IER_RX != 0 && self.rx.len != 0 {
            // Below the trigger level the chip waits four character times: no time passes here.
            if self.rx.len >= self.rx_trigger() {
                IIR_RX
            } else {
                IIR_TIMEOUT
            }
        } else if self.ier & IER_THRE != 0 && self.thre_pending {
            IIR_THRE
        } else if self.ier & IER_MODEM != 0 && self.msr & 0xf != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn read_iir(&mut self) -> u8 {
        let source = self.source();
        if source == IIR_THRE {
            self.thre_pending = false;
        }
        source
            | if self.fcr & FCR_ENABLE != 0 {
                IIR_FIFO
            } else {
                0
            }
    }

    /// A character from outside; false when the receive ring is full (and the guest sees an
    /// overrun). Lost while the guest has the port in loopback.
    pub fn receive(&mut self, byte: u8) -> bool {
        self.mcr & MCR_LOOP == 0 && self.put(byte)
    }

    /// A break condition from outside: a zero character with the break bit.
    pub fn receive_break(&mut self) {
        if self.mcr & MCR_LOOP == 0 && self.put(0) {
            self.line_errors |= LSR_BREAK;
        }
    }

    /// Whether `receive` would take a character.
    pub fn can_receive(&self) -> bool {
        self.mcr & MCR_LOOP == 0 && self.rx.len < RX_SIZE
    }

    /// Whether the guest says that it takes characters: DTR or RTS is on.
    pub fn is_open(&self) -> bool {
        self.mcr & MCR_DTR_RTS != 0
    }

    /// The next character that the guest sent.
    pub fn transmit(&mut self) -> Option<u8> {
        let was_ready = self.transmitter_ready();
        let byte = self.tx.pop()?;
        if !was_ready && self.transmitter_ready() {
            self.thre_pending = true;
        }
        Some(byte)
    }

    /// Level of the interrupt line. The PC's OUT2 gates it; loopback cuts it off.
    #[inline]
    pub fn irq(&self) -> bool {
        self.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 && self.source() != IIR_NONE
    }

    /// Characters that the guest wrote into a full transmit ring.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The baud rate divisor that the guest programmed; nothing depends on it.
    pub fn divisor(&self) -> u16 {
        self.divisor
    }
}

impl<const TX: usize> Default for VUart<TX> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// With OUT2 set and the interrupts `ier` enabled.
    fn uart(ier: u8) -> VUart<64> {
        let mut uart = VUart::new();
        uart.write(reg::MCR, MCR_OUT2 | 3);
        uart.write(reg::IER, ier);
        uart
    }

    #[test]
    fn the_divisor_hides_behind_dlab() {
        let mut uart = uart(5);
        uart.write(reg::LCR, 0x83);
        uart.write(reg::DATA, 0x34);
        uart.write(reg::IER, 0x12);
        assert_eq!((uart.read(reg::DATA), uart.read(reg::IER)), (0x34, 0x12));
        uart.write(reg::LCR, 3);
        assert_eq!((uart.read(reg::IER), uart.divisor()), (5, 0x1234));
        assert_eq!(uart.transmit(), None);
    }

    #[test]
    fn characters_pass_in_order() {
        let mut uart = uart(0);
        for byte in b"hello" {
            uart.write(reg::DATA, *byte);
            assert!(uart.receive(*byte));
        }
        for byte in b"hello" {
            assert_eq!(uart.transmit(), Some(*byte));
            assert_eq!(uart.read(reg::LSR) & LSR_DATA, LSR_DATA);
            assert_eq!(uart.read(reg::DATA), *byte);
        }
        assert_eq!(uart.transmit(), None);
        assert_eq!(uart.read(reg::LSR), LSR_THRE | LSR_TEMT);
    }

    #[test]
    fn received_data_interrupts_until_it_is_read() {
        let mut uart = uart(IER_RX);
        assert!(!uart.irq());
        uart.receive(1);
        assert!(uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), IIR_RX);
        uart.read(reg::DATA);
        assert!(!uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), IIR_NONE);
    }

    #[test]
    fn data_below_the_trigger_level_is_a_timeout() {
        let mut uart = uart(IER_RX);
        uart.write(reg::IIR_FCR, 0x81);
        for _ in 0..7 {
            uart.receive(1);
        }
        assert!(uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), IIR_FIFO | IIR_TIMEOUT);
        uart.receive(1);
        assert_eq!(uart.read(reg::IIR_FCR), IIR_FIFO | IIR_RX);
    }

    #[test]
    fn the_transmitter_interrupts_when_enabled_and_after_each_byte() {
        let mut uart = uart(IER_THRE);
        assert!(uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), IIR_THRE);
        assert!(!uart.irq(), "reading it clears it");
        uart.write(reg::DATA, 1);
        assert!(uart.irq());
        uart.write(reg::IER, 0);
        assert!(!uart.irq());
    }

    #[test]
    fn a_nearly_full_transmit_ring_is_not_ready_until_it_drains() {
        let mut uart = uart(IER_THRE);
        for _ in 0..49 {
            uart.write(reg::DATA, 1);
        }
        assert_eq!(uart.read(reg::LSR), 0);
        assert!(!uart.irq());
        uart.transmit();
        assert!(uart.irq());
        assert_eq!(uart.read(reg::LSR), LSR_THRE | LSR_TEMT);
    }

    #[test]
    fn a_full_transmit_ring_counts_what_it_loses() {
        let mut uart = uart(0);
        for byte in 0..66 {
            uart.write(reg::DATA, byte);
        }
        assert_eq!(uart.lost(), 2);
        assert_eq!((0..64).map(|_| uart.transmit().unwrap()).last(), Some(63));
    }

    #[test]
    fn an_overrun_and_a_break_are_line_errors_until_read() {
        let mut uart = uart(IER_LINE);
        uart.receive_break();
        assert_eq!(uart.read(reg::IIR_FCR), IIR_LINE);
        for _ in 1..RX_SIZE {
            assert!(uart.receive(1));
        }
        assert!(!uart.can_receive() && !uart.receive(1));
        let errors = LSR_OVERRUN | LSR_BREAK;
        assert_eq!(uart.read(reg::LSR) & errors, errors);
        assert_eq!(uart.read(reg::LSR) & errors, 0);
        assert!(!uart.irq());
    }

    #[test]
    fn interrupts_have_an_order() {
        let mut uart = uart(0xf);
        uart.write(reg::MCR, MCR_LOOP | MCR_OUT2);
        uart.write(reg::MCR, MCR_OUT2);
        uart.receive_break();
        assert_eq!(uart.read(reg::IIR_FCR), IIR_LINE);
        uart.read(reg::LSR);
        assert_eq!(uart.read(reg::IIR_FCR), IIR_RX);
        uart.read(reg::DATA);
        assert_eq!(uart.read(reg::IIR_FCR), IIR_THRE);
        assert_eq!(uart.read(reg::IIR_FCR), IIR_MODEM);
        uart.read(reg::MSR);
        assert_eq!(uart.read(reg::IIR_FCR), IIR_NONE);
    }

    #[test]
    fn out2_gates_the_interrupt() {
        let mut uart = uart(IER_RX);
        uart.receive(1);
        uart.write(reg::MCR, 3);
        assert!(!uart.irq());
        uart.write(reg::MCR, MCR_OUT2);
        assert!(uart.irq());
    }

    #[test]
    fn loopback_returns_data_and_modem_lines() {
        let mut uart = uart(0);
        uart.write(reg::MCR, MCR_LOOP | 0xa);
        assert_eq!(uart.read(reg::MSR) & 0xf0, 0x90);
        uart.write(reg::DATA, 0x55);
        assert_eq!(uart.read(reg::DATA), 0x55);
        assert_eq!(uart.transmit(), None);
        assert!(!uart.receive(1));
        uart.write(reg::MCR, MCR_OUT2);
        assert_eq!(uart.read(reg::MSR) & 0xf0, MSR_CONNECTED);
    }

    #[test]
    fn clearing_the_receive_fifo_empties_it() {
        let mut uart = uart(IER_RX);
        uart.write(reg::IIR_FCR, 1);
        uart.receive(1);
        uart.write(reg::IIR_FCR, 3);
        assert!(!uart.irq());
        uart.receive(1);
        uart.write(reg::IIR_FCR, 0);
        assert_eq!(uart.read(reg::IIR_FCR), IIR_NONE);
    }

    #[test]
    fn the_scratch_register_remembers() {
        let mut uart = uart(0);
        uart.write(reg::SCR, 0xa5);
        uart.write(reg::LSR, 0);
        uart.write(reg::MSR, 0);
        assert_eq!(uart.read(reg::SCR), 0xa5);
    }

    proptest! {
        #[test]
        fn the_interrupt_line_agrees_with_the_iir(
            ops in prop::collection::vec((0u8..5, any::<u8>(), any::<u8>()), 0..300),
        ) {
            let mut uart = uart(0);
            for (kind, register, value) in ops {
                match kind {
                    0 => drop(uart.read(register)),
                    1 | 2 => uart.write(register, value),
                    3 => drop(uart.receive(value)),
                    _ => drop(uart.transmit()),
                }
                let pending = uart.clone().read(reg::IIR_FCR) & 1 == 0
                    || uart.lcr & LCR_DLAB != 0 && uart.source() != IIR_NONE;
                let gate = uart.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
                prop_assert_eq!(uart.irq(), pending && gate);
                prop_assert!(uart.rx.len <= RX_SIZE && uart.tx.len <= 64);
            }
        }
    }
}
