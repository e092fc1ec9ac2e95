//! The registers of x2APIC mode one by one, and the ways between the modes (SDM 3A, 10.12).

use crate::apic;
use crate::cpu::{self, rdmsr, wrmsr};
use crate::report::Test;
use crate::trap::{Fault, GP, guarded};

const FIRST: u32 = 0x800;
const LAST: u32 = 0x8ff;
const ESR: u32 = 0x828;
const SELF_IPI: u32 = 0x83f;

fn is_readable(index: u32) -> bool {
    matches!(
        index,
        0x802 | 0x803 | 0x808 | 0x80a | 0x80d | 0x80f..=0x828 | 0x830 | 0x832..=0x839 | 0x83e
    )
}

/// Bits that a write may set. No write here sends anything: the vector of the self IPI is 0, which
/// is an error, and the command register is left to a test of its own.
fn writable(index: u32) -> Option<u64> {
    Some(match index {
        0x808 => 0xff,
        0x80b | ESR => 0,
        0x80f => 0x3ff,
        // Mask and mode of the timer; the counter and thermal entries; the pins; the error's.
        0x832 => 0x7_10ff,
        0x833 | 0x834 => 0x1_17ff,
        0x835 | 0x836 => 0x1_f7ff,
        0x837 => 0x1_10ff,
        0x838 => 0xffff_ffff,
        0x83e => 0xb,
        SELF_IPI => 0xff,
        _ => return None,
    })
}

fn read(index: u32) -> Option<Fault> {
    guarded(index, |index| {
        core::hint::black_box(rdmsr(index));
    })
}

fn write(index: u32, value: u64) -> Option<Fault> {
    guarded((index, value), |(index, value)| wrmsr(index, value))
}

pub(super) fn registers(t: &Test) {
    for index in FIRST..=LAST {
        let faults = (read(index), write(index, 0));
        expect!(t, faults == (GP, GP), "{index:#x} in xAPIC mode {faults:?}");
    }
    apic::enter_x2apic();
    for index in FIRST..=LAST {
        let wanted = if is_readable(index) { None } else { GP };
        let fault = read(index);
        expect!(t, fault == wanted, "RDMSR {index:#x}: {fault:?}");
        if index == 0x830 {
            continue;
        }
        let allowed = writable(index);
        let fault = write(index, 0);
        let wanted = if allowed.is_some() { None } else { GP };
        expect!(t, fault == wanted, "WRMSR {index:#x} <- 0: {fault:?}");
        for bit in 0..64 {
            let value = 1u64 << bit;
            // What may be written is tried where it does nothing.
            if allowed.is_none_or(|bits| bits & value == 0) {
                let fault = write(index, value);
                expect!(t, fault == GP, "WRMSR {index:#x} <- {value:#x}: {fault:?}");
            }
        }
    }
    commands(t);
    errors(t);
    // LDR follows from the id and cannot be written.
    let id = rdmsr(0x802);
    let wanted = (id >> 4) << 16 | 1 << (id & 0xf);
    expect!(t, rdmsr(0x80d) == wanted, "LDR {:#x}", rdmsr(0x80d));
    apic::leave_x2apic();
    apic::initialise();
    transitions(t);
    apic::initialise();
}

/// Reserved bits of the command register; the upper half is a destination and may be anything.
fn commands(t: &Test) {
    for bit in [13, 16, 17, 20, 21, 24, 31] {
        let fault = write(0x830, 1 << bit | 0x51);
        expect!(t, fault == GP, "ICR bit {bit}: {fault:?}");
    }
    // Nobody has this id.
    let value = 0xdead_beef_0000_4051;
    let fault = write(0x830, value);
    expect!(t, fault.is_none(), "ICR <- {value:#x}: {fault:?}");
    expect!(
        t,
        rdmsr(0x830) == value,
        "ICR {:#x} reads back",
        rdmsr(0x830)
    );
    // INIT and start-up to oneself by shorthand, SMI, the reserved modes: nothing happens.
    for low in [0x4_4500u64, 0x8_4500, 0x4_4600, 0x4200, 0x4300, 0x4700] {
        let fault = write(0x830, 0xdead_beef << 32 | low);
        expect!(t, fault.is_none(), "ICR <- {low:#x}: {fault:?}");
    }
}

/// Vectors below 16 are errors of the sender, and with the self IPI of the receiver too.
fn errors(t: &Test) {
    wrmsr(ESR, 0);
    wrmsr(ESR, 0);
    expect!(t, rdmsr(ESR) == 0, "ESR {:#x} at first", rdmsr(ESR));
    wrmsr(0x830, 0x4_0003);
    wrmsr(ESR, 0);
    let errors = rdmsr(ESR);
    expect!(t, errors & 0x20 != 0, "ESR {errors:#x} after vector 3");
    wrmsr(SELF_IPI, 5);
    wrmsr(ESR, 0);
    let errors = rdmsr(ESR);
    expect!(t, errors & 0x60 != 0, "ESR {errors:#x} after self IPI 5");
    wrmsr(ESR, 0);
    expect!(t, rdmsr(ESR) == 0, "ESR {:#x} at last", rdmsr(ESR));
}

/// From each mode to each, reserved bits, other addresses.
fn transitions(t: &Test) {
    const ENABLE: u64 = 1 << 11;
    const EXTENDED: u64 = 1 << 10;
    let base = rdmsr(apic::APIC_BASE) & !(ENABLE | EXTENDED);
    let modes = [0, ENABLE, ENABLE | EXTENDED, EXTENDED];
    let name = ["disabled", "xAPIC", "x2APIC", "EXTD alone"];
    // Row: from; column: to.
    let allowed = [
        [true, true, false, false],
        [true, true, true, false],
        [true, false, true, false],
    ];
    for (from, row) in allowed.iter().enumerate() {
        for (to, allowed) in row.iter().enumerate() {
            // Each mode can be reached from where one is by way of "disabled" and xAPIC.
            for step in &modes[..=from] {
                wrmsr(apic::APIC_BASE, base | step);
            }
            let fault = write(apic::APIC_BASE, base | modes[to]);
            let wanted = if *allowed { None } else { GP };
            expect!(
                t,
                fault == wanted,
                "{} to {}: {fault:?}",
                name[from],
                name[to]
            );
            let now = if *allowed { modes[to] } else { modes[from] };
            let got = rdmsr(apic::APIC_BASE);
            expect!(t, got == base | now, "APIC base {got:#x}");
            wrmsr(apic::APIC_BASE, base);
        }
    }
    wrmsr(apic::APIC_BASE, base | ENABLE);
    let bits = cpu::physical_bits();
    for wrong in [
        1,
        1 << 7,
        1 << 9,
        1 << 12,
        1 << 32,
        1 << (bits - 1),
        1 << 63,
    ] {
        let fault = write(apic::APIC_BASE, (base | ENABLE) ^ wrong);
        expect!(t, fault == GP, "APIC base with bit {wrong:#x}: {fault:?}");
    }
}
