# The code of excursion.rs, in AT&T syntax. It is copied to BASE and knows its place.
.set BASE, 0x20000
.set RESULTS, 0x4000
.set TASKS, 0x43f0
.set MARKER, 0x43f4
.set GDT, 0x5000
.set IDT, 0x5100
.set IVT, 0x5600
.set TABLES, 0x8000
.set PAGES, 0xe000
# Variables behind the results.
.set LAST, 0x4400
.set CALLS, 0x4404
.set POINTER, 0x4410
.set OLD_GDT, 0x4420
.set OLD_IDT, 0x4430
.set OLD_RSP, 0x4440
.set OLD_CR0, 0x4448
.set OLD_CR3, 0x4450
.set OLD_CR4, 0x4458
.set OLD_EFER, 0x4460
.set OLD_GS, 0x4468
.set STACK, 0x3f00

# Tries an instruction in 32-bit code and notes the vector of its exception, or all ones.
.macro try32 index, bytes:vararg
    movl $-1, BASE + LAST
    movl $BASE + (9f - excursion_start), %ebx
    .byte \bytes
9:  movl BASE + LAST, %eax
    movl %eax, BASE + RESULTS + 4 * \index
.endm

# The same in 16-bit code with DS at BASE.
.macro try16 index, bytes:vararg
    movl $-1, LAST
    movw $(9f - excursion_start), %bx
    .byte \bytes
9:  movl LAST, %eax
    movl %eax, RESULTS + 4 * \index
.endm

# Runs code in virtual-8086 mode until its exception.
.macro in_8086 index, bytes:vararg
    movl $BASE + (9f - excursion_start), %ebx
    movl $(8f - excursion_start), %eax
    jmp enter_8086
8:  .byte \bytes
9:  movl BASE + LAST, %eax
    movl %eax, BASE + RESULTS + 4 * \index
.endm

.macro note index, register
    movl \register, BASE + RESULTS + 4 * \index
.endm

# Reads a word at 1 GiB and notes it, or the vector.
.macro look index
    movl $-1, BASE + LAST
    movl $BASE + (9f - excursion_start), %ebx
    movl 0x40000000, %eax
    movl %eax, BASE + LAST
9:  movl BASE + LAST, %eax
    movl %eax, BASE + RESULTS + 4 * \index
.endm

.section .rodata
.balign 16
.global excursion_start
excursion_start:
.code64
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushfq
    movq $BASE, %rdi
    movq %rsp, OLD_RSP(%rdi)
    movq %cr0, %rax
    movq %rax, OLD_CR0(%rdi)
    movq %cr3, %rax
    movq %rax, OLD_CR3(%rdi)
    movq %cr4, %rax
    movq %rax, OLD_CR4(%rdi)
    movl $0xc0000080, %ecx
    rdmsr
    movl %eax, OLD_EFER(%rdi)
    movl $0xc0000101, %ecx
    rdmsr
    movl %eax, OLD_GS(%rdi)
    movl %edx, OLD_GS + 4(%rdi)
    sgdt OLD_GDT(%rdi)
    sidt OLD_IDT(%rdi)
    movw $0xff, POINTER(%rdi)
    movq $BASE + GDT, POINTER + 2(%rdi)
    lgdt POINTER(%rdi)
    pushq $8
    pushq $BASE + (protected - excursion_start)
    lretq

.code32
protected:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movl $BASE + STACK, %esp
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0
    movl $0xc0000080, %ecx
    rdmsr
    andl $0xfffffeff, %eax
    wrmsr
    rdmsr
    note 0, %eax
    movl %cr0, %eax
    note 1, %eax
    movw $0x1ff, BASE + POINTER
    movl $BASE + IDT, BASE + POINTER + 2
    lidt BASE + POINTER
    # Protected mode without paging.
    xorl %ecx, %ecx
    movl $BASE + PAGES, %eax
    try32 2, 0x0f, 0x01, 0xd8
    try32 3, 0x0f, 0x01, 0xc2
    movl $BASE + PAGES, %eax
    try32 4, 0xf3, 0x0f, 0xc7, 0x30
    movl $BASE + PAGES, %eax
    try32 5, 0x66, 0x0f, 0xc7, 0x30
    movl $BASE + PAGES, %eax
    try32 6, 0x0f, 0xc7, 0x30
    try32 7, 0x0f, 0x78, 0xc2
    movl $BASE + PAGES, %eax
    try32 8, 0x66, 0x0f, 0x38, 0x80, 0x08
    try32 9, 0x0f, 0x01, 0xd4
    try32 10, 0x0f, 0x37
    try32 11, 0x0f, 0x01, 0xdd
    try32 12, 0x0f, 0x01, 0xdf
    try32 13, 0x0f, 0x01, 0xc8
    movl $0x40000000, %eax
    xorl %ecx, %ecx
    cpuid
    note 14, %ebx
    movl 0xfec00010, %eax
    note 15, %eax
    movb $0x5a, %al
    outb %al, $0x21
    xorl %eax, %eax
    inb $0x21, %al
    note 16, %eax

    # Two-level paging with large pages.
    movl %cr4, %eax
    andl $0xffffffdf, %eax
    orl $0x10, %eax
    movl %eax, %cr4
    movl $BASE + TABLES, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    look 20
    addl $0x1000, BASE + TABLES + 0x1000
    invlpg 0x40000000
    look 21
    movl $-1, BASE + LAST
    movl $BASE + (1f - excursion_start), %ebx
    movl 0x50000010, %eax
1:  movl BASE + LAST, %eax
    note 22, %eax
    movl %cr2, %eax
    note 23, %eax
    movl 0xfec00010, %eax
    note 24, %eax
    subl $0x1000, BASE + TABLES + 0x1000
    movl %cr3, %eax
    movl %eax, %cr3
    look 25
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0

    # PAE paging; its four pointers are read when paging is switched on.
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $BASE + TABLES + 0x2000, %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    look 30
    addl $0x1000, BASE + TABLES + 0x1000
    invlpg 0x40000000
    look 31
    movl $-1, BASE + LAST
    movl $BASE + (1f - excursion_start), %ebx
    movl 0x80000010, %eax
1:  movl BASE + LAST, %eax
    note 32, %eax
    movl %cr2, %eax
    note 33, %eax
    movl 0xfec00010, %eax
    note 34, %eax
    # The pointer of 1 GiB goes and comes.
    decl BASE + TABLES + 0x2008
    movl %cr3, %eax
    movl %eax, %cr3
    look 35
    incl BASE + TABLES + 0x2008
    movl %cr4, %eax
    xorl $0x80, %eax
    movl %eax, %cr4
    xorl $0x80, %eax
    movl %eax, %cr4
    look 36
    decl BASE + TABLES + 0x2008
    movl %cr0, %eax
    xorl $0x40000000, %eax
    movl %eax, %cr0
    invlpg 0x40000000
    look 37
    incl BASE + TABLES + 0x2008
    movl %cr0, %eax
    xorl $0x40000000, %eax
    movl %eax, %cr0
    invlpg 0x40000000
    look 38
    # Neither CR0 nor CR3 takes one with a reserved bit.
    orl $2, BASE + TABLES + 0x2008
    movl %cr0, %edi
    movl %edi, %eax
    xorl $0x40000000, %eax
    try32 26, 0x0f, 0x22, 0xc0
    movl %cr3, %eax
    try32 27, 0x0f, 0x22, 0xd8
    andl $0xfffffffd, BASE + TABLES + 0x2008
    movl %edi, %cr0
    movl %cr3, %eax
    movl %eax, %cr3
    movl $0x40000000, %eax
    cpuid
    note 39, %ebx
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0

    # Real mode. FS keeps its 4 GiB, the others get 64 KiB.
    movw $0x3ff, BASE + POINTER
    movl $BASE + IVT, BASE + POINTER + 2
    lidt BASE + POINTER
    .byte 0xea
    .long narrow - excursion_start
    .short 24
.code16
narrow:
    movw $32, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr0, %eax
    andl $0xfffffffe, %eax
    movl %eax, %cr0
    .byte 0xea
    .short real - excursion_start
    .short BASE >> 4
real:
    movw $(BASE >> 4), %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $STACK, %sp
    movl $0, CALLS
    try16 40, 0x0f, 0x01, 0xd8
    try16 41, 0x0f, 0x01, 0xc2
    try16 42, 0xf3, 0x0f, 0xc7, 0x34
    try16 43, 0x0f, 0xc7, 0x3c
    try16 44, 0x0f, 0x37
    try16 45, 0x0f, 0x01, 0xdc
    int $0x40
    int $0x40
    int $0x40
    movl CALLS, %eax
    movl %eax, RESULTS + 4 * 46
    movl $0x40000000, %eax
    cpuid
    movl %ebx, RESULTS + 4 * 47
    movb $0x5a, %al
    outb %al, $0x21
    xorl %eax, %eax
    inb $0x21, %al
    movl %eax, RESULTS + 4 * 48
    movl $0xfec00010, %esi
    .byte 0x64, 0x67, 0x66, 0x8b, 0x06   # mov eax, fs:[esi]
    movl %eax, RESULTS + 4 * 49
    movl $0x10000, %esi
    try16 50, 0x67, 0x66, 0x8b, 0x06 # mov eax, [esi]
    # Protected mode again, by LMSW.
    movw $0x1ff, POINTER
    movl $BASE + IDT, POINTER + 2
    .byte 0x66
    lidtw POINTER
    smsww %ax
    orw $1, %ax
    lmsw %ax
    .byte 0x66, 0xea
    .long BASE + (again - excursion_start)
    .short 8
.code32
again:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movl $BASE + STACK, %esp
    movl $40, %ecx
    try32 71, 0x0f, 0x00, 0xd9         # ltr cx
    testl $1, BASE + TASKS
    jnz tasks

    # Virtual-8086 mode. What does not fault goes on to UD2.
    in_8086 60, 0x0f, 0x01, 0xd8, 0xfa
    in_8086 61, 0x0f, 0x01, 0xc2, 0xfa
    in_8086 62, 0xf3, 0x0f, 0xc7, 0x34, 0xfa
    in_8086 63, 0xcd, 0x40, 0x0f, 0x0b
    in_8086 64, 0xfa, 0x0f, 0x0b
    movl $0, BASE + CALLS
    in_8086 65, 0xe4, 0x21, 0x66, 0x0f, 0xb6, 0xc8, 0x0f, 0x0b
    note 69, %ecx
    in_8086 66, 0xe6, 0x80, 0x0f, 0x0b
    movl $0x40000000, %esi
    in_8086 67, 0x66, 0x89, 0xf0, 0x66, 0x89, 0xdf, 0x0f, 0xa2, 0x66, 0x89, 0xde, 0x66, 0x89, 0xfb, 0x0f, 0x0b
    note 68, %esi
    in_8086 70, 0xf4, 0x0f, 0x0b
    jmp home

# EAX: where to begin in virtual-8086 mode.
enter_8086:
    movl $-1, BASE + LAST
    pushl $BASE >> 4
    pushl $BASE >> 4
    pushl $BASE >> 4
    pushl $BASE >> 4
    pushl $BASE >> 4
    pushl $STACK - 0x100
    pushl $0x20002
    pushl $BASE >> 4
    pushl %eax
    iretl

    # Long mode, as it was.
home:
    movl $0x600d, BASE + MARKER
    movl BASE + OLD_CR4, %eax
    movl %eax, %cr4
    movl BASE + OLD_CR3, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    movl BASE + OLD_EFER, %eax
    andl $0xfffffbff, %eax
    wrmsr
    movl BASE + OLD_CR0, %eax
    movl %eax, %cr0
    .byte 0xea
    .long BASE + (long_again - excursion_start)
    .short 48
.code64
long_again:
    movq $BASE, %rdi
    lgdt OLD_GDT(%rdi)
    lidt OLD_IDT(%rdi)
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movq OLD_RSP(%rdi), %rsp
    pushq $8
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
1:  xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl $0xc0000101, %ecx
    movl OLD_GS(%rdi), %eax
    movl OLD_GS + 4(%rdi), %edx
    wrmsr
    popfq
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    retq

.code32
# Exceptions of 32-bit code, and of virtual-8086 mode: the vector is noted, the stack put back.
undefined32:
    movl $6, %ebp
    jmp 1f
protection32:
    movl $13, %ebp
    jmp 1f
page32:
    movl $14, %ebp
1:  movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $BASE + STACK, %esp
    movl %ebp, BASE + LAST
    jmp *%ebx

.code16
undefined16:
    movl $6, LAST
    jmp 1f
protection16:
    movl $13, LAST
    jmp 1f
page16:
    movl $14, LAST
1:  addw $6, %sp
    jmpw *%bx
call16:
    incl CALLS
    iretw
.balign 4
.global excursion_offsets
excursion_offsets:
    .long undefined32 - excursion_start, protection32 - excursion_start, page32 - excursion_start
    .long undefined16 - excursion_start, protection16 - excursion_start, page16 - excursion_start
    .long call16 - excursion_start
.section .text
