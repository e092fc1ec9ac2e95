//! The instruction behind an exit: decoding it, and doing in software what it would have done.
//!
//! * [`Instruction::decode`] understands the instructions with which guests touch device memory.
//! * [`Emulation`] carries one out as a state machine that hands each memory access to its caller
//!   and continues with the answer, whenever that comes: an access that the Device Model answers
//!   takes an arbitrary time and the vCPU's thread sleeps meanwhile.
//! * [`PlainMov`] is a short cut for the commonest of them.
//! * [`System::decode`] gives operands and length of privileged instructions, for processors whose
//!   exits do not report them.
//! * [`StringIo`] is INS and OUTS.
//! * [`task`] switches tasks, for processors that leave that to the hypervisor.
//! * [`paging`] walks the guest's page tables, to fetch the instruction and to find its operands.
//!
//! Bytes, registers and tables come from the guest and may change while they are read: every
//! value is possible, nothing here panics, loops without bound or allocates. Registers are changed
//! only when an instruction is complete, so a refused access can become a fault of the guest.
//!
//! References are to the Intel SDM, volume 2 (instruction formats: 2.1, 2.2).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod alu;
mod bytes;
mod decode;
mod emulation;
mod operand;
pub mod paging;
mod plain;
mod string_io;
mod system;
pub mod task;
#[cfg(test)]
mod tests;

pub use bytes::{DecodeError, MAX_LENGTH, Mode};
pub use decode::Instruction;
pub use emulation::{Emulation, Step};
pub use operand::{MemoryOperand, Operand, Registers, Segment};
pub use plain::PlainMov;
pub use string_io::StringIo;
pub use system::{System, SystemOp, is_vmcall, length};
