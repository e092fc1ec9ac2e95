//! Hypercalls as such: who may call, and what hostile arguments get.

use crate::report::Test;
use crate::trap::{Fault, GP, RETURN_VECTOR, UD, guarded, in_ring3};
use acrn_abi::hypercall::HypercallId;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// VMCALL; the result is RAX.
pub fn call(id: u64, first: u64, second: u64) -> i64 {
    let result;
    // SAFETY: the hypervisor writes at most where the arguments point to, which the tests own.
    unsafe {
        asm!("vmcall", in("r8") id, in("rdi") first, in("rsi") second, out("rax") result,
            options(nostack));
    }
    result
}

/// A hypercall by its number without the prefix.
pub fn hypercall(id: HypercallId, first: u64, second: u64) -> i64 {
    call(id.0.into(), first, second)
}

static RESULT: AtomicU64 = AtomicU64::new(0);

fn by_vmmcall() -> Option<Fault> {
    guarded((), |()| {
        let result: u64;
        // SAFETY: an unknown id.
        unsafe {
            asm!("vmmcall", in("r8") 0x8000_00fe_u64, in("rdi") 0u64, in("rsi") 0u64,
                out("rax") result, options(nostack));
        }
        RESULT.store(result, Ordering::SeqCst);
    })
}

pub(super) fn policy(t: &Test) {
    let result = call(0x8000_00fe, 0, 0);
    expect!(
        t,
        (-4095..0).contains(&result),
        "VMCALL of an unknown id: {result}"
    );
    // AMD's own instruction, where there is one.
    RESULT.store(0, Ordering::SeqCst);
    let fault = by_vmmcall();
    let result = RESULT.load(Ordering::SeqCst) as i64;
    if crate::cpu::is_intel() {
        expect!(t, fault == UD, "VMMCALL: {fault:?}");
    } else {
        expect!(t, fault.is_none(), "VMMCALL: {fault:?}");
        expect!(
            t,
            (-4095..0).contains(&result),
            "VMMCALL of an unknown id: {result}"
        );
    }
    // The version.
    let mut version = [0u32; 2];
    let at = (&raw mut version) as u64;
    let result = hypercall(HypercallId::GET_API_VERSION, at, 0);
    expect!(t, result == 0, "GET_API_VERSION: {result}");
    // SAFETY: the hypervisor has written it.
    let version = unsafe { (at as *const [u32; 2]).read_volatile() };
    expect!(t, version == [1, 0], "interface version {version:?}");
    ring3(t);
    other_registers(t);
}

/// Not from ring 3, by neither instruction, whatever the number.
fn ring3(t: &Test) {
    extern "C" fn vmmcall(id: u64) -> ! {
        // SAFETY: has to fault; otherwise comes back by INT.
        unsafe {
            asm!("vmmcall", "int {v}", in("r8") id, in("rdi") 0u64,
                v = const RETURN_VECTOR, options(noreturn));
        }
    }
    extern "C" fn vmcall(id: u64) -> ! {
        // SAFETY: as above.
        unsafe {
            asm!("vmcall", "int {v}", in("r8") id, in("rdi") 0u64,
                v = const RETURN_VECTOR, options(noreturn));
        }
    }
    extern "C" fn nothing(_: u64) -> ! {
        // SAFETY: comes back.
        unsafe { asm!("int {v}", v = const RETURN_VECTOR, options(noreturn)) };
    }
    let came = in_ring3(0, nothing).map(|f| f.vector);
    expect!(t, came == Some(RETURN_VECTOR), "ring 3 itself: {came:?}");
    for id in (0..256).flat_map(|n| [n, n | 0x8000_0000]) {
        for (name, function) in [
            ("VMMCALL", vmmcall as extern "C" fn(u64) -> !),
            ("VMCALL", vmcall),
        ] {
            let fault = in_ring3(id, function);
            let refused = fault == GP || fault == UD;
            expect!(t, refused, "{name} {id:#x} in ring 3: {fault:?}");
        }
    }
}

/// Only RAX changes.
fn other_registers(t: &Test) {
    let (rbx, rcx, rdx, r8, r9, r15): (u64, u64, u64, u64, u64, u64);
    // SAFETY: an unknown id.
    unsafe {
        asm!("push rbx", "mov rbx, 1", "vmcall", "mov {b}, rbx", "pop rbx", b = out(reg) rbx,
            inout("rcx") 2u64 => rcx, inout("rdx") 3u64 => rdx,
            inout("r8") 0x8000_00fe_u64 => r8, inout("r9") 5u64 => r9, inout("r15") 6u64 => r15,
            in("rdi") 0u64, in("rsi") 0u64, out("rax") _);
    }
    let got = [rbx, rcx, rdx, r8, r9, r15];
    expect!(t, got == [1, 2, 3, 0x8000_00fe, 5, 6], "registers {got:x?}");
}

/// Calls that succeed with some of the arguments below, and rightly so.
fn may_succeed(id: HypercallId) -> bool {
    use HypercallId as H;
    matches!(
        id,
        H::GET_API_VERSION
            | H::SERVICE_VM_OFFLINE_CPU
            | H::SET_CALLBACK_VECTOR
            | H::CREATE_VCPU
            | H::CREATE_VM
            | H::GET_HW_INFO
            | H::VM_GPA2HPA
            | H::SETUP_SBUF
            | H::VM_INTR_MONITOR
            | H::PM_GET_CPU_STATE
    )
}

/// One call, which may only be refused, or succeed where that is right.
fn one(t: &Test, id: HypercallId, first: u64, second: u64) {
    // This one stops CPUs for which the argument is an id; others it calls stopped already.
    if id == HypercallId::SERVICE_VM_OFFLINE_CPU && first < 16 {
        return;
    }
    let result = call(id.0.into(), first, second);
    let refused = (-4095..0).contains(&result);
    let fine = refused || may_succeed(id) && result >= 0;
    expect!(t, fine, "{id:x?}({first:#x}, {second:#x}) = {result:#x}");
}

/// Every number with every kind of argument.
pub(super) fn fuzz(t: &Test) {
    static mut PAGES: [u64; 3 * 512] = [0; 3 * 512];
    let own = ((&raw mut PAGES) as u64 + 4096) & !0xfff;
    let hidden = super::addresses::hidden()
        .next()
        .map_or(0x400_0000, |r| r.start);
    let arguments = [
        0,
        1,
        2,
        7,
        0xffff,
        0x1_0001,
        own,
        own + 1,
        own + 4093,
        0xfee0_0000,
        0xfec0_0010,
        hidden,
        hidden + 4090,
        0xffff_f000,
        0xffff_fffc,
        1 << 40,
        (1 << 52) - 8,
        1 << 63,
        u64::MAX - 7,
        u64::MAX,
    ];
    for index in 0..=255u32 {
        for prefix in [
            0,
            HypercallId::PREFIX,
            0x4000_0000,
            HypercallId::PREFIX | 0x100,
        ] {
            let id = HypercallId(prefix | index);
            for (i, first) in arguments.into_iter().enumerate() {
                // Pairs for what is known, else any will do.
                let seconds = if id.name().is_some() {
                    &arguments
                } else {
                    &arguments[i..=i]
                };
                for second in seconds {
                    one(t, id, first, *second);
                }
            }
        }
        // The upper half counts too.
        let result = call(u64::from(HypercallId::PREFIX | index) | 1 << 32, 0, 0);
        expect!(
            t,
            (-4095..0).contains(&result),
            "id {index:#x} with bit 32 = {result:#x}"
        );
    }
    // CREATE_VM may have succeeded with zeros in the page, and the vector has changed.
    for vm in 1..16 {
        hypercall(HypercallId::PAUSE_VM, vm, 0);
        hypercall(HypercallId::DESTROY_VM, vm, 0);
    }
    hypercall(HypercallId::SET_CALLBACK_VECTOR, 0xf3, 0);
}
