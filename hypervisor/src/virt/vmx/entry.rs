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
    mov rax, [rdi]
"#,
    load_guest!(),
    r#"
    jz 3f                            // the flags are those of the test
    vmresume
    jmp 4f
3:  vmlaunch
4:  ldmxcsr [rip + host_mxcsr]       // not entered: the guest's registers are as they were
    mov eax, 1
    jc 5f
    mov eax, {has_error}
    jmp 5f
.global vmx_left
vmx_left:
"#,
    save_guest!(),
    r#"
    mov [rdi], rax
    xor eax, eax
5:  add rsp, 8                       // the registers' address
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
