//! Each check of the guest's other state, broken.

use super::*;

const REGISTERS: &str = "27.3.1.1";
const TABLES: &str = "27.3.1.3";
const FLAGS: &str = "27.3.1.4";
const EVENTS: &str = "27.3.1.5";
const RESERVED: &str = "reserved bits are set";
const NOT_CANONICAL: &str = "the address is not canonical";

#[track_caller]
fn broken(mut f: Fields, field: Field, value: u64, reason: &str, section: &str) {
    f.set(field, value);
    fails(&f, field, reason, section);
}

#[test]
fn control_registers_have_the_fixed_bits_but_pe_pg_nw_and_cd() {
    let needed = "a bit is 0 that VMX operation needs";
    let absent = "a bit is set that the processor does not have";
    broken(long_mode(), Field::GuestCr0, 0x8005_0013, needed, REGISTERS);
    broken(
        long_mode(),
        Field::GuestCr0,
        1 << 32 | 0x8005_0033,
        absent,
        REGISTERS,
    );
    broken(long_mode(), Field::GuestCr4, 0xa0, needed, REGISTERS);
    broken(long_mode(), Field::GuestCr4, 0x0100_20a0, absent, REGISTERS);
    let mut f = real_mode();
    f.without(Secondary::UNRESTRICTED_GUEST);
    fails(&f, Field::GuestCr0, needed, REGISTERS);
    let mut c = capabilities();
    c.cr0_fixed[1] &= !(3 << 29);
    let mut f = long_mode();
    f.add(Field::GuestCr0, 3 << 29);
    assert_eq!(check_with(&f, &c), None, "NW and CD are free");
}

#[test]
fn control_registers_agree_with_each_other() {
    let reason = "paging without protection";
    broken(real_mode(), Field::GuestCr0, 0x8000_0030, reason, REGISTERS);
    let mut f = long_mode();
    f.set(Field::GuestCr0, 0x8004_0033);
    let reason = "CET needs CR0.WP";
    broken(f, Field::GuestCr4, 1 << 23 | 0x20a0, reason, REGISTERS);
    let reason = "an IA-32e mode guest without paging";
    broken(long_mode(), Field::GuestCr0, 0x33, reason, REGISTERS);
    let reason = "an IA-32e mode guest without PAE";
    broken(long_mode(), Field::GuestCr4, 0x2000, reason, REGISTERS);
    let reason = "PCIDE outside of IA-32e mode";
    let value = 1 << 17 | 0x2000;
    broken(protected_mode(), Field::GuestCr4, value, reason, REGISTERS);
    let reason = "the address is wider than the processor's physical addresses";
    broken(long_mode(), Field::GuestCr3, 1 << 40, reason, REGISTERS);
}

#[test]
fn debug_registers_are_looked_at_when_they_are_loaded() {
    let field = Field::GuestDebugControl;
    broken(long_mode(), field, 1 << 3, RESERVED, REGISTERS);
    let reason = "bits above 31 are set";
    broken(long_mode(), Field::GuestDr7, 1 << 32, reason, REGISTERS);
    let mut f = long_mode();
    f.take(Field::EntryControls, Entry::LOAD_DEBUG.bits().into())
        .set(field, u64::MAX)
        .set(Field::GuestDr7, u64::MAX);
    assert_eq!(check(&f), None);
}

#[test]
fn msrs_are_valid() {
    for field in [Field::GuestSysenterEsp, Field::GuestSysenterEip] {
        broken(long_mode(), field, 1 << 47, NOT_CANONICAL, REGISTERS);
    }
    let reason = "a byte is no memory type";
    broken(long_mode(), Field::GuestPat, 3, reason, REGISTERS);
    broken(long_mode(), Field::GuestEfer, 0x1d01, RESERVED, REGISTERS);
    let reason = "LMA is not as \"IA-32e mode guest\" says";
    broken(long_mode(), Field::GuestEfer, 0x101, reason, REGISTERS);
    broken(protected_mode(), Field::GuestEfer, 0x500, reason, REGISTERS);
    let reason = "LMA and LME differ while paging is on";
    broken(long_mode(), Field::GuestEfer, 0xc00, reason, REGISTERS);
    broken(protected_mode(), Field::GuestEfer, 0x100, reason, REGISTERS);
    assert_eq!(check(real_mode().set(Field::GuestEfer, 0x100)), None);
    let mut f = long_mode();
    f.entry(Entry::LOAD_BNDCFGS);
    assert_eq!(check(&f), None);
    broken(f.clone(), Field::GuestBndcfgs, 4, RESERVED, REGISTERS);
    broken(f, Field::GuestBndcfgs, 1 << 47, NOT_CANONICAL, REGISTERS);
    let capabilities = capabilities();
    let mut processor = Processor::new(&capabilities, 40, 48);
    processor.perf_global = 0xf;
    let mut f = long_mode();
    f.set(Field::GuestPerfGlobal, 0x10);
    assert_eq!(failed_check(&f, &processor), None, "not loaded");
    f.entry(Entry::LOAD_PERF_GLOBAL);
    let failed = failed_check(&f, &processor).unwrap();
    assert_eq!(failed.field, Field::GuestPerfGlobal);
}

#[test]
fn descriptor_tables_have_an_address_and_16_bits_of_limit() {
    for field in [Field::GuestGdtrBase, Field::GuestIdtrBase] {
        broken(long_mode(), field, 1 << 47, NOT_CANONICAL, TABLES);
    }
    for field in [Field::GuestGdtrLimit, Field::GuestIdtrLimit] {
        let reason = "bits above 15 are set";
        broken(long_mode(), field, 0x1_0000, reason, TABLES);
    }
}

#[test]
fn the_instruction_pointer_fits_the_mode() {
    let reason = "bits above 31 are set outside of 64-bit mode";
    broken(protected_mode(), Field::GuestRip, 1 << 32, reason, FLAGS);
    let mut f = long_mode();
    f.set(Field::GuestCsAccess, 0xc09b);
    broken(f, Field::GuestRip, 1 << 32, reason, FLAGS);
    let reason = "bits above the width of linear addresses differ";
    broken(long_mode(), Field::GuestRip, 1 << 48, reason, FLAGS);
    // Behind the last byte of the lower half: not canonical, yet taken.
    let mut f = long_mode();
    f.set(Field::GuestRip, 1 << 47);
    assert_eq!(check(&f), None);
}

#[test]
fn flags_have_no_reserved_bits_and_fit_the_mode() {
    const FIELD: Field = Field::GuestRflags;
    for bit in [3, 5, 15, 22, 31, 32, 63] {
        broken(long_mode(), FIELD, 2 | 1 << bit, RESERVED, FLAGS);
    }
    broken(long_mode(), FIELD, 0, "reserved bit 1 is 0", FLAGS);
    let mut f = virtual_8086();
    f.set(Field::GuestCr0, 0x30);
    let reason = "virtual-8086 mode without protection";
    fails(&f, FIELD, reason, FLAGS);
    let mut f = virtual_8086();
    f.entry(Entry::IA32E_GUEST)
        .set(Field::GuestCr4, 0x2020)
        .set(Field::GuestEfer, 0x500);
    let reason = "virtual-8086 mode in IA-32e mode";
    fails(&f, FIELD, reason, FLAGS);
    let mut f = long_mode();
    f.event(0x51);
    let reason = "IF is 0, but an external interrupt is injected";
    fails(&f, FIELD, reason, FLAGS);
    f.set(FIELD, 0x202);
    assert_eq!(check(&f), None);
}

const ACTIVITY: Field = Field::GuestActivity;
const BLOCKING: Field = Field::GuestInterruptibility;

#[test]
fn the_activity_is_one_that_the_processor_has() {
    let reason = "a state that the processor has not";
    broken(long_mode(), ACTIVITY, 4, reason, EVENTS);
    for state in 0..=3 {
        let mut f = long_mode();
        f.set(ACTIVITY, state);
        assert_eq!(check(&f), None);
        let mut c = capabilities();
        c.activity_states = 0;
        let failed = check_with(&f, &c).map(|failed| failed.reason);
        assert_eq!(failed, (state != 0).then_some(reason));
    }
    let mut f = long_mode();
    f.set(Field::GuestSsAccess, 0xc0f3)
        .set(Field::GuestCsAccess, 0xa0fb);
    let reason = "halted above privilege level 0";
    broken(f, ACTIVITY, 1, reason, EVENTS);
    let mut f = long_mode();
    f.set(BLOCKING, 1).set(Field::GuestRflags, 0x202);
    assert_eq!(check(&f), None);
    let reason = "not active behind STI or MOV SS";
    broken(f, ACTIVITY, 1, reason, EVENTS);
}

#[test]
fn what_is_injected_happens_in_the_activity_state() {
    const NMI: u32 = 2 << 8 | 2;
    const DEBUG: u32 = 3 << 8 | 1;
    const UNDEFINED: u32 = 3 << 8 | 6;
    const MACHINE_CHECK: u32 = 3 << 8 | 18;
    const EXTERNAL: u32 = 0x51;
    const MONITOR_TRAP: u32 = 7 << 8;
    let events = [NMI, DEBUG, UNDEFINED, MACHINE_CHECK, EXTERNAL, MONITOR_TRAP];
    let in_order: [&[u32]; 4] = [
        &events,
        &[NMI, DEBUG, MACHINE_CHECK, EXTERNAL, MONITOR_TRAP],
        &[NMI, MACHINE_CHECK],
        &[],
    ];
    for (state, in_order) in in_order.into_iter().enumerate() {
        for event in events {
            let mut f = long_mode();
            f.set(ACTIVITY, state as u64)
                .set(Field::GuestRflags, 0x202)
                .event(event);
            if in_order.contains(&event) {
                assert_eq!(check(&f), None, "state {state}, event {event:#x}");
            } else {
                let reason = "the event to be injected does not happen in this state";
                fails(&f, ACTIVITY, reason, EVENTS);
            }
        }
    }
}

#[test]
fn what_blocks_events_is_not_contradictory() {
    broken(long_mode(), BLOCKING, 0x20, RESERVED, EVENTS);
    let mut on = long_mode();
    on.set(Field::GuestRflags, 0x202);
    for (value, reason) in [
        (3, "blocking both by STI and by MOV SS"),
        (4, "blocking by SMI outside of system-management mode"),
        (0x12, "an interrupted enclave behind MOV SS"),
    ] {
        broken(on.clone(), BLOCKING, value, reason, EVENTS);
    }
    let reason = "blocking by STI, but IF is 0";
    broken(long_mode(), BLOCKING, 1, reason, EVENTS);
    on.event(0x51);
    let reason = "an external interrupt behind STI or MOV SS";
    broken(on.clone(), BLOCKING, 1, reason, EVENTS);
    broken(on, BLOCKING, 2, reason, EVENTS);
    let mut nmi = long_mode();
    nmi.event(2 << 8 | 2);
    let reason = "an NMI behind MOV SS";
    broken(nmi.clone(), BLOCKING, 2, reason, EVENTS);
    let reason = "an NMI while NMIs are blocked";
    broken(nmi.clone(), BLOCKING, 8, reason, EVENTS);
    nmi.take(Field::PinControls, Pin::VIRTUAL_NMIS.bits().into());
    assert_eq!(check(nmi.set(BLOCKING, 8)), None);
}

#[test]
fn pending_debug_exceptions_agree_with_the_trap_flag() {
    const FIELD: Field = Field::GuestPendingDebug;
    for bit in [4, 10, 13, 15, 17, 63] {
        broken(long_mode(), FIELD, 1 << bit, RESERVED, EVENTS);
    }
    const STEP: u64 = 1 << 14;
    let reason = "BS is not as TF says while events are blocked or the guest is halted";
    let mut shadow = long_mode();
    shadow.set(BLOCKING, 1).set(Field::GuestRflags, 0x302);
    fails(&shadow, FIELD, reason, EVENTS);
    assert_eq!(check(shadow.clone().set(FIELD, STEP)), None);
    let mut branches = shadow.clone();
    branches.set(Field::GuestDebugControl, 2);
    assert_eq!(check(&branches), None, "TF traps on branches only");
    let mut halted = long_mode();
    halted.set(ACTIVITY, 1).set(FIELD, STEP);
    fails(&halted, FIELD, reason, EVENTS);
    assert_eq!(check(long_mode().set(FIELD, STEP)), None);
    let reason = "RTM needs the enabled breakpoint and nothing else";
    broken(long_mode(), FIELD, 1 << 16, reason, EVENTS);
    broken(long_mode(), FIELD, 1 << 16 | 1 << 12 | 1, reason, EVENTS);
    let mut transaction = long_mode();
    transaction.set(FIELD, 1 << 16 | 1 << 12);
    assert_eq!(check(&transaction), None);
    transaction.set(BLOCKING, 2);
    fails(&transaction, FIELD, "RTM behind MOV SS", EVENTS);
}

#[test]
fn the_link_pointer_is_none_or_an_address() {
    const FIELD: Field = Field::VmcsLinkPointer;
    let reason = "the address is not aligned";
    broken(long_mode(), FIELD, 0x800, reason, EVENTS);
    let reason = "the address is wider than the processor's physical addresses";
    broken(long_mode(), FIELD, 1 << 40, reason, EVENTS);
    assert_eq!(check(long_mode().set(FIELD, 0x8000)), None);
}

#[test]
fn directory_pointers_count_with_pae_paging_only() {
    for field in [
        Field::GuestPdpte0,
        Field::GuestPdpte1,
        Field::GuestPdpte2,
        Field::GuestPdpte3,
    ] {
        for bit in [1, 2, 5, 8, 40, 63] {
            let value = 0x8001 | 1 << bit;
            broken(pae_mode(), field, value, RESERVED, "27.3.1.6");
            assert_eq!(check(pae_mode().set(field, value & !1)), None);
            for mut other in [long_mode(), protected_mode(), real_mode()] {
                assert_eq!(check(other.set(field, value)), None);
            }
        }
    }
}
