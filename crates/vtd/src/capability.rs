//! What a unit can do (11.4.2, 11.4.3).

use core::fmt;

/// Levels of a second-level table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Three levels, 39 bits.
    Three,
    /// Four levels, 48 bits.
    Four,
}

impl Width {
    /// Width of the addresses.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Three => 39,
            Self::Four => 48,
        }
    }

    /// The number of a context entry's field AW.
    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::Three => 1,
            Self::Four => 2,
        }
    }
}

/// The capability registers, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Major and minor version.
    pub version: (u8, u8),
    /// Width of the addresses that devices may use (MGAW).
    pub address_bits: u8,
    /// Tables of three levels (SAGAW).
    pub three_levels: bool,
    /// Tables of four levels.
    pub four_levels: bool,
    /// Pages of 2 MiB (SLLPS).
    pub mib_pages: bool,
    /// Pages of 1 GiB.
    pub gib_pages: bool,
    /// Invalidations by queue (QI).
    pub queue: bool,
    /// Interrupts can be remapped (IR).
    pub interrupts: bool,
    /// Also to local APICs in x2APIC mode (EIM).
    pub wide_interrupts: bool,
    /// The write buffer is flushed by software (RWBF).
    pub flush_writes: bool,
    /// An invalidation can wait for reads that are under way (DRD).
    pub drain_reads: bool,
    /// An invalidation can wait for writes that are under way (DWD).
    pub drain_writes: bool,
    /// There are regions that firmware may have closed to all DMA (PLMR, PHMR).
    pub protected_memory: bool,
    /// Offset of the fault records in the registers (FRO).
    pub fault_offset: u64,
    /// Number of fault records (NFR).
    pub fault_records: u16,
}

/// Why a unit cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Invalidations go by registers only.
    Queue,
    /// It does not remap interrupts.
    Interrupts,
    /// It does not do so for local APICs in x2APIC mode.
    X2Apic,
    /// Its tables have only 4 KiB pages.
    LargePages,
    /// No table that the hypervisor builds reaches as far as memory does.
    Levels {
        /// Widest addresses that it has with three or four levels; 0 for neither.
        bits: u8,
        /// Width of the addresses of all memory.
        needed: u8,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue => f.write_str("it has no queued invalidation"),
            Self::Interrupts => f.write_str("it does not remap interrupts"),
            Self::X2Apic => f.write_str("it does not remap interrupts to CPUs in x2APIC mode"),
            Self::LargePages => f.write_str("its tables have no pages of 2 MiB"),
            Self::Levels { bits: 0, .. } => {
                f.write_str("its tables have neither three nor four levels")
            }
            Self::Levels { bits, needed } => write!(
                f,
                "its tables reach {bits} address bits and memory has {needed}"
            ),
        }
    }
}

impl Capabilities {
    /// From VER, CAP and ECAP.
    pub const fn new(version: u32, capability: u64, extended: u64) -> Self {
        Self {
            version: ((version >> 4 & 15) as u8, (version & 15) as u8),
            address_bits: (capability >> 16 & 0x3f) as u8 + 1,
            three_levels: capability >> 9 & 1 != 0,
            four_levels: capability >> 10 & 1 != 0,
            mib_pages: capability >> 34 & 1 != 0,
            gib_pages: capability >> 35 & 1 != 0,
            queue: extended >> 1 & 1 != 0,
            interrupts: extended >> 3 & 1 != 0,
            wide_interrupts: extended >> 4 & 1 != 0,
            flush_writes: capability >> 4 & 1 != 0,
            drain_reads: capability >> 55 & 1 != 0,
            drain_writes: capability >> 54 & 1 != 0,
            protected_memory: capability >> 5 & 3 != 0,
            fault_offset: (capability >> 24 & 0x3ff) * 16,
            fault_records: (capability >> 40 & 0xff) as u16 + 1,
        }
    }

    /// Whether it remaps interrupts, to local APICs in x2APIC mode or in the older one.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub const fn remaps(&self, x2apic: bool) -> Result<(), Missing> {
        if !self.queue {
            return Err(Missing::Queue);
        }
        match (self.interrupts, self.wide_interrupts || !x2apic) {
            (true, true) => Ok(()),
            (true, false) => Err(Missing::X2Apic),
            (false, _) => Err(Missing::Interrupts),
        }
    }

    /// The tables to use for memory whose addresses have `needed` bits.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn choose(&self, needed: u8) -> Result<Width, Missing> {
        if !self.queue {
            return Err(Missing::Queue);
        }
        if !self.mib_pages {
            return Err(Missing::LargePages);
        }
        let width = match (self.four_levels, self.three_levels) {
            (true, _) => Some(Width::Four),
            (false, true) => Some(Width::Three),
            (false, false) => None,
        };
        let reach = |width: Width| width.bits().min(self.address_bits);
        match width {
            Some(width) if reach(width) >= needed => Ok(width),
            _ => Err(Missing::Levels {
                bits: width.map_or(0, reach),
                needed,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU's unit says with its 39 bits.
    const CAP: u64 = 0x00d2_008c_2226_0206;
    const ECAP: u64 = 0x00f0_0f42;

    #[test]
    fn a_unit_is_understood() {
        let unit = Capabilities::new(0x10, CAP, ECAP);
        assert_eq!(unit.version, (1, 0));
        assert_eq!(
            (unit.address_bits, unit.fault_offset, unit.fault_records),
            (39, 0x220, 1)
        );
        assert!(unit.three_levels && !unit.four_levels);
        assert!(unit.mib_pages && unit.gib_pages && unit.queue);
        assert!(unit.drain_reads && unit.drain_writes && !unit.flush_writes);
        assert!(!unit.interrupts && !unit.wide_interrupts);
        assert_eq!(unit.choose(31), Ok(Width::Three));
        assert_eq!(
            Capabilities::new(0x10, CAP | 1 << 10, ECAP).choose(39),
            Ok(Width::Four)
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = |capability, extended, needed| {
            let unit = Capabilities::new(0x10, capability, extended);
            unit.choose(needed).unwrap_err().to_string()
        };
        assert_eq!(missing(CAP, 0, 31), "it has no queued invalidation");
        assert_eq!(
            missing(CAP & !(1 << 34), ECAP, 31),
            "its tables have no pages of 2 MiB"
        );
        assert_eq!(
            missing(CAP & !(1 << 9), ECAP, 31),
            "its tables have neither three nor four levels"
        );
        assert_eq!(
            missing(CAP, ECAP, 40),
            "its tables reach 39 address bits and memory has 40"
        );
        let remaps = |extended, x2apic| Capabilities::new(0x10, CAP, extended).remaps(x2apic);
        assert_eq!(remaps(ECAP & !2 | 8, false), Err(Missing::Queue));
        assert_eq!(remaps(ECAP, false), Err(Missing::Interrupts));
        assert_eq!(remaps(ECAP | 8, true), Err(Missing::X2Apic));
        assert_eq!(remaps(ECAP | 8, false), Ok(()));
        assert_eq!(remaps(ECAP | 0x18, true), Ok(()));
        // Four levels, but the unit looks at no more than 39 bits.
        assert!(missing(CAP | 1 << 10, ECAP, 40).contains("39 address bits"));
    }
}
