//! The bzImage header, the way from the boot protocol's 32-bit entry to Rust, and the code that
//! an application processor starts with.
//!
//! The payload may lie anywhere, and nobody has cleared what follows it: the first instructions
//! find their own address, clear `.bss`, and the 64-bit part relocates the image.

#![expect(
    bad_asm_style,
    reason = "differences of symbols as displacements need the AT&T syntax"
)]

use core::arch::global_asm;

global_asm!(
    r#"
.set LINK, 0x1000000                 // address of the payload in link.ld

.section .setup, "a"
setup:
    .org setup + 0x1f1
    .byte 1                          // setup_sects: one after the first
    .short 0
    .long 0                          // syssize, which nobody reads
    .short 0, 0xffff, 0
    .short 0xaa55
    .byte 0xeb, header_end - jump_end
jump_end:
    .ascii "HdrS"
    .short 0x020f                    // version
    .long 0
    .short 0x1000
    .short version - setup - 0x200   // kernel_version
    .byte 0                          // type_of_loader
    .byte 1                          // loadflags: LOADED_HIGH
    .short 0
    .long LINK                       // code32_start
    .long 0, 0                       // ramdisk
    .long 0                          // bootsect_kludge
    .short 0
    .byte 0, 0
    .long 0                          // cmd_line_ptr
    .long 0x7fffffff                 // initrd_addr_max
    .long 0x200000                   // kernel_alignment
    .byte 1                          // relocatable_kernel
    .byte 21                         // min_alignment
    .short 1                         // xloadflags: 64-bit entry
    .long 2047                       // cmdline_size
    .long 0
    .quad 0
    .long 0, 0                       // payload_offset, payload_length
    .quad 0                          // setup_data
    .quad LINK                       // pref_address
    .long __image_end - setup - 0x400 // init_size
    .long 0                          // handover_offset
    .long 0
header_end:
version:
    .asciz "micro-guest"
    .org setup + 0x400

.section .payload, "ax"
.code32
.global payload_start
payload_start:
    cli
    cld
    // 16 bytes at the end of the zero page are room enough for one return address.
    .att_syntax prefix
    leal 4096(%esi), %esp
    call 1f
1:  pop %ebp
    subl $1b - payload_start, %ebp   // run-time address of the payload
    movl %esi, %ebx
    leal __load_end - payload_start(%ebp), %edi
    leal __image_end - payload_start(%ebp), %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    rep stosb
    movl %ebx, %esi
    // The first 512 GiB, one to one, in pages of 1 GiB that ring 3 may use as well; without such
    // pages the first 4 GiB.
    leal boot_pml4 - payload_start(%ebp), %edi
    leal boot_pdpt - payload_start + 7(%ebp), %eax
    movl %eax, (%edi)
    movl %edi, %cr3
    leal boot_pdpt - payload_start(%ebp), %edi
    xorl %ecx, %ecx
2:  movl %ecx, %eax
    shll $30, %eax
    orl $0x87, %eax
    movl %eax, (%edi,%ecx,8)
    movl %ecx, %eax
    shrl $2, %eax
    movl %eax, 4(%edi,%ecx,8)
    incl %ecx
    cmpl $512, %ecx
    jb 2b
    movl $0x80000001, %eax
    pushl %ebx
    cpuid
    popl %ebx
    btl $26, %edx
    jc 9f
    xorl %eax, %eax
    movl $1024, %ecx
    rep stosl
    leal boot_pdpt - payload_start(%ebp), %edi
    leal boot_pd - payload_start + 7(%ebp), %eax
    movl %eax, (%edi)
    addl $4096, %eax
    movl %eax, 8(%edi)
    addl $4096, %eax
    movl %eax, 16(%edi)
    addl $4096, %eax
    movl %eax, 24(%edi)
    leal boot_pd - payload_start(%ebp), %edi
    movl $0x87, %eax
    movl $2048, %ecx
8:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 8b
9:  movl %cr4, %eax
    orl $0x620, %eax                 // PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax                 // LME
    wrmsr
    movl %cr0, %eax
    andl $0x9ffffffb, %eax
    orl $0x80000003, %eax            // PG, MP, PE
    movl %eax, %cr0
    leal boot_gdt - payload_start(%ebp), %eax
    movl %eax, boot_gdtr - payload_start + 2(%ebp)
    lgdtl boot_gdtr - payload_start(%ebp)
    leal boot_stack_top - payload_start(%ebp), %esp
    pushl $8
    leal entry64 - payload_start(%ebp), %eax
    pushl %eax
    lretl

    .org payload_start + 0x200
.code64
    // The 64-bit entry is not used: say so and stop.
    mov $0x7f, %eax
    outl %eax, $0xf4
3:  hlt
    jmp 3b

.intel_syntax noprefix
entry64:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    lea rsp, [rip + boot_stack_top]
    lea rax, [rip + __payload]
    sub rax, LINK
    lea rbx, [rip + __rela_start]
    lea rcx, [rip + __rela_end]
4:  cmp rbx, rcx
    jae 5f
    mov rdx, [rbx]
    add rdx, rax
    mov r8, [rbx + 16]
    add r8, rax
    mov [rdx], r8
    add rbx, 24
    jmp 4b
5:  mov edi, esi
    xor ebp, ebp
    call {main}
6:  hlt
    jmp 6b

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
boot_stack: .skip 65536
boot_stack_top:

// Application processors: copied below 1 MiB. Goes from real mode to long mode in one step.
.section .rodata
.balign 16
.global ap_code
ap_code:
.code16
    cli
    cld
    mov ax, cs
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16     // lgdt with a 32-bit base
    .short ap_gdtr - ap_code
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    .att_syntax prefix
    movl ap_cr3 - ap_code, %eax
    .intel_syntax noprefix
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffffb
    or eax, 0x80000003
    mov cr0, eax
    .byte 0x66, 0xea                 // far jump to the 64-bit part
ap_far:
    .long 0
    .short 8
.code64
ap_long:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov rsp, [rip + ap_stack]
    mov rdi, [rip + ap_argument]
    xor ebp, ebp
    call [rip + ap_entry]
7:  hlt
    jmp 7b
.balign 8
ap_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
ap_gdtr:
    .short 23
    .long 0
.balign 8
.global ap_parameters
ap_parameters:
ap_cr3: .quad 0
ap_stack: .quad 0
ap_argument: .quad 0
ap_entry: .quad 0
.global ap_code_end
ap_code_end:
.global ap_far_offset
ap_far_offset: .quad ap_far - ap_code
.global ap_long_offset
ap_long_offset: .quad ap_long - ap_code
.global ap_gdtr_offset
ap_gdtr_offset: .quad ap_gdtr - ap_code
.global ap_gdt_offset
ap_gdt_offset: .quad ap_gdt - ap_code
.global ap_parameters_offset
ap_parameters_offset: .quad ap_parameters - ap_code
.section .text
"#,
    main = sym crate::guest_main,
);

unsafe extern "C" {
    static ap_code: u8;
    static ap_code_end: u8;
    static ap_far_offset: u64;
    static ap_long_offset: u64;
    static ap_gdtr_offset: u64;
    static ap_gdt_offset: u64;
    static ap_parameters_offset: u64;
    static __payload: u8;
    static __image_end: u8;
}

/// First byte of the running payload and the byte behind all of the image.
pub fn image() -> (u64, u64) {
    (
        (&raw const __payload) as u64,
        (&raw const __image_end) as u64,
    )
}

/// What the start-up code of an application processor needs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ApParameters {
    /// Page tables; below 4 GiB.
    pub cr3: u64,
    /// Initial stack pointer.
    pub stack: u64,
    /// First argument of the entry function.
    pub argument: u64,
    /// Address of the entry function, which does not return.
    pub entry: u64,
}

/// Puts the start-up code at `page`, a free page below 1 MiB.
///
/// # Safety
/// The page is ordinary memory that nobody uses.
pub unsafe fn place_ap_code(page: u64, parameters: ApParameters) {
    let start = &raw const ap_code;
    let length = (&raw const ap_code_end) as usize - start as usize;
    let target = page as *mut u8;
    // SAFETY: the assembler laid code and offsets out; the target is the caller's free page.
    unsafe {
        core::ptr::copy(start, target, length);
        let put = |offset: u64, value: u64| {
            (target.add(offset as usize) as *mut u32).write_unaligned(value as u32);
        };
        put(ap_far_offset, page + ap_long_offset);
        put(ap_gdtr_offset + 2, page + ap_gdt_offset);
        (target.add(ap_parameters_offset as usize) as *mut ApParameters)
            .write_unaligned(parameters);
    }
}
