//! How AMD and Intel spell an entry of a nested page table.

use acrn_abi::Hpa;
use bitflags::bitflags;

bitflags! {
    /// What a guest may do with a page. Both formats can only refuse reading by refusing all, so
    /// every mapping includes `READ`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Data reads.
        const READ = 1;
        /// Writes.
        const WRITE = 2;
        /// Instruction fetches.
        const EXECUTE = 4;
    }
}

impl Access {
    /// Reads and writes.
    pub const RW: Self = Self::READ.union(Self::WRITE);
    /// Everything.
    pub const RWX: Self = Self::RW.union(Self::EXECUTE);
}

/// Memory type, with the numbers of the PAT and MTRR MSRs (Intel SDM 3A 12.3, AMD APM 2 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemType {
    /// UC: device registers.
    Uncacheable = 0,
    /// WC: frame buffers.
    WriteCombining = 1,
    /// WT.
    WriteThrough = 4,
    /// WP.
    WriteProtected = 5,
    /// WB: ordinary memory.
    WriteBack = 6,
}

impl MemType {
    /// From a number of the PAT; numbers without a meaning become UC, the type that is always
    /// right and only slow.
    const fn from_pat(value: u64) -> Self {
        match value {
            1 => Self::WriteCombining,
            4 => Self::WriteThrough,
            5 => Self::WriteProtected,
            6 => Self::WriteBack,
            _ => Self::Uncacheable,
        }
    }
}

/// The spelling of entries. `level` is 1 (4 KiB), 2 (2 MiB) or 3 (1 GiB); level 4 has no leaves.
pub trait Format {
    /// The entry that points to the next lower table.
    fn table(table: Hpa) -> u64;
    /// The entry that maps a page.
    fn leaf(page: Hpa, level: u8, access: Access, mem_type: MemType) -> u64;
    /// Whether hardware finds anything in this entry.
    fn is_present(entry: u64) -> bool;
    /// Whether a present entry maps a page.
    fn is_leaf(entry: u64, level: u8) -> bool;
    /// Access rights of a leaf.
    fn access(entry: u64) -> Access;
    /// Memory type of a leaf.
    fn mem_type(entry: u64, level: u8) -> MemType;
    /// What goes into the register that names the root table.
    fn root_pointer(root: Hpa) -> u64;

    /// Page or table address in an entry. Bits below the page size of a large leaf (the PAT bit)
    /// are not part of it.
    #[inline]
    fn address(entry: u64, level: u8) -> Hpa {
        let page_bits = if Self::is_leaf(entry, level) {
            level_shift(level)
        } else {
            12
        };
        Hpa(entry & ADDRESS & !((1 << page_bits) - 1))
    }
}

/// Bits 51..12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// "This entry maps a page" in levels 2 and 3, in both formats.
const LARGE: u64 = 1 << 7;

/// Log2 of the bytes that one entry of a level covers.
pub(super) const fn level_shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// AMD's nested page tables (APM 2, 15.25): the long-mode format, walked as user accesses.
pub struct Npt;

impl Npt {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;
    const NO_EXECUTE: u64 = 1 << 63;
    const PWT: u64 = 1 << 3;
    const PCD: u64 = 1 << 4;

    /// The host's IA32_PAT that the leaves assume. Entries 0..=3 are as after reset, 5 is WC and
    /// 6 is WP.
    pub const HOST_PAT: u64 = 0x0005_0106_0007_0406;

    const fn pat_bit(level: u8) -> u64 {
        if level == 1 { 1 << 7 } else { 1 << 12 }
    }
}

impl Format for Npt {
    #[inline]
    fn table(table: Hpa) -> u64 {
        table.0 | Self::PRESENT | Self::WRITE | Self::USER
    }

    fn leaf(page: Hpa, level: u8, access: Access, mem_type: MemType) -> u64 {
        let mut entry = page.0 | Self::PRESENT | Self::USER;
        if level > 1 {
            entry |= LARGE;
        }
        if access.contains(Access::WRITE) {
            entry |= Self::WRITE;
        }
        if !access.contains(Access::EXECUTE) {
            entry |= Self::NO_EXECUTE;
        }
        entry
            | match mem_type {
                MemType::WriteBack => 0,
                MemType::WriteThrough => Self::PWT,
                MemType::Uncacheable => Self::PCD | Self::PWT,
                MemType::WriteCombining => Self::pat_bit(level) | Self::PWT,
                MemType::WriteProtected => Self::pat_bit(level) | Self::PCD,
            }
    }

    #[inline]
    fn is_present(entry: u64) -> bool {
        entry & Self::PRESENT != 0
    }

    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 1 || entry & LARGE != 0
    }

    fn access(entry: u64) -> Access {
        let mut access = Access::READ;
        access.set(Access::WRITE, entry & Self::WRITE != 0);
        access.set(Access::EXECUTE, entry & Self::NO_EXECUTE == 0);
        access
    }

    fn mem_type(entry: u64, level: u8) -> MemType {
        let high = if entry & Self::pat_bit(level) != 0 {
            4
        } else {
            0
        };
        let index = high | (entry >> 3 & 3);
        MemType::from_pat(Self::HOST_PAT >> (8 * index) & 7)
    }

    /// VMCB.N_CR3.
    fn root_pointer(root: Hpa) -> u64 {
        root.0
    }
}

/// Intel's extended page tables (SDM 3C, 29.3).
pub struct Ept;

impl Ept {
    const READ: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const EXECUTE: u64 = 1 << 2;
    const RWX: u64 = 7;
}

impl Format for Ept {
    #[inline]
    fn table(table: Hpa) -> u64 {
        table.0 | Self::RWX
    }

    fn leaf(page: Hpa, level: u8, access: Access, mem_type: MemType) -> u64 {
        let mut entry = page.0 | (mem_type as u64) << 3;
        if level > 1 {
            entry |= LARGE;
        }
        if access.contains(Access::READ) {
            entry |= Self::READ;
        }
        if access.contains(Access::WRITE) {
            entry |= Self::WRITE;
        }
        if access.contains(Access::EXECUTE) {
            entry |= Self::EXECUTE;
        }
        entry
    }

    #[inline]
    fn is_present(entry: u64) -> bool {
        entry & Self::RWX != 0
    }

    #[inline]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 1 || entry & LARGE != 0
    }

    fn access(entry: u64) -> Access {
        Access::from_bits_truncate(entry as u8 & 7)
    }

    fn mem_type(entry: u64, _level: u8) -> MemType {
        MemType::from_pat(entry >> 3 & 7)
    }

    /// EPTP (SDM 3C, 25.6.11): write-back, four levels, without accessed and dirty flags.
    fn root_pointer(root: Hpa) -> u64 {
        root.0 | 3 << 3 | MemType::WriteBack as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [MemType; 5] = [
        MemType::Uncacheable,
        MemType::WriteCombining,
        MemType::WriteThrough,
        MemType::WriteProtected,
        MemType::WriteBack,
    ];

    fn leaves_read_back<F: Format>() {
        for level in 1..=3u8 {
            let page = Hpa(5 << level_shift(level));
            for mem_type in TYPES {
                for access in [
                    Access::READ,
                    Access::RW,
                    Access::RWX,
                    Access::READ | Access::EXECUTE,
                ] {
                    let entry = F::leaf(page, level, access, mem_type);
                    assert!(F::is_present(entry) && F::is_leaf(entry, level));
                    assert_eq!(F::address(entry, level), page);
                    assert_eq!(F::access(entry), access);
                    assert_eq!(F::mem_type(entry, level), mem_type);
                }
            }
        }
    }

    #[test]
    fn what_a_leaf_says_can_be_read_back() {
        leaves_read_back::<Npt>();
        leaves_read_back::<Ept>();
    }

    #[test]
    fn entries_have_the_bits_of_the_manuals() {
        let leaf = |level, access, kind| Npt::leaf(Hpa(0x4000_0000), level, access, kind);
        assert_eq!(leaf(1, Access::RWX, MemType::WriteBack), 0x4000_0007);
        assert_eq!(
            leaf(1, Access::READ, MemType::Uncacheable),
            1 << 63 | 0x4000_001d
        );
        assert_eq!(leaf(2, Access::RWX, MemType::WriteCombining), 0x4000_108f);
        assert_eq!(Npt::table(Hpa(0x5000)), 0x5007);
        let leaf = |level, access, kind| Ept::leaf(Hpa(0x4000_0000), level, access, kind);
        assert_eq!(leaf(1, Access::RWX, MemType::WriteBack), 0x4000_0037);
        assert_eq!(leaf(3, Access::RW, MemType::Uncacheable), 0x4000_0083);
        assert_eq!(Ept::root_pointer(Hpa(0x5000)), 0x501e);
    }
}
