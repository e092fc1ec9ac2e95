//! The MSI-X capability and table as their guest sees them (PCI 3.0, 6.8.2).

use acrn_abi::Bdf;

use super::{ConfigSpace, MsiMessage, merge};

const CONTROL_ENABLE: u32 = 1 << 31;
const CONTROL_MASK_ALL: u32 = 1 << 30;
const CONTROL_WRITABLE: u32 = CONTROL_ENABLE | CONTROL_MASK_ALL;

/// Shadow of a function's MSI-X capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    offset: u16,
    first: u32,
    table: u32,
    pending: u32,
}

impl Msix {
    /// From the capability at `offset`, disabled; `None` if it does not fit in its 256 bytes.
    pub(super) fn scan(bdf: Bdf, offset: u16, config: &impl ConfigSpace) -> Option<Self> {
        (offset + 12 <= 0x100).then(|| Self {
            offset,
            first: config.read(bdf, offset, 4) & !CONTROL_WRITABLE,
            table: config.read(bdf, offset + 4, 4),
            pending: config.read(bdf, offset + 8, 4),
        })
    }

    /// Offset of the capability.
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// Number of table entries, 1..=2048.
    pub fn entries(&self) -> u16 {
        (self.first >> 16 & 0x7ff) as u16 + 1
    }

    /// BAR of the table, 0..=7 as the function says.
    pub fn table_bar(&self) -> u8 {
        self.table as u8 & 7
    }

    /// Offset of the table in its BAR, in bytes.
    pub fn table_offset(&self) -> u32 {
        self.table & !7
    }

    /// Bytes of the table.
    pub fn table_size(&self) -> u32 {
        u32::from(self.entries()) * MsixEntry::SIZE
    }

    /// BAR of the pending bits.
    pub fn pending_bar(&self) -> u8 {
        self.pending as u8 & 7
    }

    /// Offset of the pending bits in their BAR, in bytes.
    pub fn pending_offset(&self) -> u32 {
        self.pending & !7
    }

    /// Whether the guest enabled MSI-X.
    pub fn is_enabled(&self) -> bool {
        self.first & CONTROL_ENABLE != 0
    }

    /// Whether the guest masked the whole function.
    pub fn is_masked(&self) -> bool {
        self.first & CONTROL_MASK_ALL != 0
    }

    pub(super) fn read(&self, dword: u16) -> Option<u32> {
        (dword == self.offset).then_some(self.first)
    }

    /// A guest's write; whether it was one to the control register.
    pub(super) fn write(&mut self, register: u16, size: u8, value: u32) -> bool {
        if register & !3 != self.offset {
            return false;
        }
        let value = merge(self.first, register, size, value);
        self.first = self.first & !CONTROL_WRITABLE | value & CONTROL_WRITABLE;
        true
    }

    pub(super) fn program(
        &self,
        bdf: Bdf,
        enabled: bool,
        masked: bool,
        config: &mut impl ConfigSpace,
    ) {
        let control = u32::from(enabled) << 15 | u32::from(masked) << 14;
        config.write(bdf, self.offset + 2, 2, control);
    }

    pub(super) fn reset(&mut self) {
        self.first &= !CONTROL_WRITABLE;
    }
}

/// One entry of an MSI-X table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixEntry {
    /// What the function sends.
    pub message: MsiMessage,
    /// Whether the entry is masked.
    pub masked: bool,
}

impl MsixEntry {
    /// Bytes of an entry in the table.
    pub const SIZE: u32 = 16;
    /// After reset: masked.
    pub const RESET: Self = Self {
        message: MsiMessage {
            address: 0,
            data: 0,
        },
        masked: true,
    };

    fn dword(&self, index: u32) -> u32 {
        match index {
            0 => self.message.address as u32,
            1 => (self.message.address >> 32) as u32,
            2 => self.message.data,
            _ => self.masked.into(),
        }
    }

    fn set_dword(&mut self, index: u32, value: u32) {
        let address = &mut self.message.address;
        match index {
            0 => *address = *address & !0xffff_ffff | u64::from(value & !3),
            1 => *address = *address & 0xffff_ffff | u64::from(value) << 32,
            2 => self.message.data = value,
            _ => self.masked = value & 1 != 0,
        }
    }
}

impl Default for MsixEntry {
    fn default() -> Self {
        Self::RESET
    }
}

/// The guest's MSI-X table. The storage is the caller's, an array or a borrowed slice, with one
/// entry for each of the function's.
#[derive(Debug)]
pub struct MsixTable<S>(S);

impl<S: AsRef<[MsixEntry]> + AsMut<[MsixEntry]>> MsixTable<S> {
    /// A table after reset, in `storage`.
    pub fn new(storage: S) -> Self {
        let mut table = Self(storage);
        table.reset();
        table
    }

    /// Masks and clears every entry.
    pub fn reset(&mut self) {
        self.0.as_mut().fill(MsixEntry::RESET);
    }

    /// Entry `index`.
    pub fn entry(&self, index: u16) -> Option<&MsixEntry> {
        self.0.as_ref().get(usize::from(index))
    }

    /// All entries.
    pub fn entries(&self) -> &[MsixEntry] {
        self.0.as_ref()
    }

    /// Guest read at `offset` from the start of the table. Only aligned 4- and 8-byte accesses
    /// are defined; others, and offsets beyond the table, read as all ones.
    pub fn read(&self, offset: u32, size: u8) -> u64 {
        let entry = self.entry((offset / MsixEntry::SIZE).try_into().unwrap_or(u16::MAX));
        let index = offset % MsixEntry::SIZE / 4;
        match (entry, size) {
            (Some(entry), 4) if offset % 4 == 0 => entry.dword(index).into(),
            (Some(entry), 8) if offset % 8 == 0 => {
                u64::from(entry.dword(index)) | u64::from(entry.dword(index + 1)) << 32
            }
            _ => u64::MAX,
        }
    }

    /// Guest write; the index of the entry when it changed.
    pub fn write(&mut self, offset: u32, size: u8, value: u64) -> Option<u16> {
        let number = u16::try_from(offset / MsixEntry::SIZE).ok()?;
        let entry = self.0.as_mut().get_mut(usize::from(number))?;
        let old = *entry;
        let index = offset % MsixEntry::SIZE / 4;
        match size {
            4 if offset % 4 == 0 => entry.set_dword(index, value as u32),
            8 if offset % 8 == 0 => {
                entry.set_dword(index, value as u32);
                entry.set_dword(index + 1, (value >> 32) as u32);
            }
            _ => return None,
        }
        (*entry != old).then_some(number)
    }
}
