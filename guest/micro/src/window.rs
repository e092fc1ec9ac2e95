//! A look at any physical address, through page tables of the micro-guest's own. Addresses from
//! 512 GiB on are free in the tables that it starts with.

use crate::cpu;
use crate::trap::cpu_index;
use core::arch::asm;

/// First virtual address of the windows, 2 MiB for each CPU.
const VIRTUAL: u64 = 1 << 39;
const PAGE: u64 = 2 << 20;

#[repr(C, align(4096))]
struct Table([u64; 512]);
static mut DIRECTORIES: Table = Table([0; 512]);
static mut PAGES: Table = Table([0; 512]);

/// Virtual address at which `physical` is seen until the next call on this CPU.
pub fn at(physical: u64) -> u64 {
    let slot = cpu_index() as u64;
    let address = VIRTUAL + slot * PAGE;
    let (directories, pages) = (&raw mut DIRECTORIES as u64, &raw mut PAGES as u64);
    // SAFETY: the entries are this module's; nothing else uses the virtual addresses.
    unsafe {
        let entry = (pages + slot * 8) as *mut u64;
        entry.write_volatile(physical & !(PAGE - 1) | 0x83);
        (directories as *mut u64).write_volatile(pages | 3);
        let root = (cpu::read_cr3() & !0xfff) as *mut u64;
        root.add(1).write_volatile(directories | 3);
        asm!("invlpg [{}]", in(reg) address, options(nostack));
    }
    address + (physical & (PAGE - 1))
}

/// Page tables for [`code`], one entry each.
static mut SMALL: [Table; 2] = [const { Table([0; 512]) }; 2];

/// Virtual address at which a 4 KiB page is seen as code until the next call, through the first or
/// the second of two page tables: either its entry or the one above changes.
pub fn code(page: u64, table: usize) -> u64 {
    let address = at(0) & !(PAGE - 1);
    let pages = &raw mut PAGES as u64;
    // SAFETY: as for `at`.
    unsafe {
        let small = (&raw mut SMALL[table & 1]) as u64;
        (small as *mut u64).write_volatile(page & !0xfff | 3);
        let slot = (pages + cpu_index() as u64 * 8) as *mut u64;
        slot.write_volatile(small | 3);
        asm!("invlpg [{}]", in(reg) address, options(nostack));
    }
    address
}

/// Reads four bytes of a physical address.
pub fn read(physical: u64) -> u32 {
    // SAFETY: mapped by `at`; what is there is the nested tables' matter.
    unsafe { (at(physical) as *const u32).read_volatile() }
}

/// Writes four bytes of a physical address.
pub fn write(physical: u64, value: u32) {
    // SAFETY: as for `read`; only for addresses that must not be writable, or nobody's.
    unsafe { (at(physical) as *mut u32).write_volatile(value) }
}

/// Virtual address of two small pages, behind the windows of all CPUs.
const PAIR: u64 = VIRTUAL + 64 * PAGE;
static mut ENTRIES: Table = Table([0; 512]);

/// Virtual address at which two physical pages are seen, one behind the other, until the next
/// call; for code too.
pub fn pages(physical: u64) -> u64 {
    let _ = at(0);
    let (pages, entries) = (&raw mut PAGES as u64, &raw mut ENTRIES as u64);
    // SAFETY: the entries are this module's; nothing else uses the virtual addresses.
    unsafe {
        (pages as *mut u64).add(64).write_volatile(entries | 3);
        let entries = entries as *mut u64;
        entries.write_volatile(physical & !0xfff | 3);
        entries
            .add(1)
            .write_volatile(((physical & !0xfff) + 4096) | 3);
        asm!("invlpg [{0}]", "invlpg [{0} + 4096]", in(reg) PAIR, options(nostack));
    }
    PAIR
}

/// Takes the second of the two pages away, or gives it back.
pub fn second(present: bool) {
    // SAFETY: as above.
    unsafe {
        let entry = (&raw mut ENTRIES as *mut u64).add(1);
        let value = entry.read_volatile() & !1 | u64::from(present);
        entry.write_volatile(value);
        asm!("invlpg [{0} + 4096]", in(reg) PAIR, options(nostack));
    }
}
