//! Local APIC in both modes, I/O APIC, the 8259 pair.

use crate::cpu::{inb, outb, rdmsr, wrmsr};

const BASE: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;
/// `IA32_APIC_BASE`.
pub const APIC_BASE: u32 = 0x1b;
const ENABLE: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;

/// Registers by number: offset / 16, or MSR - 0x800.
pub mod reg {
    #![allow(missing_docs)]
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const EOI: u32 = 0x0b;
    pub const SVR: u32 = 0x0f;
    pub const IRR: u32 = 0x20;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_LINT0: u32 = 0x35;
    pub const TIMER_INITIAL: u32 = 0x38;
    pub const TIMER_CURRENT: u32 = 0x39;
    pub const TIMER_DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// Whether the calling CPU is in x2APIC mode.
pub fn is_x2apic() -> bool {
    rdmsr(APIC_BASE) & X2APIC != 0
}

/// Reads a register of the page in memory.
pub fn read_page(register: u32) -> u32 {
    // SAFETY: the local APIC's page.
    unsafe { ((BASE + u64::from(register) * 16) as *const u32).read_volatile() }
}

/// Writes a register of the page in memory.
pub fn write_page(register: u32, value: u32) {
    // SAFETY: the local APIC's page.
    unsafe { ((BASE + u64::from(register) * 16) as *mut u32).write_volatile(value) }
}

/// Reads a register.
pub fn read(register: u32) -> u32 {
    if is_x2apic() {
        rdmsr(0x800 + register) as u32
    } else {
        read_page(register)
    }
}

/// Writes a register.
pub fn write(register: u32, value: u32) {
    if is_x2apic() {
        wrmsr(0x800 + register, value.into());
    } else {
        write_page(register, value);
    }
}

/// Own id.
pub fn id() -> u32 {
    if is_x2apic() {
        read(reg::ID)
    } else {
        read(reg::ID) >> 24
    }
}

/// Enables the local APIC of the calling CPU, with all its own sources masked.
pub fn initialise() {
    write(reg::SVR, 0x1ff);
    write(reg::TPR, 0);
    write(reg::LVT_TIMER, 1 << 16);
    write(reg::LVT_LINT0, 1 << 16);
    write(reg::TIMER_DIVIDE, 0xb);
}

/// Changes the calling CPU to x2APIC mode.
pub fn enter_x2apic() {
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | ENABLE | X2APIC);
}

/// Changes the calling CPU back to xAPIC mode, through the disabled state as it must be.
pub fn leave_x2apic() {
    let base = rdmsr(APIC_BASE);
    wrmsr(APIC_BASE, base & !(ENABLE | X2APIC));
    wrmsr(APIC_BASE, base & !X2APIC | ENABLE);
    initialise();
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    write(reg::EOI, 0);
}

/// Sends an interrupt command; `low` as in the manual.
pub fn command(destination: u32, low: u32) {
    if is_x2apic() {
        wrmsr(
            0x800 + reg::ICR,
            u64::from(destination) << 32 | u64::from(low),
        );
    } else {
        write_page(reg::ICR_HIGH, destination << 24);
        write_page(reg::ICR, low);
    }
}

/// ICR: to the CPU itself.
pub const TO_SELF: u32 = 1 << 18;
/// ICR: to all.
pub const TO_ALL: u32 = 2 << 18;
/// ICR: to all others.
pub const TO_OTHERS: u32 = 3 << 18;
/// ICR: logical destination.
pub const LOGICAL: u32 = 1 << 11;
/// ICR: NMI.
pub const NMI: u32 = 4 << 8;
/// ICR: INIT, asserted.
pub const INIT: u32 = 5 << 8 | 1 << 14;
/// ICR: start-up; the page number is the vector.
pub const STARTUP: u32 = 6 << 8 | 1 << 14;

fn select(register: u8) {
    // SAFETY: the I/O APIC's page.
    unsafe { (IOAPIC as *mut u32).write_volatile(register.into()) }
}

/// Address of the I/O APIC's data window.
pub const IOAPIC_WINDOW: u64 = IOAPIC + 0x10;

/// Chooses a register of the I/O APIC for accesses to the window.
pub fn ioapic_select(register: u8) {
    select(register);
}

/// Reads a register of the I/O APIC.
pub fn ioapic_read(register: u8) -> u32 {
    select(register);
    // SAFETY: the I/O APIC's page.
    unsafe { (IOAPIC_WINDOW as *const u32).read_volatile() }
}

/// Writes a register of the I/O APIC.
pub fn ioapic_write(register: u8, value: u32) {
    select(register);
    // SAFETY: the I/O APIC's page.
    unsafe { (IOAPIC_WINDOW as *mut u32).write_volatile(value) }
}

/// Writes a redirection entry, upper half first.
pub fn ioapic_route(pin: u8, entry: u64) {
    ioapic_write(0x10 + pin * 2, 1 << 16);
    ioapic_write(0x11 + pin * 2, (entry >> 32) as u32);
    ioapic_write(0x10 + pin * 2, entry as u32);
}

/// Lower half of a redirection entry.
pub fn ioapic_entry(pin: u8) -> u32 {
    ioapic_read(0x10 + pin * 2)
}

/// Sets the 8259 pair up with vectors from [`crate::trap::PIC_BASE`] on, all but `open` masked.
pub fn initialise_pic(open: u16) {
    let base = crate::trap::PIC_BASE;
    outb(0x20, 0x11);
    outb(0xa0, 0x11);
    outb(0x21, base);
    outb(0xa1, base + 8);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    outb(0x21, !(open as u8));
    outb(0xa1, !((open >> 8) as u8));
}

/// Masks of the 8259 pair as they read back.
pub fn pic_masks() -> u16 {
    u16::from(inb(0x21)) | u16::from(inb(0xa1)) << 8
}

/// Non-specific EOI at the 8259 pair.
pub fn end_of_pic_interrupt(line: u8) {
    if line >= 8 {
        outb(0xa0, 0x20);
    }
    outb(0x20, 0x20);
}
