//! Each check of the host state, broken.

use super::*;

#[track_caller]
fn broken(field: Field, value: u64, reason: &str, section: &str) {
    fails(long_mode().set(field, value), field, reason, section);
}

const REGISTERS: &str = "27.2.2";
const SEGMENTS: &str = "27.2.3";
const NOT_CANONICAL: &str = "the address is not canonical";

#[test]
fn control_registers_have_the_fixed_bits() {
    let needed = "a bit is 0 that VMX operation needs";
    let absent = "a bit is set that the processor does not have";
    broken(Field::HostCr0, 0x8005_0013, needed, REGISTERS);
    broken(Field::HostCr0, 0x1_8005_0033, absent, REGISTERS);
    broken(Field::HostCr4, 0x06a0, needed, REGISTERS);
    broken(Field::HostCr4, 0x0100_26a0, absent, REGISTERS);
    let mut f = long_mode();
    f.set(Field::HostCr0, 0x8004_0033)
        .add(Field::HostCr4, 1 << 23);
    fails(&f, Field::HostCr4, "CET needs CR0.WP", REGISTERS);
    broken(
        Field::HostCr3,
        1 << 40,
        "the address is wider than the processor's physical addresses",
        REGISTERS,
    );
}

#[test]
fn msrs_are_valid() {
    for field in [Field::HostSysenterEsp, Field::HostSysenterEip] {
        broken(field, 1 << 47, NOT_CANONICAL, REGISTERS);
    }
    broken(Field::HostPat, 2, "a byte is no memory type", REGISTERS);
    broken(
        Field::HostPat,
        0x0800_0000_0000_0000,
        "a byte is no memory type",
        REGISTERS,
    );
    broken(Field::HostEfer, 0x1d01, "reserved bits are set", REGISTERS);
    let reason = "LMA and LME are not as \"host address-space size\" says";
    for value in [0x801, 0x901, 0xc01] {
        broken(Field::HostEfer, value, reason, REGISTERS);
    }
    let capabilities = capabilities();
    let mut processor = Processor::new(&capabilities, 40, 48);
    processor.perf_global = 0xf;
    let mut f = long_mode();
    f.set(Field::HostPerfGlobal, 0x10);
    let failed = failed_check(&f, &processor).unwrap();
    assert_eq!(failed.field, Field::HostPerfGlobal);
}

#[test]
fn msrs_that_are_not_loaded_are_not_looked_at() {
    let mut f = long_mode();
    let loads = Exits::LOAD_EFER | Exits::LOAD_PAT | Exits::LOAD_PERF_GLOBAL;
    // "Load IA32_PERF_GLOBAL_CTRL" is default 0, the others too.
    f.take(Field::ExitControls, loads.bits().into())
        .set(Field::HostEfer, u64::MAX)
        .set(Field::HostPat, u64::MAX);
    assert_eq!(check(&f), None);
}

#[test]
fn selectors_are_of_the_gdt_and_ring_0() {
    let reason = "a selector with TI or a privilege level";
    for field in [
        Field::HostCsSelector,
        Field::HostSsSelector,
        Field::HostDsSelector,
        Field::HostEsSelector,
        Field::HostFsSelector,
        Field::HostGsSelector,
        Field::HostTrSelector,
    ] {
        for bit in [1, 2, 4] {
            broken(field, 0x18 | bit, reason, SEGMENTS);
        }
    }
    for field in [Field::HostCsSelector, Field::HostTrSelector] {
        broken(field, 0, "a null selector", SEGMENTS);
    }
    let mut f = long_mode();
    f.set(Field::HostSsSelector, 0);
    assert_eq!(check(&f), None, "a 64-bit host needs no SS");
    f.take(
        Field::ExitControls,
        (Exits::HOST_64 | Exits::LOAD_EFER).bits().into(),
    );
    let reason = "a null selector for a 32-bit host";
    fails(&f, Field::HostSsSelector, reason, SEGMENTS);
}

#[test]
fn bases_are_canonical() {
    for field in [
        Field::HostFsBase,
        Field::HostGsBase,
        Field::HostGdtrBase,
        Field::HostIdtrBase,
        Field::HostTrBase,
    ] {
        broken(field, 0x8000_0000_0000, NOT_CANONICAL, SEGMENTS);
    }
}

#[test]
fn the_host_is_in_64_bit_mode() {
    let mut f = long_mode();
    f.take(
        Field::ExitControls,
        (Exits::HOST_64 | Exits::LOAD_EFER).bits().into(),
    );
    fails(
        &f,
        Field::ExitControls,
        "\"host address-space size\" is 0 for a host in 64-bit mode",
        "27.2.4",
    );
    broken(Field::HostCr4, 0x2680, "a 64-bit host needs PAE", "27.2.4");
    broken(Field::HostRip, 1 << 47, NOT_CANONICAL, "27.2.4");
}
