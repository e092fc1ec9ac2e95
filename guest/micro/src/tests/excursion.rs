//! A tour of the processor's modes and back: long mode, 32-bit protected mode without paging, with
//! two-level and with PAE paging, real mode with a segment of 4 GiB, virtual-8086 mode or tasks
//! (`tasks.rs`), long mode. What each of them finds is noted in a table.
//!
//! The code is copied to [`BASE`] in low memory and runs with interrupts off and with tables of its
//! own. An exception notes its vector and goes on at EBX.

use crate::report::Test;
use crate::{apic, cpu, params, trap};
use core::arch::global_asm;

/// Where the code runs, with 64 KiB of its own; `excursion.s` has the same numbers.
pub(super) const BASE: u64 = 0x2_0000;
const SIZE: u64 = 0x1_0000;
/// Offsets from [`BASE`]: results, the words to do, tables.
const RESULTS: u64 = 0x4000;
pub(super) const TASKS: u64 = 0x43f0;
const MARKER: u64 = 0x43f4;
pub(super) const GDT: u64 = 0x5000;
pub(super) const IDT: u64 = 0x5100;
const IVT: u64 = 0x5600;
pub(super) const TSS: u64 = 0x6000;
const TABLES: u64 = 0x8000;
const PAGES: u64 = 0xe000;

global_asm!(
    include_str!("excursion.s"),
    include_str!("tasks.s"),
    ".section .rodata",
    ".global excursion_end",
    "excursion_end:",
    ".section .text",
    options(att_syntax)
);

unsafe extern "C" {
    static excursion_start: u8;
    static excursion_end: u8;
    static excursion_offsets: [u32; 7];
}

pub(super) fn put32(offset: u64, value: u32) {
    // SAFETY: within the memory that `prepare` found to be free.
    unsafe { ((BASE + offset) as *mut u32).write_volatile(value) };
}

pub(super) fn put64(offset: u64, value: u64) {
    put32(offset, value as u32);
    put32(offset + 4, (value >> 32) as u32);
}

fn result(index: u64) -> u32 {
    // SAFETY: as for `put32`.
    unsafe { ((BASE + RESULTS + index * 4) as *const u32).read_volatile() }
}

/// An address in the code by its place in the list at the end of it.
fn label(index: usize) -> u32 {
    // SAFETY: the assembler laid the list out.
    unsafe {
        (&raw const excursion_offsets)
            .cast::<u32>()
            .add(index)
            .read()
    }
}

fn is_free() -> bool {
    let taken = params::own_pages();
    let inside = |page: &u64| (BASE..BASE + SIZE).contains(page);
    !taken.iter().any(inside)
        && params::usable().any(|range| range.start <= BASE && BASE + SIZE <= range.end)
}

/// Copies the code and builds its tables.
fn prepare() {
    let start = &raw const excursion_start;
    let length = (&raw const excursion_end) as usize - start as usize;
    // SAFETY: free memory that is larger than the code.
    unsafe {
        core::ptr::write_bytes(BASE as *mut u8, 0, SIZE as usize);
        core::ptr::copy(start, BASE as *mut u8, length);
    }
    let base = BASE as u32;
    let segment = |offset: u64, limit: u64| {
        let base = BASE + offset;
        limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24) << 56
    };
    for (index, descriptor) in [
        0,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x0000_9b02_0000_ffff,
        0x0000_9302_0000_ffff,
        segment(TSS, 0xfff),
        0x00af_9b00_0000_ffff,
    ]
    .into_iter()
    .enumerate()
    {
        put64(GDT + index as u64 * 8, descriptor);
    }
    // 32-bit gates, and real mode's.
    for (vector, stub, real_stub) in [(6, 0, 3), (13, 1, 4), (14, 2, 5)] {
        let handler = base + label(stub);
        let gate =
            u64::from(handler & 0xffff) | 8 << 16 | 0x8e << 40 | u64::from(handler >> 16) << 48;
        put64(IDT + vector * 8, gate);
        put32(IVT + vector * 4, (base >> 4) << 16 | label(real_stub));
    }
    put32(IVT + 0x40 * 4, (base >> 4) << 16 | label(6));
    // The task: a stack for ring 0, and port 0x80 alone is denied.
    put32(TSS + 4, base + 0x3f00);
    put32(TSS + 8, 16);
    put32(TSS + 100, 104 << 16);
    put32(TSS + 104 + 0x10, 1);
    page_tables();
    put32(PAGES, 0xaaaa_1111);
    put32(PAGES + 0x1000, 0xbbbb_2222);
}

/// Two-level tables: 4 MiB pages one to one, but for 1 GiB, where one small page is seen. PAE: the
/// first and the last GiB one to one in 2 MiB pages, at 1 GiB the same small page, nothing at 2 GiB.
fn page_tables() {
    let table = |number: u64| TABLES + number * 0x1000;
    let address = |number: u64| (BASE + table(number)) as u32;
    let page = (BASE + PAGES) as u32;
    for entry in 0..1024u32 {
        put32(table(0) + u64::from(entry) * 4, entry << 22 | 0x83);
    }
    put32(table(0) + 0x100 * 4, address(1) | 3);
    put32(table(0) + 0x140 * 4, 0);
    put32(table(1), page | 3);
    // PDPT, directories for 0, 1 and 3 GiB in turn; the small page's table has one entry of either form.
    put64(table(2), u64::from(address(3) | 1));
    put64(table(2) + 8, u64::from(address(4) | 1));
    put64(table(2) + 24, u64::from(address(5) | 1));
    for entry in 0..512 {
        put64(table(3) + entry * 8, entry << 21 | 0x83);
        put64(table(5) + entry * 8, 3 << 30 | entry << 21 | 0x83);
    }
    put64(table(4), u64::from(address(1)) | 3);
}

const UNDEFINED: u32 = 6;
const PROTECTION: u32 = 13;
const PAGE_FAULT: u32 = 14;
const NONE: u32 = u32::MAX;
const FIRST: u32 = 0xaaaa_1111;
const SECOND: u32 = 0xbbbb_2222;
const ACRN: u32 = 0x4e52_4341;
/// Written to and read from a mask register.
const MASK: u32 = 0x5a;

/// Expected results by number, with the name of what was tried.
const EXPECTED: &[(u64, u32, &str)] = &[
    (2, UNDEFINED, "VMRUN in protected mode"),
    (3, UNDEFINED, "VMLAUNCH in protected mode"),
    (4, UNDEFINED, "VMXON in protected mode"),
    (5, UNDEFINED, "VMCLEAR in protected mode"),
    (6, UNDEFINED, "VMPTRLD in protected mode"),
    (7, UNDEFINED, "VMREAD in protected mode"),
    (8, UNDEFINED, "INVEPT in protected mode"),
    (9, UNDEFINED, "VMFUNC in protected mode"),
    (10, UNDEFINED, "GETSEC in protected mode"),
    (11, UNDEFINED, "CLGI in protected mode"),
    (12, UNDEFINED, "INVLPGA in protected mode"),
    (13, UNDEFINED, "MONITOR in protected mode"),
    (14, ACRN, "CPUID in protected mode"),
    (16, MASK, "a port in protected mode"),
    (20, FIRST, "a small page with two levels"),
    (21, SECOND, "the page after INVLPG"),
    (22, PAGE_FAULT, "a page that is not there"),
    (23, 0x5000_0010, "CR2 of that fault"),
    (25, FIRST, "the page after a load of CR3"),
    (30, FIRST, "a small page with PAE"),
    (31, SECOND, "the PAE page after INVLPG"),
    (32, PAGE_FAULT, "a GiB without a directory"),
    (33, 0x8000_0010, "CR2 of that PAE fault"),
    (35, PAGE_FAULT, "a pointer taken away, after a load of CR3"),
    (36, SECOND, "the pointer given back, after a change of CR4"),
    (
        37,
        PAGE_FAULT,
        "a pointer taken away, after a change of CR0",
    ),
    (38, SECOND, "the pointer given back, after the next"),
    (39, ACRN, "CPUID with PAE"),
    (40, UNDEFINED, "VMRUN in real mode"),
    (41, UNDEFINED, "VMLAUNCH in real mode"),
    (42, UNDEFINED, "VMXON in real mode"),
    (43, UNDEFINED, "VMPTRST in real mode"),
    (44, UNDEFINED, "GETSEC in real mode"),
    (45, UNDEFINED, "STGI in real mode"),
    (46, 3, "INT in real mode, thrice"),
    (47, ACRN, "CPUID in real mode"),
    (48, MASK, "a port in real mode"),
    (61, UNDEFINED, "VMLAUNCH in virtual-8086 mode"),
    (62, UNDEFINED, "VMXON in virtual-8086 mode"),
    (63, PROTECTION, "INT in virtual-8086 mode"),
    (64, PROTECTION, "CLI in virtual-8086 mode"),
    (65, UNDEFINED, "a port, and the end of virtual-8086 mode"),
    (66, PROTECTION, "a denied port in virtual-8086 mode"),
    (67, UNDEFINED, "CPUID, and the end of virtual-8086 mode"),
    (68, ACRN, "CPUID in virtual-8086 mode"),
    (69, MASK, "a port in virtual-8086 mode"),
    (70, PROTECTION, "HLT in virtual-8086 mode"),
    (71, NONE, "LTR before virtual-8086 mode"),
];

/// What not every emulator does.
const STRICT: &[(u64, u32, &str)] = &[
    (26, PROTECTION, "CR0 with a pointer that has a reserved bit"),
    (27, PROTECTION, "CR3 with a pointer that has a reserved bit"),
    (50, PROTECTION, "an offset beyond 64 KiB in real mode"),
    (60, UNDEFINED, "VMRUN in virtual-8086 mode"),
];

/// Runs the code, after what else is to prepare; `false` when its place is taken.
pub(super) fn travel(t: &Test, prepare_more: impl FnOnce()) -> bool {
    if !is_free() {
        expect!(t, false, "no free memory at {BASE:#x}");
        return false;
    }
    cpu::disable_interrupts();
    let masks = apic::pic_masks();
    prepare();
    prepare_more();
    let version = apic::ioapic_read(1);
    // SAFETY: the code returns here in the mode that it was called in, with all registers that the
    // ABI wants kept; descriptor tables are loaded again below.
    unsafe {
        let code: extern "C" fn() = core::mem::transmute(BASE);
        code();
    }
    trap::build_tables();
    trap::load(0);
    cpu::outb(0x21, masks as u8);
    let found = result(MARKER.wrapping_sub(RESULTS) / 4);
    expect!(t, found == 0x600d, "the marker at the end is {found:#x}");
    for (index, name) in [
        (15, "protected mode"),
        (24, "two-level paging"),
        (34, "PAE paging"),
        (49, "real mode"),
    ] {
        let value = result(index);
        expect!(t, value == version, "I/O APIC in {name}: {value:#x}");
    }
    true
}

pub(super) fn judge(t: &Test, expected: &[(u64, u32, &str)]) {
    for (index, wanted, name) in expected {
        let value = result(*index);
        expect!(t, value == *wanted, "{name}: {value:#x}, not {wanted:#x}");
    }
}

pub(super) fn modes(t: &Test) {
    let (cr0, cr4, efer) = (cpu::read_cr0(), cpu::read_cr4(), cpu::rdmsr(0xc000_0080));
    for _ in 0..3 {
        if !travel(t, || {}) {
            return;
        }
        let (found, flags) = (result(0), result(1));
        expect!(
            t,
            found & 0x500 == 0,
            "EFER {found:#x} outside of long mode"
        );
        expect!(t, flags & 0x8000_0001 == 1, "CR0 {flags:#x} without paging");
        judge(t, EXPECTED);
        let after = (cpu::read_cr0(), cpu::read_cr4(), cpu::rdmsr(0xc000_0080));
        expect!(t, after == (cr0, cr4, efer), "{after:x?} at the end");
    }
}

/// Checks that not every emulator makes.
pub(super) fn strict(t: &Test) {
    if travel(t, || {}) {
        judge(t, STRICT);
    }
}
