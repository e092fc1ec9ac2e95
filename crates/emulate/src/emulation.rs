//! Carrying out an instruction, one memory access at a time.

use acrn_abi::Gva;

use crate::alu::{Alu, DF, logic};
use crate::bytes::{mask, sign_extend};
use crate::decode::{Instruction, Operation, Source};
use crate::operand::{RCX, RDI, RSI, Register, Registers, Segment, linear, write_sized};

/// What the caller has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read `size` bytes (1, 2, 4 or 8) and resume with them, zero-extended.
    Load {
        /// Linear address; may cross a page.
        address: Gva,
        /// Bytes.
        size: u8,
    },
    /// Write the low `size` bytes of `value` and resume with any value.
    Store {
        /// Linear address; may cross a page.
        address: Gva,
        /// Bytes.
        size: u8,
        /// Zero-extended.
        value: u64,
    },
    /// The registers are up to date.
    Done {
        /// Whether the instruction is complete: then RIP is to be advanced by its length.
        /// Otherwise it is a repeated string instruction with iterations left, and is to run again.
        advance_rip: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Storing,
    Finished,
}

/// An instruction under way. Dropping it before it is done leaves the registers as they were.
#[derive(Clone, Copy, Debug)]
pub struct Emulation {
    instruction: Instruction,
    address: Gva,
    phase: Phase,
    /// What was loaded, for operations that store afterwards.
    loaded: u64,
    /// RFLAGS once the store is done.
    rflags: u64,
}

const COMPLETE: Step = Step::Done { advance_rip: true };

impl Emulation {
    /// Begins to carry out `instruction`; a repeated string instruction does one iteration.
    #[inline]
    pub fn start(instruction: Instruction, regs: &impl Registers) -> (Self, Step) {
        let address = match instruction.operation {
            Operation::Bit(_, Source::Register) => bit_address(&instruction, regs),
            _ => instruction.memory.address(regs, instruction.length()),
        };
        let mut emulation = Self {
            instruction,
            address,
            phase: Phase::Loading,
            loaded: 0,
            rflags: 0,
        };
        let size = instruction.size;
        if instruction.repeat && regs.gpr(RCX) & mask(instruction.address_size) == 0 {
            emulation.phase = Phase::Finished;
            return (emulation, COMPLETE);
        }
        let step = match instruction.operation {
            Operation::Store(source) => emulation.store(emulation.source(regs, source)),
            Operation::StoreSwapped => emulation.store(swap(emulation.register(regs), size)),
            Operation::Stos => emulation.store(Register::RAX.read(regs, size)),
            _ => Step::Load { address, size },
        };
        (emulation, step)
    }

    /// The instruction.
    pub const fn instruction(&self) -> &Instruction {
        &self.instruction
    }

    /// Continues after the last step's access; `value` is what a load has read.
    #[inline]
    pub fn resume(&mut self, regs: &mut impl Registers, value: u64) -> Step {
        match self.phase {
            Phase::Loading => self.after_load(regs, value & mask(self.instruction.size)),
            Phase::Storing => self.after_store(regs),
            Phase::Finished => COMPLETE,
        }
    }

    fn register(&self, regs: &impl Registers) -> u64 {
        self.instruction.register.read(regs, self.instruction.size)
    }

    #[inline]
    fn source(&self, regs: &impl Registers, source: Source) -> u64 {
        match source {
            Source::Register => self.register(regs),
            Source::Immediate => self.instruction.immediate & mask(self.instruction.size),
        }
    }

    #[inline]
    fn store(&mut self, value: u64) -> Step {
        self.phase = Phase::Storing;
        Step::Store {
            address: self.address,
            size: self.instruction.size,
            value,
        }
    }

    fn store_with_flags(&mut self, (value, rflags): (u64, u64)) -> Step {
        self.rflags = rflags;
        self.store(value)
    }

    #[inline]
    fn finish(&mut self) -> Step {
        self.phase = Phase::Finished;
        COMPLETE
    }

    fn after_load(&mut self, regs: &mut impl Registers, value: u64) -> Step {
        let Instruction {
            operation,
            register,
            size,
            ..
        } = self.instruction;
        let rflags = regs.rflags();
        self.loaded = value;
        match operation {
            Operation::Load { to, signed } => {
                let value = if signed {
                    sign_extend(value, size)
                } else {
                    value
                };
                register.write(regs, to, value);
                self.finish()
            }
            Operation::LoadSwapped => {
                register.write(regs, size, swap(value, size));
                self.finish()
            }
            Operation::AluRegister(alu) => {
                let (result, rflags) = alu.apply(register.read(regs, size), value, size, rflags);
                if alu != Alu::Cmp {
                    register.write(regs, size, result);
                }
                regs.set_rflags(rflags);
                self.finish()
            }
            Operation::AluMemory(alu, source) => {
                let result = alu.apply(value, self.source(regs, source), size, rflags);
                if alu == Alu::Cmp {
                    regs.set_rflags(result.1);
                    return self.finish();
                }
                self.store_with_flags(result)
            }
            Operation::Test(source) => {
                regs.set_rflags(logic(value & self.source(regs, source), size, rflags).1);
                self.finish()
            }
            Operation::Unary(unary) => self.store_with_flags(unary.apply(value, size, rflags)),
            Operation::Exchange => self.store(register.read(regs, size)),
            Operation::CompareExchange => {
                let (difference, rflags) =
                    Alu::Cmp.apply(Register::RAX.read(regs, size), value, size, rflags);
                // Processors write in either case.
                let new = if difference == 0 {
                    register.read(regs, size)
                } else {
                    value
                };
                self.store_with_flags((new, rflags))
            }
            Operation::ExchangeAdd => {
                let sum = Alu::Add.apply(value, register.read(regs, size), size, rflags);
                self.store_with_flags(sum)
            }
            Operation::Bit(bit, source) => {
                let result = bit.apply(value, self.source(regs, source), size, rflags);
                if bit == crate::alu::Bit::Test {
                    regs.set_rflags(result.1);
                    return self.finish();
                }
                self.store_with_flags(result)
            }
            Operation::Lods => {
                Register::RAX.write(regs, size, value);
                self.end_of_iteration(regs)
            }
            Operation::Movs => {
                let offset = regs.gpr(RDI) & mask(self.instruction.address_size);
                self.address = linear(regs, self.instruction.mode, Segment::Es, offset);
                self.store(value)
            }
            // These begin with a store.
            Operation::Store(_) | Operation::StoreSwapped | Operation::Stos => self.finish(),
        }
    }

    fn after_store(&mut self, regs: &mut impl Registers) -> Step {
        let Instruction {
            operation,
            register,
            size,
            ..
        } = self.instruction;
        match operation {
            Operation::Store(_) | Operation::StoreSwapped => return self.finish(),
            Operation::Stos | Operation::Movs => return self.end_of_iteration(regs),
            Operation::Exchange => {
                register.write(regs, size, self.loaded);
                return self.finish();
            }
            Operation::ExchangeAdd => register.write(regs, size, self.loaded),
            Operation::CompareExchange if self.rflags & crate::alu::ZF == 0 => {
                Register::RAX.write(regs, size, self.loaded);
            }
            _ => {}
        }
        regs.set_rflags(self.rflags);
        self.finish()
    }

    /// Moves the pointers of a string instruction and counts.
    fn end_of_iteration(&mut self, regs: &mut impl Registers) -> Step {
        let Instruction {
            operation,
            size,
            address_size,
            repeat,
            ..
        } = self.instruction;
        self.phase = Phase::Finished;
        let delta = string_delta(regs, size);
        if matches!(operation, Operation::Lods | Operation::Movs) {
            add_to(regs, RSI, address_size, delta);
        }
        if matches!(operation, Operation::Stos | Operation::Movs) {
            add_to(regs, RDI, address_size, delta);
        }
        if repeat {
            add_to(regs, RCX, address_size, u64::MAX);
        }
        Step::Done {
            advance_rip: !repeat || regs.gpr(RCX) & mask(address_size) == 0,
        }
    }
}

/// By how much a string pointer moves: up or down, by RFLAGS.DF.
pub(crate) fn string_delta(regs: &impl Registers, size: u8) -> u64 {
    let size = u64::from(size);
    if regs.rflags() & DF != 0 {
        size.wrapping_neg()
    } else {
        size
    }
}

/// Adds to a register at a given address size.
pub(crate) fn add_to(regs: &mut impl Registers, n: u8, address_size: u8, delta: u64) {
    let value = regs.gpr(n).wrapping_add(delta);
    write_sized(regs, n, address_size, value);
}

/// A bit number in a register is signed and reaches beyond the operand: the address moves by
/// whole operands.
fn bit_address(instruction: &Instruction, regs: &impl Registers) -> Gva {
    let size = instruction.size;
    let number = sign_extend(instruction.register.read(regs, size), size) as i64;
    let operands = number.div_euclid(i64::from(size) * 8);
    instruction
        .memory
        .address_plus(regs, instruction.length(), operands * i64::from(size))
}

/// The bytes of the low `size` bytes in reverse.
fn swap(value: u64, size: u8) -> u64 {
    value.swap_bytes() >> (64 - 8 * u32::from(size))
}
