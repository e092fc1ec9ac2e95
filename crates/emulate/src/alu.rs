//! Arithmetic with the flags that a processor would set (SDM 1, 3.4.3.1).

use crate::bytes::mask;

/// RFLAGS.CF.
pub(crate) const CF: u64 = 1 << 0;
/// RFLAGS.PF.
pub(crate) const PF: u64 = 1 << 2;
/// RFLAGS.AF.
pub(crate) const AF: u64 = 1 << 4;
/// RFLAGS.ZF.
pub(crate) const ZF: u64 = 1 << 6;
/// RFLAGS.SF.
pub(crate) const SF: u64 = 1 << 7;
/// RFLAGS.DF.
pub(crate) const DF: u64 = 1 << 10;
/// RFLAGS.OF.
pub(crate) const OF: u64 = 1 << 11;
/// The six that arithmetic sets.
pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// The eight operations of opcodes 00 to 3F, in the order of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

impl Alu {
    /// From bits 5..3 of the opcode or the ModRM extension.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Add,
            1 => Self::Or,
            2 => Self::Adc,
            3 => Self::Sbb,
            4 => Self::And,
            5 => Self::Sub,
            6 => Self::Xor,
            _ => Self::Cmp,
        }
    }

    /// `a OP b` on `size` bytes: the result (of CMP: the difference) and RFLAGS.
    pub fn apply(self, a: u64, b: u64, size: u8, rflags: u64) -> (u64, u64) {
        let carry = rflags & CF;
        match self {
            Self::Add => add(a, b, 0, size, rflags),
            Self::Adc => add(a, b, carry, size, rflags),
            Self::Sub | Self::Cmp => subtract(a, b, 0, size, rflags),
            Self::Sbb => subtract(a, b, carry, size, rflags),
            Self::And => logic(a & b, size, rflags),
            Self::Or => logic(a | b, size, rflags),
            Self::Xor => logic(a ^ b, size, rflags),
        }
    }
}

/// Operations on one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Not,
    Neg,
    Inc,
    Dec,
}

impl Unary {
    /// The result and RFLAGS. NOT changes no flag; INC and DEC leave CF.
    pub fn apply(self, a: u64, size: u8, rflags: u64) -> (u64, u64) {
        let keep_carry = |(result, flags): (u64, u64)| (result, flags & !CF | rflags & CF);
        match self {
            Self::Not => (!a & mask(size), rflags),
            Self::Neg => subtract(0, a, 0, size, rflags),
            Self::Inc => keep_carry(add(a, 1, 0, size, rflags)),
            Self::Dec => keep_carry(subtract(a, 1, 0, size, rflags)),
        }
    }
}

/// BT and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bit {
    Test,
    Set,
    Reset,
    Complement,
}

impl Bit {
    /// From bits 4..3 of the opcode or the low bits of the ModRM extension.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Test,
            1 => Self::Set,
            2 => Self::Reset,
            _ => Self::Complement,
        }
    }

    /// Bit `number` modulo the operand's width goes to CF. The other flags are undefined; they
    /// stay, as processors do it.
    pub fn apply(self, a: u64, number: u64, size: u8, rflags: u64) -> (u64, u64) {
        let bit = 1u64 << (number & (u64::from(size) * 8 - 1));
        let result = match self {
            Self::Test => a,
            Self::Set => a | bit,
            Self::Reset => a & !bit,
            Self::Complement => a ^ bit,
        };
        let carry = if a & bit != 0 { CF } else { 0 };
        (result, rflags & !CF | carry)
    }
}

/// AND, OR, XOR, TEST: CF and OF are cleared; AF is undefined, processors clear it.
pub(crate) fn logic(result: u64, size: u8, rflags: u64) -> (u64, u64) {
    finish(result, 0, size, rflags)
}

fn add(a: u64, b: u64, carry: u64, size: u8, rflags: u64) -> (u64, u64) {
    let result = a.wrapping_add(b).wrapping_add(carry);
    finish(result, a & b | (a | b) & !result, size, rflags)
}

fn subtract(a: u64, b: u64, borrow: u64, size: u8, rflags: u64) -> (u64, u64) {
    let result = a.wrapping_sub(b).wrapping_sub(borrow);
    finish(result, !a & b | (!a | b) & result, size, rflags)
}

/// Cuts the result and makes the flags. Bit n of `carries` is the carry or borrow out of bit n;
/// overflow is when that into and out of the sign bit differ.
fn finish(result: u64, carries: u64, size: u8, rflags: u64) -> (u64, u64) {
    let sign = u32::from(size) * 8 - 1;
    let result = result & mask(size);
    let mut flags = rflags & !STATUS;
    flags |= carries >> sign & 1;
    flags |= (carries >> 3 & 1) << 4;
    flags |= (result >> sign) << 7;
    flags |= ((carries >> sign ^ carries >> (sign - 1)) & 1) << 11;
    if result == 0 {
        flags |= ZF;
    }
    if (result as u8).count_ones() % 2 == 0 {
        flags |= PF;
    }
    (result, flags)
}
