# Tasks, in 32-bit protected mode: the code of tasks.rs, behind that of excursion.s.
.set MAIN, BASE + 0x6000
# What the fault handlers and the other tasks find.
.set CODE, 0x4480
.set FAULT_TR, 0x4484
.set FAULT_ESP, 0x4488
.set FAULT_EIP, 0x448c
.set OLD_GATE, 0x4490
.set PEER_TR, 0x44a0
.set PEER_FLAGS, 0x44a4
.set PEER_CR0, 0x44a8
.set PEER_LINK, 0x44ac
.set PEER_RIGHTS, 0x44b0
.set PEER_LDT, 0x44b4
.set PEER_DS, 0x44b8
.set PEER_COUNT, 0x44bc
# Whether the peer leaves by JMP.
.set PEER_JUMPS, 0x44c0
# Offsets in a TSS.
.set SAVED_EIP, 0x20
.set SAVED_FLAGS, 0x24
.set SAVED_EBX, 0x34

.macro keep index, place
    movl BASE + \place, %eax
    movl %eax, BASE + RESULTS + 4 * \index
.endm

# Notes the rights of a descriptor.
.macro rights index, selector
    movzbl BASE + GDT + \selector + 5, %eax
    note \index, %eax
.endm

# Tries an instruction; notes vector and error code of its fault.
.macro ask index, bytes:vararg
    movl $-1, BASE + LAST
    movl $-1, BASE + CODE
    movl $BASE + (9f - excursion_start), %ebx
    .byte \bytes
9:  keep \index, LAST
    keep (\index + 1), CODE
.endm

.macro task_gate vector, selector
    movl BASE + IDT + 8 * \vector, %eax
    movl %eax, BASE + OLD_GATE
    movl BASE + IDT + 8 * \vector + 4, %eax
    movl %eax, BASE + OLD_GATE + 4
    movl $\selector << 16, BASE + IDT + 8 * \vector
    movl $0x8500, BASE + IDT + 8 * \vector + 4
.endm

.macro old_gate vector
    movl BASE + OLD_GATE, %eax
    movl %eax, BASE + IDT + 8 * \vector
    movl BASE + OLD_GATE + 4, %eax
    movl %eax, BASE + IDT + 8 * \vector + 4
.endm

.macro call_task selector
    .byte 0x9a
    .long 0
    .short \selector
.endm

.macro jump_task selector
    .byte 0xea
    .long 0
    .short \selector
.endm

# Waits, but not for ever, until the peer has run some times.
.macro await_peer count
    movl $100000000, %ecx
8:  cmpl $\count, BASE + PEER_COUNT
    jae 9f
    decl %ecx
    jnz 8b
9:
.endm

.section .rodata
.code32
tasks:
    # CALL and IRET.
    movl $0x12345678, %esi
    movl $0x455, %eax
    movl %eax, %dr7
    clts
    call_task 0x38
    xorl %eax, %eax
    str %ax
    note 82, %eax
    note 83, %esi
    movl %cr0, %eax
    andl $8, %eax
    note 84, %eax
    clts
    keep 80, PEER_TR
    keep 81, PEER_LINK
    keep 85, PEER_FLAGS
    keep 86, PEER_RIGHTS
    keep 87, PEER_CR0
    rights 88, 0x38
    movl BASE + 0x7000 + SAVED_FLAGS, %eax
    andl $0x4000, %eax
    note 89, %eax
    pushfl
    popl %eax
    andl $0x4000, %eax
    note 90, %eax
    movl %dr7, %eax
    andl $0x55, %eax
    note 91, %eax

    # JMP there and back.
    movl $1, BASE + PEER_JUMPS
    jump_task 0x38
    movl $0, BASE + PEER_JUMPS
    keep 92, PEER_TR
    keep 93, PEER_FLAGS
    keep 94, PEER_RIGHTS
    rights 95, 0x38
    rights 96, 0x28
    xorl %eax, %eax
    str %ax
    note 97, %eax

    # A task gate of the GDT, of the IDT.
    movl $0, BASE + PEER_COUNT
    call_task 0x80
    keep 98, PEER_COUNT
    task_gate 0x30, 0x38
    int $0x30
    keep 99, PEER_COUNT
    keep 100, PEER_FLAGS

    # An external interrupt, NMIs.
    task_gate 0x32, 0x38
    movl $0, BASE + PEER_COUNT
    sti
    movl $0x44032, 0xfee00300
    await_peer 1
    cli
    movl $0, 0xfee000b0
    keep 101, PEER_COUNT
    keep 102, PEER_LINK
    task_gate 2, 0x38
    movl $0, BASE + PEER_COUNT
    movl 0xfee00020, %edx
    movl %edx, 0xfee00310
    movl $0x4400, 0xfee00300
    await_peer 1
    movl %edx, 0xfee00310
    movl $0x4400, 0xfee00300
    await_peer 2
    keep 103, PEER_COUNT
    clts

    # An exception with an error code: #SS of a segment that is not present.
    task_gate 12, 0x50
    movl $0x98, %eax
    movl $BASE + (1f - excursion_start), %edx
    ask 104, 0x8e, 0xd0            # mov ss, ax
    jmp 2f
2:  old_gate 12
    keep 106, FAULT_TR
    movl BASE + FAULT_EIP, %eax
    movzwl (%eax), %eax
    note 107, %eax
1:

    # Faults of the task that asks.
    ask 108, 0x9a, 0, 0, 0, 0, 0x58, 0
    ask 110, 0xea, 0, 0, 0, 0, 0x60, 0
    ask 112, 0x9a, 0, 0, 0, 0, 0x28, 0
    ask 114, 0x9a, 0, 0, 0, 0, 0x68, 0
    ask 116, 0x9a, 0, 0, 0, 0, 0xf8, 1
    task_gate 0x31, 0x58
    ask 118, 0xcd, 0x31
    task_gate 6, 0x58
    ask 120, 0x0f, 0x0b
    old_gate 6
    # IRET with a link to a task that is not busy.
    movw $0x38, MAIN
    pushfl
    orl $0x4000, (%esp)
    popfl
    ask 122, 0xcf
    xorl %eax, %eax
    str %ax
    note 124, %eax

    # Faults of the new task: DS, in a CALL and while #GP is delivered.
    ask 126, 0x9a, 0, 0, 0, 0, 0x70, 0
    keep 128, FAULT_TR
    clts
    movw $0x58, BASE + 0x7000 + 7 * 0x80 + 84
    task_gate 13, 0x70
    movl $0xfff8, %eax
    ask 130, 0x8e, 0xd8            # mov ds, ax
    old_gate 13
    keep 132, FAULT_TR
    # Virtual-8086 mode.
    ask 134, 0x9a, 0, 0, 0, 0, 0xa8, 0
    keep 136, FAULT_TR

    # A local table, of which DS is.
    call_task 0xa0
    keep 138, PEER_LDT
    keep 139, PEER_DS
    xorl %eax, %eax
    sldt %ax
    note 140, %eax

    # A TSS of 16 bits.
    movl $0x12345678, %esi
    call_task 0x48
    keep 141, PEER_TR
    keep 142, PEER_FLAGS
    keep 143, PEER_DS
    note 144, %esi

    # PAE paging, and a task with page tables of its own.
    clts
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $BASE + TABLES + 0x2000, %eax
    movl %eax, %cr3
    movl %eax, MAIN + 0x1c
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ask 146, 0x9a, 0, 0, 0, 0, 0x40, 0
    look 150
    movl %cr3, %eax
    note 151, %eax
    # A TSS where there is no page.
    ask 152, 0x9a, 0, 0, 0, 0, 0xb0, 0
    movl %cr2, %eax
    andl $0xfffff000, %eax
    note 154, %eax
    xorl %eax, %eax
    str %ax
    note 155, %eax
    movl %cr0, %eax
    andl $0x7fffffff, %eax
    movl %eax, %cr0

    testl $2, BASE + TASKS
    jz 1f
    # A local table that is none; the handler's stack is that of the new task.
    ask 160, 0x9a, 0, 0, 0, 0, 0xb8, 0
    keep 162, FAULT_TR
    keep 163, FAULT_ESP
    # A stack that is not present.
    ask 164, 0x9a, 0, 0, 0, 0, 0xc0, 0
    keep 166, FAULT_TR
    # The T flag.
    movl $0xffff0ff0, %eax
    movl %eax, %dr6
    ask 168, 0x9a, 0, 0, 0, 0, 0x88, 0
    keep 170, FAULT_TR
    movl %dr6, %eax
    andl $0x800f, %eax
    note 171, %eax
1:  clts
    jmp home

# Notes where it is and goes back. ESI: its TSS.
peer:
    xorl %eax, %eax
    str %ax
    movl %eax, BASE + PEER_TR
    pushfl
    popl %eax
    andl $0x4000, %eax
    movl %eax, BASE + PEER_FLAGS
    movl %cr0, %eax
    andl $8, %eax
    movl %eax, BASE + PEER_CR0
    movzwl (%esi), %eax
    movl %eax, BASE + PEER_LINK
    movzbl BASE + GDT + 0x28 + 5, %eax
    movl %eax, BASE + PEER_RIGHTS
    xorl %eax, %eax
    sldt %ax
    movl %eax, BASE + PEER_LDT
    movl %ds, %eax
    movl %eax, BASE + PEER_DS
    incl BASE + PEER_COUNT
    testl $1, BASE + PEER_JUMPS
    jnz 1f
    iretl
    jmp peer
1:  jump_task 0x28
    jmp peer

# Behind the task gate of an exception: the interrupted task goes on at its EBX.
handler_task:
    popl BASE + CODE
    movl $12, BASE + LAST
    xorl %eax, %eax
    str %ax
    movl %eax, BASE + FAULT_TR
    movl MAIN + SAVED_EIP, %eax
    movl %eax, BASE + FAULT_EIP
    movl MAIN + SAVED_EBX, %eax
    movl %eax, MAIN + SAVED_EIP
    iretl
    jmp handler_task

# Looks at 2 GiB, where only its own tables have a page.
paged_task:
    movl 0x80000000, %eax
    note 148, %eax
    movl %cr3, %eax
    note 149, %eax
    iretl
    jmp paged_task

# A task goes back although its handler has cleared NT.
return_task:
    movl MAIN + SAVED_EBX, %eax
    movl %eax, MAIN + SAVED_EIP
    pushfl
    orl $0x4000, (%esp)
    popfl
    iretl

# Exceptions: vector, error code and task are noted, and the task goes on at EBX.
task_debug:
    movl $1, %ebp
    jmp 2f
task_undefined:
    movl $6, %ebp
    jmp 2f
task_double:
    movl $8, %ebp
    jmp 1f
task_tss:
    movl $10, %ebp
    jmp 1f
task_present:
    movl $11, %ebp
    jmp 1f
task_stack:
    movl $12, %ebp
    jmp 1f
task_protection:
    movl $13, %ebp
    jmp 1f
task_page:
    movl $14, %ebp
1:  popl %ss:BASE + CODE
2:  movl %esp, %edx
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $BASE + STACK, %esp
    movl %edx, BASE + FAULT_ESP
    movl %ebp, BASE + LAST
    xorl %eax, %eax
    str %ax
    movl %eax, BASE + FAULT_TR
    jmp *%ebx

.code16
narrow_task:
    movl $0, PEER_TR
    str PEER_TR
    movzwl %ax, %eax
    movl %eax, PEER_FLAGS
    movw %fs, %ax
    movzwl %ax, %eax
    movl %eax, PEER_DS
    iretw
    jmp narrow_task
task_8086:
    hlt
.balign 4
.global tasks_offsets
tasks_offsets:
    .long task_debug - excursion_start, task_undefined - excursion_start
    .long task_double - excursion_start, task_tss - excursion_start
    .long task_present - excursion_start, task_stack - excursion_start
    .long task_protection - excursion_start, task_page - excursion_start
    .long peer - excursion_start, handler_task - excursion_start
    .long paged_task - excursion_start, return_task - excursion_start
    .long narrow_task - excursion_start, task_8086 - excursion_start
.code64
.section .text
