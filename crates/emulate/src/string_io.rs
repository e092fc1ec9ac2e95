//! INS and OUTS: string instructions whose other operand is a port.

use acrn_abi::Gva;

use crate::bytes::{Cursor, DecodeError, Mode, Prefixes, Repeat, mask};
use crate::emulation::{add_to, string_delta};
use crate::operand::{MemoryOperand, RCX, RDI, RSI, Registers, Segment};

/// A decoded INS or OUTS. The port is DX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// OUTS: from memory to the port.
    pub write: bool,
    /// Bytes of one access: 1, 2 or 4.
    pub size: u8,
    /// Whether a repeat prefix is present.
    pub repeat: bool,
    /// Length of the instruction in bytes.
    pub length: u8,
    memory: MemoryOperand,
    address_size: u8,
}

impl StringIo {
    /// Decodes the instruction at the start of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`]; anything but opcodes 6C to 6F is unsupported.
    pub fn decode(bytes: &[u8], mode: Mode) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        let (prefixes, opcode) = Prefixes::decode(&mut cursor, mode)?;
        let (register, segment) = match opcode {
            0x6c | 0x6d => (RDI, Some(Segment::Es)),
            0x6e | 0x6f => (RSI, None),
            _ => {
                return Err(DecodeError::Unsupported {
                    opcode: opcode.into(),
                });
            }
        };
        Ok(Self {
            write: opcode & 2 != 0,
            // There is no 64-bit port access.
            size: if opcode & 1 == 0 {
                1
            } else {
                prefixes.operand_bytes().min(4)
            },
            repeat: prefixes.repeat != Repeat::None,
            length: cursor.length(),
            memory: MemoryOperand::string(register, segment, &prefixes),
            address_size: prefixes.address_bytes(),
        })
    }

    /// Linear address of the next element.
    pub fn address(&self, regs: &impl Registers) -> Gva {
        self.memory.address(regs, self.length)
    }

    /// Elements left to transfer.
    pub fn count(&self, regs: &impl Registers) -> u64 {
        if self.repeat {
            regs.gpr(RCX) & mask(self.address_size)
        } else {
            1
        }
    }

    /// Accounts for one transferred element; `true` when the instruction is complete and RIP is to
    /// be advanced.
    pub fn advance(&self, regs: &mut impl Registers) -> bool {
        let register = if self.write { RSI } else { RDI };
        let delta = string_delta(regs, self.size);
        add_to(regs, register, self.address_size, delta);
        if self.repeat {
            add_to(regs, RCX, self.address_size, u64::MAX);
        }
        !self.repeat || self.count(regs) == 0
    }
}
