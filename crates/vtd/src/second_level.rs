//! Entries of second-level tables (9.8), for [`acrn_memory::NestedTable`].

use acrn_abi::Hpa;
use acrn_memory::{Access, Format, MemType};

/// The spelling of second-level entries: that of EPT without execution and memory types. Devices
/// fetch no instructions, and whether they see caches is decided by the bus.
#[derive(Clone, Copy, Debug)]
pub struct SecondLevel;

impl SecondLevel {
    const READ: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const LARGE: u64 = 1 << 7;
}

impl Format for SecondLevel {
    #[inline]
    fn table(table: Hpa) -> u64 {
        table.0 | Self::READ | Self::WRITE
    }

    fn leaf(page: Hpa, level: u8, access: Access, _mem_type: MemType) -> u64 {
        let mut entry = page.0;
        if level > 1 {
            entry |= Self::LARGE;
        }
        if access.contains(Access::READ) {
            entry |= Self::READ;
        }
        if access.contains(Access::WRITE) {
            entry |= Self::WRITE;
        }
        entry
    }

    #[inline]
    fn is_present(entry: u64) -> bool {
        entry & (Self::READ | Self::WRITE) != 0
    }

    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 1 || entry & Self::LARGE != 0
    }

    fn access(entry: u64) -> Access {
        Access::from_bits_truncate(entry as u8 & 3)
    }

    fn mem_type(_entry: u64, _level: u8) -> MemType {
        MemType::WriteBack
    }

    /// A context entry's pointer, for tables of four levels.
    fn root_pointer(root: Hpa) -> u64 {
        root.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leaf_says_can_be_read_back() {
        for (level, page) in [(1, 0x5000), (2, 0x20_0000), (3, 0x4000_0000)] {
            for access in [Access::READ, Access::RW] {
                let entry = SecondLevel::leaf(Hpa(page), level, access, MemType::WriteBack);
                assert!(SecondLevel::is_present(entry) && SecondLevel::is_leaf(entry, level));
                assert_eq!(SecondLevel::address(entry, level), Hpa(page));
                assert_eq!(SecondLevel::access(entry), access);
            }
        }
    }

    #[test]
    fn entries_have_the_bits_of_the_manual() {
        let leaf = |level, access| {
            SecondLevel::leaf(Hpa(0x4000_0000), level, access, MemType::Uncacheable)
        };
        assert_eq!(leaf(1, Access::RWX), 0x4000_0003);
        assert_eq!(leaf(2, Access::READ), 0x4000_0081);
        assert_eq!(SecondLevel::table(Hpa(0x5000)), 0x5003);
        assert!(!SecondLevel::is_present(0x4000_0080));
    }
}
