//! Finding functions and capabilities.

use acrn_abi::Bdf;

use super::{ConfigSpace, reg};

const STATUS_CAPABILITIES: u32 = 1 << 4;
const HEADER_MULTIFUNCTION: u32 = 0x80;
const HEADER_BRIDGE: u32 = 1;

/// Iterator over a function's capabilities: (identifier, offset). Each doubleword is visited once,
/// so a list that loops ends.
#[derive(Debug)]
pub struct Capabilities<'a, C> {
    bdf: Bdf,
    config: &'a C,
    next: u16,
    visited: u64,
}

impl<'a, C: ConfigSpace> Capabilities<'a, C> {
    /// The list of the function `bdf`; empty when the function says that it has none.
    pub fn new(bdf: Bdf, config: &'a C) -> Self {
        let has_list = config.read(bdf, reg::STATUS, 2) & STATUS_CAPABILITIES != 0;
        let next = if has_list {
            config.read(bdf, reg::CAPABILITIES, 1) as u16
        } else {
            0
        };
        Self {
            bdf,
            config,
            next,
            visited: 0,
        }
    }
}

impl<C: ConfigSpace> Iterator for Capabilities<'_, C> {
    type Item = (u8, u16);

    fn next(&mut self) -> Option<(u8, u16)> {
        let offset = self.next & 0xfc;
        let bit = 1u64 << (offset / 4);
        if offset < 0x40 || self.visited & bit != 0 {
            return None;
        }
        self.visited |= bit;
        let header = self.config.read(self.bdf, offset, 2);
        self.next = (header >> 8) as u16 & 0xff;
        (header as u8 != 0xff).then_some((header as u8, offset))
    }
}

/// Calls `found` for each function on the buses `roots` and behind their bridges. Each bus is
/// looked at once, whatever the bridges claim.
pub fn enumerate(roots: &[u8], config: &impl ConfigSpace, found: &mut impl FnMut(Bdf)) {
    let mut todo = BusSet::default();
    let mut seen = BusSet::default();
    for &bus in roots {
        todo.insert(bus);
    }
    while let Some(bus) = todo.pop() {
        if !seen.insert(bus) {
            continue;
        }
        for device in 0..32 {
            for function in 0..8 {
                let bdf = Bdf::new(bus, device, function);
                let exists = config.read(bdf, reg::VENDOR, 2) != 0xffff;
                let header = if exists {
                    config.read(bdf, reg::HEADER_TYPE, 1)
                } else {
                    0
                };
                if exists {
                    found(bdf);
                }
                if exists && header & 0x7f == HEADER_BRIDGE {
                    todo.insert((config.read(bdf, reg::BUS_NUMBERS, 4) >> 8) as u8);
                }
                if function == 0 && header & HEADER_MULTIFUNCTION == 0 {
                    break;
                }
            }
        }
    }
}

#[derive(Default)]
struct BusSet([u128; 2]);

impl BusSet {
    fn insert(&mut self, bus: u8) -> bool {
        let word = &mut self.0[usize::from(bus >> 7)];
        let bit = 1 << (bus & 0x7f);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn pop(&mut self) -> Option<u8> {
        for (index, word) in self.0.iter_mut().enumerate() {
            if *word != 0 {
                let bit = word.trailing_zeros() as u8;
                *word &= *word - 1;
                return Some((index as u8) << 7 | bit);
            }
        }
        None
    }
}
