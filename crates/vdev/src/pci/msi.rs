//! The MSI capability as its guest sees it (PCI 3.0, 6.8.1).

use acrn_abi::Bdf;

use super::{ConfigSpace, MsiMessage, merge};

const CONTROL_ENABLE: u32 = 1 << 16;
const CONTROL_64BIT: u32 = 1 << 23;
const CONTROL_MASKABLE: u32 = 1 << 24;
/// Of the first doubleword: identifier, next pointer and the two abilities. The number of
/// messages reads as one, so a guest cannot enable more.
const FIRST_KEPT: u32 = 0xffff | CONTROL_64BIT | CONTROL_MASKABLE;

/// Shadow of a function's MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    offset: u16,
    first: u32,
    address: u64,
    data: u16,
}

/// A doubleword of the capability.
enum Part {
    First,
    AddressLow,
    AddressHigh,
    Data,
}

impl Msi {
    /// From the capability at `offset`, disabled; `None` if it does not fit in its 256 bytes.
    pub(super) fn scan(bdf: Bdf, offset: u16, config: &impl ConfigSpace) -> Option<Self> {
        let first = config.read(bdf, offset, 4) & FIRST_KEPT;
        let msi = Self {
            offset,
            first,
            address: 0,
            data: 0,
        };
        (msi.data_offset() + 4 + if msi.is_maskable() { 8 } else { 0 } <= 0x100).then_some(msi)
    }

    /// Offset of the capability.
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// Whether addresses have 64 bits.
    pub fn is_64bit(&self) -> bool {
        self.first & CONTROL_64BIT != 0
    }

    /// Whether the function has a mask bit; its register goes to the hardware.
    pub fn is_maskable(&self) -> bool {
        self.first & CONTROL_MASKABLE != 0
    }

    /// Whether the guest enabled MSI.
    pub fn is_enabled(&self) -> bool {
        self.first & CONTROL_ENABLE != 0
    }

    /// The guest's message, while MSI is enabled.
    pub fn message(&self) -> Option<MsiMessage> {
        let message = MsiMessage {
            address: self.address,
            data: self.data.into(),
        };
        self.is_enabled().then_some(message)
    }

    fn data_offset(&self) -> u16 {
        self.offset + if self.is_64bit() { 12 } else { 8 }
    }

    fn part(&self, dword: u16) -> Option<Part> {
        Some(match dword.checked_sub(self.offset)? {
            0 => Part::First,
            4 => Part::AddressLow,
            8 if self.is_64bit() => Part::AddressHigh,
            8 => Part::Data,
            12 if self.is_64bit() => Part::Data,
            _ => return None,
        })
    }

    /// The doubleword at `dword` as the guest sees it; `None` when it is not shadowed.
    pub(super) fn read(&self, dword: u16) -> Option<u32> {
        Some(match self.part(dword)? {
            Part::First => self.first,
            Part::AddressLow => self.address as u32,
            Part::AddressHigh => (self.address >> 32) as u32,
            Part::Data => self.data.into(),
        })
    }

    /// A guest's write; `None` when the register is not shadowed, else whether the physical
    /// function must be programmed anew. A write to the control register always asks for that:
    /// after a reset of the function the hardware may have forgotten what the shadow remembers.
    pub(super) fn write(&mut self, register: u16, size: u8, value: u32) -> Option<bool> {
        let dword = register & !3;
        let part = self.part(dword)?;
        let old = *self;
        let value = merge(self.read(dword)?, register, size, value);
        match part {
            Part::First => {
                self.first = self.first & FIRST_KEPT | value & CONTROL_ENABLE;
                return Some(true);
            }
            Part::AddressLow => {
                self.address = self.address & !0xffff_ffff | u64::from(value & !3);
            }
            Part::AddressHigh => {
                self.address = self.address & 0xffff_ffff | u64::from(value) << 32;
            }
            Part::Data => self.data = value as u16,
        }
        Some(self.is_enabled() && *self != old)
    }

    /// Programs the physical capability; `None` disables it.
    pub(super) fn program(
        &self,
        bdf: Bdf,
        message: Option<MsiMessage>,
        config: &mut impl ConfigSpace,
    ) {
        let control = config.read(bdf, self.offset + 2, 2) & !0x71;
        let Some(message) = message else {
            config.write(bdf, self.offset + 2, 2, control);
            return;
        };
        // An enabled capability stays so meanwhile: with MSI off, an event would come as INTx.
        config.write(bdf, self.offset + 4, 4, message.address as u32);
        if self.is_64bit() {
            config.write(bdf, self.offset + 8, 4, (message.address >> 32) as u32);
        }
        config.write(bdf, self.data_offset(), 2, message.data & 0xffff);
        config.write(bdf, self.offset + 2, 2, control | CONTROL_ENABLE >> 16);
    }

    pub(super) fn reset(&mut self) {
        self.first &= FIRST_KEPT;
        self.address = 0;
        self.data = 0;
    }
}
