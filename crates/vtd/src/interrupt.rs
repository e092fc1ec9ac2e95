//! Remapping of interrupts (5.1, 9.9): a message names an entry of a table, and the entry says what
//! becomes of it and who may send it.
//!
//! There is one table of one page, and the entry of an interrupt has the number of the interrupt's vector at
//! the processor. Nothing is left to be allocated, and no message can become an interrupt with another's
//! vector.

use acrn_abi::{Bdf, Hpa, Vector};

/// Entries of the table.
pub const INTERRUPTS: usize = 256;

/// Where an interrupt goes to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Vector, and number of the entry.
    pub vector: Vector,
    /// Id of the one local APIC that gets it.
    pub receiver: u32,
    /// The local APICs are in x2APIC mode.
    pub x2apic: bool,
    /// Level triggered.
    pub level: bool,
    /// Who may send it: the number under which the function makes its requests.
    pub sender: Bdf,
}

/// Entry of the table, as two words, the lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct InterruptEntry(pub [u64; 2]);

const _: () = assert!(size_of::<InterruptEntry>() * INTERRUPTS == acrn_abi::PAGE_SIZE as usize);

impl InterruptEntry {
    /// Blocks whatever names it.
    pub const ABSENT: Self = Self([0, 0]);
    const PRESENT: u64 = 1;
    const LEVEL: u64 = 1 << 4;
    /// SVT 1 with SQ 0, in the upper word: all bits of the sender are compared.
    const VERIFY_SENDER: u64 = 1 << 18;

    /// Fixed delivery to one physical id.
    pub const fn new(route: &Route) -> Self {
        let place = if route.x2apic { 32 } else { 40 };
        let mut low = Self::PRESENT | (route.vector.0 as u64) << 16;
        low |= (route.receiver as u64) << place;
        if route.level {
            low |= Self::LEVEL;
        }
        Self([low, Self::VERIFY_SENDER | route.sender.0 as u64])
    }

    /// Id of the local APIC that gets it; `None` when it is blocked.
    pub const fn receiver(self, x2apic: bool) -> Option<u32> {
        let [low, _] = self.0;
        let field = (low >> 32) as u32;
        match (low & Self::PRESENT != 0, x2apic) {
            (false, _) => None,
            (true, true) => Some(field),
            (true, false) => Some(field >> 8 & 0xff),
        }
    }
}

/// What IRTA has to say of a table of [`INTERRUPTS`] entries.
pub const fn table_register(table: Hpa, x2apic: bool) -> u64 {
    const ENTRIES: u64 = INTERRUPTS.trailing_zeros() as u64 - 1;
    table.0 | (x2apic as u64) << 11 | ENTRIES
}

/// Address and data of a message that names an entry (5.1.2.2).
pub const fn message(entry: Vector) -> (u64, u32) {
    const REMAPPABLE: u64 = 1 << 4;
    /// The data is added to the number; it is 0.
    const SUBHANDLE: u64 = 1 << 3;
    (
        0xfee0_0000 | (entry.0 as u64) << 5 | REMAPPABLE | SUBHANDLE,
        0,
    )
}

/// Says of an I/O APIC's redirection entry that it names an entry.
const REDIRECTED: u64 = 1 << 48;

/// An I/O APIC's redirection entry that names an entry (5.1.5.1). Its vector is what the I/O APIC compares at an
/// EOI, `flags` are polarity and trigger mode.
pub const fn redirection(entry: Vector, flags: u64) -> u64 {
    REDIRECTED | (entry.0 as u64) << 49 | flags | entry.0 as u64
}

/// The entry that a redirection entry names, if it names one.
pub const fn redirected(redirection: u64) -> Option<Vector> {
    match redirection & REDIRECTED {
        0 => None,
        _ => Some(Vector((redirection >> 49) as u8)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route = Route {
        vector: Vector(0x31),
        receiver: 2,
        x2apic: false,
        level: false,
        sender: Bdf::new(0, 0x10, 1),
    };

    #[test]
    fn entries_have_the_bits_of_the_manual() {
        let entry = |change: fn(&mut Route)| {
            let mut route = ROUTE;
            change(&mut route);
            InterruptEntry::new(&route).0
        };
        assert_eq!(entry(|_| {}), [0x0000_0200_0031_0001, 0x4_0081]);
        assert_eq!(entry(|r| r.level = true)[0], 0x0000_0200_0031_0011);
        let wide = entry(|r| (r.x2apic, r.receiver) = (true, 0x1_0002));
        assert_eq!(wide[0], 0x0001_0002_0031_0001);
        assert_eq!(InterruptEntry::ABSENT.0[0] & 1, 0);
    }

    #[test]
    fn an_entry_tells_its_receiver_unless_it_blocks() {
        for (x2apic, receiver) in [(false, 2), (false, 0xfe), (true, 2), (true, 0x1_0002)] {
            let entry = InterruptEntry::new(&Route {
                receiver,
                x2apic,
                ..ROUTE
            });
            assert_eq!(entry.receiver(x2apic), Some(receiver));
        }
        assert_eq!(InterruptEntry::ABSENT.receiver(true), None);
    }

    #[test]
    fn the_table_has_an_entry_for_each_vector() {
        // S: two to the power of S + 1 entries.
        assert_eq!(table_register(Hpa(0x7000), false), 0x7007);
        assert_eq!(table_register(Hpa(0x7000), true), 0x7807);
    }

    #[test]
    fn messages_and_redirections_name_their_entry() {
        for vector in 0..=u8::MAX {
            let (address, data) = message(Vector(vector));
            let handle = (address >> 5 & 0x7fff) as u32 | (address as u32 >> 2 & 1) << 15;
            assert_eq!(handle + (data & 0xffff), vector.into());
            assert_eq!(address & !0xf_ffe0, 0xfee0_0018, "format and base");
            let pin = redirection(Vector(vector), 1 << 13 | 1 << 15);
            assert_eq!((pin >> 48 & 1, pin >> 49), (1, vector.into()));
            assert_eq!(pin as u32, 0xa000 | u32::from(vector));
            assert_eq!(redirected(pin), Some(Vector(vector)));
        }
        assert_eq!(redirected(0xff00_0000_0001_0031), None);
    }
}
