//! Checksums of tables: the bytes of each sum to zero.
//!
//! The hypervisor hides what it keeps for itself by changing bytes of the firmware's tables.

use crate::table::{CHECKSUM_OFFSET, HEADER_SIZE};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::table;

    #[test]
    fn a_renamed_table_still_sums_to_zero() {
        let mut dmar = table(*b"DMAR", &[1, 2, 3]);
        assert_eq!(sum(&dmar), 0);
        dmar[CHECKSUM_OFFSET] = adjusted(dmar[CHECKSUM_OFFSET], b"DMAR", b"XMAR");
        dmar[..4].copy_from_slice(b"XMAR");
        assert_eq!(sum(&dmar), 0);
    }

    #[test]
    fn something_shorter_than_a_header_is_left_alone() {
        let mut bytes = [1; 35];
        assert!(!fix(&mut bytes));
        assert_eq!(bytes, [1; 35]);
    }
}
