//! Exceptions and interrupts: counted, and where a test expects a fault, survived.
//!
//! [`guarded`] runs a function and returns the exception that ended it, like `setjmp`; the
//! function must own nothing that needs a destructor. Interrupts are counted by vector and
//! CPU and acknowledged at the local APIC, and at the 8259s for their vectors.

use crate::apic;
use crate::cpu::{rdmsr, wrmsr};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Most CPUs.
pub const MAX_CPUS: usize = 16;
/// First vector of the 8259 pair after [`crate::apic::initialise_pic`].
pub const PIC_BASE: u8 = 0x20;
/// Called with INT from ring 3 to come back.
pub const RETURN_VECTOR: u8 = 0x80;

global_asm!(
    r#"
.section .text
.balign 16
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    push 0
    .endif
    .byte 0x68
    .long vector
    jmp trap_common
    .set vector, vector + 1
.endr

trap_common:
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
    cld
    mov rdi, rsp
    mov rbp, rsp
    sub rsp, 512
    and rsp, -16
    fxsave64 [rsp]
    mov rbx, rsp
    call {handler}
    mov rsp, rbx
    fxrstor64 [rsp]
    mov rsp, rbp
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

// u64 guard_call(fn rdi, arg rsi, u64 *save rdx)
guard_call:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    pushfq
    mov [rdx], rsp
    mov rax, rdi
    mov rdi, rsi
    sub rsp, 8
    call rax
    add rsp, 8
    xor eax, eax
guard_return:
    popfq
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

// enter_ring3(code rdi, arg rsi, stack rdx): never returns; INT comes back through the guard.
enter_ring3:
    push 0x1b
    push rdx
    push 0x202
    push 0x23
    push rdi
    mov rdi, rsi
    iretq
"#,
    handler = sym handle,
);

unsafe extern "C" {
    static trap_stubs: u8;
    static guard_return: u8;
    fn guard_call(function: extern "C" fn(u64), argument: u64, save: *mut u64) -> u64;
    fn enter_ring3(code: extern "C" fn(u64) -> !, argument: u64, stack: u64) -> !;
}

#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// An exception that ended a guarded function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Vector.
    pub vector: u8,
    /// Error code, or 0.
    pub error: u32,
}

/// #UD.
pub const UD: Option<Fault> = Some(Fault {
    vector: 6,
    error: 0,
});
/// #GP(0).
pub const GP: Option<Fault> = Some(Fault {
    vector: 13,
    error: 0,
});

/// What belongs to a CPU; GS points to it.
#[repr(C, align(64))]
pub struct PerCpu {
    guard: AtomicU64,
    index: AtomicU64,
    counts: [AtomicU64; 256],
}

static CPUS: [PerCpu; MAX_CPUS] = [const {
    PerCpu {
        guard: AtomicU64::new(0),
        index: AtomicU64::new(0),
        counts: [const { AtomicU64::new(0) }; 256],
    }
}; MAX_CPUS];

const GS_BASE: u32 = 0xc000_0101;

fn this() -> &'static PerCpu {
    // SAFETY: `load` pointed GS at an entry of CPUS before the first trap.
    unsafe { &*(rdmsr(GS_BASE) as *const PerCpu) }
}

/// Number of the calling CPU.
pub fn cpu_index() -> usize {
    this().index.load(Ordering::Relaxed) as usize
}

/// How often `vector` was taken on the calling CPU.
pub fn count(vector: u8) -> u64 {
    this().counts[usize::from(vector)].load(Ordering::SeqCst)
}

/// How often `vector` was taken on a CPU.
pub fn count_on(cpu: usize, vector: u8) -> u64 {
    CPUS[cpu].counts[usize::from(vector)].load(Ordering::SeqCst)
}

/// A function to run in the handler of one vector, before it is acknowledged.
static HOOKS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

/// Sets what the handler of a vector does besides counting.
pub fn hook(vector: u8, function: Option<fn()>) {
    let address = function.map_or(0, |f| f as *const () as usize);
    HOOKS[usize::from(vector)].store(address, Ordering::SeqCst);
}

extern "C" fn handle(frame: &mut Frame) {
    let cpu = this();
    let vector = frame.vector as u8;
    cpu.counts[usize::from(vector)].fetch_add(1, Ordering::SeqCst);
    let exception = vector < 32 && vector != 2;
    if exception || vector == RETURN_VECTOR {
        let guard = cpu.guard.swap(0, Ordering::SeqCst);
        if guard == 0 {
            fatal(frame);
        }
        // Valid, vector, error; then go on behind the guarded call.
        frame.registers[14] = 1 << 63 | frame.vector << 32 | frame.error & 0xffff_ffff;
        frame.rip = (&raw const guard_return) as u64;
        frame.rsp = guard;
        frame.cs = 8;
        frame.ss = 16;
        frame.rflags = 2;
        return;
    }
    let function = HOOKS[usize::from(vector)].load(Ordering::SeqCst);
    if function != 0 {
        // SAFETY: `hook` stored a `fn()`.
        let function: fn() = unsafe { core::mem::transmute(function) };
        function();
    }
    if vector == 2 {
        return;
    }
    if (PIC_BASE..PIC_BASE + 16).contains(&vector) {
        apic::end_of_pic_interrupt(vector - PIC_BASE);
    } else {
        apic::end_of_interrupt();
    }
}

fn fatal(frame: &Frame) -> ! {
    let (image, _) = crate::start::image();
    let cr2: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nostack)) };
    crate::print!(
        "FAIL exception {} error {:#x} at payload + {:#x}, rsp {:#x}, cr2 {cr2:#x}\n",
        frame.vector,
        frame.error,
        frame.rip.wrapping_sub(image),
        frame.rsp
    );
    crate::report::exit(false)
}

/// Runs `function` and returns the exception that ended it.
pub fn guarded<T: Copy>(argument: T, function: fn(T)) -> Option<Fault> {
    struct Call<T> {
        function: fn(T),
        argument: T,
    }
    extern "C" fn run<T: Copy>(call: u64) {
        // SAFETY: the address of the `Call` below, which outlives the guarded call.
        let call = unsafe { &*(call as *const Call<T>) };
        (call.function)(call.argument);
    }
    let call = Call { function, argument };
    let save = this().guard.as_ptr();
    // SAFETY: `guard_call` keeps the registers that the ABI wants kept, on both ways back.
    let result = unsafe { guard_call(run::<T>, &raw const call as u64, save) };
    this().guard.store(0, Ordering::SeqCst);
    (result != 0).then_some(Fault {
        vector: (result >> 32) as u8,
        error: result as u32,
    })
}

/// Runs `function` in ring 3, which has to end by INT [`RETURN_VECTOR`] or an exception.
pub fn in_ring3(argument: u64, function: extern "C" fn(u64) -> !) -> Option<Fault> {
    guarded((argument, function), |(argument, function)| {
        let top = (&raw const RING3_STACK) as u64 + RING3_STACK_SIZE as u64 - 8;
        // SAFETY: comes back through the guard.
        unsafe { enter_ring3(function, argument, top) }
    })
}

const RING3_STACK_SIZE: usize = 16384;
static mut RING3_STACK: [u128; RING3_STACK_SIZE / 16] = [0; RING3_STACK_SIZE / 16];
static mut RING0_STACK: [u128; 1024] = [0; 1024];

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);
static mut IDT: Idt = Idt([[0; 2]; 256]);

#[repr(C, packed)]
struct Tss {
    reserved: u32,
    rsp0: u64,
    rest: [u8; 92],
}
static mut TSS: Tss = Tss {
    reserved: 0,
    rsp0: 0,
    rest: [0; 92],
};

/// Null, kernel code and data, user data and code, task.
static mut GDT: [u64; 7] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0,
];

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Has a vector of all CPUs handled by code at `address`, on the stack of that number in the task
/// segment (0 for the current one).
pub fn set_gate(vector: u8, address: u64, stack: u64) {
    let dpl = if vector == RETURN_VECTOR { 3 } else { 0 };
    let low = address & 0xffff
        | 8 << 16
        | stack << 32
        | 0x8e << 40
        | dpl << 45
        | (address >> 16 & 0xffff) << 48;
    let gate = (&raw mut IDT).cast::<[u64; 2]>();
    // SAFETY: inside the table. A trap of this vector in between is not expected by anyone.
    unsafe {
        gate.add(usize::from(vector))
            .write_volatile([low, address >> 32]);
    }
}

/// Has a vector handled by this module.
pub fn reset_gate(vector: u8) {
    let stub = (&raw const trap_stubs) as u64 + u64::from(vector) * 16;
    set_gate(vector, stub, 0);
}

/// Sets the top of stack 1 in the task segment.
pub fn set_first_stack(top: u64) {
    const OFFSET: usize = 36;
    // SAFETY: inside the segment, at the field's place.
    unsafe {
        (&raw mut TSS)
            .cast::<u8>()
            .add(OFFSET)
            .cast::<u64>()
            .write_unaligned(top);
    }
}

/// Builds the tables; once, on the first CPU.
pub fn build_tables() {
    for vector in 0..=255 {
        reset_gate(vector);
    }
    let tss = (&raw const TSS) as u64;
    // SAFETY: as above.
    unsafe {
        TSS.rsp0 = (&raw const RING0_STACK) as u64 + 16384;
        GDT[5] = 103 | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
        GDT[6] = tss >> 32;
    }
}

/// Loads the tables on CPU `index`. The task register is the first CPU's: ring 3 is left to it.
pub fn load(index: usize) {
    let idt = TablePointer {
        limit: 4095,
        base: (&raw const IDT) as u64,
    };
    let gdt = TablePointer {
        limit: 55,
        base: (&raw const GDT) as u64,
    };
    let cpu = &CPUS[index];
    cpu.index.store(index as u64, Ordering::SeqCst);
    wrmsr(GS_BASE, &raw const *cpu as u64);
    // SAFETY: the tables are complete and live for ever; the selectors keep their meaning.
    unsafe {
        asm!("lgdt [{}]", in(reg) &raw const gdt, options(nostack));
        asm!("lidt [{}]", in(reg) &raw const idt, options(nostack));
        if index == 0 {
            asm!("ltr {0:x}", in(reg) 0x28_u32, options(nostack));
        }
    }
}

/// Points IDTR at nothing: the next exception is a triple fault.
pub fn forget_table() {
    let nothing = TablePointer { limit: 0, base: 0 };
    // SAFETY: the test wants the machine to end.
    unsafe { asm!("lidt [{}]", in(reg) &raw const nothing, options(nostack)) };
}
