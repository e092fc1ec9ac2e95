//! What a unit records of an access that it has refused (7.2, 11.4.14).

use acrn_abi::{Bdf, Gpa, PAGE_SIZE};
use core::fmt;

/// Why (7.2.3, table 26): any number is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 | 2 => f.write_str("the function has no domain"),
            4 => f.write_str("the address is wider than the unit's"),
            5 => f.write_str("not mapped for writing"),
            6 => f.write_str("not mapped for reading"),
            0x20..=0x26 => write!(f, "interrupt, reason {:#x}", self.0),
            other => write!(f, "reason {other:#x}"),
        }
    }
}

/// A refused access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who.
    pub function: Bdf,
    /// First byte of the page, in the addresses of the function's VM.
    pub page: Gpa,
    /// A write.
    pub write: bool,
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
        Some(Self {
            function: Bdf(high as u16),
            page: Gpa(low & !(PAGE_SIZE - 1)),
            // T1 and T2: 00 is a write, 10 a read, 01 a request for pages, 11 an atomic access.
            write: high >> 62 & 1 == 0 || high >> 28 & 1 != 0,
            reason: Reason((high >> 32) as u8),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.write { "write" } else { "read" };
        let (function, page, reason) = (self.function, self.page, self.reason);
        write!(f, "PCI {function} may not {what} {page}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_understood() {
        let high = 1 << 63 | 5 << 32 | 0x80;
        let fault = Fault::decode(0x7f00_0123, high).unwrap();
        assert_eq!(
            (fault.function, fault.page),
            (Bdf::new(0, 0x10, 0), Gpa(0x7f00_0000))
        );
        assert!(fault.write);
        assert_eq!(
            fault.to_string(),
            "PCI 00:10.0 may not write 0x7f000000: not mapped for writing"
        );
        let fault = Fault::decode(0, high | 1 << 62 | 3 << 32).unwrap();
        assert_eq!((fault.write, fault.reason), (false, Reason(7)));
        assert_eq!(Fault::decode(u64::MAX, u64::MAX >> 1), None);
    }

    #[test]
    fn any_reason_can_be_printed() {
        for reason in 0..=u8::MAX {
            assert!(!Reason(reason).to_string().is_empty());
        }
    }
}
