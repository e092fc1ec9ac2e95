//! A PCI function with nothing behind it: all of its configuration space is here.
//!
//! A device of the hypervisor's own that a guest is to find on its bus is a [`VirtualFunction`] with
//! an [`Identity`], memory BARs, and message-signalled interrupts if it has any. Whoever owns it passes the
//! guest's configuration accesses to [`read`](VirtualFunction::read) and
//! [`write`](VirtualFunction::write), asks [`locate`](VirtualFunction::locate) whether a memory access
//! is to one of its BARs, and answers that. Interrupts begin with
//! [`raise`](VirtualFunction::raise); after that, and after each write of the guest, the messages that
//! are due are taken with [`take_due`](VirtualFunction::take_due).
//!
//! A BAR at address 0 is one that nobody has assigned, and is not decoded.

use super::{MsiMessage, MsixEntry, MsixTable, all_ones, extract, is_regular, merge};
use crate::interrupt::Delivery;

/// Most message-signalled interrupts of a function.
pub const MAX_VECTORS: usize = 8;
/// Base address registers of an endpoint.
pub const BARS: usize = 6;
/// Bytes of the BAR with the MSI-X table, a page.
pub const TABLE_BAR_SIZE: u64 = 0x1000;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_WRITABLE: u16 = 0x0407;
const STATUS_CAPABILITIES: u32 = 1 << 20;

/// Where the MSI-X capability is, and where the pending bits are in the BAR of its table.
const MSIX: u16 = 0x40;
const MSIX_ID: u32 = 0x11;
const PENDING: u64 = 0x800;
const MSIX_ENABLE: u32 = 1 << 31;
const MSIX_MASK_ALL: u32 = 1 << 30;

const BAR_64_BITS: u32 = 4;
const BAR_PREFETCHABLE: u32 = 8;

/// Who a function says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor and device.
    pub id: (u16, u16),
    /// Vendor and device of the subsystem.
    pub subsystem: (u16, u16),
    /// Base class << 16 | subclass << 8 | programming interface.
    pub class: u32,
    /// Revision.
    pub revision: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    None,
    Memory32,
    Memory64,
    /// The upper half of the one before.
    High,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    kind: Kind,
    size: u64,
    address: u64,
    /// Where it is after a reset.
    firmware: u64,
}

/// MSI-X with its table.
#[derive(Debug)]
struct Vectors {
    bar: u8,
    count: u16,
    control: u32,
    table: MsixTable<[MsixEntry; MAX_VECTORS]>,
    /// A bit for each message that is still to be sent.
    pending: u32,
}

/// See the module.
#[derive(Debug)]
pub struct VirtualFunction {
    identity: Identity,
    command: u16,
    line: u8,
    bars: [Window; BARS],
    vectors: Option<Vectors>,
}

impl VirtualFunction {
    /// A function without BARs and interrupts.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            command: 0,
            line: 0,
            bars: [Window::default(); BARS],
            vectors: None,
        }
    }

    /// With a BAR for memory below 4 GiB, of a size that is a power of two from 16 on.
    #[must_use]
    pub fn with_memory32(mut self, bar: u8, size: u64) -> Self {
        self.declare(bar, Kind::Memory32, size);
        self
    }

    /// With a BAR for prefetchable memory anywhere, which takes two registers.
    #[must_use]
    pub fn with_memory64(mut self, bar: u8, size: u64) -> Self {
        self.declare(bar, Kind::Memory64, size);
        self.declare(bar.saturating_add(1), Kind::High, 0);
        self
    }

    /// With so many interrupts, [`MAX_VECTORS`] at most, whose table is a BAR of its own.
    #[must_use]
    pub fn with_msix(mut self, bar: u8, count: u16) -> Self {
        self.declare(bar, Kind::Memory32, TABLE_BAR_SIZE);
        self.vectors = Some(Vectors {
            bar,
            count: count.clamp(1, MAX_VECTORS as u16),
            control: 0,
            table: MsixTable::new([MsixEntry::RESET; MAX_VECTORS]),
            pending: 0,
        });
        self
    }

    /// With the address that firmware gives a BAR, which it has again after a reset.
    #[must_use]
    pub fn placed(mut self, bar: u8, address: u64) -> Self {
        if let Some(window) = self.bars.get_mut(usize::from(bar)) {
            window.firmware = address & !window.size.wrapping_sub(1);
            window.address = window.firmware;
        }
        self
    }

    fn declare(&mut self, bar: u8, kind: Kind, size: u64) {
        if let Some(window) = self.bars.get_mut(usize::from(bar)) {
            *window = Window {
                kind,
                size,
                ..Window::default()
            };
        }
    }

    /// Back to the state after creation.
    pub fn reset(&mut self) {
        self.command = 0;
        self.line = 0;
        for window in &mut self.bars {
            window.address = window.firmware;
        }
        if let Some(vectors) = &mut self.vectors {
            vectors.control = 0;
            vectors.pending = 0;
            vectors.table.reset();
        }
    }

    /// Vendor and device.
    pub fn id(&self) -> (u16, u16) {
        self.identity.id
    }

    /// Guest's read of `size` bytes of configuration space.
    pub fn read(&self, register: u16, size: u8) -> u32 {
        if !is_regular(register, size) {
            return all_ones(size);
        }
        extract(self.dword(register & !3), register, size)
    }

    fn dword(&self, register: u16) -> u32 {
        let pair = |(low, high): (u16, u16)| u32::from(high) << 16 | u32::from(low);
        match register {
            0x00 => pair(self.identity.id),
            0x04 => {
                let list = self.vectors.is_some();
                u32::from(self.command) | if list { STATUS_CAPABILITIES } else { 0 }
            }
            0x08 => self.identity.class << 8 | u32::from(self.identity.revision),
            0x10..=0x24 => self.bar_register(usize::from(register - 0x10) / 4),
            0x2c => pair(self.identity.subsystem),
            0x34 if self.vectors.is_some() => MSIX.into(),
            0x3c => self.line.into(),
            MSIX..=0x48 => self.vectors.as_ref().map_or(0, |v| v.dword(register)),
            _ => 0,
        }
    }

    fn bar_register(&self, index: usize) -> u32 {
        let Some(window) = self.bars.get(index) else {
            return 0;
        };
        match window.kind {
            Kind::None => 0,
            Kind::Memory32 => window.address as u32,
            Kind::Memory64 => window.address as u32 | BAR_64_BITS | BAR_PREFETCHABLE,
            Kind::High => (self.bars[index - 1].address >> 32) as u32,
        }
    }

    /// Guest's write of `size` bytes of configuration space. Afterwards BARs may be elsewhere, and
    /// messages due.
    pub fn write(&mut self, register: u16, size: u8, value: u32) {
        if !is_regular(register, size) {
            return;
        }
        let aligned = register & !3;
        let value = merge(self.dword(aligned), register, size, value);
        match aligned {
            0x04 => self.command = value as u16 & COMMAND_WRITABLE,
            0x10..=0x24 => self.write_bar(usize::from(aligned - 0x10) / 4, value),
            0x3c => self.line = value as u8,
            MSIX => {
                if let Some(vectors) = &mut self.vectors {
                    vectors.control = value & (MSIX_ENABLE | MSIX_MASK_ALL);
                }
            }
            _ => {}
        }
    }

    /// The bits below the size cannot be written, by which a guest finds the size out.
    fn write_bar(&mut self, index: usize, value: u32) {
        let low_half = |window: &Window| !window.size.wrapping_sub(1);
        match self.bars.get(index).map(|window| window.kind) {
            Some(Kind::Memory32) => {
                let window = &mut self.bars[index];
                window.address = u64::from(value) & low_half(window);
            }
            Some(Kind::Memory64) => {
                let window = &mut self.bars[index];
                let high = window.address & !0xffff_ffff;
                window.address = (high | u64::from(value)) & low_half(window);
            }
            Some(Kind::High) => {
                let window = &mut self.bars[index - 1];
                let low = window.address & 0xffff_ffff;
                window.address = (u64::from(value) << 32 | low) & low_half(window);
            }
            Some(Kind::None) | None => {}
        }
    }

    /// Address and size of a BAR, in bytes, while it is decoded.
    pub fn bar(&self, bar: u8) -> Option<(u64, u64)> {
        let window = self.bars.get(usize::from(bar))?;
        let memory = matches!(window.kind, Kind::Memory32 | Kind::Memory64);
        let decoded = memory && self.command & COMMAND_MEMORY != 0 && window.address != 0;
        decoded.then_some((window.address, window.size))
    }

    /// Lets it answer to no memory access until the guest asks again.
    pub fn stop_decoding(&mut self) {
        self.command &= !COMMAND_MEMORY;
    }

    /// All BARs that are decoded: number, address and size.
    pub fn decoded(&self) -> impl Iterator<Item = (u8, u64, u64)> + '_ {
        (0..BARS as u8).filter_map(|bar| self.bar(bar).map(|(at, size)| (bar, at, size)))
    }

    /// The BAR that holds all of an access, and the offset in it.
    pub fn locate(&self, address: u64, size: u8) -> Option<(u8, u64)> {
        self.decoded().find_map(|(bar, start, length)| {
            let offset = address.checked_sub(start)?;
            let end = offset.checked_add(size.into())?;
            (end <= length).then_some((bar, offset))
        })
    }

    /// Whether this BAR is the one with the MSI-X table, which [`table_read`](Self::table_read)
    /// and [`table_write`](Self::table_write) answer.
    pub fn is_table(&self, bar: u8) -> bool {
        self.vectors.as_ref().is_some_and(|v| v.bar == bar)
    }

    /// Guest's read of the BAR with the table and the pending bits.
    pub fn table_read(&self, offset: u64, size: u8) -> u64 {
        let Some(vectors) = &self.vectors else {
            return u64::MAX;
        };
        match offset {
            PENDING.. if offset < PENDING + 8 => {
                u64::from(vectors.pending) >> (8 * (offset - PENDING))
            }
            _ if offset < vectors.table_end() => vectors.table.read(offset as u32, size),
            _ => 0,
        }
    }

    /// Guest's write to the BAR with the table.
    pub fn table_write(&mut self, offset: u64, size: u8, value: u64) {
        if let Some(vectors) = &mut self.vectors {
            if offset < vectors.table_end() {
                let _ = vectors.table.write(offset as u32, size, value);
            }
        }
    }

    /// The device wants to interrupt. Without effect while the guest has not enabled MSI-X.
    pub fn raise(&mut self, vector: u16) {
        if let Some(vectors) = &mut self.vectors {
            if vector < vectors.count && vectors.control & MSIX_ENABLE != 0 {
                vectors.pending |= 1 << vector;
            }
        }
    }

    /// The next message that is to be sent and that nothing masks.
    pub fn take_due(&mut self) -> Option<Delivery> {
        let master = self.command & COMMAND_MASTER != 0;
        let vectors = self.vectors.as_mut().filter(|_| master)?;
        if vectors.control & (MSIX_ENABLE | MSIX_MASK_ALL) != MSIX_ENABLE {
            return None;
        }
        while let Some((vector, message)) = vectors.next_unmasked() {
            vectors.pending &= !(1 << vector);
            // What is no interrupt message goes nowhere.
            if let Some(delivery) = message.decode() {
                return Some(delivery);
            }
        }
        None
    }
}

impl Vectors {
    fn dword(&self, register: u16) -> u32 {
        match register {
            MSIX => self.control | u32::from(self.count - 1) << 16 | MSIX_ID,
            0x44 => self.bar.into(),
            _ => PENDING as u32 | u32::from(self.bar),
        }
    }

    fn table_end(&self) -> u64 {
        u64::from(self.count) * u64::from(MsixEntry::SIZE)
    }

    fn next_unmasked(&self) -> Option<(u16, MsiMessage)> {
        (0..self.count).find_map(|vector| {
            let entry = self.table.entry(vector)?;
            let due = self.pending & 1 << vector != 0 && !entry.masked;
            due.then_some((vector, entry.message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn function() -> VirtualFunction {
        let identity = Identity {
            id: (0x1af4, 0x1110),
            subsystem: (0x8086, 7),
            class: 0x05_0000,
            revision: 1,
        };
        VirtualFunction::new(identity)
            .with_memory32(0, 0x100)
            .with_msix(1, 4)
            .with_memory64(2, 2 << 20)
    }

    /// With BARs at 0xc000_0000, 0xc000_1000 and 0x40_0000_0000, decoding, and interrupts enabled.
    fn working() -> VirtualFunction {
        let mut function = function();
        for (register, value) in [
            (0x10, 0xc000_0000),
            (0x14, 0xc000_1000),
            (0x18, 0),
            (0x1c, 0x40),
            (0x04, 6),
            (0x40, 1 << 31),
        ] {
            function.write(register, 4, value);
        }
        function
    }

    fn unmask(function: &mut VirtualFunction, vector: u64) {
        function.table_write(vector * 16, 8, 0xfee0_0000);
        function.table_write(vector * 16 + 8, 8, 0x30 + vector);
    }

    #[test]
    fn it_says_who_it_is() {
        let function = function();
        assert_eq!(function.read(0, 4), 0x1110_1af4);
        assert_eq!(function.read(8, 4), 0x0500_0001);
        assert_eq!(function.read(0x2e, 2), 7);
        assert_eq!(function.read(0x0e, 1), 0, "one function, type 0");
        assert_eq!(function.read(6, 2), 0x10, "it has a list of capabilities");
        assert_eq!(function.read(0x34, 1), 0x40);
        assert_eq!(function.read(0x40, 4), 0x0003_0011);
        assert_eq!(function.read(0x44, 4), 1);
        assert_eq!(function.read(0x48, 4), 0x801);
    }

    #[test]
    fn all_ones_in_a_bar_give_its_size() {
        let mut function = function();
        for register in [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24] {
            function.write(register, 4, u32::MAX);
        }
        let read = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24].map(|r| function.read(r, 4));
        let wanted = [0xffff_ff00, 0xffff_f000, 0xffe0_000c, u32::MAX, 0, 0];
        assert_eq!(read, wanted);
    }

    #[test]
    fn a_bar_is_decoded_when_it_has_an_address_and_the_command_register_says_so() {
        let mut function = function();
        function.write(0x10, 4, 0xc000_0000);
        assert_eq!(function.locate(0xc000_0000, 4), None);
        function.write(4, 2, 2);
        assert_eq!(function.locate(0xc000_0004, 4), Some((0, 4)));
        assert_eq!(function.locate(0xc000_00fe, 4), None, "across its end");
        assert_eq!(function.locate(u64::MAX, 8), None);
        assert_eq!(function.decoded().count(), 1, "the others have no address");
        let working = working();
        assert_eq!(working.locate(0x40_0010_0000, 8), Some((2, 1 << 20)));
        let mut stopped = working;
        stopped.stop_decoding();
        assert_eq!((stopped.decoded().count(), stopped.read(4, 2)), (0, 4));
    }

    #[test]
    fn a_reset_brings_the_address_of_firmware_back() {
        let mut function = function().placed(0, 0xd000_0010);
        function.write(0x10, 4, 0xc000_0000);
        function.write(4, 2, 2);
        function.reset();
        assert_eq!(
            (function.read(0x10, 4), function.read(4, 2)),
            (0xd000_0000, 0)
        );
    }

    #[test]
    fn an_interrupt_is_sent_once() {
        let mut function = working();
        unmask(&mut function, 2);
        function.raise(2);
        let delivery = function.take_due().unwrap();
        assert_eq!(delivery.vector, acrn_abi::Vector(0x32));
        assert_eq!(function.take_due(), None);
    }

    #[test]
    fn a_masked_interrupt_is_pending_until_it_is_unmasked() {
        let mut function = working();
        function.raise(1);
        assert_eq!(function.take_due(), None);
        assert_eq!(function.table_read(0x800, 8), 2);
        unmask(&mut function, 1);
        function.write(0x40, 4, 3 << 30);
        assert_eq!(function.take_due(), None, "the function is masked");
        function.write(0x40, 4, 1 << 31);
        function.write(4, 2, 2);
        assert_eq!(function.take_due(), None, "it is no bus master");
        function.write(4, 2, 6);
        assert!(function.take_due().is_some());
        assert_eq!(function.table_read(0x800, 8), 0);
    }

    #[test]
    fn what_is_raised_before_the_guest_wants_interrupts_is_forgotten() {
        let mut function = working();
        function.write(0x40, 4, 0);
        unmask(&mut function, 0);
        function.raise(0);
        function.write(0x40, 4, 1 << 31);
        function.raise(4);
        assert_eq!(function.take_due(), None, "vector 4 does not exist");
    }

    #[test]
    fn a_message_that_is_no_interrupt_goes_nowhere() {
        let mut function = working();
        function.table_write(0, 8, 0x1000);
        function.table_write(8, 8, 0x30);
        unmask(&mut function, 1);
        function.raise(0);
        function.raise(1);
        assert_eq!(function.take_due().unwrap().vector, acrn_abi::Vector(0x31));
        assert_eq!(function.take_due(), None);
    }

    proptest! {
        #[test]
        fn bars_stay_aligned_whatever_is_written(
            writes in prop::collection::vec((0u16..0x60, 0usize..3, any::<u32>()), 0..40),
        ) {
            let mut function = function();
            for (register, size, value) in writes {
                function.write(register, [1, 2, 4][size], value);
                prop_assert_eq!(function.read(0, 4), 0x1110_1af4);
                for (_, address, size) in function.decoded() {
                    prop_assert_eq!(address % size, 0);
                }
            }
        }
    }
}
