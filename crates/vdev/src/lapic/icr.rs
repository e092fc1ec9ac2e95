//! The interrupt command register, decoded (SDM 3A, 10.6.1 and 10.12.9).

use acrn_abi::Vector;

use crate::interrupt::{DeliveryMode, Destination};

/// Destination shorthand of an IPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shorthand {
    /// Use the destination field.
    None,
    /// The sender only.
    Oneself,
    /// Everyone.
    AllIncludingSelf,
    /// Everyone but the sender.
    AllExcludingSelf,
}

/// An inter-processor interrupt that a guest asked for. Always edge triggered: current processors
/// ignore the trigger mode but for INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icr {
    /// Vector; the 4 KiB page number of the entry point when `mode` is `StartUp`.
    pub vector: Vector,
    /// Delivery mode.
    pub mode: DeliveryMode,
    /// Destination, when `shorthand` is `None`.
    pub destination: Destination,
    /// Destination shorthand.
    pub shorthand: Shorthand,
    /// The level bit: clear for "de-assert", which only INIT ever used.
    pub assert: bool,
    /// The trigger mode bit: set for level.
    pub level: bool,
}

impl Icr {
    /// From the low register and a destination id that is 32 bits wide (x2APIC).
    pub fn from_x2apic(low: u32, dest: u32) -> Self {
        Self::decode(
            low,
            Destination {
                id: dest,
                logical: low & 1 << 11 != 0,
            },
        )
    }

    /// From the two xAPIC registers.
    pub fn from_xapic(low: u32, high: u32) -> Self {
        Self::decode(
            low,
            Destination::from_xapic((high >> 24) as u8, low & 1 << 11 != 0),
        )
    }

    fn decode(low: u32, destination: Destination) -> Self {
        Self {
            vector: Vector(low as u8),
            mode: DeliveryMode::from_bits((low >> 8) as u8),
            destination,
            shorthand: match low >> 18 & 3 {
                0 => Shorthand::None,
                1 => Shorthand::Oneself,
                2 => Shorthand::AllIncludingSelf,
                _ => Shorthand::AllExcludingSelf,
            },
            assert: low & 1 << 14 != 0,
            level: low & 1 << 15 != 0,
        }
    }

    /// Guest physical address at which a start-up IPI starts its target, real mode.
    pub fn startup_address(&self) -> u32 {
        u32::from(self.vector.0) << 12
    }

    /// Whether processors act on this combination (SDM 3A, tables 10-3 and 10-4). INIT level
    /// de-assert is a no-operation since the Pentium 4.
    pub(super) fn is_effective(&self) -> bool {
        let includes_self = matches!(
            self.shorthand,
            Shorthand::Oneself | Shorthand::AllIncludingSelf
        );
        match self.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority | DeliveryMode::Nmi => true,
            DeliveryMode::Init => !includes_self && (self.assert || !self.level),
            DeliveryMode::StartUp | DeliveryMode::Smi => !includes_self,
            DeliveryMode::Reserved | DeliveryMode::ExtInt => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_ipi_names_a_page() {
        let icr = Icr::from_x2apic(0x0000_4699, 3);
        assert_eq!(icr.mode, DeliveryMode::StartUp);
        assert_eq!(icr.startup_address(), 0x99000);
        assert_eq!(
            icr.destination,
            Destination {
                id: 3,
                logical: false
            }
        );
        assert!(icr.is_effective());
    }

    #[test]
    fn init_deassert_does_nothing() {
        assert!(Icr::from_xapic(0x0000_c500, 0).is_effective());
        assert!(!Icr::from_xapic(0x0000_8500, 0).is_effective());
    }

    #[test]
    fn a_cpu_cannot_send_init_to_itself_by_shorthand() {
        assert!(!Icr::from_xapic(0x0004_4500, 0).is_effective());
        assert!(!Icr::from_xapic(0x0008_4500, 0).is_effective());
        assert!(Icr::from_xapic(0x000c_4500, 0).is_effective());
    }
}
