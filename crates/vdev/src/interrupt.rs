//! What every source of interrupt messages (ICR, IOAPIC, MSI) has in common: where a message
//! goes and how it is to be delivered.

use acrn_abi::Vector;

/// Destination id that reaches every local APIC.
pub const BROADCAST: u32 = u32::MAX;

/// Destination of an interrupt message.
///
/// 8-bit sources (xAPIC ICR, IOAPIC, MSI) widen their broadcast id 0xFF to [`BROADCAST`], so that
/// it reaches x2APIC targets too while x2APIC id 255 stays addressable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// APIC id, or logical id when `logical`.
    pub id: u32,
    /// Whether `id` is matched against the logical destination register.
    pub logical: bool,
}

impl Destination {
    /// From the 8-bit field of an xAPIC ICR, an IOAPIC RTE or an MSI address.
    pub const fn from_xapic(id: u8, logical: bool) -> Self {
        let id = if id == 0xff { BROADCAST } else { id as u32 };
        Self { id, logical }
    }
}

/// Delivery mode, the 3-bit field of ICR, LVT, RTE and MSI data (SDM 3A, 10.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To every target, with the vector.
    Fixed,
    /// To one of the targets.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Encoding 3, which no source defines.
    Reserved,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI; only the ICR has it.
    StartUp,
    /// The vector comes from the 8259A.
    ExtInt,
}

impl DeliveryMode {
    /// From the 3-bit encoding; higher bits are ignored.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }

    /// The 3-bit encoding.
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// Whether the mode delivers the vector of the message to a local APIC's IRR.
    pub const fn uses_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// One interrupt message on its way from an IOAPIC or an MSI to the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Who gets it.
    pub destination: Destination,
    /// How it is delivered.
    pub mode: DeliveryMode,
    /// Vector, meaningful when `mode.uses_vector()`.
    pub vector: Vector,
    /// Level triggered: the EOI goes back to the IOAPIC.
    pub level: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_mode_survives_its_encoding() {
        for bits in 0..8 {
            assert_eq!(DeliveryMode::from_bits(bits).bits(), bits);
        }
    }

    #[test]
    fn an_8_bit_broadcast_is_widened() {
        assert_eq!(Destination::from_xapic(0xff, false).id, BROADCAST);
        assert_eq!(Destination::from_xapic(0xfe, true).id, 0xfe);
    }
}
