//! Task-state segments of 32 and of 16 bits (SDM volume 3A, 8.2.1, 8.6).

use super::linear::{GuestMemory, Linear};
use super::{State, Stop};

/// Bytes of the link to the task before, at the beginning of either format.
pub const LINK_SIZE: u32 = 2;

const SIZE_32: usize = 104;
const SIZE_16: usize = 44;
/// Offset of EIP, with which the part begins that is saved.
const EIP_32: usize = 0x20;
const EIP_16: usize = 0x0e;
/// Bytes from there to the last selector that is saved.
const SAVED_32: usize = 0x40;
const SAVED_16: usize = 0x1c;
const CR3: usize = 0x1c;
const LDT_32: usize = 0x60;
const LDT_16: usize = 0x2a;
const TRAP: usize = 0x64;

/// Bits that EFLAGS has, but for bit 1, which is always set.
const EFLAGS: u32 = 0x003f_7fd5;

/// What a TSS says about its task.
pub struct Image {
    pub eip: u32,
    pub eflags: u32,
    pub gpr: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    pub ldt: u16,
    /// A TSS of 16 bits has none.
    pub cr3: Option<u64>,
    /// A debug exception before the first instruction.
    pub traps: bool,
    /// It is one of 32 bits.
    pub is_wide: bool,
}

/// The two formats.
#[derive(Clone, Copy)]
pub enum Format {
    Narrow,
    Wide,
}

impl Format {
    /// By the type of a TSS.
    pub const fn of(kind: u8) -> Self {
        match kind & 8 {
            0 => Self::Narrow,
            _ => Self::Wide,
        }
    }

    /// Bytes that it has at least.
    pub const fn size(self) -> u32 {
        match self {
            Self::Narrow => SIZE_16 as u32,
            Self::Wide => SIZE_32 as u32,
        }
    }

    /// Where the part begins that is saved, and its bytes.
    pub const fn saved(self) -> (u32, u32) {
        match self {
            Self::Narrow => (EIP_16 as u32, SAVED_16 as u32),
            Self::Wide => (EIP_32 as u32, SAVED_32 as u32),
        }
    }

    /// Saves a task in the part that begins at `at`.
    pub fn save<M: GuestMemory>(
        self,
        state: &State,
        eip: u32,
        eflags: u32,
        linear: &Linear<'_, M>,
        at: u32,
    ) -> Result<(), Stop> {
        let [a, c, d, b, sp, bp, si, di] = state.gpr;
        let registers = [eip, eflags, a, c, d, b, sp, bp, si, di];
        let selectors = state.segments.iter().map(|segment| segment.selector);
        match self {
            Self::Wide => {
                // The upper halves of selectors stay what they are.
                let mut part: [u8; SAVED_32] = linear.read(at)?;
                let (low, high) = part.split_at_mut(registers.len() * 4);
                for (place, value) in low.chunks_exact_mut(4).zip(registers) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
                for (place, value) in high.chunks_exact_mut(4).zip(selectors) {
                    place[..2].copy_from_slice(&value.to_le_bytes());
                }
                linear.write(at, &part)
            }
            Self::Narrow => {
                let mut part = [0; SAVED_16];
                let words = registers.into_iter().map(|value| value as u16);
                for (place, value) in part.chunks_exact_mut(2).zip(words.chain(selectors)) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
                linear.write(at, &part)
            }
        }
    }

    /// Reads the task at `base`.
    pub fn read<M: GuestMemory>(self, linear: &Linear<'_, M>, base: u32) -> Result<Image, Stop> {
        Ok(match self {
            Self::Wide => wide(&linear.read(base)?),
            Self::Narrow => narrow(&linear.read(base)?),
        })
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn double_word(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) | u32::from(word(bytes, at + 2)) << 16
}

fn wide(bytes: &[u8; SIZE_32]) -> Image {
    let register = |number: usize| double_word(bytes, EIP_32 + number * 4);
    Image {
        eip: register(0),
        eflags: register(1) & EFLAGS | 2,
        gpr: core::array::from_fn(|number| register(2 + number)),
        selectors: core::array::from_fn(|number| register(10 + number) as u16),
        ldt: word(bytes, LDT_32),
        cr3: Some(double_word(bytes, CR3).into()),
        traps: bytes[TRAP] & 1 != 0,
        is_wide: true,
    }
}

/// FS and GS are not in it and become null; the upper halves of registers are lost.
fn narrow(bytes: &[u8; SIZE_16]) -> Image {
    let register = |number: usize| word(bytes, EIP_16 + number * 2);
    let [es, cs, ss, ds] = core::array::from_fn(|number| register(10 + number));
    Image {
        eip: register(0).into(),
        eflags: u32::from(register(1)) & EFLAGS | 2,
        gpr: core::array::from_fn(|number| register(2 + number).into()),
        selectors: [es, cs, ss, ds, 0, 0],
        ldt: word(bytes, LDT_16),
        cr3: None,
        traps: false,
        is_wide: false,
    }
}
