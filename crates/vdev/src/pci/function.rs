//! A physical function in the hands of a VM.
//!
//! Most registers go straight to the hardware. Kept back are:
//! - MSI and MSI-X control, and MSI address and data: the guest sees what it wrote; the owner of
//!   the [`Function`] is told, allocates a host vector and programs the hardware (`program_msi`,
//!   `program_msix`).
//! - BAR writes of all ones, with which a guest asks for a size: the answer is known, and the
//!   hardware does not move for a moment to the top of the address space.
//! - All BARs of a function whose guest sees other addresses than the hardware has
//!   (`use_virtual_bars`).

use acrn_abi::Bdf;

use super::bar::{self, BAR_COUNT, Bar, BarKind};
use super::{
    COMMAND_DECODE, Capabilities, ConfigSpace, Msi, MsiMessage, Msix, all_ones, extract,
    is_regular, merge, reg,
};

const CAPABILITY_MSI: u8 = 0x05;
const CAPABILITY_EXPRESS: u8 = 0x10;
const CAPABILITY_MSIX: u8 = 0x11;
/// Function-level reset, in the control half of the doubleword at offset 8.
const EXPRESS_CONTROL: u16 = 8;
const EXPRESS_INITIATE_FLR: u32 = 1 << 15;
const CLASS_HOST_BRIDGE: u32 = 0x0600;

/// Layout of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Type 0.
    Endpoint,
    /// Type 1, PCI-to-PCI bridge.
    Bridge,
    /// CardBus bridge or unknown; all its registers go to the hardware.
    Other(u8),
}

/// Bus numbers of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusNumbers {
    /// The bus that the bridge is on.
    pub primary: u8,
    /// The bus behind it.
    pub secondary: u8,
    /// The last bus behind it.
    pub subordinate: u8,
}

impl BusNumbers {
    fn from_register(value: u32) -> Self {
        let [primary, secondary, subordinate, _] = value.to_le_bytes();
        Self {
            primary,
            secondary,
            subordinate,
        }
    }

    /// Whether configuration accesses to `bus` pass through the bridge.
    pub fn contains(&self, bus: u8) -> bool {
        self.secondary <= bus && bus <= self.subordinate
    }
}

/// What a guest's write asks of the function's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ConfigAction {
    /// Nothing.
    None,
    /// Look at `msi_message` and call `program_msi`.
    MsiChanged,
    /// Look at `msix` and call `program_msix`.
    MsixChanged,
    /// A BAR moved; the hardware has followed unless BARs are virtual.
    BarChanged {
        /// BAR number, 6 for the ROM; the low half of a 64-bit BAR.
        bar: u8,
        /// Address before.
        old: u64,
        /// Address now.
        new: u64,
    },
    /// The command register changed: decoding or bus mastering may be on or off.
    CommandChanged {
        /// Value before.
        old: u16,
        /// Value now.
        new: u16,
    },
    /// A bridge was renumbered: look at `bus_numbers`.
    BusNumbersChanged,
    /// The guest started a function-level reset. Hardware and shadow have forgotten command
    /// register, MSI and MSI-X; the hardware also its BARs. It may take 100 ms to answer again.
    FunctionReset,
}

/// Shadow of one physical function.
#[derive(Clone, Debug)]
pub struct Function {
    bdf: Bdf,
    vendor: u16,
    device: u16,
    class: u32,
    header: Header,
    multifunction: bool,
    bars: [Bar; BAR_COUNT],
    /// The hardware's addresses, when the guest has its own.
    physical_bars: Option<[u64; BAR_COUNT]>,
    command: u16,
    buses: Option<BusNumbers>,
    msi: Option<Msi>,
    msix: Option<Msix>,
    express: Option<u16>,
}

impl Function {
    /// Looks at the function `bdf`; `None` when there is none. Sizes the BARs, with decoding off
    /// for a moment, so nothing may use the function meanwhile.
    pub fn scan(bdf: Bdf, config: &mut impl ConfigSpace) -> Option<Self> {
        let id = config.read(bdf, reg::VENDOR, 4);
        if id as u16 == 0xffff {
            return None;
        }
        let header_type = config.read(bdf, reg::HEADER_TYPE, 1) as u8;
        let header = match header_type & 0x7f {
            0 => Header::Endpoint,
            1 => Header::Bridge,
            other => Header::Other(other),
        };
        let class = config.read(bdf, reg::CLASS_REVISION, 4) >> 8;
        let command = config.read(bdf, reg::COMMAND, 2);
        // Turning a host bridge's decoding off can cut the processor from its memory.
        let decodes = command & COMMAND_DECODE != 0 && class >> 8 != CLASS_HOST_BRIDGE;
        if decodes {
            config.write(bdf, reg::COMMAND, 2, command & !COMMAND_DECODE);
        }
        let bars = bar::probe(bdf, header, config);
        if decodes {
            config.write(bdf, reg::COMMAND, 2, command);
        }
        let mut function = Self {
            bdf,
            vendor: id as u16,
            device: (id >> 16) as u16,
            class,
            header,
            multifunction: header_type & 0x80 != 0,
            bars,
            physical_bars: None,
            command: command as u16,
            buses: (header == Header::Bridge)
                .then(|| BusNumbers::from_register(config.read(bdf, reg::BUS_NUMBERS, 4))),
            msi: None,
            msix: None,
            express: None,
        };
        function.scan_capabilities(config);
        Some(function)
    }

    fn scan_capabilities(&mut self, config: &impl ConfigSpace) {
        for (id, offset) in Capabilities::new(self.bdf, config) {
            match id {
                CAPABILITY_MSI if self.msi.is_none() => {
                    self.msi = Msi::scan(self.bdf, offset, config);
                }
                CAPABILITY_MSIX if self.msix.is_none() => {
                    self.msix = Msix::scan(self.bdf, offset, config);
                }
                CAPABILITY_EXPRESS if self.express.is_none() => self.express = Some(offset),
                _ => {}
            }
        }
    }

    /// Where the function is.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }
    /// Vendor id.
    pub fn vendor(&self) -> u16 {
        self.vendor
    }
    /// Device id.
    pub fn device(&self) -> u16 {
        self.device
    }
    /// Class, subclass and programming interface, 24 bits.
    pub fn class(&self) -> u32 {
        self.class
    }
    /// Header layout.
    pub fn header(&self) -> Header {
        self.header
    }
    /// Whether the device has more functions; meaningful for function 0.
    pub fn is_multifunction(&self) -> bool {
        self.multifunction
    }
    /// The BARs as the guest programmed them.
    pub fn bars(&self) -> &[Bar; BAR_COUNT] {
        &self.bars
    }
    /// The command register as the guest last wrote it.
    pub fn command(&self) -> u16 {
        self.command
    }
    /// Bus numbers, of a bridge.
    pub fn bus_numbers(&self) -> Option<BusNumbers> {
        self.buses
    }
    /// The MSI capability.
    pub fn msi(&self) -> Option<&Msi> {
        self.msi.as_ref()
    }
    /// The MSI-X capability.
    pub fn msix(&self) -> Option<&Msix> {
        self.msix.as_ref()
    }
    /// Offset of the PCI Express capability.
    pub fn express(&self) -> Option<u16> {
        self.express
    }
    /// The message that the guest programmed; `None` unless MSI is enabled.
    pub fn msi_message(&self) -> Option<MsiMessage> {
        self.msi.as_ref()?.message()
    }

    /// Programs the physical MSI capability with the host's message; `None` disables it.
    pub fn program_msi(&self, message: Option<MsiMessage>, config: &mut impl ConfigSpace) {
        if let Some(msi) = &self.msi {
            msi.program(self.bdf, message, config);
        }
    }

    /// Programs the physical MSI-X control bits, once the physical table is right.
    pub fn program_msix(&self, enabled: bool, masked: bool, config: &mut impl ConfigSpace) {
        if let Some(msix) = &self.msix {
            msix.program(self.bdf, enabled, masked, config);
        }
    }

    /// Takes the function from its guest, or from firmware: the hardware sends no more messages
    /// and does no more DMA, and the shadow of both capabilities is as after reset.
    pub fn quiesce(&mut self, config: &mut impl ConfigSpace) {
        const BUS_MASTER: u16 = 4;
        self.command &= !BUS_MASTER;
        config.write(self.bdf, reg::COMMAND, 2, self.command.into());
        self.program_msi(None, config);
        self.program_msix(false, false, config);
        self.reset_messages();
    }

    fn reset_shadow(&mut self) {
        self.command = 0;
        self.reset_messages();
    }

    fn reset_messages(&mut self) {
        if let Some(msi) = &mut self.msi {
            msi.reset();
        }
        if let Some(msix) = &mut self.msix {
            msix.reset();
        }
    }

    /// From now on the guest's BARs are its own: it sees and writes `addresses` (those of high
    /// halves are ignored), and the hardware keeps its own.
    pub fn use_virtual_bars(&mut self, addresses: &[u64; BAR_COUNT]) {
        if self.physical_bars.is_none() {
            self.physical_bars = Some(self.bars.map(|bar| bar.address));
        }
        for (bar, address) in self.bars.iter_mut().zip(addresses) {
            if bar.size != 0 {
                bar.address = address & !(bar.size - 1);
            }
        }
    }

    /// Where the hardware has a BAR, which the guest may see elsewhere.
    pub fn physical_bar(&self, index: usize) -> u64 {
        let own = || self.bars.get(index).map(|bar| bar.address);
        let aside = self.physical_bars.and_then(|bars| bars.get(index).copied());
        aside.or_else(own).unwrap_or(0)
    }

    /// Writes the addresses that `use_virtual_bars` set aside back to the hardware, which forgot
    /// them in a reset.
    pub fn restore_physical_bars(&self, config: &mut impl ConfigSpace) {
        let Some(addresses) = &self.physical_bars else {
            return;
        };
        for (index, (bar, &address)) in self.bars.iter().zip(addresses).enumerate() {
            let Some(register) = bar::register(self.header, index) else {
                continue;
            };
            if bar.size != 0 {
                config.write(self.bdf, register, 4, address as u32);
            }
            if bar.kind == BarKind::Memory64 {
                config.write(self.bdf, register + 4, 4, (address >> 32) as u32);
            }
        }
    }

    /// A guest's read of `size` bytes at `register`. What is no configuration access reads as all
    /// ones; an access across a doubleword boundary is put together from bytes.
    pub fn read(&self, register: u16, size: u8, config: &impl ConfigSpace) -> u32 {
        if is_regular(register, size) {
            return self.read_regular(register, size, config);
        }
        if !matches!(size, 2 | 4) {
            return all_ones(size);
        }
        (0..u16::from(size)).fold(0, |value, byte| {
            let register = register.saturating_add(byte);
            let part = if is_regular(register, 1) {
                self.read_regular(register, 1, config)
            } else {
                0xff
            };
            value | part << (8 * byte)
        })
    }

    fn read_regular(&self, register: u16, size: u8, config: &impl ConfigSpace) -> u32 {
        match self.shadow(register & !3) {
            Some(dword) => extract(dword, register, size),
            None => config.read(self.bdf, register, size),
        }
    }

    /// The doubleword at `dword` when the guest does not see the hardware's.
    fn shadow(&self, dword: u16) -> Option<u32> {
        if dword < 0x40 {
            let index = bar::index(self.header, dword)?;
            let probing = self.bars.get(index)?.probing;
            return (probing || self.physical_bars.is_some()).then(|| self.bar_register(index));
        }
        let msi = self.msi.as_ref().and_then(|msi| msi.read(dword));
        msi.or_else(|| self.msix.as_ref()?.read(dword))
    }

    /// BAR register `index` as the guest sees it.
    fn bar_register(&self, index: usize) -> u32 {
        let Some(bar) = self.bars.get(index) else {
            return 0;
        };
        if bar.probing {
            return bar.mask | bar.flags;
        }
        let address = match bar.kind {
            BarKind::High => index.checked_sub(1).and_then(|low| self.bars.get(low)),
            _ => Some(bar),
        };
        let address = address.map_or(0, |bar| bar.address);
        match bar.kind {
            BarKind::High => (address >> 32) as u32,
            _ => address as u32 | bar.flags,
        }
    }

    /// A guest's write of `size` bytes at `register`. What is no configuration access, or crosses
    /// a doubleword boundary (which a root complex need not support), has no effect.
    pub fn write(
        &mut self,
        register: u16,
        size: u8,
        value: u32,
        config: &mut impl ConfigSpace,
    ) -> ConfigAction {
        if !is_regular(register, size) {
            return ConfigAction::None;
        }
        let dword = register & !3;
        if let Some(index) = bar::index(self.header, dword) {
            return self.write_bar(index, register, size, value, config);
        }
        if let Some(changed) = self
            .msi
            .as_mut()
            .and_then(|msi| msi.write(register, size, value))
        {
            return if changed {
                ConfigAction::MsiChanged
            } else {
                ConfigAction::None
            };
        }
        if self
            .msix
            .as_mut()
            .is_some_and(|msix| msix.write(register, size, value))
        {
            return ConfigAction::MsixChanged;
        }
        config.write(self.bdf, register, size, value);
        match dword {
            reg::COMMAND => self.command_written(register, size, value),
            reg::BUS_NUMBERS if self.buses.is_some() => self.buses_written(config),
            _ if self.starts_reset(register, size, value) => {
                self.reset_shadow();
                ConfigAction::FunctionReset
            }
            _ => ConfigAction::None,
        }
    }

    fn command_written(&mut self, register: u16, size: u8, value: u32) -> ConfigAction {
        let old = self.command;
        self.command = merge(old.into(), register, size, value) as u16;
        if self.command == old {
            return ConfigAction::None;
        }
        ConfigAction::CommandChanged {
            old,
            new: self.command,
        }
    }

    fn buses_written(&mut self, config: &impl ConfigSpace) -> ConfigAction {
        let new = BusNumbers::from_register(config.read(self.bdf, reg::BUS_NUMBERS, 4));
        if self.buses.replace(new) == Some(new) {
            return ConfigAction::None;
        }
        ConfigAction::BusNumbersChanged
    }

    fn starts_reset(&self, register: u16, size: u8, value: u32) -> bool {
        self.express
            .is_some_and(|express| register & !3 == express + EXPRESS_CONTROL)
            && merge(0, register, size, value) & EXPRESS_INITIATE_FLR != 0
    }

    fn write_bar(
        &mut self,
        index: usize,
        register: u16,
        size: u8,
        value: u32,
        config: &mut impl ConfigSpace,
    ) -> ConfigAction {
        let value = merge(self.bar_register(index), register, size, value);
        let Some(bar) = self.bars.get_mut(index) else {
            return ConfigAction::None;
        };
        bar.begin_write(value);
        if bar.kind == BarKind::None || bar.probing {
            return ConfigAction::None;
        }
        let half = u64::from(value & bar.mask);
        let high = bar.kind == BarKind::High;
        if self.physical_bars.is_none() {
            // Also when the shadow does not change: after a reset the hardware has forgotten it.
            config.write(self.bdf, register & !3, 4, value);
        }
        let number = if high { index.saturating_sub(1) } else { index };
        let Some(bar) = self.bars.get_mut(number) else {
            return ConfigAction::None;
        };
        let old = bar.address;
        bar.address = if high {
            old & 0xffff_ffff | half << 32
        } else {
            old & !0xffff_ffff | half
        };
        if bar.address == old {
            return ConfigAction::None;
        }
        ConfigAction::BarChanged {
            bar: number as u8,
            old,
            new: bar.address,
        }
    }
}
