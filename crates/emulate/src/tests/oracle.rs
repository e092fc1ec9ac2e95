//! What the decoder says, compared with iced-x86.

use iced_x86::{Decoder, DecoderOptions, Instruction as Iced, Mnemonic, OpKind, Register as Reg};
use proptest::prelude::*;

use super::*;
use crate::alu::{Alu, Bit, Unary};
use crate::decode::{Operation, Source};

pub fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Bits16), Just(Mode::Bits32), Just(Mode::Bits64)]
}

pub fn iced(bytes: &[u8], mode: Mode) -> Iced {
    let bits = match mode {
        Mode::Bits16 => 16,
        Mode::Bits32 => 32,
        Mode::Bits64 => 64,
    };
    // LOCK where it is not allowed is let through here, as nothing depends on it.
    let options = DecoderOptions::NO_INVALID_CHECK | DecoderOptions::AMD;
    Decoder::with_ip(bits, bytes, 0x1000, options).decode()
}

/// Prefixes, perhaps REX, an opcode that matters, and random bytes behind.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec![
        0x66u8, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x41, 0x48,
    ]);
    let prefixes = prop::collection::vec(prefix, 0..4);
    let rex = prop_oneof![Just(None), (0x40u8..0x50).prop_map(Some)];
    let opcode = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<u8>().prop_map(|byte| vec![0x0f, byte]),
        (0xa3u8..=0xc3).prop_map(|byte| vec![0x0f, byte]),
        (0xf0u8..=0xf1).prop_map(|byte| vec![0x0f, 0x38, byte]),
    ];
    let tail = prop::array::uniform12(any::<u8>());
    (prefixes, rex, opcode, tail).prop_map(|(mut bytes, rex, opcode, tail)| {
        bytes.extend(rex);
        bytes.extend(opcode);
        bytes.extend(tail);
        bytes
    })
}

fn regs() -> impl Strategy<Value = Regs> {
    (
        prop::array::uniform16(any::<u64>()),
        prop::array::uniform6(any::<u32>()),
    )
        .prop_map(|(gprs, bases)| Regs {
            gprs,
            bases: bases.map(u64::from),
            ..Regs::new()
        })
}

fn mnemonics(operation: Operation) -> &'static [Mnemonic] {
    use Mnemonic::*;
    match operation {
        Operation::Load { signed: false, .. } => &[Mov, Movzx],
        Operation::Load { signed: true, .. } => &[Movsx, Movsxd],
        Operation::Store(_) => &[Mov, Movnti],
        Operation::LoadSwapped | Operation::StoreSwapped => &[Movbe],
        Operation::AluMemory(alu, _) | Operation::AluRegister(alu) => match alu {
            Alu::Add => &[Add],
            Alu::Or => &[Or],
            Alu::Adc => &[Adc],
            Alu::Sbb => &[Sbb],
            Alu::And => &[And],
            Alu::Sub => &[Sub],
            Alu::Xor => &[Xor],
            Alu::Cmp => &[Cmp],
        },
        Operation::Test(_) => &[Test],
        Operation::Unary(Unary::Not) => &[Not],
        Operation::Unary(Unary::Neg) => &[Neg],
        Operation::Unary(Unary::Inc) => &[Inc],
        Operation::Unary(Unary::Dec) => &[Dec],
        Operation::Exchange => &[Xchg],
        Operation::CompareExchange => &[Cmpxchg],
        Operation::ExchangeAdd => &[Xadd],
        Operation::Bit(Bit::Test, _) => &[Bt],
        Operation::Bit(Bit::Set, _) => &[Bts],
        Operation::Bit(Bit::Reset, _) => &[Btr],
        Operation::Bit(Bit::Complement, _) => &[Btc],
        Operation::Lods => &[Lodsb, Lodsw, Lodsd, Lodsq],
        Operation::Movs => &[Movsb, Movsw, Movsd, Movsq],
        Operation::Stos => &[Stosb, Stosw, Stosd, Stosq],
    }
}

fn is_memory(kind: OpKind) -> bool {
    !matches!(
        kind,
        OpKind::Register
            | OpKind::NearBranch16
            | OpKind::NearBranch32
            | OpKind::NearBranch64
            | OpKind::FarBranch16
            | OpKind::FarBranch32
            | OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// Value of a register or segment base of iced.
fn value(regs: &Regs, mode: Mode, register: Reg) -> u64 {
    if register.is_segment_register() {
        let index = register.number();
        return if mode == Mode::Bits64 && index < 4 {
            0
        } else {
            regs.bases[index]
        };
    }
    let full = regs.gprs[register.full_register().number()];
    match register {
        Reg::AH | Reg::CH | Reg::DH | Reg::BH => full >> 8 & 0xff,
        _ => full & bytes::mask(register.size() as u8),
    }
}

fn check(bytes: &[u8], mode: Mode, regs: &Regs) -> Result<(), TestCaseError> {
    let theirs = iced(bytes, mode);
    // MOVS has its source second.
    let operands: Vec<u32> = (0..theirs.op_count())
        .filter(|i| is_memory(theirs.op_kind(*i)))
        .collect();
    let ours = match Instruction::decode(bytes, mode) {
        Ok(ours) => ours,
        Err(error) => {
            let known = ALL_KNOWN.contains(&theirs.mnemonic()) && !operands.is_empty();
            let segment = theirs.op_count() > 1
                && (0..2).any(|i| {
                    let register = theirs.op_register(i);
                    register.is_segment_register() || register.is_vector_register()
                });
            let sse = theirs.mnemonic() == Mnemonic::Movsd && operands.len() == 1;
            // LOCK MOVNTI is #UD.
            let locked = theirs.mnemonic() == Mnemonic::Movnti && theirs.has_lock_prefix();
            let expected = !known || segment || sse || locked;
            prop_assert!(expected, "{error:?} for {theirs} {bytes:02x?}");
            return Ok(());
        }
    };
    prop_assert!(!theirs.is_invalid(), "{ours:?} is invalid: {bytes:02x?}");
    let names = mnemonics(ours.operation);
    prop_assert!(names.contains(&theirs.mnemonic()), "{ours:?} is {theirs}");
    prop_assert_eq!(
        usize::from(ours.length()),
        theirs.len(),
        "{} {:02x?}",
        theirs,
        bytes
    );
    prop_assert_eq!(
        usize::from(ours.size),
        theirs.memory_size().size(),
        "{}",
        theirs
    );
    let operand = *operands.last().expect("a memory operand");
    let address = theirs
        .virtual_address(operand, 0, |register, _, _| {
            Some(value(regs, mode, register))
        })
        .expect("an address");
    let address = if mode == Mode::Bits64 {
        address
    } else {
        address & 0xffff_ffff
    };
    prop_assert_eq!(
        ours.memory.address(regs, ours.length()),
        Gva(address),
        "{}",
        theirs
    );
    for index in 0..theirs.op_count() {
        if theirs.op_kind(index) == OpKind::Register {
            let register = theirs.op_register(index);
            let found = ours.register.read(regs, register.size() as u8);
            prop_assert_eq!(
                found,
                value(regs, mode, register),
                "{} {:02x?}",
                theirs,
                bytes
            );
        }
    }
    if let Operation::Store(Source::Immediate)
    | Operation::Test(Source::Immediate)
    | Operation::AluMemory(_, Source::Immediate) = ours.operation
    {
        let mask = bytes::mask(ours.size);
        prop_assert_eq!(
            ours.immediate & mask,
            theirs.immediate(1) & mask,
            "{}",
            theirs
        );
    }
    if matches!(
        ours.operation,
        Operation::Lods | Operation::Movs | Operation::Stos
    ) {
        prop_assert_eq!(
            ours.repeat,
            theirs.has_rep_prefix() || theirs.has_repne_prefix()
        );
    }
    Ok(())
}

const ALL_KNOWN: [Mnemonic; 37] = {
    use Mnemonic::*;
    [
        Mov, Movzx, Movsx, Movsxd, Movnti, Movbe, Add, Or, Adc, Sbb, And, Sub, Xor, Cmp, Test, Not,
        Neg, Inc, Dec, Xchg, Cmpxchg, Xadd, Bt, Bts, Btr, Btc, Lodsb, Lodsw, Lodsd, Lodsq, Movsb,
        Movsw, Movsd, Movsq, Stosb, Stosw, Stosd,
    ]
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40_000))]

    #[test]
    fn every_instruction_is_what_iced_says(bytes in bytes(), mode in mode(), regs in regs()) {
        check(&bytes, mode, &regs)?;
    }

    #[test]
    fn string_io_is_what_iced_says(bytes in bytes(), port in 0x6cu8..0x70, mode in mode(), regs in regs()) {
        let position = bytes.len() - 13;
        let mut bytes = bytes;
        bytes[position] = port;
        let Ok(ours) = StringIo::decode(&bytes, mode) else { return Ok(()) };
        let theirs = iced(&bytes, mode);
        prop_assert_eq!(usize::from(ours.length), theirs.len());
        prop_assert_eq!(usize::from(ours.size), theirs.memory_size().size());
        let operand = u32::from(ours.write);
        let address = theirs
            .virtual_address(operand, 0, |register, _, _| Some(value(&regs, mode, register)))
            .expect("an address");
        let address = if mode == Mode::Bits64 { address } else { address & 0xffff_ffff };
        prop_assert_eq!(ours.address(&regs), Gva(address), "{}", theirs);
    }
}

/// Bytes as compilers make them for device accesses.
fn plain_bytes() -> impl Strategy<Value = Vec<u8>> {
    let rex = prop_oneof![Just(None), (0x40u8..0x50).prop_map(Some)];
    let opcodes: Vec<&[u8]> = vec![
        &[0x88],
        &[0x89],
        &[0x8a],
        &[0x8b],
        &[0xc6],
        &[0xc7],
        &[0x0f, 0xb6],
        &[0x0f, 0xb7],
    ];
    let opcode = prop::sample::select(opcodes);
    (
        any::<bool>(),
        rex,
        opcode,
        prop::array::uniform11(any::<u8>()),
    )
        .prop_map(|(operand16, rex, opcode, tail)| {
            let mut bytes = if operand16 { vec![0x66] } else { vec![] };
            bytes.extend(rex);
            bytes.extend(opcode);
            bytes.extend(tail);
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn the_short_way_does_what_the_long_one_does(
        bytes in prop_oneof![plain_bytes(), bytes()],
        cut in 0usize..20,
        mode in mode(),
        regs in regs(),
        value: u64,
    ) {
        let bytes = &bytes[..bytes.len().min(cut)];
        let Some(plain) = PlainMov::decode(bytes, mode) else { return Ok(()) };
        let whole = Instruction::decode(bytes, mode).expect("known to the long way");
        prop_assert_eq!((plain.length(), plain.size()), (whole.length(), whole.size()));
        let (mut emulation, step) = Emulation::start(whole, &regs);
        let stored = if let Step::Store { value, .. } = step { Some(value) } else { None };
        prop_assert_eq!(plain.stored(&regs), stored);
        let (mut short, mut long) = (regs.clone(), regs);
        plain.complete(&mut short, value);
        prop_assert_eq!(emulation.resume(&mut long, value), Step::Done { advance_rip: true });
        prop_assert_eq!(short, long);
    }

    #[test]
    fn the_short_way_knows_what_compilers_make(bytes in plain_bytes()) {
        let known = Instruction::decode(&bytes, Mode::Bits64).is_ok();
        prop_assert_eq!(PlainMov::decode(&bytes, Mode::Bits64).is_some(), known);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused_and_end(
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        mode in mode(),
        regs in regs(),
        values in prop::array::uniform4(any::<u64>()),
    ) {
        let _ = System::decode(&bytes, mode);
        let _ = StringIo::decode(&bytes, mode);
        let Ok(instruction) = Instruction::decode(&bytes, mode) else { return Ok(()) };
        let mut regs = regs;
        let (mut emulation, mut step) = Emulation::start(instruction, &regs);
        for value in values {
            if matches!(step, Step::Done { .. }) {
                return Ok(());
            }
            step = emulation.resume(&mut regs, value);
        }
        let ended = matches!(step, Step::Done { .. });
        prop_assert!(ended);
    }

    #[test]
    fn a_cut_instruction_is_too_short(bytes in bytes(), mode in mode()) {
        if let Ok(whole) = Instruction::decode(&bytes, mode) {
            for length in 0..usize::from(whole.length()) {
                let cut = Instruction::decode(&bytes[..length], mode);
                prop_assert_eq!(cut, Err(DecodeError::TooShort));
            }
        }
    }
}

#[test]
fn fifteen_bytes_are_the_limit() {
    let mut bytes = vec![0x2e; 13];
    bytes.extend([0x8b, 0x00]);
    assert_eq!(
        Instruction::decode(&bytes, Mode::Bits32).map(|i| i.length()),
        Ok(15)
    );
    bytes.insert(0, 0x2e);
    assert_eq!(
        Instruction::decode(&bytes, Mode::Bits32),
        Err(DecodeError::TooLong)
    );
}

#[test]
fn refusals_name_the_opcode() {
    let opcode = |bytes: &[u8]| Instruction::decode(bytes, Mode::Bits64).unwrap_err();
    assert_eq!(
        opcode(&[0x8f, 0x00]),
        DecodeError::Unsupported { opcode: 0x8f }
    );
    assert_eq!(
        opcode(&[0x0f, 0x05]),
        DecodeError::Unsupported { opcode: 0x0f05 }
    );
    assert_eq!(
        opcode(&[0x0f, 0x38, 0]),
        DecodeError::Unsupported { opcode: 0x0f_3800 }
    );
    assert_eq!(
        opcode(&[0x89, 0xc0]),
        DecodeError::Unsupported { opcode: 0x89 }
    );
}
