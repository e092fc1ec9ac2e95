//! The first instructions: multiboot headers, the 32-bit entry, the switch to long mode and the
//! self-relocation; and the code that an application processor runs out of real mode.
//!
//! The loader enters in 32-bit protected mode without paging and without a usable stack, at an
//! address that need not be the link address (multiboot2 relocatable header tag). Everything is
//! therefore addressed relative to `ebp`, the run-time address of `boot_base`.

use core::arch::global_asm;

/// Size of the stack of one physical CPU, in bytes. The bootstrap processor's, which the image
/// holds, is twice as large: start-up puts tables together on it.
pub const STACK_SIZE: usize = 32 * 1024;

global_asm!(
    r#"
.set LINK, 0x4000000                 // the address in link.ld
.section .boot.header, "ax"
.balign 8
mb1_header:
    .long 0x1BADB002
    .long 0x00010003                 // page-aligned modules, memory info, address fields
    .long 0xE4514FFB                 // -(magic + flags)
    .long LINK                       // header_addr, load_addr: the header is the first byte
    .long LINK
    .long __load_end - mb1_header + LINK
    .long __image_end - mb1_header + LINK
    .long boot_entry32 - mb1_header + LINK
.balign 8
mb2_header:
    .long 0xE85250D6
    .long 0
    .long mb2_header_end - mb2_header
    .long 0 - (0xE85250D6 + (mb2_header_end - mb2_header))
    // Information request: memory map, modules, both RSDPs, EFI map, EFI system table.
    .short 1, 0
    .long 8 + 7*4
    .long 1, 3, 6, 14, 15, 17, 12
    .balign 8
    // Address.
    .short 2, 0
    .long 24
    .long mb2_header - mb1_header + LINK
    .long LINK
    .long __load_end - mb1_header + LINK
    .long __image_end - mb1_header + LINK
    // Entry.
    .short 3, 0
    .long 12
    .long boot_entry32 - mb1_header + LINK
    .balign 8
    // Modules aligned to pages.
    .short 6, 0
    .long 8
    // Relocatable: 2 MiB to 2 GiB, 2 MiB alignment, highest first: low memory is the guests'.
    .short 10, 0
    .long 24
    .long 0x200000
    .long 0x7fffffff
    .long 0x200000
    .long 2
    // End.
    .short 0, 0
    .long 8
mb2_header_end:

.code32
.global boot_entry32
boot_entry32:
    cli
    cld
    // The only memory known to be writable is the information structure: its second word is
    // reserved (multiboot2) or the lower memory size, which nobody uses (multiboot1).
    lea esp, [ebx + 8]
    call boot_base
boot_base:
    pop ebp
    .att_syntax prefix
    leal boot_stack_top - boot_base(%ebp), %esp
    .intel_syntax noprefix
    mov edi, eax                     // magic
    mov esi, ebx                     // information
    // Long mode there?
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc no_long_mode
    // Identity map of the first 4 GiB with 2 MiB pages.
    .att_syntax prefix
    leal boot_pml4 - boot_base(%ebp), %eax
    leal boot_pdpt - boot_base(%ebp), %ecx
    .intel_syntax noprefix
    lea edx, [ecx + 3]
    mov [eax], edx
    .att_syntax prefix
    leal boot_pd - boot_base + 3(%ebp), %edx
    .intel_syntax noprefix
    mov [ecx], edx
    add edx, 0x1000
    mov [ecx + 8], edx
    add edx, 0x1000
    mov [ecx + 16], edx
    add edx, 0x1000
    mov [ecx + 24], edx
    .att_syntax prefix
    leal boot_pd - boot_base(%ebp), %ecx
    .intel_syntax noprefix
    mov edx, 0x83
    xor ebx, ebx
2:  mov [ecx + ebx*8], edx
    add edx, 0x200000
    inc ebx
    cmp ebx, 2048
    jb 2b
    mov cr3, eax
    mov eax, cr4
    or eax, 0x620                    // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x100                    // EFER.LME
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffffb              // caches on, no FPU emulation
    or eax, 0x80000003               // PG, MP, PE
    mov cr0, eax
    .att_syntax prefix
    leal boot_gdt - boot_base(%ebp), %eax
    movl %eax, boot_gdtr - boot_base + 2(%ebp)
    lgdtl boot_gdtr - boot_base(%ebp)
    .intel_syntax noprefix
    push 8
    .att_syntax prefix
    leal boot_entry64 - boot_base(%ebp), %eax
    .intel_syntax noprefix
    push eax
    retf

no_long_mode:
    .att_syntax prefix
    leal no_long_mode_text - boot_base(%ebp), %esi
    .intel_syntax noprefix
3:  mov al, [esi]
    test al, al
    jz 5f
    mov ah, al
    mov dx, 0x3fd
4:  in al, dx
    test al, 0x20
    jz 4b
    mov dx, 0x3f8
    mov al, ah
    out dx, al
    inc esi
    jmp 3b
5:  hlt
    jmp 5b
no_long_mode_text:
    .asciz "acrn: this CPU has no 64-bit long mode; stopped.\r\n"

.code64
boot_entry64:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    lea rsp, [rip + boot_stack_top]
    // Relocate: each entry says "the link-time address `addend` is stored here".
    lea rax, [rip + __image_start]
    sub rax, LINK                    // distance from the link address
    lea rbx, [rip + __rela_start]
    lea rcx, [rip + __rela_end]
6:  cmp rbx, rcx
    jae 7f
    mov rdx, [rbx]
    add rdx, rax
    mov r8, [rbx + 16]
    add r8, rax
    mov [rdx], r8
    add rbx, 24
    jmp 6b
7:  mov edi, edi
    mov esi, esi
    xor ebp, ebp
    call {main}
8:  hlt
    jmp 8b

.section .data
.balign 16
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdtr:
    .short 23
    .quad 0

.section .bss
.balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd: .skip 16384
.global boot_stack_guard
boot_stack_guard: .skip 4096         // not mapped in the hypervisor's own tables
boot_stack: .skip {stack}
boot_stack_top:

// Application processors: copied below 1 MiB, started by SIPI at its first byte.
.section .rodata
.balign 16
.global trampoline_start
trampoline_start:
.code16
    cli
    cld
    mov ax, cs
    mov ds, ax
    movzx ebx, ax
    shl ebx, 4                       // run-time address of the trampoline
    .att_syntax prefix
    leal tramp32 - trampoline_start(%ebx), %eax
    movl %eax, tramp_far32 - trampoline_start
    leal tramp_gdt - trampoline_start(%ebx), %eax
    movl %eax, tramp_gdtr + 2 - trampoline_start
    .intel_syntax noprefix
    .byte 0x66, 0x0f, 0x01, 0x16     // lgdt with a 32-bit base
    .short tramp_gdtr - trampoline_start
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xff, 0x2e           // far jump through tramp_far32
    .short tramp_far32 - trampoline_start
.code32
tramp32:
    mov ax, 24
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    .att_syntax prefix
    movl tramp_cr3 - trampoline_start(%ebx), %eax
    .intel_syntax noprefix
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x900                    // LME, NXE
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffffb
    or eax, 0x80010003               // PG, WP, MP, PE
    mov cr0, eax
    .att_syntax prefix
    leal tramp64 - trampoline_start(%ebx), %eax
    movl %eax, tramp_far64 - trampoline_start(%ebx)
    .intel_syntax noprefix
    .byte 0xff, 0xab                 // far jump through [ebx + tramp_far64]
    .long tramp_far64 - trampoline_start
.code64
tramp64:
    mov ebx, ebx
    .att_syntax prefix
    movq tramp_stack - trampoline_start(%rbx), %rsp
    movq tramp_arg - trampoline_start(%rbx), %rdi
    movq tramp_entry - trampoline_start(%rbx), %rax
    .intel_syntax noprefix
    xor ebp, ebp
    call rax
9:  hlt
    jmp 9b
.balign 8
tramp_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
tramp_gdtr:
    .short 31
    .long 0
tramp_far32:
    .long 0
    .short 16
tramp_far64:
    .long 0
    .short 8
.balign 8
.global trampoline_params
trampoline_params:
tramp_cr3: .quad 0
tramp_stack: .quad 0
tramp_arg: .quad 0
tramp_entry: .quad 0
.global trampoline_end
trampoline_end:
.code64
.section .text
"#,
    main = sym crate::rust_main,
    stack = const 2 * STACK_SIZE,
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_params: u8;
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
    static boot_stack_guard: u8;
}

/// The page below the bootstrap processor's stack, which is nobody's.
pub fn stack_guard() -> u64 {
    (&raw const boot_stack_guard) as u64
}

/// Top of the bootstrap processor's stack.
pub fn stack_top() -> u64 {
    stack_guard() + 4096 + 2 * STACK_SIZE as u64
}

/// What the trampoline hands to an application processor, in the order of its data.
#[repr(C)]
pub struct TrampolineParams {
    /// Physical address of the top page table; below 4 GiB.
    pub cr3: u64,
    /// Initial stack pointer.
    pub stack: u64,
    /// First argument of the entry function.
    pub argument: u64,
    /// Address of the entry function.
    pub entry: u64,
}

/// The trampoline's bytes, and the offset of its [`TrampolineParams`].
pub fn trampoline() -> (&'static [u8], usize) {
    let start = (&raw const trampoline_start) as usize;
    let end = (&raw const trampoline_end) as usize;
    let params = (&raw const trampoline_params) as usize;
    // SAFETY: the assembler laid the bytes from start to end out contiguously in .rodata.
    (
        unsafe { core::slice::from_raw_parts(start as *const u8, end - start) },
        params - start,
    )
}

/// Boundaries of the running image, as physical (and equal virtual) addresses.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// First byte; text follows.
    pub start: u64,
    /// End of text, page aligned.
    pub text_end: u64,
    /// End of read-only data, page aligned.
    pub rodata_end: u64,
    /// End of everything, page aligned.
    pub end: u64,
}

/// Where the image runs.
pub fn image() -> Image {
    Image {
        start: (&raw const __image_start) as u64,
        text_end: (&raw const __text_end) as u64,
        rodata_end: (&raw const __rodata_end) as u64,
        end: (&raw const __image_end) as u64,
    }
}
