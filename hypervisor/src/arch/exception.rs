//! Interrupt descriptor table, exception dump and the way of host interrupts into `irq`.

use super::segment::{self, Ist};
use super::{apic, cpu};
use crate::percpu;
use core::arch::global_asm;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

global_asm!(
    r#"
.section .text
.balign 16
.global interrupt_stubs
interrupt_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    push 0
    .endif
    .byte 0x68
    .long vector
    jmp interrupt_common
    .set vector, vector + 1
.endr

interrupt_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    sub rsp, 256
    movups [rsp], xmm0
    movups [rsp+16], xmm1
    movups [rsp+32], xmm2
    movups [rsp+48], xmm3
    movups [rsp+64], xmm4
    movups [rsp+80], xmm5
    movups [rsp+96], xmm6
    movups [rsp+112], xmm7
    movups [rsp+128], xmm8
    movups [rsp+144], xmm9
    movups [rsp+160], xmm10
    movups [rsp+176], xmm11
    movups [rsp+192], xmm12
    movups [rsp+208], xmm13
    movups [rsp+224], xmm14
    movups [rsp+240], xmm15
    cld
    lea rdi, [rsp + 256]
    mov rbp, rsp
    and rsp, -16
    call {handler}
    mov rsp, rbp
    movups xmm0, [rsp]
    movups xmm1, [rsp+16]
    movups xmm2, [rsp+32]
    movups xmm3, [rsp+48]
    movups xmm4, [rsp+64]
    movups xmm5, [rsp+80]
    movups xmm6, [rsp+96]
    movups xmm7, [rsp+112]
    movups xmm8, [rsp+128]
    movups xmm9, [rsp+144]
    movups xmm10, [rsp+160]
    movups xmm11, [rsp+176]
    movups xmm12, [rsp+192]
    movups xmm13, [rsp+208]
    movups xmm14, [rsp+224]
    movups xmm15, [rsp+240]
    add rsp, 256
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
"#,
    handler = sym handle,
);

unsafe extern "C" {
    static interrupt_stubs: u8;
    static __fixup_start: [i32; 2];
    static __fixup_end: [i32; 2];
}

/// What the stub pushed, lowest address first.
#[repr(C)]
pub struct Frame {
    /// r15, r14, … rax in the order of the pops.
    pub registers: [u64; 15],
    /// Vector that was taken.
    pub vector: u64,
    /// Error code, or 0.
    pub error: u64,
    /// Interrupted instruction.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Interrupted stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);
static mut IDT: Idt = Idt([[0; 2]; 256]);

/// Fills the table; once, on the bootstrap processor.
pub fn build_table() {
    let stubs = (&raw const interrupt_stubs) as u64;
    for vector in 0..256u64 {
        let address = stubs + vector * STUB_SIZE;
        let ist = match vector {
            2 => Ist::Nmi,
            8 | 18 => Ist::DoubleFault,
            0..32 => Ist::Exception,
            _ => Ist::Interrupt,
        };
        let low = (address & 0xffff)
            | u64::from(segment::CODE) << 16
            | (ist as u64) << 32
            | 0x8e << 40
            | (address >> 16 & 0xffff) << 48;
        // SAFETY: only the bootstrap processor runs, before any table is loaded.
        unsafe { IDT.0[vector as usize] = [low, address >> 32] };
    }
}

/// Distance of two stubs: 2 + 5 + 5 bytes, aligned.
const STUB_SIZE: u64 = 16;

/// Loads the table into this CPU.
pub fn load_table() {
    segment::load_table("idt", (&raw const IDT) as u64, size_of::<Idt>());
}

/// First vector that is not an exception.
const FIRST_INTERRUPT: u64 = 32;

extern "C" fn handle(frame: &mut Frame) {
    if frame.vector >= FIRST_INTERRUPT {
        crate::irq::handle_host_interrupt(frame.vector as u8);
        return;
    }
    if frame.vector == 2 {
        crate::irq::handle_host_nmi();
        return;
    }
    if fix_up(frame) {
        return;
    }
    fatal(frame)
}

/// Continues behind an instruction that is allowed to fault.
fn fix_up(frame: &mut Frame) -> bool {
    let start = (&raw const __fixup_start) as u64;
    let end = (&raw const __fixup_end) as u64;
    for entry in (start..end).step_by(8) {
        // SAFETY: the linker collected 8-byte entries between the two symbols, each two 32-bit
        // distances from the field itself.
        let (at, to) = unsafe {
            let at = (entry as *const i32).read();
            let to = (entry as *const i32).add(1).read();
            (
                entry.wrapping_add_signed(at.into()),
                (entry + 4).wrapping_add_signed(to.into()),
            )
        };
        if frame.rip == at {
            frame.rip = to;
            return true;
        }
    }
    false
}

/// Set by the first CPU that crashes, so that one dump stays readable.
static CRASHED: AtomicBool = AtomicBool::new(false);

const NAMES: [&str; 32] = [
    "#DE divide error",
    "#DB debug",
    "NMI",
    "#BP breakpoint",
    "#OF overflow",
    "#BR bound range",
    "#UD invalid opcode",
    "#NM device not available",
    "#DF double fault",
    "coprocessor overrun",
    "#TS invalid TSS",
    "#NP segment not present",
    "#SS stack fault",
    "#GP general protection",
    "#PF page fault",
    "reserved",
    "#MF x87",
    "#AC alignment check",
    "#MC machine check",
    "#XM SIMD",
    "#VE",
    "#CP control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "#HV",
    "#VC",
    "#SX security",
    "reserved",
];

fn fatal(frame: &Frame) -> ! {
    begin_crash();
    let out = &mut crate::console::Raw;
    let name = NAMES
        .get(frame.vector as usize)
        .copied()
        .unwrap_or("unknown");
    let _ = write!(
        out,
        "\r\n*** acrn: {} on CPU {} at {:#x} (image + {:#x}), error {:#x}, CR2 {:#x}\r\n",
        name,
        percpu::current_id(),
        frame.rip,
        frame.rip.wrapping_sub(super::boot::image().start),
        frame.error,
        cpu::read_cr2()
    );
    const ORDER: [&str; 15] = [
        "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx", "rdx",
        "rcx", "rax",
    ];
    for (i, name) in ORDER.iter().enumerate() {
        let end = if i % 4 == 3 { "\r\n" } else { "  " };
        let _ = write!(out, "{name:>3} {:016x}{end}", frame.registers[i]);
    }
    let _ = write!(
        out,
        "\r\nrsp {:016x}  rflags {:08x}  cr0 {:x}  cr3 {:x}  cr4 {:x}\r\n",
        frame.rsp,
        frame.rflags,
        cpu::read_cr0(),
        cpu::read_cr3(),
        cpu::read_cr4()
    );
    // registers[10] is rbp: the head of the chain of frame pointers.
    back_trace(frame.registers[10]);
    finish_crash()
}

/// Stops the other CPUs and takes the console over.
pub fn begin_crash() {
    if CRASHED.swap(true, Ordering::SeqCst) {
        cpu::halt_forever();
    }
    apic::stop_other_cpus();
    // SAFETY: the other CPUs have been sent an NMI that stops them.
    unsafe { crate::log::force_unlock() };
}

/// Whether some CPU is crashing.
pub fn crashed() -> bool {
    CRASHED.load(Ordering::Relaxed)
}

/// Prints return addresses along the frame pointers.
pub fn back_trace(mut rbp: u64) {
    let out = &mut crate::console::Raw;
    let _ = out.write_str("back trace (image + offset):");
    let image = super::boot::image();
    for _ in 0..24 {
        if rbp & 7 != 0 || !crate::memory::is_hypervisor_memory(rbp) {
            break;
        }
        // SAFETY: an aligned address in the hypervisor's own memory, which is always mapped.
        let (next, ret) = unsafe { ((rbp as *const u64).read(), ((rbp + 8) as *const u64).read()) };
        if !(image.start..image.text_end).contains(&ret) {
            break;
        }
        let _ = write!(out, " {:#x}", ret - image.start);
        rbp = next;
    }
    let _ = out.write_str("\r\n");
}

/// Shows the last exits of this CPU and stops.
pub fn finish_crash() -> ! {
    crate::stats::dump_last_exits(&mut crate::console::Raw, |_| true);
    let _ = crate::console::Raw.write_str("*** acrn: stopped. Reset the machine.\r\n");
    cpu::halt_forever()
}
