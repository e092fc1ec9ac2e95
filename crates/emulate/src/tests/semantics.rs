//! What instructions do to registers, memory and flags.

use proptest::prelude::*;

use super::*;
use crate::alu::{AF, CF, DF, OF, PF, SF, STATUS, ZF};

const RAX: usize = 0;
const RCX: usize = 1;
const RBX: usize = 3;
const RSI: usize = 6;
const RDI: usize = 7;
const ALL: u64 = 0x1122_3344_5566_7788;

/// A 64-bit machine with RBX at 0x2000 and `value` there.
fn machine(value: u64) -> Machine {
    let mut machine = Machine::new(Mode::Bits64);
    machine.regs.gprs[RBX] = 0x2000;
    machine.write(0x2000, 8, value);
    machine
}

#[test]
fn loads_fill_registers_by_operand_size() {
    let load = |bytes: &[u8], value| {
        let mut machine = machine(value);
        machine.regs.gprs[RAX] = ALL;
        machine.run(bytes);
        machine.regs.gprs[RAX]
    };
    let value = 0x8899_aabb_ccdd_eeff;
    assert_eq!(load(&[0x8a, 0x03], value), ALL & !0xff | 0xff);
    assert_eq!(load(&[0x8a, 0x23], value), ALL & !0xff00 | 0xff00); // AH
    assert_eq!(load(&[0x66, 0x8b, 0x03], value), ALL & !0xffff | 0xeeff);
    assert_eq!(load(&[0x8b, 0x03], value), 0xccdd_eeff);
    assert_eq!(load(&[0x48, 0x8b, 0x03], value), value);
    assert_eq!(load(&[0x0f, 0xb6, 0x03], value), 0xff); // MOVZX
    assert_eq!(load(&[0x0f, 0xb7, 0x03], value), 0xeeff);
    assert_eq!(load(&[0x0f, 0xbe, 0x03], value), 0xffff_ffff); // MOVSX
    assert_eq!(
        load(&[0x66, 0x0f, 0xbe, 0x03], value),
        ALL & !0xffff | 0xffff
    );
    assert_eq!(
        load(&[0x48, 0x0f, 0xbf, 0x03], value),
        0xffff_ffff_ffff_eeff
    );
    assert_eq!(load(&[0x48, 0x63, 0x03], value), 0xffff_ffff_ccdd_eeff); // MOVSXD
    assert_eq!(load(&[0x0f, 0x38, 0xf0, 0x03], value), 0xffee_ddcc); // MOVBE
}

#[test]
fn stores_write_as_many_bytes_as_the_operand_has() {
    let store = |bytes: &[u8]| {
        let mut machine = machine(0);
        machine.regs.gprs[RAX] = ALL;
        machine.run(bytes);
        machine.read(0x2000, 8)
    };
    assert_eq!(store(&[0x88, 0x03]), 0x88);
    assert_eq!(store(&[0x88, 0x23]), 0x77); // AH
    assert_eq!(store(&[0x40, 0x88, 0x23]), 0); // SPL
    assert_eq!(store(&[0x66, 0x89, 0x03]), 0x7788);
    assert_eq!(store(&[0x89, 0x03]), 0x5566_7788);
    assert_eq!(store(&[0x48, 0x89, 0x03]), ALL);
    assert_eq!(store(&[0xc6, 0x03, 0x5a]), 0x5a);
    assert_eq!(store(&[0xc7, 0x03, 0xff, 0xff, 0xff, 0xff]), 0xffff_ffff);
    assert_eq!(store(&[0x48, 0xc7, 0x03, 0xff, 0xff, 0xff, 0xff]), u64::MAX);
    assert_eq!(store(&[0x66, 0x0f, 0x38, 0xf1, 0x03]), 0x8877); // MOVBE
    assert_eq!(store(&[0x48, 0x0f, 0xc3, 0x03]), ALL); // MOVNTI
}

#[test]
fn a_refused_access_changes_no_register() {
    let mut machine = machine(5);
    machine.regs.gprs[RAX] = 7;
    let before = machine.regs.clone();
    let xadd = Instruction::decode(&[0x0f, 0xc1, 0x03], Mode::Bits64).unwrap();
    let (mut emulation, step) = Emulation::start(xadd, &machine.regs);
    assert_eq!(
        step,
        Step::Load {
            address: Gva(0x2000),
            size: 4
        }
    );
    let step = emulation.resume(&mut machine.regs, 5);
    assert_eq!(
        step,
        Step::Store {
            address: Gva(0x2000),
            size: 4,
            value: 12
        }
    );
    assert_eq!(machine.regs, before);
    assert_eq!(
        emulation.resume(&mut machine.regs, 0),
        Step::Done { advance_rip: true }
    );
    assert_eq!(machine.regs.gprs[RAX], 5);
}

#[test]
fn exchange_swaps_and_changes_no_flag() {
    let mut machine = machine(5);
    machine.regs.gprs[RAX] = ALL;
    machine.regs.rflags = STATUS;
    machine.run(&[0x87, 0x03]);
    assert_eq!(
        (machine.regs.gprs[RAX], machine.read(0x2000, 8)),
        (5, ALL & 0xffff_ffff)
    );
    assert_eq!(machine.regs.rflags, STATUS);
}

#[test]
fn compare_exchange_stores_only_on_equality() {
    let mut machine = machine(5);
    machine.regs.gprs[RAX] = 5;
    machine.regs.gprs[RCX] = 9;
    machine.run(&[0x0f, 0xb1, 0x0b]);
    assert_eq!((machine.read(0x2000, 4), machine.regs.rflags & ZF), (9, ZF));
    machine.run(&[0x0f, 0xb1, 0x0b]);
    assert_eq!((machine.read(0x2000, 4), machine.regs.rflags & ZF), (9, 0));
    assert_eq!(machine.regs.gprs[RAX], 9);
}

#[test]
fn bit_numbers_in_registers_reach_beyond_the_operand() {
    let mut machine = machine(0);
    machine.regs.gprs[RAX] = 33;
    machine.run(&[0x0f, 0xab, 0x03]); // BTS [rbx], eax
    assert_eq!((machine.read(0x2004, 4), machine.regs.rflags & CF), (2, 0));
    machine.run(&[0x0f, 0xb3, 0x03]); // BTR
    assert_eq!((machine.read(0x2004, 4), machine.regs.rflags & CF), (0, CF));
    machine.regs.gprs[RAX] = -1i32 as u32 as u64;
    machine.run(&[0x0f, 0xbb, 0x03]); // BTC
    assert_eq!(machine.read(0x1ffc, 4), 1 << 31);
    machine.run(&[0x0f, 0xba, 0x23, 33]); // BT with an immediate stays inside
    assert_eq!(machine.regs.rflags & CF, 0);
}

#[test]
fn repeated_stores_run_one_at_a_time() {
    let mut machine = machine(0);
    machine.regs.gprs[RAX] = 0xabcd;
    machine.regs.gprs[RCX] = 3;
    machine.regs.gprs[RDI] = 0x3000;
    assert_eq!(machine.run(&[0xf3, 0x66, 0xab]), 3);
    assert_eq!(machine.read(0x3000, 8), 0xabcd_abcd_abcd);
    assert_eq!(
        (machine.regs.gprs[RCX], machine.regs.gprs[RDI]),
        (0, 0x3006)
    );
}

#[test]
fn a_repeat_count_of_zero_does_nothing() {
    let mut machine = machine(0);
    machine.regs.gprs[RCX] = 1 << 32;
    machine.regs.gprs[RDI] = 0x3000;
    let before = machine.regs.clone();
    assert_eq!(machine.run(&[0x67, 0xf3, 0xaa]), 1);
    assert_eq!(machine.regs, before);
}

#[test]
fn string_moves_go_down_with_the_direction_flag() {
    let mut machine = machine(0);
    machine.write(0x3000, 8, 0x8877_6655_4433_2211);
    machine.regs.rflags |= DF;
    machine.regs.gprs[RCX] = 2;
    machine.regs.gprs[RSI] = 0x3004;
    machine.regs.gprs[RDI] = 0x4004;
    machine.run(&[0xf3, 0xa5]);
    assert_eq!(machine.read(0x4000, 8), 0x8877_6655_4433_2211);
    assert_eq!(
        (machine.regs.gprs[RSI], machine.regs.gprs[RDI]),
        (0x2ffc, 0x3ffc)
    );
}

#[test]
fn sixteen_bit_pointers_wrap_and_keep_the_upper_half() {
    let mut machine = Machine::new(Mode::Bits16);
    machine.regs.gprs[RSI] = 0xabcd_ffff;
    machine.memory[0xffff] = 0x42;
    machine.run(&[0xac]); // LODSB
    assert_eq!(machine.regs.gprs[RSI], 0xabcd_0000);
    assert_eq!(machine.regs.gprs[RAX], 0x42);
}

#[test]
fn real_mode_addresses_are_segment_plus_offset() {
    let mut machine = Machine::new(Mode::Bits16);
    machine.regs.bases[Segment::Ds as usize] = 0x1000;
    machine.regs.bases[Segment::Es as usize] = 0x4000;
    machine.write(0x1234, 2, 0xbeef);
    machine.run(&[0xa1, 0x34, 0x02]); // MOV AX, [0x234]
    assert_eq!(machine.regs.gprs[RAX], 0xbeef);
    machine.run(&[0x26, 0xa3, 0x00, 0x00]); // MOV ES:[0], AX
    assert_eq!(machine.read(0x4000, 2), 0xbeef);
}

#[test]
fn string_io_counts_and_moves() {
    let mut regs = Regs::new();
    regs.gprs[RCX] = 2;
    regs.gprs[RSI] = 0x3000;
    let outs = StringIo::decode(&[0xf3, 0x6f], Mode::Bits64).unwrap();
    assert_eq!(
        (outs.write, outs.size, outs.length, outs.count(&regs)),
        (true, 4, 2, 2)
    );
    assert!(!outs.advance(&mut regs));
    assert_eq!(outs.address(&regs), Gva(0x3004));
    assert!(outs.advance(&mut regs));
    assert_eq!((regs.gprs[RCX], outs.count(&regs)), (0, 0));
}

/// Value of the low `bits` bits as a signed number.
fn signed(value: u64, bits: u32) -> i128 {
    i128::from(value as i64) << (128 - bits) >> (128 - bits)
}

/// Result and flags from the definitions of the flags, with wide numbers.
fn reference(op: u8, a: u64, b: u64, carry: bool, bits: u32) -> (u64, u64) {
    let mask = u64::MAX >> (64 - bits);
    let (a, b, carry) = (a & mask, b & mask, i128::from(carry));
    let (ua, ub) = (i128::from(a), i128::from(b));
    let (sa, sb) = (signed(a, bits), signed(b, bits));
    let (na, nb) = (ua & 15, ub & 15);
    let (unsigned, whole, nibble) = match op {
        0 => (ua + ub, sa + sb, na + nb),
        2 => (ua + ub + carry, sa + sb + carry, na + nb + carry),
        3 => (ua - ub - carry, sa - sb - carry, na - nb - carry),
        5 | 7 => (ua - ub, sa - sb, na - nb),
        1 => (ua | ub, sa | sb, 0),
        4 => (ua & ub, sa & sb, 0),
        _ => (ua ^ ub, sa ^ sb, 0),
    };
    let result = unsigned as u64 & mask;
    let mut flags = 0;
    let mut set = |flag, condition| flags |= if condition { flag } else { 0 };
    set(CF, !(0..=i128::from(mask)).contains(&unsigned));
    set(OF, whole != signed(result, bits));
    set(AF, !(0..16).contains(&nibble));
    set(ZF, result == 0);
    set(SF, signed(result, bits) < 0);
    set(
        PF,
        (0..8).filter(|bit| result >> bit & 1 != 0).count() % 2 == 0,
    );
    (result, flags)
}

fn number() -> impl Strategy<Value = u64> {
    let edge = prop::sample::select(vec![
        0u64,
        1,
        0xf,
        0x10,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 63,
        u64::MAX,
        u64::MAX - 1,
        i64::MAX as u64,
    ]);
    prop_oneof![edge, any::<u64>()]
}

/// Size in bits, prefixes for it, and whether it is the byte form.
fn size() -> impl Strategy<Value = (u32, Vec<u8>, bool)> {
    prop::sample::select(vec![
        (8, vec![], true),
        (16, vec![0x66], false),
        (32, vec![], false),
        (64, vec![0x48], false),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arithmetic_on_memory_sets_the_flags_of_the_manual(
        op in 0u8..8, a in number(), b in number(), carry: bool, (bits, mut code, byte) in size(),
        to_register: bool,
    ) {
        let mut machine = machine(a);
        machine.regs.gprs[RCX] = b;
        machine.regs.rflags = 0x202 | u64::from(carry) | OF;
        code.extend([op << 3 | u8::from(!byte) | if to_register { 2 } else { 0 }, 0x0b]);
        machine.run(&code);
        let (left, right) = if to_register { (b, a) } else { (a, b) };
        let (result, flags) = reference(op, left, right, carry, bits);
        let place = if to_register { machine.regs.gprs[RCX] } else { machine.read(0x2000, 8) };
        let mask = u64::MAX >> (64 - bits);
        let expected = if op == 7 { left } else { result };
        prop_assert_eq!(place & mask, expected & mask);
        prop_assert_eq!(machine.regs.rflags, 0x202 | flags);
        if !to_register {
            prop_assert_eq!(machine.read(0x2000, 8) & !mask, a & !mask);
        }
    }

    #[test]
    fn immediates_are_sign_extended(op in 0u8..8, a in number(), b: i8, carry: bool) {
        let mut machine = machine(a);
        machine.regs.rflags = 2 | u64::from(carry);
        machine.run(&[0x48, 0x83, op << 3 | 3, b as u8]);
        let (result, flags) = reference(op, a, b as u64, carry, 64);
        let expected = if op == 7 { a } else { result };
        prop_assert_eq!(machine.read(0x2000, 8), expected);
        prop_assert_eq!(machine.regs.rflags, 2 | flags);
    }

    #[test]
    fn one_operand_arithmetic_sets_the_flags_of_the_manual(
        a in number(), carry: bool, (bits, code, byte) in size(),
    ) {
        let wide = u8::from(!byte);
        let mask = u64::MAX >> (64 - bits);
        let carry_flag = u64::from(carry);
        let run = |opcode: u8, extension: u8| {
            let mut machine = machine(a);
            machine.regs.rflags = 2 | carry_flag;
            let mut code = code.clone();
            code.extend([opcode | wide, extension << 3 | 3]);
            machine.run(&code);
            (machine.read(0x2000, 8) & mask, machine.regs.rflags & !2)
        };
        let keep_carry = |(result, flags): (u64, u64)| (result, flags & !CF | carry_flag);
        prop_assert_eq!(run(0xfe, 0), keep_carry(reference(0, a, 1, false, bits)));
        prop_assert_eq!(run(0xfe, 1), keep_carry(reference(5, a, 1, false, bits)));
        prop_assert_eq!(run(0xf6, 2), (!a & mask, carry_flag));
        prop_assert_eq!(run(0xf6, 3), reference(5, 0, a, false, bits));
    }

    #[test]
    fn test_and_exchange_add_agree_with_and_and_add(
        a in number(), b in number(), (bits, code, byte) in size(),
    ) {
        let wide = u8::from(!byte);
        let mask = u64::MAX >> (64 - bits);
        let run = |opcode: &[u8]| {
            let mut machine = machine(a);
            machine.regs.gprs[RCX] = b;
            let mut code = code.clone();
            code.extend(opcode);
            *code.last_mut().unwrap() |= wide;
            code.push(0x0b);
            machine.run(&code);
            (machine.read(0x2000, 8), machine.regs.gprs[RCX], machine.regs.rflags & !2)
        };
        prop_assert_eq!(run(&[0x84]), (a, b, reference(4, a, b, false, bits).1));
        let (sum, flags) = reference(0, a, b, false, bits);
        let found = run(&[0x0f, 0xc0]);
        prop_assert_eq!((found.0 & mask, found.1 & mask, found.2), (sum, a & mask, flags));
    }
}
