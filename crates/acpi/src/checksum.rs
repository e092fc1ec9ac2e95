//! Checksums of tables that are modified for a guest.
//!
//! The bytes of a table sum to zero. The hypervisor hides tables that describe what it keeps for
//! itself (DMAR, IVRS) by giving a copy another signature, which changes the sum.

use crate::table::{CHECKSUM_OFFSET, HEADER_SIZE, Signature};

/// Sum of bytes, modulo 256.
pub fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

/// The checksum byte for a table in which `old` bytes become `new` ones, from the checksum byte
/// that it had. The rest of the table need not be at hand.
pub fn adjusted(checksum: u8, old: &[u8], new: &[u8]) -> u8 {
    checksum.wrapping_add(sum(old)).wrapping_sub(sum(new))
}

/// Sets the checksum byte of a whole table. Returns `false`, with nothing changed, when `table` is
/// shorter than the common header.
pub fn fix(table: &mut [u8]) -> bool {
    if table.len() < HEADER_SIZE as usize {
        return false;
    }
    let sum = sum(table);
    let Some(checksum) = table.get_mut(CHECKSUM_OFFSET) else {
        return false;
    };
    *checksum = checksum.wrapping_sub(sum);
    true
}

/// Gives the copy of a table another signature and a right checksum, so that no driver knows it
/// any more. Returns `false`, with nothing changed, when `table` is shorter than the common header.
pub fn rename(table: &mut [u8], signature: Signature) -> bool {
    if table.len() < HEADER_SIZE as usize {
        return false;
    }
    for (byte, new) in table.iter_mut().zip(signature.0) {
        *byte = new;
    }
    fix(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::table;

    #[test]
    fn a_renamed_table_still_sums_to_zero() {
        let mut dmar = table(*b"DMAR", &[1, 2, 3]);
        assert_eq!(sum(&dmar), 0);
        let expected = adjusted(dmar[CHECKSUM_OFFSET], b"DMAR", b"XMAR");
        assert!(rename(&mut dmar, Signature(*b"XMAR")));
        assert_eq!((sum(&dmar), &dmar[..4]), (0, &b"XMAR"[..]));
        assert_eq!(dmar[CHECKSUM_OFFSET], expected);
    }

    #[test]
    fn something_shorter_than_a_header_is_left_alone() {
        let mut bytes = [1; 35];
        assert!(!fix(&mut bytes) && !rename(&mut bytes, Signature(*b"XXXX")));
        assert_eq!(bytes, [1; 35]);
    }
}
