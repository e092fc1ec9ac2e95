//! Segment descriptors (SDM volume 3A, 3.4.5, 3.5, 8.2.2) and the tables that they are in.

use super::linear::{GuestMemory, Linear};
use super::{SegmentRegister, State, Stop, segment};

/// Busy bit in a task's rights.
pub const BUSY: u8 = 2;
/// Accessed bit in a segment's rights.
pub const ACCESSED: u8 = 1;

/// "Unusable" in a register's access rights.
pub const UNUSABLE: u32 = 1 << 16;
/// A default size of 32 bits, in a register's access rights.
pub const BIG: u32 = 1 << 14;

const TABLE_INDICATOR: u16 = 4;

/// Linear address of a descriptor that is within its table.
#[derive(Clone, Copy)]
pub struct Place(u32);

impl Place {
    /// `None` beyond the limit, and for a selector of the LDT.
    pub fn in_gdt(state: &State, selector: u16) -> Option<Self> {
        let (base, limit) = state.gdt;
        match selector & TABLE_INDICATOR {
            0 => Self::within(base as u32, limit.into(), selector),
            _ => None,
        }
    }

    /// `None` beyond the limit of the table that the selector names.
    pub fn find(state: &State, selector: u16) -> Option<Self> {
        if selector & TABLE_INDICATOR == 0 {
            return Self::in_gdt(state, selector);
        }
        let table = state.segments[segment::LDTR];
        match table.access & UNUSABLE {
            0 => Self::within(table.base as u32, table.limit, selector),
            _ => None,
        }
    }

    fn within(base: u32, limit: u32, selector: u16) -> Option<Self> {
        let offset = u32::from(selector & 0xfff8);
        (offset + 7 <= limit).then_some(Self(base.wrapping_add(offset)))
    }

    /// Address of the byte with type, privilege level and presence.
    pub fn rights(self) -> u32 {
        self.0.wrapping_add(5)
    }

    pub fn read<M: GuestMemory>(self, linear: &Linear<'_, M>) -> Result<Descriptor, Stop> {
        linear.read(self.0).map(u64::from_le_bytes).map(Descriptor)
    }

    /// Changes the byte at [`Place::rights`].
    pub fn change_rights<M: GuestMemory>(
        self,
        linear: &Linear<'_, M>,
        change: impl FnOnce(u8) -> u8,
    ) -> Result<(), Stop> {
        let [rights] = linear.read(self.rights())?;
        linear.write(self.rights(), &[change(rights)])
    }
}

/// A segment descriptor.
#[derive(Clone, Copy)]
pub struct Descriptor(u64);

impl Descriptor {
    /// Linear base.
    pub const fn base(self) -> u32 {
        (self.0 >> 16 & 0xff_ffff) as u32 | (self.0 >> 32) as u32 & 0xff00_0000
    }

    /// Limit in bytes.
    pub const fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff) as u32 | (self.0 >> 32) as u32 & 0xf_0000;
        match self.0 >> 55 & 1 {
            0 => limit,
            _ => limit << 12 | 0xfff,
        }
    }

    /// Rights in the layout of a segment register's.
    pub const fn access(self) -> u32 {
        (self.0 >> 40) as u32 & 0xf0ff
    }

    /// Type and S flag, the latter in bit 4.
    pub const fn kind(self) -> u8 {
        self.access() as u8 & 0x1f
    }

    pub const fn privilege(self) -> u8 {
        self.access() as u8 >> 5 & 3
    }

    pub const fn is_present(self) -> bool {
        self.access() & 1 << 7 != 0
    }

    /// Whether a task is busy; `None` when it is no TSS.
    pub const fn task(self) -> Option<bool> {
        match self.kind() {
            1 | 9 => Some(false),
            3 | 11 => Some(true),
            _ => None,
        }
    }

    pub const fn is_local_table(self) -> bool {
        self.kind() == 2
    }

    pub const fn is_code(self) -> bool {
        self.kind() & 0x18 == 0x18
    }

    pub const fn is_conforming(self) -> bool {
        self.kind() & 0x1c == 0x1c
    }

    pub const fn is_writable_data(self) -> bool {
        self.kind() & 0x1a == 0x12
    }

    /// Data, or code that can be read.
    pub const fn is_readable(self) -> bool {
        self.kind() & 0x18 == 0x10 || self.kind() & 0x1a == 0x1a
    }

    /// A register that has loaded this descriptor.
    pub const fn register(self, selector: u16) -> SegmentRegister {
        SegmentRegister {
            selector,
            access: self.access(),
            limit: self.limit(),
            base: self.base() as u64,
        }
    }

    /// The task register with this descriptor.
    pub const fn busy_register(self, selector: u16) -> SegmentRegister {
        SegmentRegister {
            access: self.access() | BUSY as u32,
            ..self.register(selector)
        }
    }
}
