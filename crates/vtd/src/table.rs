//! Root and context entries (9.1, 9.3): from a requester to its domain.

use crate::capability::Width;
use acrn_abi::Hpa;

/// The number by which a unit tells the translations of one domain from another's. 0 is not
/// for use: units that cache absent entries mark these with it (6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainId(pub u16);

const PRESENT: u64 = 1;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Entry of the root table, one for each bus, as two words, the lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RootEntry(pub [u64; 2]);

impl RootEntry {
    /// The functions of the bus are looked up in this table.
    pub const fn new(contexts: Hpa) -> Self {
        Self([contexts.0 & ADDRESS | PRESENT, 0])
    }
}

/// Entry of a context table, one for each device and function, as two words, the lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ContextEntry(pub [u64; 2]);

impl ContextEntry {
    /// Untranslated requests go through a second-level table (translation type 0); `root` is its
    /// top for this width.
    pub const fn new(domain: DomainId, root: Hpa, width: Width) -> Self {
        let low = root.0 & ADDRESS | PRESENT;
        Self([low, (domain.0 as u64) << 8 | width.code()])
    }
}

const _: () = assert!(size_of::<RootEntry>() == 16 && size_of::<ContextEntry>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_bits_of_the_manual() {
        assert_eq!(RootEntry::new(Hpa(0x1234_5000)).0, [0x1234_5001, 0]);
        let context = ContextEntry::new(DomainId(0x21), Hpa(0x7000), Width::Three);
        assert_eq!(context.0, [0x7001, 0x2101]);
        let context = ContextEntry::new(DomainId(1), Hpa(0x7000), Width::Four);
        assert_eq!(context.0, [0x7001, 0x102]);
    }
}
