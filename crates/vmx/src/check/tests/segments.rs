//! Each check of the guest's segment registers, broken.

use super::*;

const SECTION: &str = "27.3.1.2";
const CS: usize = 1;
const SS: usize = 2;
const DS: usize = 3;
const FS: usize = 4;
const GS: usize = 5;
const LDTR: usize = 6;
const TR: usize = 7;

fn selector(number: usize) -> Field {
    Field::segment(number)[0]
}

fn base(number: usize) -> Field {
    Field::segment(number)[1]
}

fn limit(number: usize) -> Field {
    Field::segment(number)[2]
}

fn access(number: usize) -> Field {
    Field::segment(number)[3]
}

#[track_caller]
fn broken(mut f: Fields, field: Field, value: u64, reason: &str) {
    f.set(field, value);
    fails(&f, field, reason, SECTION);
}

/// Not an unrestricted guest.
fn restricted() -> Fields {
    let mut f = long_mode();
    f.without(Secondary::UNRESTRICTED_GUEST);
    f
}

#[test]
fn selectors_agree_with_their_use() {
    let reason = "TI is set, but there is no such task in the LDT";
    broken(long_mode(), selector(TR), 0x2c, reason);
    let mut f = long_mode();
    segment(&mut f, LDTR, 0x30, 0, 0xfff, 0x82);
    assert_eq!(check(&f), None);
    let reason = "TI is set, but an LDT is in the GDT";
    broken(f, selector(LDTR), 0x34, reason);
    let reason = "the privilege levels of SS and CS differ";
    broken(restricted(), selector(SS), 0x13, reason);
    assert_eq!(check(long_mode().set(selector(SS), 0x13)), None);
}

#[test]
fn bases_are_addresses_that_the_segment_can_have() {
    for number in [FS, GS, TR] {
        let reason = "the address is not canonical";
        broken(long_mode(), base(number), 1 << 47, reason);
    }
    for number in [CS, SS, DS, 0] {
        let reason = "bits above 31 are set";
        broken(long_mode(), base(number), 1 << 32, reason);
    }
    // What is unusable is not looked at.
    let mut f = long_mode();
    f.set(base(LDTR), 1 << 47);
    segment(&mut f, DS, 0, 1 << 32, 0, 1 << 16);
    assert_eq!(check(&f), None);
    let mut f = long_mode();
    segment(&mut f, LDTR, 0x30, 1 << 47, 0xfff, 0x82);
    let reason = "the address is not canonical";
    fails(&f, base(LDTR), reason, SECTION);
}

#[test]
fn in_virtual_8086_mode_all_is_fixed() {
    for number in 0..6 {
        let reason = "not the selector times 16 in virtual-8086 mode";
        broken(virtual_8086(), base(number), 0, reason);
        let reason = "the limit is not 64 KiB in virtual-8086 mode";
        broken(virtual_8086(), limit(number), 0xf_ffff, reason);
        let reason = "not those of a segment in virtual-8086 mode";
        broken(virtual_8086(), access(number), 0x93, reason);
    }
}

#[test]
fn code_is_accessed_code() {
    let reason = "the type is not accessed code";
    broken(long_mode(), access(CS), 0xa098, reason);
    broken(long_mode(), access(CS), 0xa097, reason);
    broken(restricted(), access(CS), 0xc093, reason);
    assert_eq!(check(long_mode().set(access(CS), 0xa093)), None);
    let reason = "a system segment cannot be code";
    broken(long_mode(), access(CS), 0xa08b, reason);
}

#[test]
fn the_privilege_level_of_code_follows_from_the_stack() {
    let reason = "code of type 3 has privilege level 0";
    broken(long_mode(), access(CS), 0xa0b3, reason);
    let reason = "the privilege level is not that of SS";
    broken(long_mode(), access(CS), 0xa0bb, reason);
    let reason = "the privilege level is above that of SS";
    broken(long_mode(), access(CS), 0xa0bf, reason);
    let mut f = long_mode();
    f.set(access(CS), 0xa0ff).set(access(SS), 0xc0f3);
    assert_eq!(check(&f), None, "conforming code in ring 3");
}

#[test]
fn code_of_64_bits_has_no_default_size() {
    let reason = "both 64-bit code and a default size of 32 bits";
    broken(long_mode(), access(CS), 0xe09b, reason);
    assert_eq!(check(protected_mode().set(access(CS), 0xe09b)), None);
}

#[test]
fn stacks_are_writable_data_of_the_right_level() {
    let reason = "the type is not accessed writable data";
    broken(long_mode(), access(SS), 0xc091, reason);
    let reason = "a system segment cannot be a stack";
    broken(long_mode(), access(SS), 0xc083, reason);
    let reason = "the privilege level is not the selector's";
    let mut f = restricted();
    f.set(access(CS), 0xa09f);
    broken(f, access(SS), 0xc0f3, reason);
    let mut f = long_mode();
    f.set(access(CS), 0xa093);
    let reason = "the privilege level is not 0, although CS is of type 3";
    broken(f, access(SS), 0xc0f3, reason);
    let mut f = real_mode();
    f.set(access(CS), 0x9f);
    let reason = "the privilege level is not 0 in real-address mode";
    broken(f, access(SS), 0xf3, reason);
}

#[test]
fn an_unusable_stack_is_in_order() {
    let mut f = long_mode();
    segment(&mut f, SS, 0, 1 << 32, 0x123, 1 << 16);
    assert_eq!(check(&f), None);
}

#[test]
fn data_is_accessed_and_readable() {
    for number in [0, DS, FS, GS] {
        let reason = "the segment is not marked as accessed";
        broken(long_mode(), access(number), 0xc092, reason);
        let reason = "code that cannot be read";
        broken(long_mode(), access(number), 0xc099, reason);
        let reason = "a system segment cannot be data";
        broken(long_mode(), access(number), 0xc083, reason);
        let reason = "the privilege level is below the selector's";
        let mut f = restricted();
        f.set(selector(number), 0x13);
        fails(&f, access(number), reason, SECTION);
        assert_eq!(check(long_mode().set(selector(number), 0x13)), None);
        assert_eq!(check(long_mode().set(access(number), 1 << 16)), None);
    }
}

#[test]
fn presence_granularity_and_reserved_bits_are_in_order_in_each() {
    for (number, good) in [
        (0, 0xc093u64),
        (CS, 0xa09b),
        (SS, 0xc093),
        (DS, 0xc093),
        (FS, 0xc093),
        (GS, 0xc093),
        (LDTR, 0x8082),
        (TR, 0x808b),
    ] {
        let mut f = long_mode();
        f.set(access(number), good).set(limit(number), 0xffff_ffff);
        assert_eq!(check(&f), None);
        let field = access(number);
        for (value, reason) in [
            (good & !0x80, "the segment is not present"),
            (good | 0x100, "reserved bits 11:8 are set"),
            (good | 0x800, "reserved bits 11:8 are set"),
            (
                good & !0x8000,
                "granularity is bytes, but the limit has more than 20 bits",
            ),
            (good | 1 << 17, "reserved bits 31:17 are set"),
            (good | 1 << 31, "reserved bits 31:17 are set"),
        ] {
            broken(f.clone(), field, value, reason);
        }
        f.set(limit(number), 0xffff_fffe);
        let reason = "granularity is pages, but the limit is not at the end of a page";
        fails(&f, field, reason, SECTION);
    }
}

#[test]
fn the_task_register_has_a_busy_task() {
    let reason = "the type is not a busy task";
    broken(long_mode(), access(TR), 0x89, reason);
    broken(long_mode(), access(TR), 0x83, reason);
    assert_eq!(check(protected_mode().set(access(TR), 0x83)), None);
    broken(long_mode(), access(TR), 0x9b, "not a system segment");
    let reason = "a task register is never unusable";
    broken(long_mode(), access(TR), 1 << 16 | 0x8b, reason);
}

#[test]
fn a_local_table_is_one() {
    let mut f = long_mode();
    segment(&mut f, LDTR, 0x30, 0, 0xfff, 0x82);
    broken(f.clone(), access(LDTR), 0x89, "the type is not an LDT");
    broken(f, access(LDTR), 0x92, "not a system segment");
}
