//! The root pointer (5.2.5).

use crate::checksum::sum;
use crate::error::Error;
use acrn_abi::{Hpa, PhysicalMemory};

/// Bytes of version 1.
const SIZE_1: usize = 20;
/// Bytes of version 2.
const SIZE_2: usize = 36;

/// Real-mode segment of the extended BIOS data area.
const EBDA_POINTER: Hpa = Hpa(0x40E);
/// Where the BIOS is.
const BIOS: core::ops::Range<u64> = 0xE_0000..0x10_0000;

/// What the root pointer points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rsdp {
    /// Table with 32-bit pointers; 0 for none.
    pub rsdt: Hpa,
    /// Table with 64-bit pointers; 0 for none, as in version 1.
    pub xsdt: Hpa,
}

impl Rsdp {
    /// Reads the bytes of a root pointer, which may be more than it has.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let first = bytes.get(..SIZE_1).ok_or(Error::BadRsdp)?;
        if !first.starts_with(b"RSD PTR ") || sum(first) != 0 {
            return Err(Error::BadRsdp);
        }
        let word = |at: usize| -> u64 {
            let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
            u32::from_le_bytes(word.copied().unwrap_or_default()).into()
        };
        let rsdt = Hpa(word(16));
        let version_2 = first.get(15).is_some_and(|&revision| revision >= 2);
        // Without a sound second part the first one is still good.
        let xsdt = match bytes.get(..SIZE_2) {
            Some(all) if version_2 && sum(all) == 0 => Hpa(word(24) | word(28) << 32),
            _ => Hpa(0),
        };
        if rsdt.0 == 0 && xsdt.0 == 0 {
            Err(Error::BadRsdp)
        } else {
            Ok(Self { rsdt, xsdt })
        }
    }

    /// Searches the places where a BIOS puts it: the first KiB of the EBDA, then the BIOS area,
    /// at multiples of 16.
    pub fn search(memory: &impl PhysicalMemory) -> Result<Self, Error> {
        let ebda = memory
            .read_as::<u16>(EBDA_POINTER)
            .map_or(0, |segment| u64::from(segment) << 4);
        // Segments below the BIOS data area or outside of low memory are not real pointers.
        let ebda = if (0x500..0xA_0000).contains(&ebda) {
            ebda..ebda + 1024
        } else {
            0..0
        };
        for address in ebda.step_by(16).chain(BIOS.step_by(16)) {
            if memory.read_as::<[u8; 8]>(Hpa(address)) != Some(*b"RSD PTR ") {
                continue;
            }
            let mut bytes = [0; SIZE_2];
            let readable = memory.read(Hpa(address), &mut bytes);
            if readable && let Ok(rsdp) = Self::parse(&bytes) {
                return Ok(rsdp);
            }
        }
        Err(Error::NoRsdp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, rsdp};

    #[test]
    fn both_versions_are_read() {
        let two = rsdp(0x1000, 0x1_0000_2000);
        let expected = Rsdp {
            rsdt: Hpa(0x1000),
            xsdt: Hpa(0x1_0000_2000),
        };
        assert_eq!(Rsdp::parse(&two), Ok(expected));
        assert_eq!(
            Rsdp::parse(&two[..20]),
            Ok(Rsdp {
                xsdt: Hpa(0),
                ..expected
            })
        );
    }

    #[test]
    fn a_broken_second_part_leaves_the_first() {
        let mut bytes = rsdp(0x1000, 0x2000);
        bytes[24] ^= 1;
        assert_eq!(
            Rsdp::parse(&bytes),
            Ok(Rsdp {
                rsdt: Hpa(0x1000),
                xsdt: Hpa(0)
            })
        );
        bytes[17] ^= 1;
        assert_eq!(Rsdp::parse(&bytes), Err(Error::BadRsdp));
        assert_eq!(Rsdp::parse(&[]), Err(Error::BadRsdp));
    }

    #[test]
    fn the_ebda_is_searched_before_the_bios_area() {
        let mut ram = Ram::new(0x10_0000);
        ram.put(0xF_5AD0, &rsdp(0x1000, 0));
        assert_eq!(Rsdp::search(&ram).unwrap().rsdt, Hpa(0x1000));
        ram.put(0x40E, &0x9FC0u16.to_le_bytes());
        ram.put(0x9_FC10, &rsdp(0x2000, 0));
        assert_eq!(Rsdp::search(&ram).unwrap().rsdt, Hpa(0x2000));
    }

    #[test]
    fn a_decoy_without_a_checksum_is_passed_over() {
        let mut ram = Ram::new(0x10_0000);
        ram.put(0xE_0000, b"RSD PTR ");
        assert_eq!(Rsdp::search(&ram), Err(Error::NoRsdp));
        ram.put(0xF_FFE0, &rsdp(0x3000, 0)[..20]);
        assert_eq!(
            Rsdp::search(&ram),
            Err(Error::NoRsdp),
            "36 bytes do not fit before the end"
        );
        ram.put(0xF_FFD0, &rsdp(0x3000, 0));
        assert_eq!(Rsdp::search(&ram).unwrap().rsdt, Hpa(0x3000));
    }
}
