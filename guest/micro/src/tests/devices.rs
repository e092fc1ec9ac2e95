//! Accesses to emulated devices by uncommon instructions.

use crate::apic::{self, IOAPIC_WINDOW};
use crate::cpu::{self, inb};
use crate::report::Test;
use crate::{params, pci};
use core::arch::asm;

/// A pin without a device: the low half of its entry is a register to play with. Bit 12
/// (delivery status) and 14 (remote IRR) cannot be written.
const PIN: u8 = 21;
const MASKED: u32 = 1 << 16;

/// Puts `value` into the register, runs the instruction with its address in RDI, and returns
/// EAX and the register.
macro_rules! form {
    ($value:expr, $eax:expr, $($text:literal),*) => {{
        apic::ioapic_write(0x10 + PIN * 2, $value);
        apic::ioapic_select(0x10 + PIN * 2);
        let mut eax = u64::from($eax as u32);
        // SAFETY: the instruction reads and writes the register that RDI points to, and EAX.
        unsafe {
            asm!($($text),*, inout("rax") eax, inout("rdi") IOAPIC_WINDOW => _,
                inout("rsi") IOAPIC_WINDOW => _,
                out("rcx") _, out("rdx") _, out("r8") _);
        }
        (eax as u32, apic::ioapic_read(0x10 + PIN * 2))
    }};
}

pub(super) fn ioapic_forms(t: &Test) {
    let m = MASKED;
    // Name, result in EAX and in the register, what they should be.
    let results = [
        (
            "mov r, m",
            form!(m | 0x35, 0, "mov eax, [rdi]"),
            (m | 0x35, m | 0x35),
        ),
        (
            "mov r8d, m",
            form!(m | 0x35, 0, "mov r8d, [rdi]", "mov eax, r8d"),
            (m | 0x35, m | 0x35),
        ),
        (
            "mov m, r",
            form!(m, m | 0x44, "mov [rdi], eax"),
            (m | 0x44, m | 0x44),
        ),
        (
            "mov m, imm",
            form!(m, 7, "mov dword ptr [rdi], 0x10055"),
            (7, m | 0x55),
        ),
        (
            "movzx byte",
            form!(m | 0x8f, 0, "movzx eax, byte ptr [rdi]"),
            (0x8f, m | 0x8f),
        ),
        (
            "movsx byte",
            form!(m | 0x8f, 0, "movsx eax, byte ptr [rdi]"),
            (0xffff_ff8f, m | 0x8f),
        ),
        (
            "movzx word",
            form!(m | 0x28f, 0, "movzx eax, word ptr [rdi]"),
            (0x28f, m | 0x28f),
        ),
        (
            "mov byte",
            form!(m | 0x8f, 0x1111, "mov al, [rdi]"),
            (0x118f, m | 0x8f),
        ),
        (
            "mov 16",
            form!(m | 0x8f, 0x7777_1111, "mov ax, [rdi]"),
            (0x7777_008f, m | 0x8f),
        ),
        (
            "or m, r",
            form!(m | 0x30, 5, "or [rdi], eax"),
            (5, m | 0x35),
        ),
        (
            "and m, r",
            form!(m | 0x3f, m | 0xf, "and [rdi], eax"),
            (m | 0xf, m | 0xf),
        ),
        (
            "xor m, imm",
            form!(m | 0x3f, 0, "xor dword ptr [rdi], 0x2f"),
            (0, m | 0x10),
        ),
        (
            "add m, imm8",
            form!(m | 0x3f, 0, "add dword ptr [rdi], 1"),
            (0, m | 0x40),
        ),
        (
            "sub r, m",
            form!(m | 1, m | 5, "sub eax, [rdi]"),
            (4, m | 1),
        ),
        (
            "cmp m, r",
            form!(m | 9, m | 9, "cmp [rdi], eax", "sete al", "movzx eax, al"),
            (1, m | 9),
        ),
        (
            "test m, imm",
            form!(m | 9, 0, "test dword ptr [rdi], 8", "setne al"),
            (1, m | 9),
        ),
        (
            "xchg",
            form!(m | 0x22, m | 0x33, "xchg [rdi], eax"),
            (m | 0x22, m | 0x33),
        ),
        (
            "bt",
            form!(m | 0x10, 0, "bt dword ptr [rdi], 4", "setc al"),
            (1, m | 0x10),
        ),
        ("stosd", form!(m, m | 0x66, "stosd"), (m | 0x66, m | 0x66)),
        ("lodsd", form!(m | 0x67, 0, "lodsd"), (m | 0x67, m | 0x67)),
        (
            "movsd to memory",
            form!(m | 0x68, 0, "push rax", "mov rdi, rsp", "movsd", "pop rax"),
            (m | 0x68, m | 0x68),
        ),
        (
            "movsd from memory",
            form!(m, m | 0x69, "push rax", "mov rsi, rsp", "movsd", "pop rcx"),
            (m | 0x69, m | 0x69),
        ),
        (
            "SIB and displacement",
            form!(m | 0x6a, 0, "mov ecx, 4", "mov eax, [rdi + rcx*4 - 16]"),
            (m | 0x6a, m | 0x6a),
        ),
        (
            "64-bit read",
            form!(m | 0x6b, 0, "mov rax, [rdi]", "mov eax, eax"),
            (m | 0x6b, m | 0x6b),
        ),
    ];
    for (name, got, wanted) in results {
        expect!(t, got == wanted, "{name}: {got:x?} instead of {wanted:x?}");
    }
    let before = apic::ioapic_read(0x10 + PIN * 2);
    // What makes no sense is refused or ignored and does not end the VM.
    let _ = crate::trap::guarded((), |()| {
        // SAFETY: an SSE access to a device register, which may fault.
        unsafe { asm!("movups xmm0, [{}]", in(reg) IOAPIC_WINDOW, out("xmm0") _) };
    });
    let _ = crate::trap::guarded((), |()| {
        // SAFETY: as above, with an FPU instruction.
        unsafe { asm!("fnstenv [{}]", "fninit", in(reg) IOAPIC_WINDOW) };
    });
    expect!(t, before & MASKED != 0, "the entry has lost its mask");
    apic::ioapic_route(PIN, u64::from(MASKED));
}

/// A repetition that would take for ever: interrupts come in, and it can be left.
pub(super) fn endless_string(t: &Test) {
    const TICK: u8 = 0x44;
    /// Ends the guarded function by an exception.
    fn stop() {
        if crate::trap::count(TICK) % 8 == 0 {
            apic::end_of_interrupt();
            // SAFETY: comes back through the guard.
            unsafe { asm!("ud2") };
        }
    }
    crate::trap::hook(TICK, Some(stop));
    apic::write(apic::reg::LVT_TIMER, 1 << 17 | u32::from(TICK));
    let before = crate::trap::count(TICK);
    let fault = crate::trap::guarded((), |()| {
        apic::write(apic::reg::TIMER_INITIAL, cpu::ms(1) as u32);
        // SAFETY: reads one byte over and over would be simplest, but RSI moves: memory from
        // 16 MiB on, all of which may be read.
        unsafe {
            asm!("sti", "rep outsb", "cli", inout("rsi") 0x100_0000_u64 => _,
                inout("rcx") 1u64 << 40 => _, in("dx") 0x3ff);
        }
    });
    apic::write(apic::reg::LVT_TIMER, 1 << 16);
    crate::trap::hook(TICK, None);
    let ticks = crate::trap::count(TICK) - before;
    expect!(t, fault == crate::trap::UD, "left by {fault:?}");
    expect!(t, (1..=8).contains(&ticks), "{ticks} interrupts");
}

pub(super) fn string_io(t: &Test) {
    const TEXT: &[u8] = b"string output: rep outsb\r\n";
    // SAFETY: reads TEXT; the port is the UART.
    unsafe {
        asm!("rep outsb", inout("rsi") TEXT.as_ptr() => _, inout("rcx") TEXT.len() => _,
            in("dx") 0x3f8);
    }
    let mut bytes = [0u8; 16];
    let (left, end): (u64, u64);
    // SAFETY: writes eight bytes of the buffer.
    unsafe {
        asm!("rep insb", inout("rdi") bytes.as_mut_ptr() => end, inout("rcx") 8u64 => left,
            in("dx") 0x3fd);
    }
    expect!(t, left == 0, "RCX is {left} after REP INSB");
    expect!(t, end == bytes.as_ptr() as u64 + 8, "RDI after REP INSB");
    let line = inb(0x3fd);
    expect!(
        t,
        bytes[..8].iter().all(|b| b & 0x60 == line & 0x60),
        "INSB read {bytes:x?}"
    );
    expect!(t, bytes[8..] == [0; 8], "REP INSB wrote too much");
    // Backwards, by words, and not at all.
    let mut words = [0u16; 4];
    // SAFETY: writes words 2 and 1.
    unsafe {
        asm!("std", "rep insw", "cld", inout("rdi") words.as_mut_ptr().add(2) => _,
            inout("rcx") 2u64 => _, in("dx") 0x3fe);
        asm!("rep insb", inout("rdi") 8u64 => _, inout("rcx") 0u64 => _, in("dx") 0x3fd);
    }
    expect!(
        t,
        words[0] == 0 && words[3] == 0,
        "backward INSW wrote {words:x?}"
    );
    // A page boundary between two elements.
    static mut PAGES: [u8; 3 * 4096] = [0; 3 * 4096];
    // SAFETY: the array is this test's; 8 bytes around a page boundary inside of it.
    unsafe {
        let boundary = ((&raw mut PAGES) as u64 + 4096) & !0xfff;
        let start = (boundary - 4) as *mut u8;
        for i in 0..8 {
            start.add(i).write_volatile(b'0' + i as u8);
        }
        asm!("rep outsb", inout("rsi") start => _, inout("rcx") 8u64 => _, in("dx") 0x3f8);
        asm!("rep insd", inout("rdi") start => _, inout("rcx") 2u64 => _, in("dx") 0x3fc);
    }
    print!("\n");
    // An element across two pages, whose neighbours stay as they are.
    // SAFETY: inside PAGES.
    unsafe {
        let boundary = ((&raw mut PAGES) as u64 + 4096) & !0xfff;
        let around = (boundary - 8) as *mut [u8; 16];
        around.write_volatile([0x77; 16]);
        cpu::outb(0x3ff, 0xa5);
        asm!("insd", inout("rdi") boundary - 2 => _, in("dx") 0x3fc);
        let got = around.read_volatile();
        expect!(t, got[9] == 0xa5, "INSD across pages: {got:x?}");
        expect!(
            t,
            got[..6] == [0x77; 6] && got[10..] == [0x77; 6],
            "INSD wrote beside: {got:x?}"
        );
        (boundary as *mut u8).sub(1).write_volatile(0x3c);
        asm!("outsw", inout("rsi") boundary - 1 => _, in("dx") 0x3ff);
    }
    expect!(t, inb(0x3ff) == 0x3c, "OUTSW across pages");
    // To memory that is not there.
    let _ = crate::trap::guarded((), |()| {
        // SAFETY: an address of the hypervisor or of nobody.
        unsafe { asm!("insb", inout("rdi") 0xfef0_0000_u64 => _, in("dx") 0x3fd) };
    });
}

/// Shows the kernel's arguments and the functions on the first bus, for the host to judge.
pub(super) fn machine(t: &Test) {
    print!("arguments: {}\n", params::command_line());
    let mut count = 0;
    for device in 0..32 {
        if pci::read(device, 0) != u32::MAX {
            count += 1;
            print!("function 00:{device:02x}.0\n");
        }
    }
    expect!(t, count > 0, "no function at all");
}
