//! Configuration space of one function: registers, write masks, BARs and capabilities.
//!
//! Each byte has a mask of the bits that the guest may change; everything else is read-only.
//! BAR sizing needs no special case with that: a BAR's address bits below its size are simply
//! not writable (PCI Local Bus 3.0, 6.2.5.1).

/// Vendor and device id, dword 0.
pub const VENDOR_ID: u16 = 0x00;
/// Command register.
pub const COMMAND: u16 = 0x04;
/// Status register.
pub const STATUS: u16 = 0x06;
/// First base address register.
pub const BAR0: u16 = 0x10;
/// Offset of the first capability.
pub const CAPABILITIES: u16 = 0x34;
/// Interrupt line: scratch register, firmware writes the IRQ number here.
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin: 0 none, 1 INTA# to 4 INTD#.
pub const INTERRUPT_PIN: u16 = 0x3d;

/// Command register: decode I/O BARs.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command register: decode memory BARs.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command register: the device may access memory.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command register: INTx is disabled.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status register: INTx is asserted.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status register: there is a capability list.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Size of the extended configuration space.
pub const CONFIG_SIZE: usize = 4096;
/// Number of base address registers.
pub const BAR_COUNT: usize = 6;
/// Where capabilities begin.
const FIRST_CAPABILITY: usize = 0x40;
/// Where the conventional configuration space, and with it the capability list, ends.
const CONVENTIONAL_END: usize = 0x100;

/// Why a configuration space cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The BAR does not exist, or is taken by its neighbour's upper half.
    #[error("BAR {0} does not exist or is in use")]
    Bar(usize),
    /// A BAR has a size that is no power of two or too small for its kind.
    #[error("{0:#x} bytes is not a size that a BAR can have")]
    BarSize(u64),
    /// No room is left for a capability.
    #[error("no room for a capability of {0} bytes")]
    NoRoom(usize),
    /// The address window has no room for the BAR.
    #[error("no guest address space for a BAR of {0:#x} bytes")]
    NoAddressSpace(u64),
    /// The slot is taken.
    #[error("slot {0} is taken")]
    SlotTaken(acrn_abi::types::Bdf),
    /// More MSI-X vectors than a table holds, or none.
    #[error("{0} is not a number of MSI-X vectors")]
    Vectors(u16),
}

/// Who the function says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
    /// Class code: base class << 16 | subclass << 8 | programming interface.
    pub class: u32,
    /// Revision.
    pub revision: u8,
}

/// Address space and width of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes two registers.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// A declared BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Kind.
    pub kind: BarKind,
    /// Size in bytes, a power of two.
    pub size: u64,
}

/// The configuration space of one function.
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    initial: Box<[u8; CONFIG_SIZE]>,
    writable: Box<[u8; CONFIG_SIZE]>,
    bars: [Option<Bar>; BAR_COUNT],
    next_capability: usize,
    last_capability: Option<usize>,
}

impl ConfigSpace {
    /// A type 0 header with the ids and an ordinary command register.
    pub fn new(identity: Identity) -> Self {
        let mut config = Self {
            bytes: Box::new([0; CONFIG_SIZE]),
            initial: Box::new([0; CONFIG_SIZE]),
            writable: Box::new([0; CONFIG_SIZE]),
            bars: [None; BAR_COUNT],
            next_capability: FIRST_CAPABILITY,
            last_capability: None,
        };
        config.set_u16(VENDOR_ID, identity.vendor);
        config.set_u16(0x02, identity.device);
        config.set_u32(0x08, identity.class << 8 | u32::from(identity.revision));
        config.set_u16(0x2c, identity.subsystem_vendor);
        config.set_u16(0x2e, identity.subsystem);
        let command = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE;
        config.set_writable(COMMAND, &command.to_le_bytes());
        config.set_writable(INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Marks the function as one of several in its slot.
    pub fn set_multi_function(&mut self) {
        let header = self.read_u8(0x0e) | 0x80;
        self.set_u8(0x0e, header);
    }

    /// Says which INTx pin the function drives, 1 (INTA#) to 4, and what IRQ the firmware
    /// reports for it.
    pub fn set_interrupt(&mut self, pin: u8, line: u8) {
        self.set_u8(INTERRUPT_PIN, pin);
        self.set_u8(INTERRUPT_LINE, line);
    }

    /// Declares BAR `index`, 0..=5.
    ///
    /// # Errors
    /// The BAR is in use, or the size is not possible.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) -> Result<(), SetupError> {
        let wide = matches!(kind, BarKind::Memory64 { .. });
        let above_wide = index
            .checked_sub(1)
            .and_then(|below| self.bars.get(below).copied().flatten())
            .is_some_and(|bar| matches!(bar.kind, BarKind::Memory64 { .. }));
        let free = |index: usize| matches!(self.bars.get(index), Some(None));
        if above_wide || !free(index) || wide && !free(index + 1) {
            return Err(SetupError::Bar(index));
        }
        let (least, most) = match kind {
            BarKind::Io => (4, 256),
            BarKind::Memory32 => (16, 1 << 31),
            BarKind::Memory64 { .. } => (16, 1 << 40),
        };
        if !size.is_power_of_two() || !(least..=most).contains(&size) {
            return Err(SetupError::BarSize(size));
        }
        self.bars[index] = Some(Bar { kind, size });
        let flags: u32 = match kind {
            BarKind::Io => 0x1,
            BarKind::Memory32 => 0x0,
            BarKind::Memory64 { prefetchable } => 0x4 | u32::from(prefetchable) << 3,
        };
        let reg = bar_register(index);
        self.set_u32(reg, flags);
        let mask = !(size - 1);
        // 16 bits of I/O address: the upper half of an I/O BAR is hard-wired to zero.
        let low = if kind == BarKind::Io {
            mask as u32 & 0xffff
        } else {
            mask as u32
        };
        self.set_writable(reg, &low.to_le_bytes());
        if wide {
            self.set_writable(reg + 4, &((mask >> 32) as u32).to_le_bytes());
        }
        Ok(())
    }

    /// The BARs as declared, by index.
    pub fn bars(&self) -> impl Iterator<Item = (usize, Bar)> + '_ {
        self.bars
            .iter()
            .enumerate()
            .filter_map(|(index, bar)| Some((index, (*bar)?)))
    }

    /// Where a BAR's registers point to, whether decoded or not. `None` if not declared.
    pub fn bar_programmed(&self, index: usize) -> Option<u64> {
        let bar = self.bars.get(index).copied().flatten()?;
        let reg = bar_register(index);
        let low = u64::from(self.read_u32(reg));
        Some(match bar.kind {
            BarKind::Io => low & !3 & 0xffff,
            BarKind::Memory32 => low & !0xf,
            BarKind::Memory64 { .. } => u64::from(self.read_u32(reg + 4)) << 32 | low & !0xf,
        })
    }

    /// Guest address of a BAR (an I/O port for I/O BARs) while it is decoded.
    pub fn bar(&self, index: usize) -> Option<u64> {
        let kind = self.bars.get(index).copied().flatten()?.kind;
        let enable = if kind == BarKind::Io {
            COMMAND_IO
        } else {
            COMMAND_MEMORY
        };
        if self.command() & enable == 0 {
            return None;
        }
        self.bar_programmed(index)
    }

    /// Writes an address into a BAR, as firmware does. It holds after a reset, too.
    pub fn place_bar(&mut self, index: usize, address: u64) {
        let Some(bar) = self.bars.get(index).copied().flatten() else {
            return;
        };
        let reg = bar_register(index);
        let address = address & !(bar.size - 1);
        let flags = self.read_u32(reg) & if bar.kind == BarKind::Io { 0x3 } else { 0xf };
        self.set_u32(reg, address as u32 | flags);
        if matches!(bar.kind, BarKind::Memory64 { .. }) {
            self.set_u32(reg + 4, (address >> 32) as u32);
        }
    }

    /// Appends a capability and returns the offset of its header. `body` and `writable` begin
    /// after the two header bytes (id and next pointer); `writable` may be shorter.
    ///
    /// # Errors
    /// The conventional configuration space is full.
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u16, SetupError> {
        let at = self.next_capability;
        let end = at + 2 + body.len();
        if end > CONVENTIONAL_END {
            return Err(SetupError::NoRoom(2 + body.len()));
        }
        let offset = at as u16;
        self.set_u8(offset, id);
        for (reg, byte) in (offset + 2..).zip(body) {
            self.set_u8(reg, *byte);
        }
        let allowed = writable.len().min(body.len());
        self.set_writable(offset + 2, &writable[..allowed]);
        match self.last_capability {
            Some(last) => self.set_u8(last as u16 + 1, at as u8),
            None => self.set_u8(CAPABILITIES, at as u8),
        }
        let status = self.read_u16(STATUS) | STATUS_CAPABILITIES;
        self.set_u16(STATUS, status);
        self.last_capability = Some(at);
        self.next_capability = end.next_multiple_of(4);
        Ok(offset)
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.read_u16(COMMAND)
    }

    /// Whether the device may access guest memory and send messages.
    pub fn bus_master(&self) -> bool {
        self.command() & COMMAND_MASTER != 0
    }

    /// Whether the guest has switched INTx off.
    pub fn intx_disabled(&self) -> bool {
        self.command() & COMMAND_INTX_DISABLE != 0
    }

    /// Reads `size` bytes, 1 to 4, at `reg`. Beyond the end reads all ones.
    pub fn read(&self, reg: u16, size: u8) -> u32 {
        let mut value = [0u8; 4];
        for (index, out) in value.iter_mut().enumerate().take(usize::from(size)) {
            *out = self
                .bytes
                .get(usize::from(reg) + index)
                .copied()
                .unwrap_or(0xff);
        }
        u32::from_le_bytes(value)
    }

    /// The guest's write of `size` bytes, 1 to 4, at `reg`: writable bits change, others stay.
    pub fn write(&mut self, reg: u16, size: u8, value: u32) {
        for (index, new) in value
            .to_le_bytes()
            .iter()
            .enumerate()
            .take(usize::from(size))
        {
            let at = usize::from(reg) + index;
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | new & mask;
            }
        }
    }

    /// Reads a byte; zero beyond the end.
    pub fn read_u8(&self, reg: u16) -> u8 {
        self.bytes.get(usize::from(reg)).copied().unwrap_or(0)
    }

    /// Reads a word.
    pub fn read_u16(&self, reg: u16) -> u16 {
        self.read(reg, 2) as u16
    }

    /// Reads a dword.
    pub fn read_u32(&self, reg: u16) -> u32 {
        self.read(reg, 4)
    }

    /// Sets a byte for now and after each reset, regardless of masks. Ignored beyond the end.
    pub fn set_u8(&mut self, reg: u16, value: u8) {
        if let Some(byte) = self.bytes.get_mut(usize::from(reg)) {
            *byte = value;
            self.initial[usize::from(reg)] = value;
        }
    }

    /// Sets a word like [`ConfigSpace::set_u8`].
    pub fn set_u16(&mut self, reg: u16, value: u16) {
        for (reg, byte) in (reg..).zip(value.to_le_bytes()) {
            self.set_u8(reg, byte);
        }
    }

    /// Sets a dword like [`ConfigSpace::set_u8`].
    pub fn set_u32(&mut self, reg: u16, value: u32) {
        for (reg, byte) in (reg..).zip(value.to_le_bytes()) {
            self.set_u8(reg, byte);
        }
    }

    /// Stores a byte that the device changes while running, such as a status bit; a reset
    /// undoes it.
    pub fn store_u8(&mut self, reg: u16, value: u8) {
        if let Some(byte) = self.bytes.get_mut(usize::from(reg)) {
            *byte = value;
        }
    }

    /// Stores a dword like [`ConfigSpace::store_u8`].
    pub fn store_u32(&mut self, reg: u16, value: u32) {
        for (reg, byte) in (reg..).zip(value.to_le_bytes()) {
            self.store_u8(reg, byte);
        }
    }

    /// Shows in the status register whether INTx is asserted.
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let status = self.read_u8(STATUS) & !(STATUS_INTERRUPT as u8);
        self.store_u8(
            STATUS,
            status | if asserted { STATUS_INTERRUPT as u8 } else { 0 },
        );
    }

    /// Declares which bits the guest may change from `reg` on.
    pub fn set_writable(&mut self, reg: u16, mask: &[u8]) {
        for (index, bits) in mask.iter().enumerate() {
            if let Some(byte) = self.writable.get_mut(usize::from(reg) + index) {
                *byte = *bits;
            }
        }
    }

    /// Back to the values set up at creation.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.initial[..]);
    }
}

/// Register of BAR `index`.
fn bar_register(index: usize) -> u16 {
    BAR0 + 4 * index as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> ConfigSpace {
        ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            ..Identity::default()
        })
    }

    #[test]
    fn sizing_a_bar_reads_back_its_size_mask() {
        let mut config = device();
        config.add_bar(0, BarKind::Memory32, 0x4000).unwrap();
        config.write(BAR0, 4, u32::MAX);
        assert_eq!(config.read(BAR0, 4), 0xffff_c000);
    }

    #[test]
    fn a_wide_bar_is_sized_in_both_halves_and_takes_its_neighbour() {
        let mut config = device();
        config
            .add_bar(2, BarKind::Memory64 { prefetchable: true }, 1 << 33)
            .unwrap();
        config.write(BAR0 + 8, 4, u32::MAX);
        config.write(BAR0 + 12, 4, u32::MAX);
        assert_eq!(config.read(BAR0 + 8, 4), 0xc);
        assert_eq!(config.read(BAR0 + 12, 4), 0xffff_fffe);
        assert_eq!(config.add_bar(3, BarKind::Io, 4), Err(SetupError::Bar(3)));
        assert_eq!(
            config.add_bar(
                5,
                BarKind::Memory64 {
                    prefetchable: false
                },
                64
            ),
            Err(SetupError::Bar(5))
        );
    }

    #[test]
    fn a_bar_is_decoded_only_while_the_command_register_says_so() {
        let mut config = device();
        config.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
        config.place_bar(0, 0x8000_0000);
        assert_eq!(config.bar(0), None);
        config.write(COMMAND, 2, u32::from(COMMAND_MEMORY));
        assert_eq!(config.bar(0), Some(0x8000_0000));
    }

    #[test]
    fn ids_are_read_only() {
        let mut config = device();
        config.write(0, 4, 0);
        assert_eq!(config.read(0, 4), 0x1042_1af4);
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut config = device();
        let first = config.add_capability(9, &[1, 2, 3], &[]).unwrap();
        let second = config.add_capability(0x11, &[0, 0x80], &[0, 0xc0]).unwrap();
        assert_eq!(config.read_u8(CAPABILITIES), first as u8);
        assert_eq!(config.read_u8(first + 1), second as u8);
        assert_eq!(config.read_u8(second + 1), 0);
        assert_ne!(config.read_u16(STATUS) & STATUS_CAPABILITIES, 0);
        assert_eq!(
            config.add_capability(9, &[0; 256], &[]),
            Err(SetupError::NoRoom(258))
        );
    }

    #[test]
    fn an_access_beyond_the_end_is_harmless() {
        let mut config = device();
        config.write(4095, 4, u32::MAX);
        assert_eq!(config.read(4095, 4), 0xffff_ff00);
        config.write(u16::MAX, 4, 1);
        assert_eq!(config.read(u16::MAX, 4), u32::MAX);
    }

    #[test]
    fn a_reset_restores_what_was_set_up() {
        let mut config = device();
        config.add_bar(0, BarKind::Io, 32).unwrap();
        config.place_bar(0, 0x2000);
        config.write(BAR0, 4, 0x3000);
        config.write(COMMAND, 2, 7);
        config.reset();
        assert_eq!(
            (config.bar_programmed(0), config.command()),
            (Some(0x2000), 0)
        );
    }
}
