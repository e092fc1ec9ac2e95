//! Instruction bytes: the cursor over them and the prefixes.

use core::fmt;

use crate::operand::Segment;

/// Longest instruction that a processor executes, in bytes.
pub const MAX_LENGTH: usize = 15;

/// Default operand and address size of the code segment (CS.L and CS.D).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Real mode, virtual-8086 mode, 16-bit protected mode.
    Bits16,
    /// 32-bit protected or compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecodeError {
    /// The instruction goes on after the given bytes.
    TooShort,
    /// The instruction is longer than [`MAX_LENGTH`], which is #GP on a processor.
    TooLong,
    /// Not an instruction that is known here.
    Unsupported {
        /// Opcode bytes, first one highest: `0x8f`, `0x0f01`, `0x0f38f0`.
        opcode: u32,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("the instruction continues after the bytes at hand"),
            Self::TooLong => write!(f, "the instruction is longer than {MAX_LENGTH} bytes"),
            Self::Unsupported { opcode } => write!(f, "opcode {opcode:#x} is not emulated"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Position in the bytes of one instruction.
pub(crate) struct Cursor<'a> {
    /// At most [`MAX_LENGTH`].
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes: &bytes[..bytes.len().min(MAX_LENGTH)],
            position: 0,
        }
    }

    /// Bytes taken so far; at most [`MAX_LENGTH`].
    #[inline]
    pub fn length(&self) -> u8 {
        self.position as u8
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        let Some(byte) = self.bytes.get(self.position) else {
            return Err(self.end());
        };
        self.position += 1;
        Ok(*byte)
    }

    #[cold]
    fn end(&self) -> DecodeError {
        if self.bytes.len() >= MAX_LENGTH {
            DecodeError::TooLong
        } else {
            DecodeError::TooShort
        }
    }

    /// A little-endian number of 0, 1, 2, 4 or 8 bytes.
    #[inline]
    pub fn unsigned(&mut self, size: u8) -> Result<u64, DecodeError> {
        Ok(match size {
            0 => 0,
            1 => self.u8()?.into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            4 => u32::from_le_bytes(self.array()?).into(),
            _ => u64::from_le_bytes(self.array()?),
        })
    }

    /// The same, sign-extended.
    #[inline]
    pub fn signed(&mut self, size: u8) -> Result<i64, DecodeError> {
        Ok(sign_extend(self.unsigned(size)?, size) as i64)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = self
            .bytes
            .get(self.position..)
            .and_then(|rest| rest.first_chunk());
        let Some(array) = rest else {
            return Err(self.end());
        };
        self.position += N;
        Ok(*array)
    }
}

/// The low `size` bytes set.
#[inline]
pub(crate) const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Extends the low `size` bytes by their sign.
#[inline]
pub(crate) const fn sign_extend(value: u64, size: u8) -> u64 {
    match size {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}

/// Repeat prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Repeat {
    None,
    /// F3: REP, REPE.
    Equal,
    /// F2: REPNE. MOVS, STOS, LODS, INS and OUTS treat it as REP.
    NotEqual,
}

/// What stands before the opcode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefixes {
    pub mode: Mode,
    pub operand_size: bool,
    pub address_size: bool,
    pub lock: bool,
    pub repeat: Repeat,
    pub segment: Option<Segment>,
    /// 0, or the REX byte.
    pub rex: u8,
}

impl Prefixes {
    /// Reads prefixes and returns them with the first byte of the opcode.
    #[inline]
    pub fn decode(cursor: &mut Cursor<'_>, mode: Mode) -> Result<(Self, u8), DecodeError> {
        let mut prefixes = Self {
            mode,
            operand_size: false,
            address_size: false,
            lock: false,
            repeat: Repeat::None,
            segment: None,
            rex: 0,
        };
        loop {
            let byte = cursor.u8()?;
            if byte & 0xf0 == 0x40 && mode == Mode::Bits64 {
                prefixes.rex = byte;
                continue;
            }
            // Most opcodes are told from a legacy prefix by one look at their row.
            const ROWS: u16 = 1 << 2 | 1 << 3 | 1 << 6 | 1 << 0xf;
            if ROWS >> (byte >> 4) & 1 == 0 || !prefixes.take_legacy(byte) {
                return Ok((prefixes, byte));
            }
            // A REX prefix counts only directly before the opcode.
            prefixes.rex = 0;
        }
    }

    fn take_legacy(&mut self, byte: u8) -> bool {
        match byte {
            0x66 => self.operand_size = true,
            0x67 => self.address_size = true,
            0xf0 => self.lock = true,
            0xf2 => self.repeat = Repeat::NotEqual,
            0xf3 => self.repeat = Repeat::Equal,
            0x64 => self.segment = Some(Segment::Fs),
            0x65 => self.segment = Some(Segment::Gs),
            0x26 | 0x2e | 0x36 | 0x3e => {
                // These four are ignored in 64-bit mode, even after FS or GS.
                if self.mode != Mode::Bits64 {
                    self.segment = Some(match byte {
                        0x26 => Segment::Es,
                        0x2e => Segment::Cs,
                        0x36 => Segment::Ss,
                        _ => Segment::Ds,
                    });
                }
            }
            _ => return false,
        }
        true
    }

    /// Operand size in bytes of instructions that are not byte-sized.
    #[inline]
    pub fn operand_bytes(&self) -> u8 {
        if self.rex & 8 != 0 {
            return 8;
        }
        if (self.mode == Mode::Bits16) != self.operand_size {
            2
        } else {
            4
        }
    }

    /// Address size in bytes.
    #[inline]
    pub fn address_bytes(&self) -> u8 {
        match (self.mode, self.address_size) {
            (Mode::Bits64, false) => 8,
            (Mode::Bits64, true) | (Mode::Bits32, false) | (Mode::Bits16, true) => 4,
            (Mode::Bits32, true) | (Mode::Bits16, false) => 2,
        }
    }

    /// REX.R as the high bit of a register number.
    pub fn rex_r(&self) -> u8 {
        (self.rex & 4) << 1
    }

    /// REX.X as the high bit of a register number.
    pub fn rex_x(&self) -> u8 {
        (self.rex & 2) << 2
    }

    /// REX.B as the high bit of a register number.
    pub fn rex_b(&self) -> u8 {
        (self.rex & 1) << 3
    }

    /// Whether a prefix is present that selects another instruction where the opcode map
    /// distinguishes them (66, F2, F3), or LOCK.
    pub fn selects(&self) -> bool {
        self.operand_size || self.lock || self.repeat != Repeat::None
    }
}
