//! What a unit records of an access or interrupt that it has refused (7.2, 11.4.14).

use acrn_abi::{Bdf, Gpa, PAGE_SIZE};
use core::fmt;

/// Why (7.2.3, table 26): any number is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// A message in the remappable format with reserved bits.
    const MESSAGE: u8 = 0x20;
    /// A message in the format of machines without remapping.
    const COMPATIBLE: u8 = 0x25;

    /// Whether it is about an interrupt.
    const fn is_interrupt(self) -> bool {
        matches!(self.0, Self::MESSAGE..=0x26)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 | 2 => f.write_str("the function has no domain"),
            4 => f.write_str("the address is wider than the unit's"),
            5 => f.write_str("not mapped for writing"),
            6 => f.write_str("not mapped for reading"),
            Self::MESSAGE => f.write_str("the message has reserved bits"),
            0x21 => f.write_str("the table has no such entry"),
            0x22 => f.write_str("nobody may"),
            0x23 => f.write_str("the table cannot be read"),
            0x24 => f.write_str("the entry has reserved bits"),
            Self::COMPATIBLE => f.write_str("the message names no entry"),
            0x26 => f.write_str("it is another function's"),
            other => write!(f, "reason {other:#x}"),
        }
    }
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// To read this page, in the addresses of the function's VM.
    Read(Gpa),
    /// To write to it.
    Write(Gpa),
    /// To raise the interrupt of this entry.
    Interrupt(u16),
    /// To raise an interrupt by a message that names no entry.
    Message,
}

/// A refused access or interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who.
    pub function: Bdf,
    /// What.
    pub refused: Refused,
    /// Why.
    pub reason: Reason,
}

impl Fault {
    /// In the last doubleword of a record: it holds a fault. Written 1, it falls.
    pub const PENDING: u32 = 1 << 31;

    /// From the two halves of a record; `None` when it holds no fault.
    pub const fn decode(low: u64, high: u64) -> Option<Self> {
        if high >> 63 == 0 {
            return None;
        }
        let reason = Reason((high >> 32) as u8);
        let page = Gpa(low & !(PAGE_SIZE - 1));
        // T1 and T2: 00 is a write, 10 a read, 01 a request for pages, 11 an atomic access.
        let write = high >> 62 & 1 == 0 || high >> 28 & 1 != 0;
        let refused = match (reason.0, reason.is_interrupt(), write) {
            (Reason::COMPATIBLE, ..) => Refused::Message,
            (_, true, _) => Refused::Interrupt((low >> 48) as u16),
            (_, _, true) => Refused::Write(page),
            (_, _, false) => Refused::Read(page),
        };
        Some(Self {
            function: Bdf(high as u16),
            refused,
            reason,
        })
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(page) => write!(f, "read {page}"),
            Self::Write(page) => write!(f, "write {page}"),
            Self::Interrupt(entry) => write!(f, "raise interrupt {entry:#x}"),
            Self::Message => f.write_str("raise interrupts by itself"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (function, refused, reason) = (self.function, self.refused, self.reason);
        write!(f, "PCI {function} may not {refused}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_understood() {
        let high = 1 << 63 | 5 << 32 | 0x80;
        let fault = Fault::decode(0x7f00_0123, high).unwrap();
        assert_eq!(fault.function, Bdf::new(0, 0x10, 0));
        assert_eq!(fault.refused, Refused::Write(Gpa(0x7f00_0000)));
        assert_eq!(
            fault.to_string(),
            "PCI 00:10.0 may not write 0x7f000000: not mapped for writing"
        );
        let fault = Fault::decode(0, high | 1 << 62 | 3 << 32).unwrap();
        assert_eq!(
            (fault.refused, fault.reason),
            (Refused::Read(Gpa(0)), Reason(7))
        );
        assert_eq!(Fault::decode(u64::MAX, u64::MAX >> 1), None);
    }

    #[test]
    fn a_record_of_an_interrupt_names_its_entry() {
        let record = |reason: u64| Fault::decode(0x31 << 48, 1 << 63 | reason << 32 | 0x80);
        let said = |reason| record(reason).unwrap().to_string();
        assert_eq!(
            said(0x22),
            "PCI 00:10.0 may not raise interrupt 0x31: nobody may"
        );
        assert_eq!(
            said(0x26),
            "PCI 00:10.0 may not raise interrupt 0x31: it is another function's"
        );
        assert_eq!(
            said(0x25),
            "PCI 00:10.0 may not raise interrupts by itself: the message names no entry"
        );
        assert_eq!(
            record(0x27).unwrap().refused,
            Refused::Write(Gpa(0x31 << 48))
        );
    }

    #[test]
    fn any_reason_can_be_printed() {
        for reason in 0..=u8::MAX {
            assert!(!Reason(reason).to_string().is_empty());
        }
    }
}
