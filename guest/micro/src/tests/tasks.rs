//! Tasks that call each other, on the excursion's way: by CALL, JMP and IRET, through task gates of
//! both tables, with page tables and local tables of their own; and what is wrong with some of them.

use super::excursion::{BASE, GDT, IDT, TASKS, TSS, judge, put32, put64, travel};
use crate::report::Test;

/// Task-state segments, [`STRIDE`] bytes each; the excursion's own is elsewhere.
const OTHERS: u64 = 0x7000;
const STRIDE: u64 = 0x80;
/// Page-directory pointers of the task with page tables of its own.
const POINTERS: u64 = 0x7e00;
const LOCAL_TABLE: u64 = 0x7f00;
/// The page tables that the excursion has made: one for PAE, and the directory of its second GiB.
const PAE_TABLE: u64 = 0xa000;
const DIRECTORIES: [u64; 2] = [0xb000, 0xc000];
const LAST_DIRECTORY: u64 = 0xd000;
/// Bit of a page-directory pointer.
const PRESENT: u64 = 1;

unsafe extern "C" {
    static tasks_offsets: [u32; 14];
}

/// Indexes into the list at the end of `tasks.s`.
mod code {
    pub const FAULTS: [(u64, usize); 8] = [
        (1, 0),
        (6, 1),
        (8, 2),
        (10, 3),
        (11, 4),
        (12, 5),
        (13, 6),
        (14, 7),
    ];
    pub const PEER: usize = 8;
    pub const HANDLER: usize = 9;
    pub const PAGED: usize = 10;
    pub const RETURN: usize = 11;
    pub const NARROW: usize = 12;
    pub const VIRTUAL_8086: usize = 13;
}

fn label(index: usize) -> u32 {
    // SAFETY: the assembler laid the list out.
    unsafe { (&raw const tasks_offsets).cast::<u32>().add(index).read() }
}

/// A descriptor with a limit in bytes.
fn descriptor(base: u64, limit: u64, rights: u64) -> u64 {
    limit & 0xffff | (base & 0xff_ffff) << 16 | rights << 40 | (base >> 24) << 56
}

/// Offsets in a TSS.
const ESP0: u64 = 4;
const SS0: u64 = 8;
const CR3: u64 = 28;
const EIP: u64 = 32;
const EFLAGS: u64 = 36;
const EBX: u64 = 52;
const ESP: u64 = 56;
const ESI: u64 = 64;
const ES: u64 = 72;
const CS: u64 = 76;
const SS: u64 = 80;
const DS: u64 = 84;
const LDT: u64 = 96;
const TRAP: u64 = 100;

const FREE_32: u64 = 0x89;
const BUSY_32: u64 = 0x8b;
const FREE_16: u64 = 0x81;
/// Bit of rights.
const IS_PRESENT: u64 = 0x80;
/// Last byte of a TSS.
const LIMIT: u64 = 0x67;

/// Makes the task with the number and the selector; `changes` to a plain task that runs the peer.
fn task(number: u64, selector: u64, rights: u64, limit: u64, changes: &[(u64, u32)]) {
    let at = OTHERS + number * STRIDE;
    let base = BASE as u32;
    put64(GDT + selector, descriptor(BASE + at, limit, rights));
    let plain = [
        (ESP0, base + 0x3b00),
        (SS0, 16),
        (EIP, base + label(code::PEER)),
        (EFLAGS, 2),
        (EBX, base + label(code::RETURN)),
        (ESP, base + 0x3e00),
        (ESI, (BASE + at) as u32),
        (ES, 16),
        (CS, 8),
        (SS, 16),
        (DS, 16),
        (DS + 4, 16),
        (DS + 8, 16),
        (TRAP, 104 << 16),
    ];
    for (offset, value) in plain.iter().chain(changes) {
        put32(at + offset, *value);
    }
}

/// Builds tasks, gates and tables. `strict`: those that not every emulator gets right, too.
pub(super) fn prepare(strict: bool) {
    put32(TASKS, if strict { 3 } else { 1 });
    let base = BASE as u32;
    for (vector, stub) in code::FAULTS {
        let handler = base + label(stub);
        put32(IDT + vector * 8, handler & 0xffff | 8 << 16);
        put32(IDT + vector * 8 + 4, handler & 0xffff_0000 | 0x8e00);
    }
    let at = |index| base + label(index);
    let pointers = base + POINTERS as u32;
    task(0, 0x38, FREE_32, LIMIT, &[]);
    task(
        1,
        0x40,
        FREE_32,
        LIMIT,
        &[(EIP, at(code::PAGED)), (CR3, pointers)],
    );
    narrow_task(2, 0x48);
    task(3, 0x50, FREE_32, LIMIT, &[(EIP, at(code::HANDLER))]);
    task(4, 0x58, FREE_32 & !IS_PRESENT, LIMIT, &[]);
    task(5, 0x60, BUSY_32, LIMIT, &[]);
    task(6, 0x68, FREE_32, LIMIT - 1, &[]);
    task(7, 0x70, FREE_32, LIMIT, &[(DS, 0x58)]);
    put64(GDT + 0x78, descriptor(BASE + LOCAL_TABLE, 7, 0x82));
    put64(LOCAL_TABLE, 0x00cf_9300_0000_ffff);
    put64(GDT + 0x80, 0x38 << 16 | 0x85 << 40);
    task(8, 0x88, FREE_32, LIMIT, &[(TRAP, 104 << 16 | 1)]);
    put64(GDT + 0x98, 0x00cf_1300_0000_ffff);
    task(9, 0xa0, FREE_32, LIMIT, &[(LDT, 0x78), (DS, 4)]);
    let segment = base >> 4;
    let v8086 = [
        (EIP, label(code::VIRTUAL_8086)),
        (EFLAGS, 0x2_0002),
        (ESP, 0x3c00),
        (ES, segment),
        (CS, segment),
        (SS, segment),
        (DS, segment),
    ];
    task(10, 0xa8, FREE_32, LIMIT, &v8086);
    put64(GDT + 0xb0, descriptor(0x8000_0000, LIMIT, FREE_32));
    task(11, 0xb8, FREE_32, LIMIT, &[(LDT, 0x38)]);
    task(12, 0xc0, FREE_32, LIMIT, &[(SS, 0x98)]);
    // The excursion's pointers, but with the page at 2 GiB.
    put64(POINTERS, BASE + DIRECTORIES[0] + PRESENT);
    put64(POINTERS + 16, BASE + DIRECTORIES[1] + PRESENT);
    put64(POINTERS + 24, BASE + LAST_DIRECTORY + PRESENT);
    put32(TSS + CR3, base + PAE_TABLE as u32);
}

/// A TSS of 16 bits.
fn narrow_task(number: u64, selector: u64) {
    let at = OTHERS + number * STRIDE;
    put64(GDT + selector, descriptor(BASE + at, 0x2b, FREE_16));
    let pair = |low: u32, high: u32| low | high << 16;
    for (offset, value) in [
        (12, pair(0, label(code::NARROW))),
        (16, pair(2, 0xbeef)),
        (24, pair(0, 0x3c00)),
        (32, pair(0, 0x20)),
        (36, pair(0x18, 0x20)),
        (40, pair(0x20, 0)),
    ] {
        put32(at + offset, value);
    }
}

const NESTED: u32 = 0x4000;
const DEBUG: u32 = 1;
const DOUBLE_FAULT: u32 = 8;
const INVALID_TSS: u32 = 10;
const ABSENT: u32 = 11;
const STACK: u32 = 12;
const PROTECTION: u32 = 13;
const PAGE_FAULT: u32 = 14;
/// In the page at 1 and 2 GiB, as the tour leaves it.
const IN_PAGE: u32 = 0xbbbb_2222;
const NONE: u32 = u32::MAX;

/// Expected results by number, with the name of what was tried.
const EXPECTED: &[(u64, u32, &str)] = &[
    (80, 0x38, "the task register in the other task"),
    (81, 0x28, "the link to the task that called"),
    (82, 0x28, "the task register after the return"),
    (83, 0x1234_5678, "a register of the first task"),
    (84, 8, "CR0.TS after a switch"),
    (85, NESTED, "NT of a task that was called"),
    (86, 0x8b, "the caller's rights: busy"),
    (87, 8, "CR0.TS in the other task"),
    (88, 0x89, "the rights of a task that has returned"),
    (89, 0, "the saved NT of a task that has returned"),
    (90, 0, "NT of the first task"),
    (91, 0, "local breakpoints after a switch"),
    (92, 0x38, "the task register after JMP"),
    (93, 0, "NT after JMP"),
    (94, 0x89, "the rights of a task that was left by JMP"),
    (95, 0x89, "the rights of the other task, left by JMP"),
    (
        96,
        0x8b,
        "the rights of the task that was returned to by JMP",
    ),
    (97, 0x28, "the task register after JMP and JMP"),
    (98, 1, "CALL of a task gate"),
    (99, 2, "INT of a task gate"),
    (100, NESTED, "NT after INT"),
    (101, 1, "an external interrupt through a task gate"),
    (102, 0x28, "the link of the interrupted task"),
    (103, 2, "NMIs through a task gate"),
    (104, STACK, "a fault through a task gate"),
    (105, 0x98, "its error code on the task's stack"),
    (106, 0x50, "the task register in its handler"),
    (107, 0xd08e, "the instruction that it goes back to"),
    (108, ABSENT, "CALL of a TSS that is not present"),
    (109, 0x58, "the error code of that"),
    (110, PROTECTION, "JMP to a busy task"),
    (111, 0x60, "the error code of that"),
    (112, PROTECTION, "CALL of the running task"),
    (113, 0x28, "the error code of that"),
    (114, INVALID_TSS, "CALL of a TSS that is too short"),
    (115, 0x68, "the error code of that"),
    (116, PROTECTION, "CALL beyond the end of the GDT"),
    (117, 0x1f8, "the error code of that"),
    (118, ABSENT, "INT to a TSS that is not present"),
    (119, 0x58, "the error code of that"),
    (120, ABSENT, "an exception to a TSS that is not present"),
    (122, INVALID_TSS, "IRET to a task that is not busy"),
    (123, 0x38, "the error code of that"),
    (124, 0x28, "the task register after faults"),
    (126, INVALID_TSS, "a task with a wrong DS"),
    (127, 0x58, "the error code of that"),
    (128, 0x70, "the task register in that fault's handler"),
    (130, DOUBLE_FAULT, "#GP to a task with a wrong DS"),
    (131, 0, "the error code of that"),
    (132, 0x70, "the task register in the double fault's handler"),
    (134, PROTECTION, "HLT in a task in virtual-8086 mode"),
    (135, 0, "the error code of that"),
    (136, 0xa8, "the task register in that fault's handler"),
    (138, 0x78, "a task's local table"),
    (139, 4, "a segment of the local table"),
    (140, 0, "the first task's local table"),
    (141, 0x48, "the task register in a task of 16 bits"),
    (142, 0xbeef, "a register of a task of 16 bits"),
    (143, 0, "FS of a task of 16 bits"),
    (
        144,
        0x1234_5678,
        "a register of the first task, called from 16 bits",
    ),
    (146, NONE, "CALL of a task with page tables of its own"),
    (148, IN_PAGE, "a page that only this task has"),
    (149, (BASE + POINTERS) as u32, "CR3 of the task"),
    (150, IN_PAGE, "a page of the first task"),
    (151, (BASE + PAE_TABLE) as u32, "CR3 of the first task"),
    (152, PAGE_FAULT, "CALL of a TSS without a page"),
    (154, 0x8000_0000, "CR2 of that"),
    (155, 0x28, "the task register after that"),
];

/// What QEMU does in its own way: error codes of faults while an exception is delivered, the handler's stack when a task has none yet, the vector for a
/// stack segment that is not present, and the T flag, of which it has nothing.
const STRICT: &[(u64, u32, &str)] = &[
    (121, 0x59, "the error code of an exception to an absent TSS"),
    (160, INVALID_TSS, "a local table that is none"),
    (161, 0x38, "the error code of that"),
    (162, 0xb8, "the task register in that fault's handler"),
    (
        163,
        BASE as u32 + 0x3b00 - 20,
        "the stack in that fault's handler",
    ),
    (164, STACK, "a stack that is not present"),
    (165, 0x98, "the error code of that"),
    (166, 0xc0, "the task register in that fault's handler"),
    (168, DEBUG, "the T flag"),
    (170, 0x88, "the task register in that trap's handler"),
    (171, 0x8000, "DR6 after that trap"),
];

/// Tasks call each other.
pub(super) fn tasks(t: &Test) {
    if travel(t, || prepare(false)) {
        judge(t, EXPECTED);
    }
}

/// Checks that not every emulator makes.
pub(super) fn strict(t: &Test) {
    if travel(t, || prepare(true)) {
        judge(t, STRICT);
    }
}
