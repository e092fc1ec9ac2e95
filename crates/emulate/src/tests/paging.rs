//! Walks of page tables.

use std::collections::BTreeMap;

use acrn_abi::{Gpa, Gva};
use proptest::prelude::*;

use crate::paging::*;

/// Memory that is there, and reads 0, below 1 MiB.
#[derive(Default)]
struct Memory(BTreeMap<u64, u64>);

impl GuestPhysical for Memory {
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        let byte = |at| self.0.get(&(at & !7)).copied().unwrap_or(0);
        (gpa.0 < 0x10_0000).then(|| byte(gpa.0))
    }
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        self.read_u64(Gpa(gpa.0 & !7))
            .map(|value| (value >> (8 * (gpa.0 & 4))) as u32)
    }
}

impl Memory {
    fn set(&mut self, at: u64, value: u64) {
        self.0.insert(at, value);
    }
    fn set_u32(&mut self, at: u64, value: u32) {
        let shift = 8 * (at & 4);
        let old = self.0.entry(at & !7).or_default();
        *old = *old & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }
}

const PG: u64 = 1 << 31;
const WP: u64 = 1 << 16;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;
const NX: u64 = 1 << 63;

const LONG: WalkContext = WalkContext {
    cr0: PG | WP | 1,
    cr3: 0x1000,
    cr4: PAE,
    efer: LMA | NXE,
    rflags: 0,
    cpl: 0,
    physical_bits: 40,
};

/// Four levels whose last entry maps `gva` 0x1234 of page 1 with `leaf`.
fn long_tables(leaf: u64) -> Memory {
    let mut memory = Memory::default();
    memory.set(0x1000, 0x2007);
    memory.set(0x2000, 0x3007);
    memory.set(0x3000, 0x4007);
    memory.set(0x4008, leaf);
    memory
}

fn gpa(result: Result<Translation, WalkError>) -> u64 {
    result.expect("a translation").gpa.0
}

fn code(result: Result<Translation, WalkError>) -> u32 {
    match result {
        Err(WalkError::Fault(fault)) => fault.error_code,
        other => panic!("no page fault but {other:?}"),
    }
}

const AT: Gva = Gva(0x1234);

#[test]
fn without_paging_addresses_are_physical() {
    let context = WalkContext { cr0: 1, ..LONG };
    let found = context.translate(&Memory::default(), Gva(0xdead_beef), Access::Write);
    assert_eq!(gpa(found), 0xdead_beef);
}

#[test]
fn four_and_five_levels_lead_to_the_page() {
    let mut memory = long_tables(0x5_5000 | 3);
    let found = LONG.translate(&memory, AT, Access::Write).unwrap();
    assert_eq!(
        found,
        Translation {
            gpa: Gpa(0x5_5234),
            page_size: 4096
        }
    );
    memory.set(0x9000, 0x1007);
    let five = WalkContext {
        cr3: 0x9000,
        cr4: PAE | LA57,
        ..LONG
    };
    assert_eq!(gpa(five.translate(&memory, AT, Access::Read)), 0x5_5234);
}

#[test]
fn large_pages_end_the_walk() {
    let mut memory = long_tables(0);
    memory.set(0x3008, 0x4020_0000 | 0x83);
    let found = LONG
        .translate(&memory, Gva(0x21_2345), Access::Read)
        .unwrap();
    assert_eq!(
        found,
        Translation {
            gpa: Gpa(0x4021_2345),
            page_size: 2 << 20
        }
    );
    memory.set(0x2008, 0x8000_0000 | 0x83);
    let found = LONG
        .translate(&memory, Gva(0x4765_4321), Access::Read)
        .unwrap();
    assert_eq!(
        found,
        Translation {
            gpa: Gpa(0x8765_4321),
            page_size: 1 << 30
        }
    );
}

#[test]
fn a_missing_page_reports_the_access_and_the_address() {
    let memory = long_tables(0);
    assert_eq!(code(LONG.translate(&memory, AT, Access::Read)), 0);
    assert_eq!(code(LONG.translate(&memory, AT, Access::Write)), 2);
    assert_eq!(code(LONG.translate(&memory, AT, Access::Execute)), 0x10);
    let user = WalkContext { cpl: 3, ..LONG };
    let fault = PageFault {
        error_code: 6,
        address: AT,
    };
    assert_eq!(
        user.translate(&memory, AT, Access::Write),
        Err(WalkError::Fault(fault))
    );
    let old = WalkContext { efer: LMA, ..LONG };
    assert_eq!(code(old.translate(&memory, AT, Access::Execute)), 0);
}

#[test]
fn users_need_the_user_bit_on_every_level() {
    let user = WalkContext { cpl: 3, ..LONG };
    assert_eq!(
        code(user.translate(&long_tables(0x5003), AT, Access::Read)),
        5
    );
    let mut memory = long_tables(0x5007);
    assert_eq!(gpa(user.translate(&memory, AT, Access::Write)), 0x5234);
    memory.set(0x2000, 0x3003);
    assert_eq!(code(user.translate(&memory, AT, Access::Read)), 5);
}

#[test]
fn read_only_pages_are_writable_for_the_kernel_without_wp() {
    let memory = long_tables(0x5005);
    assert_eq!(code(LONG.translate(&memory, AT, Access::Write)), 3);
    let no_wp = WalkContext { cr0: PG, ..LONG };
    assert_eq!(gpa(no_wp.translate(&memory, AT, Access::Write)), 0x5234);
    let user = WalkContext { cpl: 3, ..no_wp };
    assert_eq!(code(user.translate(&memory, AT, Access::Write)), 7);
}

#[test]
fn no_execute_is_honoured_and_reserved_without_nxe() {
    let memory = long_tables(NX | 0x5007);
    assert_eq!(code(LONG.translate(&memory, AT, Access::Execute)), 0x11);
    assert_eq!(gpa(LONG.translate(&memory, AT, Access::Read)), 0x5234);
    let old = WalkContext { efer: LMA, ..LONG };
    assert_eq!(code(old.translate(&memory, AT, Access::Read)), 9);
}

#[test]
fn smep_and_smap_keep_the_kernel_from_user_pages() {
    let memory = long_tables(0x5007);
    let context = WalkContext {
        cr4: PAE | SMEP | SMAP,
        ..LONG
    };
    assert_eq!(code(context.translate(&memory, AT, Access::Execute)), 0x11);
    assert_eq!(code(context.translate(&memory, AT, Access::Read)), 1);
    let lifted = WalkContext {
        rflags: 1 << 18,
        ..context
    };
    assert_eq!(gpa(lifted.translate(&memory, AT, Access::Write)), 0x5234);
    assert_eq!(code(lifted.translate(&memory, AT, Access::Execute)), 0x11);
    let user = WalkContext { cpl: 3, ..context };
    assert_eq!(gpa(user.translate(&memory, AT, Access::Execute)), 0x5234);
}

#[test]
fn reserved_bits_fault() {
    assert_eq!(
        code(LONG.translate(&long_tables(1 << 40 | 0x5007), AT, Access::Read)),
        9
    );
    let mut memory = long_tables(0x5007);
    memory.set(0x1000, 0x2087);
    assert_eq!(code(LONG.translate(&memory, AT, Access::Read)), 9);
    memory.set(0x1000, 0x2007);
    memory.set(0x3000, 0x2087);
    assert_eq!(code(LONG.translate(&memory, AT, Access::Write)), 0xb);
}

#[test]
fn odd_addresses_are_told_apart() {
    let memory = long_tables(0x5007);
    let hole = Gva(1 << 47);
    assert_eq!(
        LONG.translate(&memory, hole, Access::Read),
        Err(WalkError::NonCanonical(hole))
    );
    let five = WalkContext {
        cr4: PAE | LA57,
        ..LONG
    };
    assert!(matches!(
        five.translate(&memory, hole, Access::Read),
        Err(WalkError::Fault(_))
    ));
    let lost = WalkContext {
        cr3: 0x20_0000,
        ..LONG
    };
    let none = Err(WalkError::NoTable(Gpa(0x20_0000)));
    assert_eq!(lost.translate(&memory, AT, Access::Read), none);
}

#[test]
fn pae_has_four_pointers_and_two_levels() {
    let mut memory = Memory::default();
    memory.set(0x1038, 0x3001);
    memory.set(0x3000, 0x4007);
    memory.set(0x4008, 0x1_2345_6007);
    let context = WalkContext {
        cr3: 0x1020,
        efer: NXE,
        cpl: 3,
        ..LONG
    };
    let found = context.translate(&memory, Gva(0xc000_1abc), Access::Write);
    assert_eq!(gpa(found), 0x1_2345_6abc);
    memory.set(0x1038, 0x3007);
    assert_eq!(
        code(context.translate(&memory, Gva(0xc000_1abc), Access::Write)),
        0xf
    );
}

#[test]
fn thirty_two_bit_tables_have_two_levels_and_4_mib_pages() {
    let mut memory = Memory::default();
    memory.set_u32(0x1004, 0x4007);
    memory.set_u32(0x4008, 0x0007_7003);
    memory.set_u32(0x1008, 0x0080_2083);
    let context = WalkContext {
        cr4: PSE,
        efer: 0,
        ..LONG
    };
    assert_eq!(
        gpa(context.translate(&memory, Gva(0x40_2678), Access::Write)),
        0x7_7678
    );
    let large = context
        .translate(&memory, Gva(0x81_2345), Access::Read)
        .unwrap();
    assert_eq!(
        large,
        Translation {
            gpa: Gpa(0x1_0081_2345),
            page_size: 4 << 20
        }
    );
    let user = WalkContext { cpl: 3, ..context };
    assert_eq!(
        code(user.translate(&memory, Gva(0x40_2678), Access::Read)),
        5
    );
    let no_pse = WalkContext { cr4: 0, ..context };
    let none = Err(WalkError::NoTable(Gpa(0x80_2000 + 0x12 * 4)));
    assert_eq!(
        no_pse.translate(&memory, Gva(0x81_2345), Access::Read),
        none
    );
}

proptest! {
    #[test]
    fn hostile_tables_never_panic(
        entries in prop::array::uniform32(any::<u64>()),
        gva: u64, cr0: u64, cr3: u64, cr4: u64, efer: u64, cpl in 0u8..4, physical_bits: u8,
    ) {
        struct Hostile([u64; 32]);
        impl GuestPhysical for Hostile {
            fn read_u64(&self, gpa: Gpa) -> Option<u64> {
                Some(self.0[(gpa.0 / 8 % 32) as usize])
            }
            fn read_u32(&self, gpa: Gpa) -> Option<u32> {
                self.read_u64(gpa).map(|value| value as u32)
            }
        }
        let context = WalkContext { cr0, cr3, cr4, efer, rflags: 0, cpl, physical_bits };
        for access in [Access::Read, Access::Write, Access::Execute] {
            let _ = context.translate(&Hostile(entries), Gva(gva), access);
        }
    }
}
