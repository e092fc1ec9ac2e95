//! Registers, and operands by ModRM and SIB.

use acrn_abi::Gva;

use crate::bytes::{Cursor, DecodeError, Mode, Prefixes, mask};

/// Segment registers in the order of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Segment {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

/// The registers of the vCPU.
pub trait Registers {
    /// General-purpose register `n`, 0..16 in the order rax rcx rdx rbx rsp rbp rsi rdi r8..r15.
    fn gpr(&self, n: u8) -> u64;
    /// Sets all 64 bits of general-purpose register `n`.
    fn set_gpr(&mut self, n: u8, value: u64);
    /// Address of the instruction, as RIP holds it (without the segment base).
    fn rip(&self) -> u64;
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, value: u64);
    /// Base of a segment as the hidden part of the register holds it. In 64-bit mode only those
    /// of FS and GS are asked for.
    fn segment_base(&self, segment: Segment) -> u64;
}

/// Numbers of the registers that instructions use implicitly.
pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;

/// Writes a register with a given operand size: 8 and 16 bits leave the rest alone, 32 bits clear
/// the upper half.
#[inline]
pub(crate) fn write_sized(regs: &mut impl Registers, n: u8, size: u8, value: u64) {
    let value = match size {
        1 | 2 => regs.gpr(n) & !mask(size) | value & mask(size),
        _ => value & mask(size),
    };
    regs.set_gpr(n, value);
}

/// Linear address of an offset in a segment.
#[inline]
pub(crate) fn linear(regs: &impl Registers, mode: Mode, segment: Segment, offset: u64) -> Gva {
    match (mode, segment) {
        (Mode::Bits64, Segment::Fs | Segment::Gs) => {
            Gva(regs.segment_base(segment).wrapping_add(offset))
        }
        (Mode::Bits64, _) => Gva(offset),
        _ => Gva(regs.segment_base(segment).wrapping_add(offset) & mask(4)),
    }
}

/// A general-purpose register as an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    number: u8,
    /// AH, CH, DH or BH of that register.
    high: bool,
}

impl Register {
    pub const RAX: Self = Self {
        number: RAX,
        high: false,
    };

    /// The register with this number in an operand of `size` bytes. Without any REX prefix byte
    /// registers 4..=7 are AH, CH, DH and BH.
    #[inline]
    pub fn new(number: u8, size: u8, has_rex: bool) -> Self {
        let high = size == 1 && !has_rex && number >= 4;
        Self {
            number: if high { number - 4 } else { number },
            high,
        }
    }

    #[inline]
    pub fn read(self, regs: &impl Registers, size: u8) -> u64 {
        let value = regs.gpr(self.number);
        if self.high {
            value >> 8 & 0xff
        } else {
            value & mask(size)
        }
    }

    #[inline]
    pub fn write(self, regs: &mut impl Registers, size: u8, value: u64) {
        if self.high {
            let rest = regs.gpr(self.number) & !0xff00;
            regs.set_gpr(self.number, rest | (value & 0xff) << 8);
        } else {
            write_sized(regs, self.number, size, value);
        }
    }
}

/// A memory operand before its address is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    base: u8,
    index: u8,
    /// Log2 of the factor.
    scale: u8,
    address_size: u8,
    segment: Segment,
    mode: Mode,
    displacement: i64,
}

/// No register.
const NONE: u8 = 0xff;
/// The address of the next instruction instead of a register.
const RIP: u8 = 0xfe;

impl MemoryOperand {
    /// A bare offset (MOV with opcodes A0 to A3).
    pub(crate) fn absolute(offset: u64, prefixes: &Prefixes) -> Self {
        Self::new(prefixes, NONE, offset as i64)
    }

    /// What a string instruction finds at rSI or rDI; `segment` where it is not a choice of the
    /// prefixes.
    pub(crate) fn string(register: u8, segment: Option<Segment>, prefixes: &Prefixes) -> Self {
        let operand = Self::new(prefixes, register, 0);
        Self {
            segment: segment.unwrap_or(operand.segment),
            ..operand
        }
    }

    fn new(prefixes: &Prefixes, base: u8, displacement: i64) -> Self {
        Self {
            base,
            index: NONE,
            scale: 0,
            address_size: prefixes.address_bytes(),
            segment: prefixes.segment.unwrap_or(Segment::Ds),
            mode: prefixes.mode,
            displacement,
        }
    }

    /// Linear address, given the registers and the length of the instruction.
    #[inline]
    pub fn address(&self, regs: &impl Registers, length: u8) -> Gva {
        self.address_plus(regs, length, 0)
    }

    /// The same with something added to the offset before it is cut to the address size.
    #[inline]
    pub(crate) fn address_plus(&self, regs: &impl Registers, length: u8, more: i64) -> Gva {
        let mut offset = self.displacement.wrapping_add(more) as u64;
        match self.base {
            NONE => {}
            RIP => {
                offset = offset
                    .wrapping_add(regs.rip())
                    .wrapping_add(u64::from(length))
            }
            base => offset = offset.wrapping_add(regs.gpr(base)),
        }
        if self.index != NONE {
            offset = offset.wrapping_add(regs.gpr(self.index) << self.scale);
        }
        linear(
            regs,
            self.mode,
            self.segment,
            offset & mask(self.address_size),
        )
    }
}

/// A register or memory operand of an instruction that takes both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// General-purpose register of this number.
    Register(u8),
    /// Memory.
    Memory(MemoryOperand),
}

/// A ModRM byte with what follows it.
pub(crate) struct ModRm {
    /// The `reg` field with REX.R: a register number.
    pub reg: u8,
    /// The `reg` field alone: part of the opcode in opcode groups.
    pub extension: u8,
    /// The `r/m` operand.
    pub operand: Operand,
}

impl ModRm {
    /// Reads ModRM, SIB and displacement.
    #[inline]
    pub fn decode(cursor: &mut Cursor<'_>, prefixes: &Prefixes) -> Result<Self, DecodeError> {
        let byte = cursor.u8()?;
        let (mode, rm) = (byte >> 6, byte & 7);
        let extension = byte >> 3 & 7;
        let operand = if mode == 3 {
            Operand::Register(rm | prefixes.rex_b())
        } else if prefixes.address_bytes() == 2 {
            Operand::Memory(memory16(cursor, prefixes, mode, rm)?)
        } else {
            Operand::Memory(memory(cursor, prefixes, mode, rm)?)
        };
        Ok(Self {
            reg: extension | prefixes.rex_r(),
            extension,
            operand,
        })
    }
}

/// 32- and 64-bit addressing (SDM 2A, tables 2-2 and 2-3).
#[inline]
fn memory(
    cursor: &mut Cursor<'_>,
    prefixes: &Prefixes,
    mode: u8,
    rm: u8,
) -> Result<MemoryOperand, DecodeError> {
    let mut base = rm | prefixes.rex_b();
    let mut base_field = rm;
    let (mut index, mut scale) = (NONE, 0);
    if rm == 4 {
        let sib = cursor.u8()?;
        base_field = sib & 7;
        base = base_field | prefixes.rex_b();
        scale = sib >> 6;
        let number = sib >> 3 & 7 | prefixes.rex_x();
        if number != 4 {
            index = number;
        }
    }
    let displacement = match mode {
        0 if base_field == 5 => {
            let relative = rm == 5 && prefixes.mode == Mode::Bits64;
            base = if relative { RIP } else { NONE };
            cursor.signed(4)?
        }
        0 => 0,
        1 => cursor.signed(1)?,
        _ => cursor.signed(4)?,
    };
    let default = if matches!(base, 4 | 5) {
        Segment::Ss
    } else {
        Segment::Ds
    };
    Ok(MemoryOperand {
        base,
        index,
        scale,
        address_size: prefixes.address_bytes(),
        segment: prefixes.segment.unwrap_or(default),
        mode: prefixes.mode,
        displacement,
    })
}

/// 16-bit addressing (SDM 2A, table 2-1).
fn memory16(
    cursor: &mut Cursor<'_>,
    prefixes: &Prefixes,
    mode: u8,
    rm: u8,
) -> Result<MemoryOperand, DecodeError> {
    const BX: u8 = 3;
    const BP: u8 = 5;
    let (base, index) = match rm & 7 {
        0 => (BX, RSI),
        1 => (BX, RDI),
        2 => (BP, RSI),
        3 => (BP, RDI),
        4 => (RSI, NONE),
        5 => (RDI, NONE),
        6 if mode == 0 => (NONE, NONE),
        6 => (BP, NONE),
        _ => (BX, NONE),
    };
    let displacement_size = match mode {
        0 if base == NONE => 2,
        0 => 0,
        1 => 1,
        _ => 2,
    };
    let displacement = cursor.signed(displacement_size)?;
    let mut operand = MemoryOperand::new(prefixes, base, displacement);
    operand.index = index;
    if base == BP && prefixes.segment.is_none() {
        operand.segment = Segment::Ss;
    }
    Ok(operand)
}
