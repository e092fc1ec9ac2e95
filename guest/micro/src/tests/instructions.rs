//! Instructions that are intercepted: what they answer, and what they refuse.

use crate::cpu::{self, cpuid as leaf};
use crate::report::Test;
use crate::trap::{Fault, GP, UD, guarded};
use acrn_abi::cpuid as abi;
use core::arch::asm;

const ZERO: cpu::CpuidResult = cpu::CpuidResult {
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
};

pub(super) fn cpuid(t: &Test) {
    let basic = leaf(0, 0);
    expect!(t, basic.eax <= 0xd, "highest basic leaf {:#x}", basic.eax);
    let features = leaf(1, 0);
    expect!(t, features.ecx >> 31 & 1 == 1, "no hypervisor bit");
    expect!(t, features.ecx >> 5 & 1 == 0, "VMX is shown");
    expect!(t, features.ecx >> 21 & 1 == 1, "no x2APIC");
    expect!(t, features.ecx >> 24 & 1 == 1, "no TSC deadline timer");
    let extended = leaf(0x8000_0001, 0);
    expect!(t, extended.ecx >> 2 & 1 == 0, "SVM is shown");
    expect!(t, extended.edx >> 29 & 1 == 1, "no long mode");
    let s = leaf(abi::LEAF_SIGNATURE, 0);
    let name = [s.ebx, s.ecx, s.edx];
    expect!(
        t,
        name == [abi::SIGNATURE_REGISTER; 3],
        "signature {name:x?}"
    );
    expect!(t, s.eax == abi::LEAF_MAX, "highest leaf {:#x}", s.eax);
    let abilities = leaf(abi::LEAF_FEATURES, 0).eax;
    expect!(
        t,
        abilities & abi::CAP_PRIVILEGED != 0,
        "not the Service VM"
    );
    let khz = leaf(abi::LEAF_TIMING, 0).eax;
    expect!(t, (10_000..20_000_000).contains(&khz), "TSC of {khz} kHz");
    for unknown in [
        0x3,
        0x5,
        0xe,
        0x14,
        0x1f,
        0x4000_0002,
        0x4000_000f,
        0x4000_0011,
        0x4000_00ff,
        0x4000_0100,
        0x7fff_ffff,
        0x8000_0009,
        0x8000_000a,
        0x8000_001f,
        0x8fff_ffff,
        0xc000_0000,
        0xffff_ffff,
    ] {
        let r = leaf(unknown, 0);
        expect!(t, r == ZERO, "leaf {unknown:#x} is {r:x?}");
    }
    for subleaf in [3, 10, 63, 64, 0xffff_ffff] {
        let r = leaf(0xd, subleaf);
        expect!(t, r == ZERO, "leaf 0xd.{subleaf:#x} is {r:x?}");
    }
    let id = crate::apic::id();
    expect!(t, features.ebx >> 24 == id, "leaf 1 has another APIC id");
    expect!(t, leaf(0xb, 0).edx == id, "leaf 0xb has another APIC id");
    os_bits(t);
}

/// OSXSAVE is CR4's bit, where there is one.
fn os_bits(t: &Test) {
    if leaf(1, 0).ecx >> 26 & 1 == 0 {
        return;
    }
    let before = cpu::read_cr4();
    for on in [false, true] {
        let bit = 1 << 18;
        let value = if on { before | bit } else { before & !bit };
        cpu::write_cr4(value);
        let shown = leaf(1, 0).ecx >> 27 & 1 == 1;
        expect!(t, shown == on, "OSXSAVE {shown} while CR4 says {on}");
    }
    cpu::write_cr4(before);
}

fn try_read(index: u32) -> Option<Fault> {
    guarded(index, |index| {
        core::hint::black_box(cpu::rdmsr(index));
    })
}

fn try_write(index: u32, value: u64) -> Option<Fault> {
    guarded((index, value), |(index, value)| cpu::wrmsr(index, value))
}

const EFER: u32 = 0xc000_0080;
const PAT: u32 = 0x277;
const APIC_BASE: u32 = 0x1b;

pub(super) fn msr(t: &Test) {
    const READABLE: [u32; 17] = [
        0x10,
        APIC_BASE,
        0x3a,
        0x3b,
        0xfe,
        0x174,
        0x175,
        0x176,
        0x179,
        0x1a0,
        0x250,
        0x268,
        PAT,
        0x2ff,
        0x6e0,
        EFER,
        0xc000_0103,
    ];
    for index in READABLE {
        let fault = try_read(index);
        expect!(t, fault.is_none(), "RDMSR {index:#x}: {fault:?}");
    }
    // VM_CR, HSAVE_PA, SMM base, microcode patches, performance counters, x2APIC in xAPIC mode.
    for index in [
        0xc001_0114,
        0xc001_0117,
        0xc001_0118,
        0xc001_0111,
        0xc001_0020,
        0xc001_0000,
        0xc001_0004,
        0xc1,
        0x186,
        0x480,
        0x48b,
        0x802,
        0x808,
        0x8ff,
        0xdead,
        0x4000_0000,
        0xffff_ffff,
    ] {
        let fault = try_read(index);
        // Reading a microcode level that is not named is Linux's habit, others are not.
        expect!(t, fault == GP, "RDMSR {index:#x}: {fault:?}");
        let fault = try_write(index, 1);
        expect!(
            t,
            fault == GP || index == 0xc001_0020,
            "WRMSR {index:#x}: {fault:?}"
        );
    }
    let efer = cpu::rdmsr(EFER);
    expect!(t, efer >> 12 & 1 == 0, "EFER shows SVME: {efer:#x}");
    for wrong in [
        efer | 1 << 12,
        efer | 1 << 13,
        efer | 1 << 63,
        efer & !(1 << 8),
    ] {
        let fault = try_write(EFER, wrong);
        expect!(t, fault == GP, "EFER <- {wrong:#x}: {fault:?}");
    }
    expect!(t, cpu::rdmsr(EFER) == efer, "EFER changed");
    expect!(t, try_write(EFER, efer | 1 << 11).is_none(), "no NXE");
    expect!(t, try_write(EFER, efer).is_none(), "EFER is stuck");
    for (index, wrong) in [
        (PAT, 2),
        (PAT, 0x0800_0000_0000_0000),
        (0x2ff, 0xffff),
        (0x250, 3),
        (0x251, 0),
        (0xfe, 0),
        (APIC_BASE, 0xfee0_1900),
        (APIC_BASE, 0xfee0_0d00 | 1 << 40),
        (APIC_BASE, 0xfee0_0500),
    ] {
        let fault = try_write(index, wrong);
        expect!(t, fault == GP, "WRMSR {index:#x} <- {wrong:#x}: {fault:?}");
    }
    // Nothing in the ranges that processors use does harm by being read.
    for start in [0, 0xc000_0000, 0xc001_0000, 0x4000_0000] {
        for index in start..start + 0x2000 {
            let fault = try_read(index);
            let fine = fault.is_none() || fault == GP;
            expect!(t, fine, "RDMSR {index:#x}: {fault:?}");
        }
    }
}

pub(super) fn ports(t: &Test) {
    // Every port may be read; the machine goes on.
    for port in 0..=0xffffu16 {
        // The console's registers pop what was typed.
        if !(0x3f8..0x400).contains(&port) {
            core::hint::black_box(cpu::inb(port));
        }
    }
    cpu::outl(0xcf8, 0x8000_0000);
    let id = cpu::inl(0xcfc);
    expect!(t, id & 0xffff == 0x8086, "host bridge {id:#x}");
    expect!(
        t,
        cpu::inw(0xcfe) == (id >> 16) as u16,
        "device id by halves"
    );
    expect!(t, cpu::inb(0xcfd) == (id >> 8) as u8, "vendor id by bytes");
    expect!(t, cpu::inl(0xcf8) == 0x8000_0000, "address register");
    cpu::outl(0xcf8, 0x80ff_ff00);
    expect!(t, cpu::inl(0xcfc) == u32::MAX, "absent function answers");
    cpu::outl(0xcf8, 0);
    // The 8259s are virtual.
    cpu::outb(0x21, 0x5a);
    expect!(t, cpu::inb(0x21) == 0x5a, "mask register of the 8259");
    let (word, double) = (cpu::inw(0x20) >> 8, cpu::inl(0x1e) >> 24);
    expect!(
        t,
        word == 0x5a && double == 0x5a,
        "mask register in a word {word:#x}, in a double word {double:#x}"
    );
    cpu::outw(0x20, 0xa50b);
    expect!(t, cpu::inb(0x21) == 0xa5, "mask register by a word");
    cpu::outb(0x20, 0x0a);
    cpu::outb(0x21, 0xff);
    // The scratch register of the UART by a byte and as part of a word.
    cpu::outb(0x3ff, 0xa5);
    expect!(t, cpu::inb(0x3ff) == 0xa5, "scratch register");
    expect!(
        t,
        cpu::inw(0x3fe) >> 8 == 0xa5,
        "scratch register in a word"
    );
    expect!(t, cpu::inl(0x3fd) >> 16 & 0xff == 0xa5, "in a double word");
}

/// Sleep states that the firmware does not announce, by accesses of every size to the chipset's control
/// register: the machine does not fall asleep. Type 0 is off there, and 1 is S3.
pub(super) fn sleep(t: &Test) {
    // The base of the power management registers is in the LPC bridge.
    cpu::outl(0xcf8, 0x8000_f840);
    let base = cpu::inl(0xcfc) as u16 & 0xff80;
    cpu::outl(0xcf8, 0);
    expect!(t, base != 0, "no power management registers");
    if base == 0 {
        return;
    }
    let control = base + 4;
    let before = cpu::inw(control);
    for kind in 2..5u8 {
        let high = kind << 2 | 1 << 5;
        cpu::outb(control + 1, high);
        cpu::outw(control, u16::from(high) << 8);
        cpu::outl(control - 2, u32::from(high) << 24);
        cpu::outl(control, u32::from(high) << 8);
        cpu::outw(control + 1, u16::from(high));
    }
    let after = cpu::inw(control);
    expect!(t, after == before, "PM1_CNT {before:#x} is {after:#x} now");
}

/// Upper half of YMM0.
fn write_ymm(value: u128) {
    // SAFETY: XCR0 has AVX; the compiler uses no upper halves here.
    unsafe {
        asm!("vmovups xmm0, [{p}]", "vinsertf128 ymm0, ymm0, [{p}], 1", p = in(reg) &raw const value,
            out("xmm0") _, options(nostack));
    }
}

/// Upper half of YMM0.
fn read_ymm() -> u128 {
    let mut value = 0u128;
    // SAFETY: as above.
    unsafe {
        asm!("vextractf128 [{p}], ymm0, 1", p = in(reg) &raw mut value, options(nostack));
    }
    value
}

/// What is disabled in XCR0 and enabled again has its values, and a trip through another vCPU's
/// turn does not change that.
fn extended_state(t: &Test) {
    const VALUE: u128 = 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00;
    cpu::xsetbv(0, 7);
    write_ymm(VALUE);
    cpu::xsetbv(0, 3);
    // Other turns of this CPU come in between.
    crate::apic::write(crate::apic::reg::LVT_TIMER, 0x42);
    for _ in 0..5 {
        crate::apic::write(crate::apic::reg::TIMER_INITIAL, cpu::ms(1) as u32);
        cpu::sleep();
    }
    crate::apic::write(crate::apic::reg::LVT_TIMER, 1 << 16);
    cpu::xsetbv(0, 7);
    let found = read_ymm();
    expect!(t, found == VALUE, "YMM0's upper half is {found:#x}");
    cpu::xsetbv(0, 3);
}

pub(super) fn xsetbv(t: &Test) {
    let before = cpu::read_cr4();
    cpu::write_cr4(before & !(1 << 18));
    let fault = guarded(1, |v| cpu::xsetbv(0, v));
    expect!(t, fault == UD, "without OSXSAVE: {fault:?}");
    if leaf(1, 0).ecx >> 26 & 1 == 0 {
        cpu::write_cr4(before);
        return;
    }
    cpu::write_cr4(before | 1 << 18);
    for (index, value) in [
        (0, 0),
        (0, 2),
        (0, 4),
        (0, 5),
        (0, 1 << 8 | 3),
        (0, 1 << 63 | 3),
        (0, 0x67),
        (0, u64::MAX),
        (1, 3),
        (2, 3),
        (0xffff_ffff, 3),
    ] {
        let fault = guarded((index, value), |(i, v)| cpu::xsetbv(i, v));
        expect!(t, fault == GP, "XCR{index:#x} <- {value:#x}: {fault:?}");
    }
    let supported = leaf(0xd, 0).eax;
    for value in [3, 1, 3] {
        let fault = guarded(value, |v| cpu::xsetbv(0, v));
        expect!(t, fault.is_none(), "XCR0 <- {value:#x}: {fault:?}");
        expect!(t, cpu::xgetbv() == value, "XCR0 is {:#x}", cpu::xgetbv());
    }
    if supported & 4 != 0 {
        expect!(t, guarded(7, |v| cpu::xsetbv(0, v)).is_none(), "no AVX");
        extended_state(t);
    }
    cpu::write_cr4(before);
}

macro_rules! instruction {
    ($($text:literal),*) => {
        guarded((), |()| {
            // SAFETY: an instruction that has to fault; if it does not, the test says so.
            unsafe {
                asm!($($text),*, in("rax") 0u64, in("rcx") 0u64, in("rdx") 0u64,
                    options(nostack));
            }
        })
    };
}

pub(super) fn undefined(t: &Test) {
    let results = [
        ("VMRUN", instruction!(".byte 0x0f,0x01,0xd8")),
        ("VMLOAD", instruction!(".byte 0x0f,0x01,0xda")),
        ("VMSAVE", instruction!(".byte 0x0f,0x01,0xdb")),
        ("STGI", instruction!(".byte 0x0f,0x01,0xdc")),
        ("CLGI", instruction!(".byte 0x0f,0x01,0xdd")),
        ("SKINIT", instruction!(".byte 0x0f,0x01,0xde")),
        ("INVLPGA", instruction!(".byte 0x0f,0x01,0xdf")),
        ("VMLAUNCH", instruction!(".byte 0x0f,0x01,0xc2")),
        ("VMRESUME", instruction!(".byte 0x0f,0x01,0xc3")),
        ("VMXOFF", instruction!(".byte 0x0f,0x01,0xc4")),
        ("VMXON", instruction!(".byte 0xf3,0x0f,0xc7,0x30")),
        ("VMCLEAR", instruction!(".byte 0x66,0x0f,0xc7,0x30")),
        ("VMREAD", instruction!(".byte 0x0f,0x78,0xc2")),
        ("VMWRITE", instruction!(".byte 0x0f,0x79,0xc2")),
        ("INVEPT", instruction!(".byte 0x66,0x0f,0x38,0x80,0x00")),
        ("GETSEC", instruction!(".byte 0x0f,0x37")),
        ("MONITOR", instruction!(".byte 0x0f,0x01,0xc8")),
        ("MWAIT", instruction!(".byte 0x0f,0x01,0xc9")),
        ("RDPRU", instruction!(".byte 0x0f,0x01,0xfd")),
    ];
    for (name, fault) in results {
        expect!(t, fault == UD, "{name}: {fault:?}");
    }
    let fault = instruction!("rdpmc");
    expect!(t, fault == UD || fault == GP, "RDPMC: {fault:?}");
}

pub(super) fn cache(t: &Test) {
    static mut WORDS: [u64; 1024] = [0; 1024];
    let words = &raw mut WORDS as *mut u64;
    for round in 0..8u64 {
        // SAFETY: the array is this test's; INVD must not lose what was written before it.
        unsafe {
            for i in 0..1024 {
                words.add(i).write_volatile(round << 32 | i as u64);
            }
            if round % 2 == 0 {
                asm!("wbinvd", options(nostack));
            } else {
                asm!("invd", options(nostack));
            }
            for i in 0..1024 {
                let value = words.add(i).read_volatile();
                expect!(t, value == round << 32 | i as u64, "word {i} is {value:#x}");
            }
        }
    }
}
