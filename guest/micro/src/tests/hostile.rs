//! A User VM that tries what it must not: hypercalls of every number, virtualization instructions,
//! MSRs, control registers, in ring 0 and in ring 3. Each gets it an exception and nothing else.

use super::vm::{UserVm, counter, word};
use crate::cpu::{self, ms, wait_for};
use crate::report::Test;
use core::arch::global_asm;

// Loaded at 0x1000, 32-bit mode without paging. EBX is where an exception goes on. Counters: #UD at
// 0x2004, #GP at 0x2008, both of ring 3 at 0x200c, and the last ECX at 0x2010.
global_asm!(
    r#"
.macro attempt bytes:vararg
    .byte 0xbb                       // mov ebx, …
    .long 0x1000 + 9f - hostile
    .byte \bytes
9:
.endm
// All instructions that a User VM has none of.
.macro forbidden
    attempt 0x0f,0x01,0xd9           // vmmcall
    attempt 0x0f,0x01,0xc1           // vmcall
    attempt 0x0f,0x01,0xd8           // vmrun
    attempt 0x0f,0x01,0xda           // vmload
    attempt 0x0f,0x01,0xdb           // vmsave
    attempt 0x0f,0x01,0xdc           // stgi
    attempt 0x0f,0x01,0xdd           // clgi
    attempt 0x0f,0x01,0xde           // skinit
    attempt 0x0f,0x01,0xdf           // invlpga
    attempt 0x0f,0x01,0xc8           // monitor
    attempt 0x0f,0x01,0xc9           // mwait
    attempt 0x0f,0x01,0xd1           // xsetbv
    attempt 0x0f,0xaa                // rsm
    attempt 0x0f,0x01,0xc2           // vmlaunch
    attempt 0x0f,0x01,0xc3           // vmresume
    attempt 0x0f,0x01,0xc4           // vmxoff
    attempt 0x0f,0x01,0xd4           // vmfunc
    attempt 0xf3,0x0f,0xc7,0x30      // vmxon
    attempt 0x0f,0xc7,0x30           // vmptrld
    attempt 0x0f,0x78,0xc2           // vmread
    attempt 0x66,0x0f,0x38,0x80,0x08 // invept
    attempt 0x0f,0x37                // getsec
    attempt 0x0f,0x33                // rdpmc
.endm
// What ring 3 must not do besides.
.macro privileged
    attempt 0x0f,0x32                // rdmsr
    attempt 0x0f,0x30                // wrmsr
    attempt 0xf4                     // hlt
    attempt 0xfa                     // cli
    attempt 0xec                     // in al, dx
    attempt 0xee                     // out dx, al
    attempt 0x6e                     // outsb
    attempt 0x0f,0x08                // invd
    attempt 0x0f,0x09                // wbinvd
    attempt 0x0f,0x20,0xc0           // mov eax, cr0
    attempt 0x0f,0x22,0xd8           // mov cr3, eax
    attempt 0x0f,0x01,0x38           // invlpg
.endm

.section .rodata
.balign 16
.global hostile
hostile:
.code32
    mov esp, 0x7000
    // Gates for #UD, #GP and INT 0x80, which ring 3 may use.
    mov edi, 0x3000
    .byte 0xb8                       // mov eax, …
    .long 0x1000 + 1f - hostile
    mov [edi + 6*8], ax
    .byte 0xb8                       // mov eax, …
    .long 0x1000 + 2f - hostile
    mov [edi + 13*8], ax
    .byte 0xb8                       // mov eax, …
    .long 0x1000 + 3f - hostile
    mov [edi + 0x80*8], ax
    mov dword ptr [edi + 6*8 + 4], 0x8e00
    mov dword ptr [edi + 13*8 + 4], 0x8e00
    mov dword ptr [edi + 0x80*8 + 4], 0xee00
    mov word ptr [edi + 6*8 + 2], 8
    mov word ptr [edi + 13*8 + 2], 8
    mov word ptr [edi + 0x80*8 + 2], 8
    // Code and data of both rings, and a task segment with a stack for ring 0.
    mov edi, 0x4000
    mov dword ptr [edi + 8], 0xffff
    mov dword ptr [edi + 12], 0xcf9b00
    mov dword ptr [edi + 16], 0xffff
    mov dword ptr [edi + 20], 0xcf9300
    mov dword ptr [edi + 24], 0xffff
    mov dword ptr [edi + 28], 0xcffb00
    mov dword ptr [edi + 32], 0xffff
    mov dword ptr [edi + 36], 0xcff300
    mov dword ptr [edi + 40], 0x50000067
    mov dword ptr [edi + 44], 0x8900
    mov dword ptr [0x5004], 0x6800
    mov dword ptr [0x5008], 16
    mov word ptr [0x5066], 0x68
    mov word ptr [0x4100], 47
    mov dword ptr [0x4102], 0x4000
    lgdt [0x4100]
    mov word ptr [0x4108], 0x7ff
    mov dword ptr [0x410a], 0x3000
    lidt [0x4108]
    mov eax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    .byte 0xea                       // jmp 8:…
    .long 0x1000 + 4f - hostile
    .short 8
4:  mov eax, 40
    ltr ax

    xor esi, esi
5:  mov eax, 0x80000000
    or eax, esi
    mov ecx, esi
    mov edx, esi
    forbidden
    // MSRs: what is there, what is not, and those of the virtualization.
    mov eax, 1
    xor edx, edx
    mov ecx, esi
    attempt 0x0f,0x32
    lea ecx, [esi + 0x400]
    attempt 0x0f,0x32
    attempt 0x0f,0x30
    lea ecx, [esi + 0xc0010000]
    attempt 0x0f,0x32
    mov eax, 1
    xor edx, edx
    attempt 0x0f,0x30
    lea ecx, [esi + 0x40000000]
    attempt 0x0f,0x30
    // A bit of CR4, and of CR0 without protection and paging.
    mov ecx, esi
    mov eax, 1
    shl eax, cl
    attempt 0x0f,0x22,0xe0           // mov cr4, eax
    xor eax, eax
    mov cr4, eax
    mov eax, 1
    shl eax, cl
    and eax, 0x7ffffffe
    or eax, 0x11
    attempt 0x0f,0x22,0xc0           // mov cr0, eax
    mov eax, 0x11
    mov cr0, eax
    mov eax, esi
    mov ecx, esi
    cpuid
    mov ecx, 0x80000001
    lea eax, [esi + 0x80000000]
    cpuid
    mov [0x2010], esi
    inc esi
    cmp esi, 512
    jb 5b

    // Ring 3.
    mov eax, 35
    mov ds, ax
    mov es, ax
    push 35
    push 0x6000
    push 2
    push 27
    .byte 0xb8                       // mov eax, …
    .long 0x1000 + 6f - hostile
    push eax
    iretd
6:  xor esi, esi
7:  mov eax, 0x80000000
    or eax, esi
    mov ecx, esi
    mov edx, esi
    forbidden
    mov ecx, 0xc0000080
    privileged
    mov [0x2014], esi
    inc esi
    cmp esi, 256
    jb 7b
    int 0x80

1:  push 0x2004
    jmp 8f
2:  add esp, 4
    push 0x2008
8:  push eax
    mov eax, [esp + 4]
    inc dword ptr [eax]
    mov eax, [esp + 12]
    and eax, 3
    shr eax, 1
    add [0x200c], eax
    pop eax
    add esp, 4
    mov [esp], ebx
    iretd
3:  inc dword ptr [0x2000]
    jmp 3b
.code64
.global hostile_end
hostile_end:
.section .text
"#
);

unsafe extern "C" {
    static hostile: u8;
    static hostile_end: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const hostile;
    let length = (&raw const hostile_end) as usize - start as usize;
    // SAFETY: the assembler laid this out.
    unsafe { core::slice::from_raw_parts(start, length) }
}

pub(super) fn user_vm(t: &Test) {
    cpu::enable_interrupts();
    let vm = match UserVm::prepared(b"hostile", 2, code()) {
        Ok(vm) => vm,
        Err(result) => return expect!(t, false, "CREATE_VM: {result}"),
    };
    expect!(t, vm.start() == 0, "START_VM");
    let done = wait_for(ms(60_000), || counter() > 100);
    expect!(
        t,
        done,
        "got to {} of 512 in ring 0, {} of 256 in ring 3",
        word(0x2010),
        word(0x2014)
    );
    let (undefined, protection, ring3) = (word(0x2004), word(0x2008), word(0x200c));
    print!("{undefined} #UD, {protection} #GP, {ring3} of them in ring 3\n");
    // 22 of them are undefined in ring 0; RDPMC is one or the other.
    expect!(t, undefined >= 512 * 21, "{undefined} #UD");
    // None of the 35 instructions works in ring 3.
    expect!(t, ring3 == 256 * 35, "{ring3} exceptions in ring 3");
    expect!(t, vm.destroy() == 0, "DESTROY_VM");
    cpu::disable_interrupts();
}
