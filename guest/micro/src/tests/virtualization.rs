//! Virtualization itself is not there for guests: its instructions are undefined in each ring, its
//! MSRs and control bits fault, CPUID hides it. The same on processors of both vendors.

use crate::cpu::{self, cpuid as leaf};
use crate::report::Test;
use crate::trap::{Fault, GP, RETURN_VECTOR, UD, guarded, in_ring3};
use core::arch::asm;

/// Whose instruction it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Undefined everywhere.
    Vmx,
    /// As the processor's own EFER.SVME is set while a guest runs, it looks at the privilege level
    /// first: #GP in ring 3 is as good.
    Svm,
}

/// Memory operands are at RAX.
const INSTRUCTIONS: &[(&str, Of, &[u8])] = &[
    ("VMLAUNCH", Of::Vmx, &[0x0f, 0x01, 0xc2]),
    ("VMRESUME", Of::Vmx, &[0x0f, 0x01, 0xc3]),
    ("VMXOFF", Of::Vmx, &[0x0f, 0x01, 0xc4]),
    ("VMFUNC", Of::Vmx, &[0x0f, 0x01, 0xd4]),
    ("VMXON", Of::Vmx, &[0xf3, 0x0f, 0xc7, 0x30]),
    ("VMCLEAR", Of::Vmx, &[0x66, 0x0f, 0xc7, 0x30]),
    ("VMPTRLD", Of::Vmx, &[0x0f, 0xc7, 0x30]),
    ("VMPTRST", Of::Vmx, &[0x0f, 0xc7, 0x38]),
    ("VMREAD to a register", Of::Vmx, &[0x0f, 0x78, 0xc2]),
    ("VMREAD to memory", Of::Vmx, &[0x0f, 0x78, 0x10]),
    ("VMWRITE of a register", Of::Vmx, &[0x0f, 0x79, 0xc2]),
    ("VMWRITE of memory", Of::Vmx, &[0x0f, 0x79, 0x10]),
    ("INVEPT", Of::Vmx, &[0x66, 0x0f, 0x38, 0x80, 0x08]),
    ("INVVPID", Of::Vmx, &[0x66, 0x0f, 0x38, 0x81, 0x08]),
    ("GETSEC", Of::Vmx, &[0x0f, 0x37]),
    ("ENCLV", Of::Vmx, &[0x0f, 0x01, 0xc0]),
    ("PCONFIG", Of::Vmx, &[0x0f, 0x01, 0xc5]),
    ("ENCLS", Of::Vmx, &[0x0f, 0x01, 0xcf]),
    ("ENCLU", Of::Vmx, &[0x0f, 0x01, 0xd7]),
    ("TDCALL", Of::Vmx, &[0x66, 0x0f, 0x01, 0xcc]),
    ("SEAMCALL", Of::Vmx, &[0x66, 0x0f, 0x01, 0xcf]),
    ("RSM", Of::Vmx, &[0x0f, 0xaa]),
    ("MONITORX", Of::Vmx, &[0x0f, 0x01, 0xfa]),
    ("MWAITX", Of::Vmx, &[0x0f, 0x01, 0xfb]),
    ("VMRUN", Of::Svm, &[0x0f, 0x01, 0xd8]),
    ("VMLOAD", Of::Svm, &[0x0f, 0x01, 0xda]),
    ("VMSAVE", Of::Svm, &[0x0f, 0x01, 0xdb]),
    ("STGI", Of::Svm, &[0x0f, 0x01, 0xdc]),
    ("CLGI", Of::Svm, &[0x0f, 0x01, 0xdd]),
    ("SKINIT", Of::Svm, &[0x0f, 0x01, 0xde]),
    ("INVLPGA", Of::Svm, &[0x0f, 0x01, 0xdf]),
    ("RDPRU", Of::Vmx, &[0x0f, 0x01, 0xfd]),
    ("MONITOR", Of::Svm, &[0x0f, 0x01, 0xc8]),
    ("MWAIT", Of::Svm, &[0x0f, 0x01, 0xc9]),
];

/// Waiting in user mode, with the operand in a register; QEMU takes these for fences.
const WAITS: [(&str, [u8; 4]); 3] = [
    ("UMONITOR", [0xf3, 0x0f, 0xae, 0xf0]),
    ("UMWAIT", [0xf2, 0x0f, 0xae, 0xf0]),
    ("TPAUSE", [0x66, 0x0f, 0xae, 0xf0]),
];

#[repr(C, align(4096))]
struct Page([u8; 4096]);
static mut CODE: Page = Page([0xcc; 4096]);
static mut OPERAND: Page = Page([0; 4096]);

/// Puts an instruction and INT [`RETURN_VECTOR`] into a page; its address.
fn place(instruction: &[u8]) -> u64 {
    let page = (&raw mut CODE).cast::<u8>();
    let end = [0xcd, RETURN_VECTOR];
    for (at, byte) in instruction.iter().chain(&end).enumerate() {
        // SAFETY: inside the page, which nothing else writes.
        unsafe { page.add(at).write_volatile(*byte) };
    }
    page as u64
}

/// Jumps to code in either ring, with registers that do no harm.
extern "C" fn jump(code: u64) -> ! {
    // SAFETY: ends by an exception or INT, which a guard catches.
    unsafe {
        asm!("xor ecx, ecx", "xor edx, edx", "jmp {code}", code = in(reg) code,
            in("rax") &raw mut OPERAND, options(noreturn));
    }
}

/// What the instruction ends with in ring 0 or 3.
fn run(instruction: &[u8], user: bool) -> Option<Fault> {
    let code = place(instruction);
    match user {
        true => in_ring3(code, jump),
        false => guarded(code, |code| jump(code)),
    }
}

pub(super) fn instructions(t: &Test) {
    for round in 0..2 {
        for (name, of, bytes) in INSTRUCTIONS {
            for user in [false, true] {
                let fault = run(bytes, user);
                let allowed = fault == UD || user && *of == Of::Svm && fault == GP;
                let ring = if user { 3 } else { 0 };
                expect!(
                    t,
                    allowed,
                    "{name} in ring {ring}: {fault:?}, round {round}"
                );
            }
        }
        // SAFETY: reads a static of this test.
        let operand = unsafe { (&raw const OPERAND).cast::<u64>().read_volatile() };
        expect!(t, operand == 0, "an operand was written: {operand:#x}");
    }
}

fn read(index: u32) -> Option<Fault> {
    guarded(index, |index| {
        core::hint::black_box(cpu::rdmsr(index));
    })
}

fn write(index: u32, value: u64) -> Option<Fault> {
    guarded((index, value), |(index, value)| cpu::wrmsr(index, value))
}

const FEATURE_CONTROL: u32 = 0x3a;

pub(super) fn msrs(t: &Test) {
    // Locked, and nothing enabled: what firmware leaves on a machine without VMX.
    let control = cpu::rdmsr(FEATURE_CONTROL);
    expect!(t, control == 1, "IA32_FEATURE_CONTROL {control:#x}");
    for value in [0, 1, 4, 5, 7, u64::MAX] {
        let fault = write(FEATURE_CONTROL, value);
        expect!(
            t,
            fault == GP,
            "IA32_FEATURE_CONTROL <- {value:#x}: {fault:?}"
        );
    }
    // SMM control and base; SGX; VMX capabilities; posted interrupts and the like are no MSRs; then
    // VM_CR, IGNNE, SMM_CTL, VM_HSAVE_PA, SVM_KEY, SMM_KEY, DOORBELL, SEV, and their neighbours.
    let ranges = [
        0x9b..=0x9b,
        0x9e..=0x9e,
        0x8c..=0x8f,
        0x480..=0x49f,
        0x500..=0x500,
        0xc001_0111..=0xc001_011b,
        0xc001_0130..=0xc001_0138,
        0xc001_f000..=0xc001_f007,
    ];
    for index in ranges.into_iter().flatten() {
        let fault = read(index);
        expect!(t, fault == GP, "RDMSR {index:#x}: {fault:?}");
        for value in [0, 1, u64::MAX] {
            let fault = write(index, value);
            expect!(t, fault == GP, "WRMSR {index:#x} <- {value:#x}: {fault:?}");
        }
    }
}

const CR0_PE: u64 = 1 << 0;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_VMXE: u64 = 1 << 13;
const CR4_SMXE: u64 = 1 << 14;

fn try_cr4(value: u64) -> Option<Fault> {
    guarded(value, cpu::write_cr4)
}

fn try_cr0(value: u64) -> Option<Fault> {
    guarded(value, cpu::write_cr0)
}

fn try_cr3(value: u64) -> Option<Fault> {
    guarded(value, cpu::write_cr3)
}

/// Bits that nobody has, and those of virtualization: #GP, and the register keeps its value.
pub(super) fn control_registers(t: &Test) {
    let cr4 = cpu::read_cr4();
    for on in [0, CR4_VMXE | CR4_SMXE] {
        expect!(t, cr4 & on == 0, "CR4 {cr4:#x} has {on:#x}");
    }
    let reserved = [15, 19, 26, 29, 30, 31, 32, 40, 63].map(|bit| 1u64 << bit);
    for bit in [CR4_VMXE, CR4_SMXE, CR4_VMXE | CR4_SMXE]
        .into_iter()
        .chain(reserved)
    {
        let fault = try_cr4(cr4 | bit);
        expect!(t, fault == GP, "CR4 |= {bit:#x}: {fault:?}");
        let found = cpu::read_cr4();
        expect!(t, found == cr4, "CR4 {found:#x} after |= {bit:#x}");
    }
    // What is allowed can be changed and changed back.
    for bit in [2, 3, 7, 9, 10].map(|bit| 1u64 << bit) {
        let fault = try_cr4(cr4 ^ bit);
        let found = cpu::read_cr4();
        cpu::write_cr4(cr4);
        expect!(t, fault.is_none(), "CR4 ^= {bit:#x}: {fault:?}");
        expect!(t, found == cr4 ^ bit, "CR4 {found:#x} after ^= {bit:#x}");
    }
    let cr0 = cpu::read_cr0();
    for bit in [1, 5, 16, 18].map(|bit| 1u64 << bit) {
        let fault = try_cr0(cr0 ^ bit);
        let found = cpu::read_cr0();
        cpu::write_cr0(cr0);
        expect!(t, fault.is_none(), "CR0 ^= {bit:#x}: {fault:?}");
        expect!(t, found == cr0 ^ bit, "CR0 {found:#x} after ^= {bit:#x}");
    }
    let found = cpu::read_cr0();
    expect!(t, found == cr0, "CR0 {found:#x} at last, {cr0:#x} at first");
    // The caches off and on again; memory stays what it was.
    for value in [cr0 | CR0_CD, cr0 | CR0_CD | CR0_NW, cr0] {
        let fault = try_cr0(value);
        let found = cpu::read_cr0();
        expect!(t, fault.is_none(), "CR0 <- {value:#x}: {fault:?}");
        expect!(t, found == value, "CR0 {found:#x} after <- {value:#x}");
    }
}

/// What a processor refuses, and not every emulator does.
pub(super) fn strict(t: &Test) {
    for (name, bytes) in WAITS {
        for user in [false, true] {
            let fault = run(&bytes, user);
            expect!(t, fault == UD, "{name}, ring 3 {user}: {fault:?}");
        }
    }
    hidden_features(t, true);
    let (cr0, cr3, cr4) = (cpu::read_cr0(), cpu::read_cr3(), cpu::read_cr4());
    for value in [
        cr0 & !CR0_PE,
        cr0 & !CR0_PG,
        cr0 & !CR0_CD | CR0_NW,
        cr0 | 1 << 32,
        cr0 | 1 << 63,
    ] {
        let fault = try_cr0(value);
        expect!(t, fault == GP, "CR0 <- {value:#x}: {fault:?}");
        let found = cpu::read_cr0();
        expect!(t, found == cr0, "CR0 {found:#x} after <- {value:#x}");
    }
    let fault = try_cr4(cr4 & !CR4_PAE);
    expect!(t, fault == GP, "CR4.PAE <- 0 in long mode: {fault:?}");
    for bit in [cpu::physical_bits(), 52, 62] {
        let fault = try_cr3(cr3 | 1 << bit);
        expect!(t, fault == GP, "CR3 bit {bit}: {fault:?}");
    }
    for value in [16, 1 << 8, 1 << 63] {
        let fault = guarded(value, cpu::write_cr8);
        expect!(t, fault == GP, "CR8 <- {value:#x}: {fault:?}");
    }
    // Features that CPUID hides cannot be enabled.
    let (basic, extended) = (leaf(1, 0), leaf(7, 0));
    let features = [
        (17, basic.ecx >> 17),
        (18, basic.ecx >> 26),
        (16, extended.ebx),
        (20, extended.ebx >> 7),
        (21, extended.ebx >> 20),
        (11, extended.ecx >> 2),
        (12, extended.ecx >> 16),
        (22, extended.ecx >> 3),
        (23, extended.ecx >> 7 | extended.edx >> 20),
        (24, extended.ecx >> 31),
        (25, extended.edx >> 5),
    ];
    for (bit, shown) in features {
        if shown & 1 == 0 {
            let fault = try_cr4(cr4 | 1 << bit);
            cpu::write_cr4(cr4);
            expect!(
                t,
                fault == GP,
                "CR4 bit {bit}, which CPUID hides: {fault:?}"
            );
        }
    }
}

/// Leaf, subleaf, and the bits of EAX, EBX, ECX and EDX that may be seen.
type Policy = (u32, u32, [u32; 4]);
const ANY: u32 = u32::MAX;

/// What guests see of features. Leaves of numbers and names (0, 2, 4, 0xb, the brand string, caches)
/// may have any value.
const POLICY: &[Policy] = &[
    // SSE3 to SSE4.2, FMA, CX16, x2APIC, MOVBE, POPCNT, TSC deadline, AES, XSAVE, OSXSAVE, AVX,
    // F16C, RDRAND, the hypervisor's bit; no VMX, SMX, MONITOR, PCID, PDCM, thermal control.
    (1, 0, [ANY, ANY, 0xf7f8_3203, 0x178b_bb7f]),
    // ARAT alone.
    (6, 0, [1 << 2, 0, 0, 0]),
    // No SGX, RTM, MPX, PT, RDT, keys for the supervisor; FSRM of the fourth word.
    (7, 0, [0, 0xf1bf_07ab, 0x0040_5f5e, 1 << 4]),
    // x87, SSE, AVX, AVX-512, PKRU.
    (0xd, 0, [0x2e7, ANY, ANY, 0]),
    // XSAVEOPT, XSAVEC, XGETBV of what is in use; no XSAVES.
    (0xd, 1, [7, ANY, 0, 0]),
    // No SVM, extended APIC space, IBS, SKINIT, WDT, counters, MONITORX, RDPRU.
    (0x8000_0001, 0, [ANY, ANY, 0x1e1, 0x2dd3_bb7f]),
    (0x8000_0007, 0, [0, 0, 0, 1 << 8]),
    (0x8000_0008, 0, [0xffff, 0, 0xff, 0]),
];

/// Leaves whose values are not of features.
fn is_free(number: u32, sub: u32) -> bool {
    match number {
        0 | 2 | 4 | 0xb | 0x8000_0000 | 0x8000_0002..=0x8000_0006 => true,
        0xd => (2..=9).contains(&sub),
        _ => false,
    }
}

/// All leaves that there may be, with their subleaves.
pub(super) fn cpuid_policy(t: &Test) {
    let basic = 0..=0x40;
    let extended = 0x8000_0000..=0x8000_0040;
    for number in basic.chain(extended) {
        for sub in 0..=16 {
            if is_free(number, sub) {
                continue;
            }
            // Where subleaves mean nothing, each of them is the leaf.
            let plain = matches!(number, 1 | 6 | 0x8000_0001..);
            let wanted = if plain { 0 } else { sub };
            let rule = POLICY.iter().find(|(n, s, _)| (*n, *s) == (number, wanted));
            let allowed = rule.map_or([0; 4], |(_, _, bits)| *bits);
            let r = leaf(number, sub);
            let words = [r.eax, r.ebx, r.ecx, r.edx];
            for (index, name) in ["EAX", "EBX", "ECX", "EDX"].iter().enumerate() {
                let more = words[index] & !allowed[index];
                expect!(
                    t,
                    more == 0,
                    "leaf {number:#x}.{sub:#x} {name} shows {more:#x}"
                );
            }
        }
    }
    // Behind the last leaf is nothing, not the last leaf again.
    for number in [0x4000_0011, 0x4000_0100, 0x8000_0009, 0xc000_0000, u32::MAX] {
        let r = leaf(number, 0);
        let words = [r.eax, r.ebx, r.ecx, r.edx];
        expect!(t, words == [0; 4], "leaf {number:#x} is {words:x?}");
    }
}

/// What CPUID shows works.
pub(super) fn features(t: &Test) {
    hidden_features(t, false);
    supervisor_state(t);
    let counters = run(&[0x0f, 0x33], false);
    expect!(t, counters == UD || counters == GP, "RDPMC: {counters:?}");
}

/// What CPUID shows works; what it hides is undefined where the processor is strict.
fn hidden_features(t: &Test, strict: bool) {
    let (basic, seven, amd) = (leaf(1, 0), leaf(7, 0), leaf(0x8000_0001, 0));
    // The last is INVPCID of all contexts, with a descriptor of zeros.
    let cases: &[(&str, u32, &[u8])] = &[
        ("RDTSCP", amd.edx >> 27, &[0x0f, 0x01, 0xf9]),
        ("RDPID", seven.ecx >> 22, &[0xf3, 0x0f, 0xc7, 0xf9]),
        ("RDRAND", basic.ecx >> 30, &[0x0f, 0xc7, 0xf1]),
        ("RDSEED", seven.ebx >> 18, &[0x0f, 0xc7, 0xf9]),
        ("POPCNT", basic.ecx >> 23, &[0xf3, 0x0f, 0xb8, 0xc9]),
        ("CLFLUSH", basic.edx >> 19, &[0x0f, 0xae, 0x38]),
        (
            "INVPCID",
            seven.ebx >> 10,
            &[0xb1, 2, 0x66, 0x0f, 0x38, 0x82, 0x08],
        ),
    ];
    for (name, shown, bytes) in cases {
        let fault = run(bytes, false);
        let worked = fault.map(|fault| fault.vector) == Some(RETURN_VECTOR);
        let shown = shown & 1 != 0;
        let fits = match shown {
            true => worked,
            false => fault == UD || worked && !strict,
        };
        expect!(t, fits, "{name}, shown {shown}: {fault:?}");
    }
}

/// XSAVES, XRSTORS and IA32_XSS.
fn supervisor_state(t: &Test) {
    let shown = leaf(0xd, 1).eax >> 3 & 1 != 0;
    const IA32_XSS: u32 = 0xda0;
    if shown {
        let fault = read(IA32_XSS);
        expect!(t, fault.is_none(), "IA32_XSS: {fault:?}");
        return;
    }
    for value in [0, 1 << 8, u64::MAX] {
        let fault = write(IA32_XSS, value);
        expect!(t, fault == GP, "IA32_XSS <- {value:#x}: {fault:?}");
    }
    expect!(t, read(IA32_XSS) == GP, "IA32_XSS can be read");
    // XSAVES and XRSTORS at RAX.
    for bytes in [[0x0f, 0xc7, 0x28], [0x0f, 0xc7, 0x18]] {
        let fault = run(&bytes, false);
        expect!(t, fault == UD, "{bytes:x?}: {fault:?}");
    }
}
