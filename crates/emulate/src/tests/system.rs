//! Privileged instructions, compared with iced-x86.

use iced_x86::Mnemonic;
use proptest::prelude::*;

use super::oracle::{iced, mode};
use super::*;

fn names(op: SystemOp) -> &'static [Mnemonic] {
    use Mnemonic::*;
    match op {
        SystemOp::MovToCr { .. }
        | SystemOp::MovFromCr { .. }
        | SystemOp::MovToDr { .. }
        | SystemOp::MovFromDr { .. } => &[Mov],
        SystemOp::Clts => &[Clts],
        SystemOp::Lmsw(_) => &[Lmsw],
        SystemOp::Smsw { .. } => &[Smsw],
        SystemOp::Invlpg(_) => &[Invlpg],
        SystemOp::Cpuid => &[Cpuid],
        SystemOp::Rdmsr => &[Rdmsr],
        SystemOp::Wrmsr => &[Wrmsr],
        SystemOp::Hlt => &[Hlt],
        SystemOp::Vmmcall => &[Vmmcall],
        SystemOp::Vmcall => &[Vmcall],
        SystemOp::Xsetbv => &[Xsetbv],
        SystemOp::Invd => &[Invd],
        SystemOp::Wbinvd => &[Wbinvd, Wbnoinvd],
        SystemOp::Pause => &[Pause],
        SystemOp::Rdpmc => &[Rdpmc],
        SystemOp::Rdtsc => &[Rdtsc],
        SystemOp::Rdtscp => &[Rdtscp],
        SystemOp::Monitor => &[Monitor, Monitorx],
        SystemOp::Mwait => &[Mwait, Mwaitx],
        SystemOp::Iret => &[Iret, Iretd, Iretq],
        SystemOp::Rsm => &[Rsm],
        SystemOp::Pushf => &[Pushf, Pushfd, Pushfq],
        SystemOp::Popf => &[Popf, Popfd, Popfq],
        SystemOp::Cli => &[Cli],
        SystemOp::Sti => &[Sti],
        SystemOp::Int => &[Int, Int3, Into, Int1],
        SystemOp::Svm(_) => &[Vmrun, Vmload, Vmsave, Stgi, Clgi, Skinit, Invlpga],
        SystemOp::DescriptorTable(_) => &[Sgdt, Sidt, Lgdt, Lidt],
        SystemOp::LocalDescriptor(_) => &[Sldt, Str, Lldt, Ltr],
        SystemOp::PortIo => &[In, Out],
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec![0x66u8, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x41, 0x48]);
    let prefixes = prop::collection::vec(prefix, 0..3);
    let opcode = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<u8>().prop_map(|byte| vec![0x0f, byte]),
        any::<u8>().prop_map(|byte| vec![0x0f, 0x01, byte]),
        any::<u8>().prop_map(|byte| vec![0x0f, 0x20 | byte & 3, byte]),
    ];
    (prefixes, opcode, prop::array::uniform9(any::<u8>())).prop_map(|(mut bytes, opcode, tail)| {
        bytes.extend(opcode);
        bytes.extend(tail);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn system_instructions_are_what_iced_says(bytes in bytes(), mode in mode()) {
        let Ok(ours) = System::decode(&bytes, mode) else { return Ok(()) };
        let theirs = iced(&bytes, mode);
        if theirs.is_invalid() {
            // A control register that does not exist, or a prefix that makes it #UD: no exit.
            return Ok(());
        }
        prop_assert!(names(ours.op).contains(&theirs.mnemonic()), "{ours:?} is {theirs}");
        prop_assert_eq!(usize::from(ours.length), theirs.len(), "{} {:02x?}", theirs, bytes);
        let number = |i| theirs.op_register(i).number() as u8;
        match ours.op {
            SystemOp::MovToCr { cr, gpr } | SystemOp::MovToDr { dr: cr, gpr } => {
                prop_assert_eq!((cr, gpr), (number(0), number(1)), "{} {:02x?}", theirs, bytes);
            }
            SystemOp::MovFromCr { cr, gpr } | SystemOp::MovFromDr { dr: cr, gpr } => {
                prop_assert_eq!((cr, gpr), (number(1), number(0)), "{} {:02x?}", theirs, bytes);
            }
            _ => {}
        }
    }
}

#[test]
fn the_usual_ones_have_the_usual_lengths() {
    let check = |bytes: &[u8], op| {
        let length = bytes.len() as u8;
        assert_eq!(
            System::decode(bytes, Mode::Bits64),
            Ok(System { op, length })
        );
        assert_eq!(length, crate::length(bytes, Mode::Bits64).unwrap());
    };
    check(&[0x0f, 0xa2], SystemOp::Cpuid);
    check(&[0x0f, 0x30], SystemOp::Wrmsr);
    check(&[0x0f, 0x32], SystemOp::Rdmsr);
    check(&[0xf4], SystemOp::Hlt);
    check(&[0x0f, 0x01, 0xd9], SystemOp::Vmmcall);
    check(&[0x0f, 0x01, 0xd1], SystemOp::Xsetbv);
    check(&[0xf3, 0x90], SystemOp::Pause);
    check(&[0x48, 0xcf], SystemOp::Iret);
    check(&[0x0f, 0x22, 0xd8], SystemOp::MovToCr { cr: 3, gpr: 0 });
    check(
        &[0x44, 0x0f, 0x20, 0xc1],
        SystemOp::MovFromCr { cr: 8, gpr: 1 },
    );
}

#[test]
fn vmcall_is_told_from_its_neighbours() {
    assert!(is_vmcall(&[0x0f, 0x01, 0xc1], Mode::Bits64));
    assert!(is_vmcall(&[0x48, 0x0f, 0x01, 0xc1, 0x90], Mode::Bits64));
    assert!(!is_vmcall(&[0x0f, 0x01, 0xc2], Mode::Bits64));
    assert!(!is_vmcall(&[0xf3, 0x0f, 0x01, 0xc1], Mode::Bits64));
    assert!(!is_vmcall(&[0x0f, 0x0b], Mode::Bits64));
    assert!(!is_vmcall(&[0x0f, 0x01], Mode::Bits64));
}
