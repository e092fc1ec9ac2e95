//! The instructions with which guests touch device memory.

use crate::alu::{Alu, Bit, Unary};
use crate::bytes::{Cursor, DecodeError, Mode, Prefixes, Repeat};
use crate::operand::{MemoryOperand, ModRm, Operand, RDI, RSI, Register, Segment};

/// Where the operand beside the memory operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Register,
    Immediate,
}

/// What to do; "memory" is the memory operand, "register" the register operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// register = memory, extended to `to` bytes.
    Load {
        to: u8,
        signed: bool,
    },
    /// memory = source.
    Store(Source),
    /// MOVBE: register = memory with its bytes reversed.
    LoadSwapped,
    /// MOVBE: memory = register with its bytes reversed.
    StoreSwapped,
    /// memory = memory op source.
    AluMemory(Alu, Source),
    /// register = register op memory.
    AluRegister(Alu),
    /// flags of memory AND source.
    Test(Source),
    /// memory = op memory.
    Unary(Unary),
    Exchange,
    CompareExchange,
    ExchangeAdd,
    /// The source is the number of the bit.
    Bit(Bit, Source),
    /// The memory operand is at rSI; the other one, of MOVS, at ES:rDI.
    Lods,
    Movs,
    /// The memory operand is at ES:rDI.
    Stos,
}

/// One decoded instruction with a memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub(crate) operation: Operation,
    pub(crate) memory: MemoryOperand,
    pub(crate) register: Register,
    /// Sign-extended.
    pub(crate) immediate: u64,
    /// Bytes of the memory operand.
    pub(crate) size: u8,
    pub(crate) address_size: u8,
    pub(crate) mode: Mode,
    pub(crate) repeat: bool,
    length: u8,
}

impl Instruction {
    /// Length in bytes.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Bytes of the memory access.
    pub const fn size(&self) -> u8 {
        self.size
    }

    /// Whether the instruction has one memory operand, so that its address is the one that the
    /// exit reported and the guest's page tables need not be walked. False for MOVS only.
    pub fn has_one_operand(&self) -> bool {
        self.operation != Operation::Movs
    }

    /// Decodes the instruction at the start of `bytes`; more bytes than it has are ignored.
    ///
    /// # Errors
    /// [`DecodeError`]; instructions without a memory operand are unsupported too.
    pub fn decode(bytes: &[u8], mode: Mode) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        let (prefixes, opcode) = Prefixes::decode(&mut cursor, mode)?;
        let mut decoder = Decoder { cursor, prefixes };
        let mut instruction = match opcode {
            // MOV first: nearly every access to a device is one.
            0x88 | 0x89 => decoder.modrm(opcode, Operation::Store(Source::Register)),
            0x8a | 0x8b => decoder.load(opcode),
            0x0f => decoder.two_byte(),
            0x00..=0x3f if opcode & 7 < 4 => decoder.alu(opcode),
            _ => decoder.one_byte(opcode),
        }?;
        instruction.length = decoder.cursor.length();
        Ok(instruction)
    }
}

struct Decoder<'a> {
    cursor: Cursor<'a>,
    prefixes: Prefixes,
}

type Decoded = Result<Instruction, DecodeError>;

const fn unsupported(opcode: u32) -> DecodeError {
    DecodeError::Unsupported { opcode }
}

impl Decoder<'_> {
    /// Operand size by the lowest bit of the opcode.
    #[inline]
    fn size(&self, opcode: u8) -> u8 {
        if opcode & 1 == 0 {
            1
        } else {
            self.prefixes.operand_bytes()
        }
    }

    #[inline]
    fn build(&self, operation: Operation, size: u8, memory: MemoryOperand) -> Instruction {
        Instruction {
            operation,
            memory,
            register: Register::RAX,
            immediate: 0,
            size,
            address_size: self.prefixes.address_bytes(),
            mode: self.prefixes.mode,
            repeat: false,
            length: 0,
        }
    }

    /// Register and memory operand by ModRM, size by the opcode's lowest bit.
    #[inline]
    fn modrm(&mut self, opcode: u8, operation: Operation) -> Decoded {
        let size = self.size(opcode);
        self.modrm_sized(u32::from(opcode), operation, size, size)
    }

    /// The same with sizes of the memory operand and of the register.
    #[inline]
    fn modrm_sized(
        &mut self,
        opcode: u32,
        operation: Operation,
        size: u8,
        register_size: u8,
    ) -> Decoded {
        let modrm = ModRm::decode(&mut self.cursor, &self.prefixes)?;
        let Operand::Memory(memory) = modrm.operand else {
            return Err(unsupported(opcode));
        };
        let register = Register::new(modrm.reg, register_size, self.prefixes.rex != 0);
        Ok(Instruction {
            register,
            ..self.build(operation, size, memory)
        })
    }

    /// Memory operand by ModRM and an operation chosen by its `reg` field; `immediate` tells which
    /// operations are followed by one, and of how many bytes.
    fn group(
        &mut self,
        opcode: u32,
        size: u8,
        choose: impl FnOnce(u8) -> Option<(Operation, u8)>,
    ) -> Decoded {
        let modrm = ModRm::decode(&mut self.cursor, &self.prefixes)?;
        let Operand::Memory(memory) = modrm.operand else {
            return Err(unsupported(opcode));
        };
        let (operation, immediate_size) = choose(modrm.extension).ok_or(unsupported(opcode))?;
        let immediate = self.cursor.signed(immediate_size)? as u64;
        Ok(Instruction {
            immediate,
            ..self.build(operation, size, memory)
        })
    }

    #[inline]
    fn load(&mut self, opcode: u8) -> Decoded {
        let to = self.size(opcode);
        self.modrm(opcode, Operation::Load { to, signed: false })
    }

    /// Opcodes 00 to 3F.
    fn alu(&mut self, opcode: u8) -> Decoded {
        let alu = Alu::from_bits(opcode >> 3);
        if opcode & 2 == 0 {
            self.modrm(opcode, Operation::AluMemory(alu, Source::Register))
        } else {
            self.modrm(opcode, Operation::AluRegister(alu))
        }
    }

    fn one_byte(&mut self, opcode: u8) -> Decoded {
        let size = self.size(opcode);
        let wide = size.min(4);
        let code = u32::from(opcode);
        match opcode {
            0x63 if self.prefixes.mode == Mode::Bits64 => self.sign_extend_dword(),
            // 82 is 80 once more, outside 64-bit mode.
            0x82 if self.prefixes.mode == Mode::Bits64 => Err(unsupported(code)),
            0x80..=0x83 => {
                let immediate = if opcode == 0x81 { wide } else { 1 };
                self.group(code, size, |op| {
                    Some((
                        Operation::AluMemory(Alu::from_bits(op), Source::Immediate),
                        immediate,
                    ))
                })
            }
            0x84 | 0x85 => self.modrm(opcode, Operation::Test(Source::Register)),
            0x86 | 0x87 => self.modrm(opcode, Operation::Exchange),
            0xa0..=0xa3 => self.offset(opcode, size),
            0xa4 | 0xa5 | 0xaa..=0xad => self.string(opcode, size),
            0xc6 | 0xc7 => self.group(code, size, |op| {
                (op == 0).then_some((Operation::Store(Source::Immediate), wide))
            }),
            0xf6 | 0xf7 => self.group(code, size, |op| match op {
                0 | 1 => Some((Operation::Test(Source::Immediate), wide)),
                2 => Some((Operation::Unary(Unary::Not), 0)),
                3 => Some((Operation::Unary(Unary::Neg), 0)),
                _ => None,
            }),
            0xfe | 0xff => self.group(code, size, |op| match op {
                0 => Some((Operation::Unary(Unary::Inc), 0)),
                1 => Some((Operation::Unary(Unary::Dec), 0)),
                _ => None,
            }),
            _ => Err(unsupported(code)),
        }
    }

    /// MOVSXD.
    fn sign_extend_dword(&mut self) -> Decoded {
        let to = self.prefixes.operand_bytes();
        self.modrm_sized(0x63, Operation::Load { to, signed: true }, to.min(4), to)
    }

    /// MOV between the accumulator and a bare offset.
    fn offset(&mut self, opcode: u8, size: u8) -> Decoded {
        let offset = self.cursor.unsigned(self.prefixes.address_bytes())?;
        let operation = if opcode & 2 == 0 {
            Operation::Load {
                to: size,
                signed: false,
            }
        } else {
            Operation::Store(Source::Register)
        };
        Ok(self.build(
            operation,
            size,
            MemoryOperand::absolute(offset, &self.prefixes),
        ))
    }

    fn string(&mut self, opcode: u8, size: u8) -> Decoded {
        let (operation, register, segment) = match opcode & 0xfe {
            0xa4 => (Operation::Movs, RSI, None),
            0xac => (Operation::Lods, RSI, None),
            _ => (Operation::Stos, RDI, Some(Segment::Es)),
        };
        let memory = MemoryOperand::string(register, segment, &self.prefixes);
        let repeat = self.prefixes.repeat != Repeat::None;
        Ok(Instruction {
            repeat,
            ..self.build(operation, size, memory)
        })
    }

    /// Opcodes that begin with 0F.
    fn two_byte(&mut self) -> Decoded {
        let opcode = self.cursor.u8()?;
        let code = 0x0f00 | u32::from(opcode);
        let wide = self.prefixes.operand_bytes();
        let size = self.size(opcode);
        match opcode {
            0xb6 | 0xb7 | 0xbe | 0xbf => {
                let operation = Operation::Load {
                    to: wide,
                    signed: opcode & 8 != 0,
                };
                let from = if opcode & 1 == 0 { 1 } else { 2 };
                self.modrm_sized(code, operation, from, wide)
            }
            0xa3 | 0xab | 0xb3 | 0xbb => {
                let operation = Operation::Bit(Bit::from_bits(opcode >> 3), Source::Register);
                self.modrm_sized(code, operation, wide, wide)
            }
            0xba => self.group(code, wide, |op| {
                let operation = Operation::Bit(Bit::from_bits(op), Source::Immediate);
                (op >= 4).then_some((operation, 1))
            }),
            0xb0 | 0xb1 => self.modrm_sized(code, Operation::CompareExchange, size, size),
            0xc0 | 0xc1 => self.modrm_sized(code, Operation::ExchangeAdd, size, size),
            // MOVNTI.
            0xc3 if !self.prefixes.selects() => {
                let size = wide.max(4);
                self.modrm_sized(code, Operation::Store(Source::Register), size, size)
            }
            0x38 => self.three_byte(wide),
            _ => Err(unsupported(code)),
        }
    }

    /// Opcodes that begin with 0F 38: MOVBE.
    fn three_byte(&mut self, size: u8) -> Decoded {
        let opcode = self.cursor.u8()?;
        let code = 0x0f_3800 | u32::from(opcode);
        let operation = match opcode {
            0xf0 => Operation::LoadSwapped,
            0xf1 => Operation::StoreSwapped,
            _ => return Err(unsupported(code)),
        };
        // With a repeat prefix this is CRC32.
        if self.prefixes.repeat != Repeat::None {
            return Err(unsupported(code));
        }
        self.modrm_sized(code, operation, size, size)
    }
}
