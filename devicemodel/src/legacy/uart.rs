//! 16550 UART.
//!
//! Output goes to a [`Transmitter`] at once; input arrives through [`Uart::receive`] from the
//! back end's thread, which asks [`Uart::room`] first, so nothing is lost while the guest does
//! not read.

use std::collections::VecDeque;
use std::sync::Arc;

use super::PortDevice;
use crate::pci::InterruptLine;

/// Where output goes.
pub trait Transmitter: Send {
    /// Takes a byte. Must not wait.
    fn send(&mut self, byte: u8);
    /// The guest has read all input: more may be given to it.
    fn drained(&mut self);
}

/// Depth of the receive FIFO.
const FIFO: usize = 16;

// Register offsets.
const DATA: u16 = 0;
const IER: u16 = 1;
const IIR_FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCR: u16 = 7;

const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTED: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IIR_NONE: u8 = 0x01;
const IIR_TRANSMITTED: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_FIFO: u8 = 0xc0;
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR_LOOP: u8 = 1 << 4;
const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
/// Both parts of the transmitter are always empty.
const LSR_EMPTY: u8 = 0x60;
/// Carrier, data set ready, clear to send.
const MSR_CONNECTED: u8 = 0xb0;

/// The UART.
pub struct Uart {
    line: Arc<dyn InterruptLine>,
    transmitter: Box<dyn Transmitter>,
    received: VecDeque<u8>,
    ier: u8,
    fifo: bool,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: [u8; 2],
    overrun: bool,
    /// The transmitter became empty, and the guest has not been told.
    transmitted: bool,
    asserted: bool,
}

impl Uart {
    /// With its interrupt line and back end.
    pub fn new(line: Arc<dyn InterruptLine>, transmitter: Box<dyn Transmitter>) -> Self {
        Self {
            line,
            transmitter,
            received: VecDeque::with_capacity(FIFO),
            ier: 0,
            fifo: false,
            lcr: 0,
            mcr: 0,
            scr: 0,
            divisor: [12, 0],
            overrun: false,
            transmitted: false,
            asserted: false,
        }
    }

    /// How many bytes [`Uart::receive`] takes now.
    pub fn room(&self) -> usize {
        if self.mcr & MCR_LOOP != 0 {
            0
        } else {
            FIFO.saturating_sub(self.received.len())
        }
    }

    /// Input for the guest.
    pub fn receive(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push(*byte);
        }
        self.update();
    }

    fn push(&mut self, byte: u8) {
        if self.received.len() < FIFO {
            self.received.push_back(byte);
        } else {
            self.overrun = true;
        }
    }

    /// The pending interrupt with the highest priority, as IIR shows it.
    fn identification(&self) -> u8 {
        if self.ier & IER_LINE != 0 && self.overrun {
            IIR_LINE
        } else if self.ier & IER_RECEIVED != 0 && !self.received.is_empty() {
            IIR_RECEIVED
        } else if self.ier & IER_TRANSMITTED != 0 && self.transmitted {
            IIR_TRANSMITTED
        } else {
            IIR_NONE
        }
    }

    fn update(&mut self) {
        let wanted = self.identification() != IIR_NONE;
        if wanted != self.asserted {
            self.asserted = wanted;
            self.line.set(wanted);
        }
    }

    fn divisor_access(&self) -> bool {
        self.lcr & LCR_DIVISOR != 0
    }

    fn transmit(&mut self, byte: u8) {
        if self.mcr & MCR_LOOP != 0 {
            self.push(byte);
        } else {
            self.transmitter.send(byte);
        }
        self.transmitted = true;
    }

    fn take(&mut self) -> u8 {
        let byte = self.received.pop_front().unwrap_or(0);
        if self.received.is_empty() {
            self.transmitter.drained();
        }
        byte
    }

    fn modem_status(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_CONNECTED;
        }
        // Looped back: DTR, RTS, OUT1, OUT2 appear as DSR, CTS, RI, DCD.
        let mcr = self.mcr;
        (mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4
    }
}

impl PortDevice for Uart {
    fn read(&mut self, offset: u16) -> u8 {
        let value = match offset {
            DATA if self.divisor_access() => self.divisor[0],
            DATA => self.take(),
            IER if self.divisor_access() => self.divisor[1],
            IER => self.ier,
            IIR_FCR => {
                let identification = self.identification();
                if identification == IIR_TRANSMITTED {
                    self.transmitted = false;
                }
                identification | if self.fifo { IIR_FIFO } else { 0 }
            }
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                let data = if self.received.is_empty() {
                    0
                } else {
                    LSR_DATA
                };
                let overrun = if self.overrun { LSR_OVERRUN } else { 0 };
                self.overrun = false;
                LSR_EMPTY | data | overrun
            }
            MSR => self.modem_status(),
            SCR => self.scr,
            _ => 0xff,
        };
        self.update();
        value
    }

    fn write(&mut self, offset: u16, value: u8) {
        match offset {
            DATA if self.divisor_access() => self.divisor[0] = value,
            DATA => self.transmit(value),
            IER if self.divisor_access() => self.divisor[1] = value,
            IER => {
                // Switching the interrupt on while the transmitter is empty raises it.
                if value & !self.ier & IER_TRANSMITTED != 0 {
                    self.transmitted = true;
                }
                self.ier = value & 0x0f;
            }
            IIR_FCR => {
                self.fifo = value & FCR_ENABLE != 0;
                if value & FCR_CLEAR_RECEIVE != 0 {
                    self.received.clear();
                    self.transmitter.drained();
                }
            }
            LCR => self.lcr = value,
            MCR => {
                let left_loop = self.mcr & !value & MCR_LOOP != 0;
                self.mcr = value & 0x1f;
                if left_loop {
                    self.transmitter.drained();
                }
            }
            SCR => self.scr = value,
            _ => {}
        }
        self.update();
    }

    fn reset(&mut self) {
        self.received.clear();
        (self.ier, self.lcr, self.mcr, self.scr) = (0, 0, 0, 0);
        self.divisor = [12, 0];
        self.fifo = false;
        self.overrun = false;
        self.transmitted = false;
        self.update();
        self.transmitter.drained();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Pin {
        level: AtomicBool,
        edges: AtomicUsize,
    }

    impl InterruptLine for Pin {
        fn set(&self, level: bool) {
            self.level.store(level, Ordering::Relaxed);
            self.edges.fetch_add(level.into(), Ordering::Relaxed);
        }
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Transmitter for Sink {
        fn send(&mut self, byte: u8) {
            self.0.lock().unwrap().push(byte);
        }
        fn drained(&mut self) {}
    }

    fn uart() -> (Uart, Arc<Pin>, Sink) {
        let (pin, sink) = (Arc::new(Pin::default()), Sink::default());
        (Uart::new(pin.clone(), Box::new(sink.clone())), pin, sink)
    }

    fn high(pin: &Pin) -> bool {
        pin.level.load(Ordering::Relaxed)
    }

    #[test]
    fn output_is_sent_and_reported_by_interrupt_until_identified() {
        let (mut uart, pin, sink) = uart();
        uart.write(IER, IER_TRANSMITTED);
        assert!(high(&pin));
        assert_eq!(uart.read(IIR_FCR), IIR_TRANSMITTED);
        assert!(!high(&pin));
        uart.write(DATA, b'x');
        assert!(high(&pin), "each byte sent raises it again");
        assert_eq!(*sink.0.lock().unwrap(), b"x");
        assert_eq!(pin.edges.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn input_asserts_the_line_until_it_is_read() {
        let (mut uart, pin, _) = uart();
        uart.write(IER, IER_RECEIVED);
        uart.receive(b"ab");
        assert_eq!(uart.read(IIR_FCR), IIR_RECEIVED);
        assert_eq!(uart.read(LSR) & LSR_DATA, LSR_DATA);
        assert_eq!((uart.read(DATA), high(&pin)), (b'a', true));
        assert_eq!((uart.read(DATA), high(&pin)), (b'b', false));
        assert_eq!(uart.read(LSR), LSR_EMPTY);
    }

    #[test]
    fn too_much_input_is_an_overrun() {
        let (mut uart, _, _) = uart();
        assert_eq!(uart.room(), FIFO);
        uart.receive(&[0; FIFO + 1]);
        assert_eq!(uart.room(), 0);
        assert_eq!(uart.read(LSR) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(uart.read(LSR) & LSR_OVERRUN, 0);
    }

    #[test]
    fn linux_finds_a_16550a_with_working_loopback() {
        let (mut uart, _, sink) = uart();
        uart.write(MCR, MCR_LOOP | 0x0a);
        assert_eq!(uart.read(MSR) & 0xf0, 0x90);
        uart.write(DATA, 7);
        assert_eq!(uart.read(DATA), 7);
        assert!(sink.0.lock().unwrap().is_empty());
        uart.write(MCR, 0);
        uart.write(IIR_FCR, FCR_ENABLE);
        assert_eq!(uart.read(IIR_FCR) & IIR_FIFO, IIR_FIFO);
        uart.write(SCR, 0x5a);
        assert_eq!(uart.read(SCR), 0x5a);
    }

    #[test]
    fn the_divisor_hides_data_and_interrupt_enable() {
        let (mut uart, _, sink) = uart();
        uart.write(LCR, LCR_DIVISOR);
        uart.write(DATA, 1);
        uart.write(IER, 2);
        assert_eq!((uart.read(DATA), uart.read(IER)), (1, 2));
        uart.write(LCR, 3);
        assert_eq!(uart.read(IER), 0);
        assert!(sink.0.lock().unwrap().is_empty());
    }
}
