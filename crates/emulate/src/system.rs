//! Privileged and other intercepted instructions: operands and length.
//!
//! Processors with next-RIP save and decode assists report both with the exit; those without
//! leave it to this module.

use crate::bytes::{Cursor, DecodeError, Mode, Prefixes, Repeat};
use crate::operand::{MemoryOperand, ModRm, Operand};

/// What the instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemOp {
    /// MOV to a control register.
    MovToCr {
        /// Number of the control register.
        cr: u8,
        /// Number of the general-purpose register.
        gpr: u8,
    },
    /// MOV from a control register.
    MovFromCr {
        /// Number of the control register.
        cr: u8,
        /// Number of the general-purpose register.
        gpr: u8,
    },
    /// MOV to a debug register.
    MovToDr {
        /// Number of the debug register.
        dr: u8,
        /// Number of the general-purpose register.
        gpr: u8,
    },
    /// MOV from a debug register.
    MovFromDr {
        /// Number of the debug register.
        dr: u8,
        /// Number of the general-purpose register.
        gpr: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw(Operand),
    /// SMSW; a register gets 16, 32 or 64 bits, memory 16.
    Smsw {
        /// Destination.
        operand: Operand,
        /// Bytes that a register destination gets.
        size: u8,
    },
    /// INVLPG.
    Invlpg(MemoryOperand),
    /// CPUID.
    Cpuid,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// HLT.
    Hlt,
    /// VMMCALL (AMD).
    Vmmcall,
    /// VMCALL (Intel).
    Vmcall,
    /// XSETBV.
    Xsetbv,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// PAUSE.
    Pause,
    /// RDPMC.
    Rdpmc,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// MONITOR or MONITORX.
    Monitor,
    /// MWAIT or MWAITX.
    Mwait,
    /// IRET of any size.
    Iret,
    /// RSM.
    Rsm,
    /// PUSHF of any size.
    Pushf,
    /// POPF of any size.
    Popf,
    /// CLI.
    Cli,
    /// STI.
    Sti,
    /// INT n, INT3, INTO or INT1.
    Int,
    /// VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT or INVLPGA (AMD), by the last opcode byte.
    Svm(u8),
    /// SGDT, SIDT, LGDT or LIDT, by the ModRM extension.
    DescriptorTable(u8),
    /// SLDT, STR, LLDT or LTR, by the ModRM extension.
    LocalDescriptor(u8),
    /// IN or OUT of one element.
    PortIo,
}

/// An instruction with its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct System {
    /// What it is.
    pub op: SystemOp,
    /// Bytes, prefixes included.
    pub length: u8,
}

/// Length of a system instruction at the start of `bytes`.
///
/// # Errors
/// As for [`System::decode`].
pub fn length(bytes: &[u8], mode: Mode) -> Result<u8, DecodeError> {
    System::decode(bytes, mode).map(|system| system.length)
}

/// Whether `bytes` start with VMCALL, which on an AMD processor ends in #UD.
pub fn is_vmcall(bytes: &[u8], mode: Mode) -> bool {
    System::decode(bytes, mode).is_ok_and(|system| system.op == SystemOp::Vmcall)
}

impl System {
    /// Decodes the instruction at the start of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`]; what [`SystemOp`] does not list is unsupported.
    pub fn decode(bytes: &[u8], mode: Mode) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        let (prefixes, opcode) = Prefixes::decode(&mut cursor, mode)?;
        let op = match opcode {
            0x0f => two_byte(&mut cursor, &prefixes)?,
            0x90 if prefixes.repeat == Repeat::Equal && prefixes.rex & 1 == 0 => SystemOp::Pause,
            0x9c => SystemOp::Pushf,
            0x9d => SystemOp::Popf,
            0xcc | 0xf1 => SystemOp::Int,
            0xce if mode != Mode::Bits64 => SystemOp::Int,
            0xcd => {
                cursor.u8()?;
                SystemOp::Int
            }
            0xcf => SystemOp::Iret,
            0xe4..=0xe7 => {
                cursor.u8()?;
                SystemOp::PortIo
            }
            0xec..=0xef => SystemOp::PortIo,
            0xf4 => SystemOp::Hlt,
            0xfa => SystemOp::Cli,
            0xfb => SystemOp::Sti,
            _ => {
                return Err(DecodeError::Unsupported {
                    opcode: opcode.into(),
                });
            }
        };
        Ok(Self {
            op,
            length: cursor.length(),
        })
    }
}

fn two_byte(cursor: &mut Cursor<'_>, prefixes: &Prefixes) -> Result<SystemOp, DecodeError> {
    let opcode = cursor.u8()?;
    Ok(match opcode {
        0x00 => {
            let modrm = ModRm::decode(cursor, prefixes)?;
            if modrm.extension > 3 {
                return Err(DecodeError::Unsupported { opcode: 0x0f00 });
            }
            SystemOp::LocalDescriptor(modrm.extension)
        }
        0x01 => return group7(cursor, prefixes),
        0x06 => SystemOp::Clts,
        0x08 => SystemOp::Invd,
        0x09 => SystemOp::Wbinvd,
        0x20..=0x23 => return mov_special(cursor, prefixes, opcode),
        0x30 => SystemOp::Wrmsr,
        0x31 => SystemOp::Rdtsc,
        0x32 => SystemOp::Rdmsr,
        0x33 => SystemOp::Rdpmc,
        0xa2 => SystemOp::Cpuid,
        0xaa => SystemOp::Rsm,
        _ => {
            return Err(DecodeError::Unsupported {
                opcode: 0x0f00 | u32::from(opcode),
            });
        }
    })
}

/// MOV with a control or debug register. Both operands are registers whatever ModRM's mode says,
/// and no displacement follows.
fn mov_special(
    cursor: &mut Cursor<'_>,
    prefixes: &Prefixes,
    opcode: u8,
) -> Result<SystemOp, DecodeError> {
    let byte = cursor.u8()?;
    let gpr = byte & 7 | prefixes.rex_b();
    let special = byte >> 3 & 7 | prefixes.rex_r();
    // AMD: LOCK reaches CR8 outside 64-bit mode (APM 3, MOV CRn).
    let cr = if prefixes.lock { special | 8 } else { special };
    Ok(match opcode {
        0x20 => SystemOp::MovFromCr { cr, gpr },
        0x21 => SystemOp::MovFromDr { dr: special, gpr },
        0x22 => SystemOp::MovToCr { cr, gpr },
        _ => SystemOp::MovToDr { dr: special, gpr },
    })
}

/// Opcode 0F 01.
fn group7(cursor: &mut Cursor<'_>, prefixes: &Prefixes) -> Result<SystemOp, DecodeError> {
    let unsupported = Err(DecodeError::Unsupported { opcode: 0x0f01 });
    let modrm = ModRm::decode(cursor, prefixes)?;
    let Operand::Register(rm) = modrm.operand else {
        let Operand::Memory(memory) = modrm.operand else {
            return unsupported;
        };
        return Ok(match modrm.extension {
            0..=3 => SystemOp::DescriptorTable(modrm.extension),
            4 => SystemOp::Smsw {
                operand: modrm.operand,
                size: 2,
            },
            6 => SystemOp::Lmsw(modrm.operand),
            7 => SystemOp::Invlpg(memory),
            _ => return unsupported,
        });
    };
    if modrm.extension == 4 {
        return Ok(SystemOp::Smsw {
            operand: modrm.operand,
            size: prefixes.operand_bytes(),
        });
    }
    if modrm.extension == 6 {
        return Ok(SystemOp::Lmsw(modrm.operand));
    }
    // The rest are single instructions by the whole byte; 66, F2 and F3 select others.
    let byte = 0xc0 | modrm.extension << 3 | rm & 7;
    if prefixes.selects() {
        return unsupported;
    }
    Ok(match byte {
        0xc1 => SystemOp::Vmcall,
        0xc8 | 0xfa => SystemOp::Monitor,
        0xc9 | 0xfb => SystemOp::Mwait,
        0xd1 => SystemOp::Xsetbv,
        0xd9 => SystemOp::Vmmcall,
        0xd8 | 0xda..=0xdf => SystemOp::Svm(byte),
        0xf9 => SystemOp::Rdtscp,
        _ => return unsupported,
    })
}
