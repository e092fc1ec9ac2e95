//! The hypervisor's own page tables: everything at its physical address, the image by its
//! sections, guest memory as user pages that only a guest window may touch.

use super::{apic, boot, cpu, ioapic, uart};
use crate::memory::{self, allocate_table};
use crate::percpu;
use acrn_abi::Hpa;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const UNCACHED: u64 = 0x18;
const LARGE: u64 = 0x80;
const NX: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// Where each CPU has a page of its own, to look at device memory that is not mapped otherwise.
const WINDOWS: u64 = 0xffff_ff80_0000_0000;

static ROOT: AtomicU64 = AtomicU64::new(0);
/// The page table of the windows: one entry a CPU.
static WINDOW_TABLE: AtomicU64 = AtomicU64::new(0);
/// First physical address that the processor cannot express.
static ADDRESS_LIMIT: AtomicU64 = AtomicU64::new(0);

/// The pool has no frame left for a table.
#[derive(Debug)]
pub struct OutOfTables;

/// Builds the tables. `ecam` is the PCI configuration window, if any.
pub fn build(ecam: Option<(Hpa, u64)>) -> Result<(), OutOfTables> {
    let root = allocate_table().ok_or(OutOfTables)?.get();
    let image = boot::image();
    let (pool, pool_size) = memory::pool();
    let gib_pages = cpu::has_gib_pages();
    for gib in (0..memory::top()).step_by(GIB as usize) {
        let end = memory::top().min(gib + GIB);
        let pdpt = next(root, gib >> 39, 1 << 39)?;
        // Below 4 GiB a page of this size would join memory and devices of unlike MTRR types.
        if gib_pages && gib >= 4 * GIB && end == gib + GIB {
            // SAFETY: a page-directory-pointer table from the pool.
            unsafe { entry(pdpt, gib >> 30).write(gib | PRESENT | WRITE | NX | USER | LARGE) };
            continue;
        }
        let directory = next(pdpt, gib >> 30, GIB)?;
        for address in (gib..end).step_by(MIB2 as usize) {
            let own = address + MIB2 > pool.get() && address < pool.get() + pool_size;
            let user = if own { 0 } else { USER };
            let value = address | PRESENT | WRITE | NX | user | LARGE;
            // SAFETY: a page directory from the pool.
            unsafe { entry(directory, address >> 21).write(value) };
        }
    }
    for (controller, size) in uncached_ranges(ecam) {
        let start = controller & !(MIB2 - 1);
        for address in (start..controller + size).step_by(MIB2 as usize) {
            map_large(root, address, PRESENT | WRITE | NX | UNCACHED)?;
        }
    }
    let image_end = image.end.next_multiple_of(MIB2);
    for address in (image.start & !(MIB2 - 1)..image_end).step_by(4096) {
        let flags = match address {
            a if a < image.start => PRESENT | WRITE | NX | USER,
            a if a < image.text_end => PRESENT,
            a if a < image.rodata_end => PRESENT | NX,
            a if a == boot::stack_guard() => 0,
            _ => PRESENT | WRITE | NX,
        };
        map_small(root, address, flags)?;
    }
    let pdpt = next(root, WINDOWS >> 39, 1 << 39)?;
    let directory = next(pdpt, WINDOWS >> 30, 1 << 30)?;
    let windows = next(directory, WINDOWS >> 21, 1 << 21)?;
    WINDOW_TABLE.store(windows, Ordering::Relaxed);
    ADDRESS_LIMIT.store(1 << cpu::physical_address_bits(), Ordering::Relaxed);
    ROOT.store(root, Ordering::Relaxed);
    Ok(())
}

/// Whether [`build`] is done, and with it what it maps beyond the first 4 GiB.
pub fn is_built() -> bool {
    ROOT.load(Ordering::Relaxed) != 0
}

/// Maps a page uncached into this CPU's window, until the next call on this CPU, and returns its
/// virtual address. `None` before the tables are there and for an address that no processor has.
pub fn open_window(page: Hpa) -> Option<u64> {
    let table = WINDOW_TABLE.load(Ordering::Relaxed);
    if table == 0 || page.get() >= ADDRESS_LIMIT.load(Ordering::Relaxed) {
        return None;
    }
    let index = u64::from(percpu::current_id().0);
    let address = WINDOWS + index * 4096;
    let slot = entry(table, index);
    let wanted = page.get() & ADDRESS | PRESENT | WRITE | NX | UNCACHED;
    // SAFETY: this CPU alone uses the entry and the page behind it, and no reference into the
    // window outlives the access it was opened for.
    unsafe {
        if slot.read_volatile() & !0x60 != wanted {
            slot.write_volatile(wanted);
            asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags));
        }
    }
    Some(address)
}

fn uncached_ranges(ecam: Option<(Hpa, u64)>) -> impl Iterator<Item = (u64, u64)> {
    let memory_uart = match uart::location() {
        uart::Location::Memory(base, stride) => Some((base, stride * 8)),
        _ => None,
    };
    ioapic::controllers()
        .iter()
        .map(|c| (c.base, 4096))
        .chain([(apic::XAPIC_BASE, 4096)])
        .chain(ecam.map(|(base, size)| (base.get(), size)))
        .chain(memory_uart)
}

/// Opens the trampoline page for execution while CPUs are started, closes it afterwards. The
/// page stays mapped at its own address, outside of any guest.
pub fn set_trampoline(page: Hpa, open: bool) -> Result<(), OutOfTables> {
    let root = ROOT.load(Ordering::Relaxed);
    let flags = if open {
        PRESENT | WRITE
    } else {
        PRESENT | WRITE | NX
    };
    map_small(root, page.get(), flags)?;
    // SAFETY: reloads the present root, to drop stale translations.
    unsafe { cpu::write_cr3(cpu::read_cr3()) };
    Ok(())
}

/// Switches this CPU to the tables and turns write protection, NX, SMEP and SMAP on.
pub fn protect_this_cpu() {
    // SAFETY: the tables map everything that runs here at the same addresses as before; the image
    // is executable where it is text; write protection hits read-only sections only.
    unsafe {
        cpu::wrmsr(cpu::msr::EFER, cpu::rdmsr(cpu::msr::EFER) | cpu::efer::NXE);
        cpu::write_cr3(ROOT.load(Ordering::Relaxed));
        cpu::write_cr0(cpu::read_cr0() | cpu::cr0::WP | cpu::cr0::NE);
        cpu::wrmsr(cpu::msr::PAT, acrn_memory::Npt::HOST_PAT);
        let mut value = cpu::read_cr4();
        if cpu::has_xsave() {
            value |= cpu::cr4::OSXSAVE;
        }
        cpu::write_cr4(value);
    }
    memory::enable_protection();
}

fn entry(table: u64, index: u64) -> *mut u64 {
    (table + (index & 511) * 8) as *mut u64
}

/// The table below `table[index]`, made when missing; a large page there is split.
fn next(table: u64, index: u64, level_size: u64) -> Result<u64, OutOfTables> {
    let slot = entry(table, index);
    // SAFETY: `table` is a page table from the pool, written by this CPU alone during boot.
    let value = unsafe { slot.read() };
    if value & PRESENT != 0 && value & LARGE == 0 {
        return Ok(value & ADDRESS);
    }
    let table = allocate_table().ok_or(OutOfTables)?.get();
    if value & PRESENT != 0 {
        // A page of 1 GiB becomes pages of 2 MiB, which are large too.
        let large = if level_size > MIB2 { LARGE } else { 0 };
        let flags = value & !ADDRESS & !LARGE | large;
        for i in 0..512 {
            // SAFETY: the new table is this function's alone.
            unsafe { entry(table, i).write(((value & ADDRESS) + i * (level_size / 512)) | flags) };
        }
    }
    // Upper levels allow everything; the leaf decides.
    // SAFETY: as above; the entry is replaced in one store.
    unsafe { slot.write(table | PRESENT | WRITE | USER) };
    Ok(table)
}

fn map_large(root: u64, address: u64, flags: u64) -> Result<(), OutOfTables> {
    let pdpt = next(root, address >> 39, 1 << 39)?;
    let directory = next(pdpt, address >> 30, 1 << 30)?;
    // SAFETY: a page directory from the pool.
    unsafe { entry(directory, address >> 21).write(address | flags | LARGE) };
    Ok(())
}

fn map_small(root: u64, address: u64, flags: u64) -> Result<(), OutOfTables> {
    let pdpt = next(root, address >> 39, 1 << 39)?;
    let directory = next(pdpt, address >> 30, 1 << 30)?;
    let table = next(directory, address >> 21, 1 << 21)?;
    // SAFETY: a page table from the pool.
    unsafe { entry(table, address >> 12).write(address | flags) };
    Ok(())
}
