//! `IA32_APIC_BASE` and the transitions between the operating modes (SDM 3A, 10.12.5).

use super::page::Changed;
use super::{GpFault, LapicAction, Mode, VLapic};

/// Guest physical address of the register page in xAPIC mode; it cannot be moved.
pub const APIC_BASE_ADDRESS: u64 = 0xfee0_0000;

/// Value of `IA32_APIC_BASE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicBase(pub u64);

impl ApicBase {
    const BSP: u64 = 1 << 8;
    const EXTD: u64 = 1 << 10;
    const ENABLE: u64 = 1 << 11;

    /// The mode that the bits select; `None` for the invalid combination EXTD without EN.
    pub const fn mode(self) -> Option<Mode> {
        match (self.0 & Self::ENABLE != 0, self.0 & Self::EXTD != 0) {
            (false, false) => Some(Mode::Disabled),
            (true, false) => Some(Mode::XApic),
            (true, true) => Some(Mode::X2Apic),
            (false, true) => None,
        }
    }
}

impl VLapic {
    /// Reads `IA32_APIC_BASE`.
    pub fn apic_base(&self) -> ApicBase {
        let mode = match self.mode {
            Mode::Disabled => 0,
            Mode::XApic => ApicBase::ENABLE,
            Mode::X2Apic => ApicBase::ENABLE | ApicBase::EXTD,
        };
        ApicBase(APIC_BASE_ADDRESS | mode | if self.bsp { ApicBase::BSP } else { 0 })
    }

    /// Writes `IA32_APIC_BASE`.
    ///
    /// # Errors
    /// A reserved bit, another base address, or a transition that the manual forbids: x2APIC to
    /// xAPIC and disabled to x2APIC.
    pub fn set_apic_base(&mut self, base: ApicBase) -> Result<LapicAction, GpFault> {
        let flags = ApicBase::BSP | ApicBase::EXTD | ApicBase::ENABLE;
        if base.0 & !flags != APIC_BASE_ADDRESS {
            return Err(GpFault);
        }
        let mode = base.mode().ok_or(GpFault)?;
        match (self.mode, mode) {
            (from, to) if from == to => return Ok(LapicAction::None),
            (Mode::X2Apic, Mode::XApic) | (Mode::Disabled, Mode::X2Apic) => return Err(GpFault),
            (Mode::XApic, Mode::X2Apic) => {
                self.changed |= Changed::REGISTERS;
                self.mode = mode;
                self.derive_x2apic_ldr();
                self.icr_high = 0;
            }
            // Disabling loses the state; enabling starts as after a reset.
            _ => {
                self.mode = mode;
                self.reset();
            }
        }
        Ok(LapicAction::IdentityChanged)
    }

    /// In x2APIC mode the logical id follows from the id: cluster of 16 and a bit within.
    pub(super) fn derive_x2apic_ldr(&mut self) {
        self.ldr = (self.id >> 4) << 16 | 1 << (self.id & 0xf);
    }
}
