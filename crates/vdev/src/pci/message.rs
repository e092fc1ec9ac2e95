//! Message-signalled interrupts of the x86 (SDM 3A, 10.11).

use acrn_abi::Vector;

use crate::interrupt::{BROADCAST, Delivery, DeliveryMode, Destination};

/// Address and data of an MSI, as a function writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

const ADDRESS_BASE: u64 = 0xfee0_0000;
const ADDRESS_MASK: u64 = 0xffff_ffff_fff0_0000;
const LOGICAL: u64 = 1 << 2;
const REDIRECTION_HINT: u64 = 1 << 3;
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;

impl MsiMessage {
    /// The interrupt that the message makes; `None` when the address is not the local APICs', or
    /// for the de-assert half of a level-triggered message.
    pub const fn decode(self) -> Option<Delivery> {
        let level = self.data & LEVEL != 0;
        if self.address & ADDRESS_MASK != ADDRESS_BASE || level && self.data & ASSERT == 0 {
            return None;
        }
        // Operating systems rely on the mode bit even without the redirection hint.
        let logical = self.address & LOGICAL != 0;
        let mode = match DeliveryMode::from_bits((self.data >> 8) as u8) {
            DeliveryMode::Fixed if self.address & REDIRECTION_HINT != 0 => {
                DeliveryMode::LowestPriority
            }
            mode => mode,
        };
        Some(Delivery {
            destination: Destination::from_xapic((self.address >> 12) as u8, logical),
            mode,
            vector: Vector(self.data as u8),
            level,
        })
    }

    /// The message that makes `delivery`; `None` when the destination needs more than 8 bits,
    /// which only interrupt remapping provides.
    pub const fn encode(delivery: &Delivery) -> Option<Self> {
        let Destination { id, logical } = delivery.destination;
        let id = match id {
            BROADCAST => 0xff,
            0..=0xfe => id as u64,
            _ => return None,
        };
        let mut address = ADDRESS_BASE | id << 12;
        if logical {
            address |= LOGICAL;
        }
        if matches!(delivery.mode, DeliveryMode::LowestPriority) {
            address |= REDIRECTION_HINT;
        }
        let mut data = (delivery.mode.bits() as u32) << 8 | delivery.vector.0 as u32;
        if delivery.level {
            data |= LEVEL | ASSERT;
        }
        Some(Self { address, data })
    }

    /// Edge-triggered, fixed, to one physical local APIC: what the hypervisor programs.
    pub const fn to_apic(apic_id: u8, vector: Vector) -> Self {
        Self {
            address: ADDRESS_BASE | (apic_id as u64) << 12,
            data: vector.0 as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_decodes_as_in_the_manual() {
        let message = MsiMessage {
            address: 0xfee0_3004,
            data: 0x0000_0131,
        };
        let delivery = message.decode().unwrap();
        assert_eq!(
            delivery.destination,
            Destination {
                id: 3,
                logical: true
            }
        );
        assert_eq!(delivery.mode, DeliveryMode::LowestPriority);
        assert_eq!((delivery.vector, delivery.level), (Vector(0x31), false));
        let hinted = MsiMessage {
            address: 0xfee0_300c,
            data: 0x31,
        };
        assert_eq!(hinted.decode().unwrap().mode, DeliveryMode::LowestPriority);
    }

    #[test]
    fn encoding_and_decoding_are_inverse() {
        for bits in [0, 1, 2, 4, 5, 7] {
            for (id, level) in [(7, false), (BROADCAST, true)] {
                let delivery = Delivery {
                    destination: Destination {
                        id,
                        logical: bits == 1,
                    },
                    mode: DeliveryMode::from_bits(bits),
                    vector: Vector(0xab),
                    level,
                };
                assert_eq!(
                    MsiMessage::encode(&delivery).unwrap().decode(),
                    Some(delivery)
                );
            }
        }
    }

    #[test]
    fn foreign_addresses_and_wide_destinations_are_refused() {
        assert_eq!(
            MsiMessage {
                address: 0xfed0_0000,
                data: 0x31
            }
            .decode(),
            None
        );
        assert_eq!(
            MsiMessage {
                address: 0x1_fee0_0000,
                data: 0x31
            }
            .decode(),
            None
        );
        assert_eq!(
            MsiMessage {
                address: 0xfee0_0000,
                data: 0x8031
            }
            .decode(),
            None
        );
        let mut delivery = MsiMessage::to_apic(0, Vector(0x31)).decode().unwrap();
        delivery.destination.id = 0x100;
        assert_eq!(MsiMessage::encode(&delivery), None);
    }
}
