//! What both entry stubs do with the registers that hardware does not switch. `{xmm}` and `{mxcsr}` are
//! the places of these fields in [`Registers`](super::Registers).

// SSE control and status after reset, which the hypervisor's code expects.
core::arch::global_asm!(
    ".section .rodata",
    ".balign 4",
    "host_mxcsr: .long 0x1f80",
    ".section .text"
);

/// Loads the guest's registers from RDI but for RAX and RSP; RDI last. Flags stay.
macro_rules! load_guest {
    () => {
        r#"
    movaps xmm0, [rdi + {xmm}]
    movaps xmm1, [rdi + {xmm} + 16]
    movaps xmm2, [rdi + {xmm} + 32]
    movaps xmm3, [rdi + {xmm} + 48]
    movaps xmm4, [rdi + {xmm} + 64]
    movaps xmm5, [rdi + {xmm} + 80]
    movaps xmm6, [rdi + {xmm} + 96]
    movaps xmm7, [rdi + {xmm} + 112]
    movaps xmm8, [rdi + {xmm} + 128]
    movaps xmm9, [rdi + {xmm} + 144]
    movaps xmm10, [rdi + {xmm} + 160]
    movaps xmm11, [rdi + {xmm} + 176]
    movaps xmm12, [rdi + {xmm} + 192]
    movaps xmm13, [rdi + {xmm} + 208]
    movaps xmm14, [rdi + {xmm} + 224]
    movaps xmm15, [rdi + {xmm} + 240]
    ldmxcsr [rdi + {mxcsr}]
    mov rcx, [rdi + 8]
    mov rdx, [rdi + 16]
    mov rbx, [rdi + 24]
    mov rbp, [rdi + 40]
    mov rsi, [rdi + 48]
    mov r8, [rdi + 64]
    mov r9, [rdi + 72]
    mov r10, [rdi + 80]
    mov r11, [rdi + 88]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    mov rdi, [rdi + 56]
"#
    };
}

/// Saves the guest's registers but for RAX and RSP, directly behind the exit: the place to save them
/// is on top of the stack. It is in RDI afterwards; RCX is lost. MXCSR is the host's.
macro_rules! save_guest {
    () => {
        r#"
    push rdi
    mov rdi, [rsp + 8]
    mov [rdi + 8], rcx
    mov [rdi + 16], rdx
    mov [rdi + 24], rbx
    mov [rdi + 40], rbp
    mov [rdi + 48], rsi
    mov [rdi + 64], r8
    mov [rdi + 72], r9
    mov [rdi + 80], r10
    mov [rdi + 88], r11
    mov [rdi + 96], r12
    mov [rdi + 104], r13
    mov [rdi + 112], r14
    mov [rdi + 120], r15
    pop rcx
    mov [rdi + 56], rcx
    movaps [rdi + {xmm}], xmm0
    movaps [rdi + {xmm} + 16], xmm1
    movaps [rdi + {xmm} + 32], xmm2
    movaps [rdi + {xmm} + 48], xmm3
    movaps [rdi + {xmm} + 64], xmm4
    movaps [rdi + {xmm} + 80], xmm5
    movaps [rdi + {xmm} + 96], xmm6
    movaps [rdi + {xmm} + 112], xmm7
    movaps [rdi + {xmm} + 128], xmm8
    movaps [rdi + {xmm} + 144], xmm9
    movaps [rdi + {xmm} + 160], xmm10
    movaps [rdi + {xmm} + 176], xmm11
    movaps [rdi + {xmm} + 192], xmm12
    movaps [rdi + {xmm} + 208], xmm13
    movaps [rdi + {xmm} + 224], xmm14
    movaps [rdi + {xmm} + 240], xmm15
    stmxcsr [rdi + {mxcsr}]
    ldmxcsr [rip + host_mxcsr]
"#
    };
}
