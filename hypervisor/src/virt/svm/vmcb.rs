//! Virtual machine control block (APM volume 2, appendix B) and the entry stub.

use super::Registers;
use core::arch::global_asm;
use core::mem::offset_of;

/// Control area.
#[repr(C)]
pub struct Control {
    pub intercept_cr: u32,
    pub intercept_dr: u32,
    pub exceptions: u32,
    pub intercept1: u32,
    pub intercept2: u32,
    reserved0: [u8; 0x28],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u32,
    pub int_ctl: u64,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    pub nested_control: u64,
    reserved1: [u8; 0x10],
    pub event_inj: u64,
    pub nested_cr3: u64,
    pub lbr_control: u64,
    pub clean_bits: u64,
    pub next_rip: u64,
    pub fetched_count: u8,
    pub fetched: [u8; 15],
    reserved2: [u8; 0x320],
}
const _: () = assert!(offset_of!(Control, iopm_base) == 0x40);
const _: () = assert!(offset_of!(Control, exit_code) == 0x70);
const _: () = assert!(offset_of!(Control, event_inj) == 0xa8);
const _: () = assert!(offset_of!(Control, next_rip) == 0xc8);
const _: () = assert!(size_of::<Control>() == 0x400);

/// Segment register in the state save area.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VmcbSegment {
    pub selector: u16,
    pub attributes: u16,
    pub limit: u32,
    pub base: u64,
}

/// State save area.
#[repr(C)]
pub struct State {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    reserved0: [u8; 0x2b],
    pub cpl: u8,
    reserved1: u32,
    pub efer: u64,
    reserved2: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved3: [u8; 0x58],
    pub rsp: u64,
    reserved4: [u8; 0x18],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved5: [u8; 0x20],
    pub pat: u64,
    reserved6: [u8; 0x990],
}
const _: () = assert!(offset_of!(State, cpl) == 0xcb);
const _: () = assert!(offset_of!(State, efer) == 0xd0);
const _: () = assert!(offset_of!(State, cr4) == 0x148);
const _: () = assert!(offset_of!(State, rsp) == 0x1d8);
const _: () = assert!(offset_of!(State, rax) == 0x1f8);
const _: () = assert!(offset_of!(State, cr2) == 0x240);
const _: () = assert!(offset_of!(State, pat) == 0x268);

/// The whole block.
#[repr(C, align(4096))]
pub struct Vmcb {
    pub control: Control,
    pub state: State,
}
const _: () = assert!(size_of::<Vmcb>() == 4096);

impl Vmcb {
    /// All zero.
    pub const fn new() -> Self {
        // SAFETY: integers and arrays of integers only: zero is a value of each.
        unsafe { core::mem::zeroed() }
    }
}

/// Bits of `intercept1` (offset 0x0C).
pub mod intercept1 {
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const PAUSE: u32 = 1 << 23;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const FERR_FREEZE: u32 = 1 << 30;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of `intercept2` (offset 0x10).
pub mod intercept2 {
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// Fields of `int_ctl` (offset 0x60).
pub mod int_ctl {
    pub const V_IRQ: u64 = 1 << 8;
    pub const V_IGN_TPR: u64 = 1 << 20;
    pub const V_INTR_MASKING: u64 = 1 << 24;
}

/// EVENTINJ and EXITINTINFO: the field holds an event.
pub const EVENT_VALID: u64 = 1 << 31;

/// Exit codes (APM volume 2, appendix C).
pub mod exit_code {
    pub const EXCEPTION_DB: u64 = 0x41;
    pub const EXCEPTION_UD: u64 = 0x46;
    pub const EXCEPTION_AC: u64 = 0x51;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const VMSAVE: u64 = 0x83;
    pub const STGI: u64 = 0x84;
    pub const CLGI: u64 = 0x85;
    pub const SKINIT: u64 = 0x86;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const NPF: u64 = 0x400;
    pub const BUSY: u64 = -2i64 as u64;
    pub const INVALID: u64 = -1i64 as u64;
    /// QEMU writes the lower half only.
    pub const INVALID_32: u64 = 0xffff_ffff;
}

unsafe extern "C" {
    /// Enters the guest of `vmcb` and returns at its next exit, with GIF set and host interrupts
    /// off. RAX, RSP, RIP and RFLAGS are in the VMCB, the rest in `registers`.
    ///
    /// # Safety
    /// `vmcb` is a complete, page-aligned control block at its physical address; `host` holds the
    /// host state of this CPU as VMSAVE stored it.
    /// Where the host goes on behind #VMEXIT.
    pub static svm_left: u8;
    pub fn svm_enter(registers: *mut Registers, vmcb: *mut Vmcb, host: *mut crate::percpu::Page);
}

global_asm!(
    r#"
.section .text
.balign 64
.global svm_enter
svm_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdx                         // host state
    push rdi                         // registers
    mov rax, rsi                     // control block
"#,
    load_guest!(),
    r#"
    clgi
    sti                              // with GIF clear: lets host interrupts end the guest
    vmload rax
    vmrun rax
.global svm_left
svm_left:
    vmsave rax
    cli
"#,
    save_guest!(),
    r#"
    add rsp, 8
    pop rax                          // host state
    vmload rax                       // host TR, FS, GS
    stgi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
"#,
    xmm = const offset_of!(Registers, xmm),
    mxcsr = const offset_of!(Registers, mxcsr),
);
