//! The short way for the commonest access to a device: one plain MOV.
//!
//! `readl`, `writel` and their kin compile to MOV or MOVZX with at most an operand-size prefix and
//! REX. When the exit itself tells the address, nothing but size, register and length is left to
//! find out; this does it in a small fraction of the instructions of the general decoder. Whatever
//! it does not know, [`Instruction`](crate::Instruction) does.

use crate::bytes::{Mode, mask};
use crate::operand::{Register, Registers};

/// A MOV between a register (or from an immediate) and memory whose address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainMov {
    length: u8,
    size: u8,
    kind: Kind,
    register: Register,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// To a register of this many bytes, zero-extended.
    Load(u8),
    Store,
    StoreImmediate(i32),
}

impl PlainMov {
    /// Decodes the instruction at the start of `bytes`; `None` is no refusal but means that the
    /// general decoder has to look.
    #[inline]
    pub fn decode(bytes: &[u8], mode: Mode) -> Option<Self> {
        if mode == Mode::Bits16 {
            return None;
        }
        let mut at = 0;
        let mut opcode = *bytes.first()?;
        let operand16 = opcode == 0x66;
        if operand16 {
            at += 1;
            opcode = *bytes.get(at)?;
        }
        let mut rex = 0;
        if opcode & 0xf0 == 0x40 && mode == Mode::Bits64 {
            rex = opcode;
            at += 1;
            opcode = *bytes.get(at)?;
        }
        let wide = match (rex & 8 != 0, operand16) {
            (true, _) => 8,
            (false, true) => 2,
            (false, false) => 4,
        };
        let size = if opcode & 1 == 0 { 1 } else { wide };
        let (size, kind) = match opcode {
            0x88 | 0x89 => (size, Kind::Store),
            0x8a | 0x8b => (size, Kind::Load(size)),
            0xc6 | 0xc7 => (size, Kind::StoreImmediate(0)),
            0x0f => {
                at += 1;
                match *bytes.get(at)? {
                    0xb6 => (1, Kind::Load(wide)),
                    0xb7 => (2, Kind::Load(wide)),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let register_size = if let Kind::Load(to) = kind { to } else { size };
        let modrm = *bytes.get(at + 1)?;
        let number = modrm >> 3 & 7 | (rex & 4) << 1;
        let register = Register::new(number, register_size, rex != 0);
        let mut end = at + 2 + operand_length(modrm, bytes.get(at + 2).copied())?;
        let mut kind = kind;
        if let Kind::StoreImmediate(value) = &mut kind {
            if modrm & 0x38 != 0 {
                return None;
            }
            let start = end;
            end += usize::from(size.min(4));
            *value = immediate(bytes.get(start..end)?);
        }
        let is_whole = end <= bytes.len() && end <= crate::MAX_LENGTH;
        is_whole.then_some(Self {
            length: end as u8,
            size,
            kind,
            register,
        })
    }

    /// Length in bytes.
    #[inline]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Bytes of the access: 1, 2, 4 or 8.
    #[inline]
    pub const fn size(&self) -> u8 {
        self.size
    }

    /// What a store writes, zero-extended; `None` for a load.
    #[inline]
    pub fn stored(&self, regs: &impl Registers) -> Option<u64> {
        match self.kind {
            Kind::Load(_) => None,
            Kind::Store => Some(self.register.read(regs, self.size)),
            Kind::StoreImmediate(value) => Some(value as u64 & mask(self.size)),
        }
    }

    /// Completes a load with what memory answered; does nothing for a store.
    #[inline]
    pub fn complete(&self, regs: &mut impl Registers, value: u64) {
        if let Kind::Load(to) = self.kind {
            self.register.write(regs, to, value & mask(self.size));
        }
    }
}

/// Bytes of SIB and displacement with 32- and 64-bit addressing; `None` for a register operand or
/// when the SIB byte is missing.
#[inline]
fn operand_length(modrm: u8, sib: Option<u8>) -> Option<usize> {
    let (mut length, mut base) = (0, modrm & 7);
    if base == 4 {
        length = 1;
        base = sib? & 7;
    }
    match modrm >> 6 {
        0 if base == 5 => Some(length + 4),
        0 => Some(length),
        1 => Some(length + 1),
        2 => Some(length + 4),
        _ => None,
    }
}

/// 1, 2 or 4 little-endian bytes, sign-extended.
fn immediate(bytes: &[u8]) -> i32 {
    match *bytes {
        [a] => (a as i8).into(),
        [a, b] => i16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}
