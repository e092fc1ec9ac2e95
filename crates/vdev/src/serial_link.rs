//! A serial line between two VMs: two UARTs, and a cable with hardware flow control.
//!
//! What one guest writes waits in its transmit ring, moves to the receive ring of the other as that has
//! room, and stays where it is otherwise: the writer finds its transmitter busy, and nothing is lost.
//! It moves only while the other guest has its port open, which it says with DTR or RTS, as a
//! driver that opens a port throws away what it finds there. An end may be unplugged, since its VM is
//! not there; what is sent to it then is lost, as by a cable that leads nowhere.
//!
//! The work of an access is bounded by the size of the rings.

use crate::uart::VUart;

/// One end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The one at the other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 or 1.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// See the module. `TX` bytes wait at each end.
#[derive(Clone, Debug)]
pub struct SerialLink<const TX: usize> {
    ends: [Option<VUart<TX>>; 2],
}

impl<const TX: usize> SerialLink<TX> {
    /// Without anything at either end.
    pub const fn new() -> Self {
        Self {
            ends: [const { None }; 2],
        }
    }

    /// A VM with this end is there now, its UART after reset.
    pub fn plug(&mut self, side: Side) {
        self.ends[side.index()] = Some(VUart::new());
        self.flow();
    }

    /// The VM is gone, with what it has not read and what of its own has not arrived yet.
    pub fn unplug(&mut self, side: Side) {
        self.ends[side.index()] = None;
        self.flow();
    }

    /// The guest at `side` reads a register of its UART; all ones when it has none.
    pub fn read(&mut self, side: Side, register: u8) -> u8 {
        let end = self.ends[side.index()].as_mut();
        let value = end.map_or(0xff, |uart| uart.read(register));
        self.flow();
        value
    }

    /// The guest at `side` writes a register of its UART.
    pub fn write(&mut self, side: Side, register: u8, value: u8) {
        if let Some(uart) = &mut self.ends[side.index()] {
            uart.write(register, value);
        }
        self.flow();
    }

    /// Level of the interrupt line at `side`.
    pub fn irq(&self, side: Side) -> bool {
        self.ends[side.index()].as_ref().is_some_and(VUart::irq)
    }

    /// Moves what can move.
    fn flow(&mut self) {
        let [a, b] = &mut self.ends;
        pass(a.as_mut(), b.as_mut());
        pass(b.as_mut(), a.as_mut());
    }
}

fn pass<const TX: usize>(from: Option<&mut VUart<TX>>, to: Option<&mut VUart<TX>>) {
    let Some(from) = from else { return };
    let Some(to) = to else {
        while from.transmit().is_some() {}
        return;
    };
    while to.is_open() && to.can_receive() {
        let Some(byte) = from.transmit() else { return };
        to.receive(byte);
    }
}

impl<const TX: usize> Default for SerialLink<TX> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const DATA: u8 = 0;
    const IER: u8 = 1;
    const FCR: u8 = 2;
    const MCR: u8 = 4;
    const LSR: u8 = 5;
    const OPEN: u8 = 0xb;
    const READY: u8 = 0x20;

    type Link = SerialLink<64>;

    /// Both ends plugged in and open, with interrupts for received data.
    fn link() -> Link {
        let mut link = Link::new();
        for side in Side::BOTH {
            link.plug(side);
            link.write(side, MCR, OPEN);
            link.write(side, IER, 1);
        }
        link
    }

    fn read_all(link: &mut Link, side: Side) -> Vec<u8> {
        let mut bytes = Vec::new();
        while link.read(side, LSR) & 1 != 0 {
            bytes.push(link.read(side, DATA));
        }
        bytes
    }

    #[test]
    fn what_one_side_writes_the_other_reads_and_is_interrupted_for() {
        let mut link = link();
        for byte in b"ping" {
            link.write(Side::A, DATA, *byte);
        }
        assert!(link.irq(Side::B) && !link.irq(Side::A));
        assert_eq!(read_all(&mut link, Side::B), b"ping");
        assert!(!link.irq(Side::B));
        link.write(Side::B, DATA, b'!');
        assert_eq!(read_all(&mut link, Side::A), b"!");
    }

    #[test]
    fn a_reader_that_sleeps_makes_the_transmitter_busy_and_loses_nothing() {
        let mut link = link();
        let mut sent = 0u32;
        while link.read(Side::A, LSR) & READY != 0 {
            link.write(Side::A, DATA, sent as u8);
            sent += 1;
        }
        assert!(sent > 256, "{sent} bytes fit");
        let read = read_all(&mut link, Side::B);
        let wanted: Vec<u8> = (0..sent).map(|n| n as u8).collect();
        assert_eq!(read, wanted);
        assert_ne!(link.read(Side::A, LSR) & READY, 0);
    }

    #[test]
    fn a_closed_port_keeps_the_sender_waiting_until_it_is_opened() {
        let mut link = link();
        link.write(Side::B, MCR, 0);
        link.write(Side::A, DATA, 7);
        // What a driver does when it opens a port.
        link.write(Side::B, FCR, 7);
        assert_eq!(read_all(&mut link, Side::B), b"");
        link.write(Side::B, MCR, OPEN);
        assert_eq!(read_all(&mut link, Side::B), [7]);
    }

    #[test]
    fn what_is_sent_to_a_vm_that_is_gone_is_lost_and_blocks_nobody() {
        let mut link = link();
        for byte in 0..100 {
            link.write(Side::A, DATA, byte);
        }
        link.unplug(Side::B);
        for byte in 0..=255 {
            assert_ne!(link.read(Side::A, LSR) & READY, 0);
            link.write(Side::A, DATA, byte);
        }
        assert!(!link.irq(Side::B));
        assert_eq!(link.read(Side::B, LSR), 0xff);
        link.plug(Side::B);
        link.write(Side::B, MCR, OPEN);
        assert_eq!(read_all(&mut link, Side::B), b"");
        link.write(Side::A, DATA, 9);
        assert_eq!(read_all(&mut link, Side::B), [9]);
    }

    #[test]
    fn a_reset_of_one_vm_leaves_the_other_its_port() {
        let mut link = link();
        link.write(Side::A, DATA, 1);
        link.write(Side::B, DATA, 2);
        link.unplug(Side::A);
        link.plug(Side::A);
        assert_eq!(read_all(&mut link, Side::B), [1], "it had arrived");
        assert_eq!(link.read(Side::B, MCR), OPEN);
        assert_eq!(link.read(Side::A, MCR), 0);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_reordered_or_made_up(
            steps in prop::collection::vec((any::<bool>(), 0u8..4, 1usize..200), 1..120),
        ) {
            let mut link = link();
            let mut on_the_way: [VecDeque<u8>; 2] = Default::default();
            let mut next = 0u8;
            for (first, what, count) in steps {
                let side = if first { Side::A } else { Side::B };
                match what {
                    // A driver: as much as there is room for, 16 bytes each time.
                    0 | 1 => for _ in 0..count {
                        if link.read(side, LSR) & READY == 0 { break; }
                        for _ in 0..16 {
                            link.write(side, DATA, next);
                            on_the_way[side.index()].push_back(next);
                            next = next.wrapping_add(1);
                        }
                    },
                    2 => for _ in 0..count {
                        if link.read(side, LSR) & 1 == 0 { break; }
                        let byte = link.read(side, DATA);
                        prop_assert_eq!(on_the_way[side.other().index()].pop_front(), Some(byte));
                    },
                    // Closing and opening does not throw away what has not arrived.
                    _ => {
                        let waiting = link.read(side, LSR) & 1;
                        link.write(side, MCR, 0);
                        link.write(side, MCR, OPEN);
                        prop_assert!(link.read(side, LSR) & 1 >= waiting);
                    }
                }
                let waiting = link.read(side, LSR) & 1 != 0;
                prop_assert_eq!(waiting, !on_the_way[side.other().index()].is_empty());
                prop_assert_eq!(link.irq(side), waiting);
            }
            for side in Side::BOTH {
                let rest: Vec<u8> = on_the_way[side.other().index()].drain(..).collect();
                prop_assert_eq!(read_all(&mut link, side), rest);
            }
        }
    }
}
