//! The way into a guest and out of it.

use super::super::Registers;
use core::arch::global_asm;
use core::mem::offset_of;

/// [`vmx_enter`] came back from a guest.
pub const LEFT: u32 = 0;
/// The instruction failed, and the current VMCS says why.
pub const HAS_ERROR: u32 = 2;

unsafe extern "C" {
    /// Enters the guest of the current VMCS, by VMRESUME when `launched`, and returns at its next
    /// exit: [`LEFT`], 1 when the instruction failed without a current VMCS, or [`HAS_ERROR`]. RSP, RIP and RFLAGS are in the VMCS, the rest in `registers`. `host_rsp` is
    /// what the VMCS has as the host's RSP.
    ///
    /// # Safety
    /// The current VMCS is complete, and its host part is this CPU's.
    pub fn vmx_enter(registers: *mut Registers, launched: bool, host_rsp: *mut u64) -> u32;
    /// Where the host goes on behind a VM exit.
    pub static vmx_left: u8;
}

global_asm!(
    r#"
.section .text
.balign 64
.global vmx_enter
vmx_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdi                         // registers
    cmp [rdx], rsp
    je 2f
    mov [rdx], rsp
    mov eax, {host_rsp}
    vmwrite rax, rsp
2:  test sil, sil
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
    mov rax, [rdi]
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
    jz 3f                            // the flags are those of the test
    vmresume
    jmp 4f
3:  vmlaunch
4:  mov eax, 1                       // not entered: the guest's registers are as they were
    jc 5f
    mov eax, {has_error}
    jmp 5f
.global vmx_left
vmx_left:
    push rdi
    mov rdi, [rsp + 8]
    mov [rdi], rax
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
    xor eax, eax
5:  push 0x1f80
    ldmxcsr [rsp]
    add rsp, 16                      // and the registers' address
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
"#,
    has_error = const HAS_ERROR,
    host_rsp = const acrn_vmx::Field::HostRsp as u32,
    xmm = const offset_of!(Registers, xmm),
    mxcsr = const offset_of!(Registers, mxcsr),
);
