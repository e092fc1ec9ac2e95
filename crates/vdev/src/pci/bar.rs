//! Base address registers (PCI 3.0, 6.2.5).

use acrn_abi::Bdf;

use super::{ConfigSpace, Header, reg};

/// Registers of a function that hold base addresses: six BARs and the expansion ROM.
pub const BAR_COUNT: usize = 7;
/// Index of the expansion ROM.
pub const ROM_BAR: u8 = 6;

const ROM_ENABLE: u32 = 1;

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BarKind {
    /// Not implemented.
    #[default]
    None,
    /// I/O ports.
    Io,
    /// Memory with a 32-bit address.
    Memory32,
    /// Memory with a 64-bit address: the low half.
    Memory64,
    /// The high half of the BAR before it.
    High,
    /// Expansion ROM.
    Rom,
}

/// One base address register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// Address that the guest programmed, or firmware before it; a port number for I/O.
    pub address: u64,
    /// Bytes, a power of two; 0 when not implemented and for the high half.
    pub size: u64,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
    /// Read-only low bits, and the enable bit of the ROM.
    pub(super) flags: u32,
    /// Address bits that can be written.
    pub(super) mask: u32,
    /// The guest wrote all ones and will read the size.
    pub(super) probing: bool,
}

impl Bar {
    /// Whether it decodes memory.
    pub fn is_memory(&self) -> bool {
        matches!(
            self.kind,
            BarKind::Memory32 | BarKind::Memory64 | BarKind::Rom
        )
    }

    /// Whether the ROM answers, given that memory decode is on.
    pub fn is_rom_enabled(&self) -> bool {
        self.kind == BarKind::Rom && self.flags & ROM_ENABLE != 0
    }
}

/// Register of BAR `index` (6 is the ROM) in a header of this type.
pub(super) fn register(header: Header, index: usize) -> Option<u16> {
    let count = match header {
        Header::Endpoint => 6,
        Header::Bridge => 2,
        Header::Other(_) => return None,
    };
    match (index, header) {
        (6, Header::Endpoint) => Some(reg::ROM_ENDPOINT),
        (6, _) => Some(reg::ROM_BRIDGE),
        _ if index < count => Some(reg::BAR0 + 4 * index as u16),
        _ => None,
    }
}

/// The BAR at `dword`, the inverse of `register`.
pub(super) fn index(header: Header, dword: u16) -> Option<usize> {
    let index = match dword {
        0x10..=0x24 => usize::from(dword - reg::BAR0) / 4,
        reg::ROM_ENDPOINT | reg::ROM_BRIDGE => usize::from(ROM_BAR),
        _ => return None,
    };
    (register(header, index) == Some(dword)).then_some(index)
}

/// Reads and sizes all BARs. The function's decoding is off meanwhile.
pub(super) fn probe(bdf: Bdf, header: Header, config: &mut impl ConfigSpace) -> [Bar; BAR_COUNT] {
    let mut bars = [Bar::default(); BAR_COUNT];
    let mut low_half = None;
    for index in 0..BAR_COUNT {
        let Some(register) = register(header, index) else {
            continue;
        };
        let raw = config.read(bdf, register, 4);
        // Not the ROM's enable bit.
        config.write(bdf, register, 4, if index == 6 { !0x7ff } else { u32::MAX });
        let probed = config.read(bdf, register, 4);
        config.write(bdf, register, 4, raw);
        bars[index] = match low_half.take().filter(|low| low + 1 == index && index < 6) {
            Some(low) => {
                let high = Bar {
                    kind: BarKind::High,
                    mask: probed,
                    ..Bar::default()
                };
                join(&mut bars[low], raw, probed);
                high
            }
            None if index == 6 => rom(raw, probed),
            None => bar(raw, probed),
        };
        if bars[index].kind == BarKind::Memory64 {
            low_half = Some(index);
        }
    }
    bars
}

/// The size that a mask of writable address bits means; 0 for none.
fn size_of(mask: u64) -> u64 {
    mask & mask.wrapping_neg()
}

fn bar(raw: u32, probed: u32) -> Bar {
    // A size above 4 GiB leaves no writable bit in the low half.
    if probed == 0 || probed == u32::MAX {
        return Bar::default();
    }
    if probed & 1 != 0 {
        // Functions may hardwire the upper 16 bits of a port to zero.
        let mask = probed & !3;
        let size = size_of(u64::from(mask));
        let address = u64::from(raw & mask);
        return Bar {
            kind: BarKind::Io,
            address,
            size,
            flags: 1,
            mask,
            ..Bar::default()
        };
    }
    let mask = probed & !0xf;
    let kind = if probed >> 1 & 3 == 2 {
        BarKind::Memory64
    } else {
        BarKind::Memory32
    };
    Bar {
        kind,
        address: u64::from(raw & mask),
        size: size_of(u64::from(mask)),
        prefetchable: probed & 8 != 0,
        flags: probed & 0xf,
        mask,
        probing: false,
    }
}

/// Adds the high half to a 64-bit BAR.
fn join(low: &mut Bar, raw: u32, probed: u32) {
    low.address |= u64::from(raw & probed) << 32;
    low.size = size_of(u64::from(probed) << 32 | u64::from(low.mask));
}

fn rom(raw: u32, probed: u32) -> Bar {
    let mask = probed & !0x7ff;
    if mask == 0 || probed == u32::MAX {
        return Bar::default();
    }
    Bar {
        kind: BarKind::Rom,
        address: u64::from(raw & mask),
        size: size_of(u64::from(mask)),
        prefetchable: true,
        flags: raw & ROM_ENABLE,
        mask,
        probing: false,
    }
}

impl Bar {
    /// The guest writes `value` to this doubleword of its own: the flags follow, and whether it
    /// asks for the size.
    pub(super) fn begin_write(&mut self, value: u32) {
        if self.kind == BarKind::Rom {
            self.flags = value & ROM_ENABLE;
        }
        self.probing = self.mask != 0 && value & self.mask == self.mask;
    }
}
