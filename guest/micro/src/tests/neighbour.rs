//! Two VMs on one CPU: neither sees or changes the other's registers.

use super::vm::{UserVm, counter, word};
use crate::cpu::{self, ms, rdmsr, wait_for, wrmsr};
use crate::report::Test;
use core::arch::{asm, global_asm};

// The neighbour: stores what it finds at 0x2100, puts its own values everywhere, and counts.
global_asm!(
    r#"
.section .rodata
.balign 16
.global scribbler
scribbler:
.code32
    mov edi, 0x2100
    mov eax, dr0
    mov [edi], eax
    mov eax, dr3
    mov [edi + 4], eax
    fnstcw [edi + 8]
    fnstsw [edi + 10]
    // STAR and TSC_AUX.
    mov ecx, 0xc0000081
    rdmsr
    mov [edi + 12], edx
    mov ecx, 0xc0000103
    rdmsr
    mov [edi + 16], eax
    mov eax, cr2
    mov [edi + 20], eax

    mov eax, 0x66666666
    mov dr0, eax
    mov dr1, eax
    mov dr2, eax
    mov dr3, eax
    mov cr2, eax
    fninit
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    fld1
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, 0x66666666
    wrmsr
    mov ecx, 0xc0000082
    mov eax, 0x66666666
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084
    wrmsr
    mov ecx, 0x174
    wrmsr
    mov ecx, 0x175
    wrmsr
    mov ecx, 0xc0000102
    wrmsr
    mov ecx, 0xc0000103
    wrmsr
1:  inc dword ptr [0x2000]
    jmp 1b
.code64
.global scribbler_end
scribbler_end:
.section .text
"#
);

unsafe extern "C" {
    static scribbler: u8;
    static scribbler_end: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const scribbler;
    let length = (&raw const scribbler_end) as usize - start as usize;
    // SAFETY: the assembler laid this out.
    unsafe { core::slice::from_raw_parts(start, length) }
}

fn read_cr2() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value) };
    value
}

/// STAR, LSTAR, SFMASK, SYSENTER CS and ESP, KERNEL_GS_BASE, TSC_AUX.
const MSRS: [u32; 7] = [
    0xc000_0081,
    0xc000_0082,
    0xc000_0084,
    0x174,
    0x175,
    0xc000_0102,
    0xc000_0103,
];

/// SYSENTER_CS has 16 bits.
const MARK: u64 = 0x1357;
static PI: f64 = core::f64::consts::PI;

pub(super) fn registers(t: &Test) {
    let before = MSRS.map(rdmsr);
    for (n, index) in MSRS.into_iter().enumerate() {
        wrmsr(index, MARK + n as u64);
    }
    cpu::write_dr0(MARK);
    cpu::write_dr1(MARK + 1);
    cpu::write_dr2(MARK + 2);
    cpu::write_dr3(MARK + 3);
    // A full stack of the x87 and a control word that is nobody's default.
    let control = 0x27fu16;
    // SAFETY: CR2, x87 and XMM15 are nobody else's here.
    unsafe {
        asm!("mov cr2, {}", in(reg) MARK);
        asm!("fninit", "fldcw [{}]", "fld qword ptr [{}]", in(reg) &raw const control,
            in(reg) &raw const PI);
    }
    let vm = match UserVm::prepared(b"scribbler", 1, code()) {
        Ok(vm) => vm,
        Err(result) => return expect!(t, false, "CREATE_VM: {result}"),
    };
    cpu::enable_interrupts();
    expect!(t, vm.start() == 0, "START_VM");
    expect!(t, wait_for(ms(10_000), || counter() > 100), "silent");
    // Both have had turns.
    let some = counter();
    wait_for(ms(10_000), || counter() > some);
    cpu::disable_interrupts();
    let (cr2, mut found, mut word_found): (u64, _, _) = (read_cr2(), 0f64, 0u16);
    expect!(t, cr2 == MARK, "CR2 is {cr2:#x}");
    // SAFETY: reads registers into these.
    unsafe {
        asm!("fnstcw [{}]", "fstp qword ptr [{}]", "fninit", in(reg) &raw mut word_found,
            in(reg) &raw mut found);
    }
    expect!(t, found == PI, "x87 holds {found}");
    expect!(t, word_found == control, "x87 control {word_found:#x}");
    let got = [
        cpu::read_dr0(),
        cpu::read_dr1(),
        cpu::read_dr2(),
        cpu::read_dr3(),
    ];
    let wanted = [MARK, MARK + 1, MARK + 2, MARK + 3];
    expect!(t, got == wanted, "DR0 to DR3 are {got:x?}");
    for (n, index) in MSRS.into_iter().enumerate() {
        let value = rdmsr(index);
        expect!(t, value == MARK + n as u64, "MSR {index:#x} is {value:#x}");
    }
    // What the neighbour found at first: the state of a processor after reset.
    let first: [u32; 6] = core::array::from_fn(|n| word(0x2100 + 4 * n));
    let control = first[2] & 0xffff;
    expect!(
        t,
        first[0] == 0 && first[1] == 0 && matches!(control, 0x37f | 0x40),
        "it began with DR0 {:#x}, DR3 {:#x}, x87 {:#x}",
        first[0],
        first[1],
        first[2]
    );
    expect!(t, first[3..] == [0; 3], "it began with {:x?}", &first[3..]);
    expect!(t, vm.destroy() == 0, "DESTROY_VM");
    for (index, value) in MSRS.into_iter().zip(before) {
        wrmsr(index, value);
    }
}
