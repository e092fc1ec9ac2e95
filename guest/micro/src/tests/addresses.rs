//! Guest addresses that are not the guest's memory, and page tables in unusual memory.

use crate::report::Test;
use crate::trap::guarded;
use crate::{cpu, params, smp, window};
use core::arch::asm;

fn read(address: u64) -> u64 {
    // SAFETY: identity-mapped; the nested tables decide what is there.
    unsafe { (address as *const u64).read_volatile() }
}

fn write(address: u64, value: u64) {
    // SAFETY: as for `read`; only called for addresses that must not be writable.
    unsafe { (address as *mut u64).write_volatile(value) }
}

/// Ranges below the top of memory that are larger than what firmware keeps there: the
/// hypervisor's image and its pool.
pub fn hidden() -> impl Iterator<Item = params::Range> {
    let top = params::usable()
        .filter(|r| r.start < 1 << 32)
        .map(|r| r.end)
        .max()
        .unwrap_or(0);
    let large = |r: &params::Range| r.end - r.start >= 256 << 10;
    params::memory_map()
        .filter(move |r| r.kind != 1 && r.start >= 1 << 20 && r.start <= top && large(r))
}

/// No byte of the hypervisor is read, and none changes.
pub(super) fn hypervisor_memory(t: &Test) {
    let mut ranges = 0;
    for range in hidden() {
        ranges += 1;
        print!("hidden: {:#x} to {:#x}\n", range.start, range.end);
        for page in (range.start..range.end).step_by(4096) {
            let value = read(page + 8 * (page >> 12 & 0x1ff));
            expect!(t, value == u64::MAX, "{page:#x} reads {value:#x}");
            write(page + 128, 0x4141_4141_4141_4141);
            let value = read(page + 128);
            expect!(
                t,
                value == u64::MAX,
                "{page:#x} reads {value:#x} after a write"
            );
        }
        other_instructions(range.start + 0x1000);
        other_instructions(range.end - 0x1000);
        let value = read(range.start);
        expect!(
            t,
            value == u64::MAX,
            "{:#x} reads {value:#x} at last",
            range.start
        );
    }
    // Image and pool, unless the one adjoins the other.
    expect!(
        t,
        ranges >= 1,
        "{ranges} ranges of the hypervisor in the memory map"
    );
}

/// Other ways to touch memory: each may fault, none may end the VM or reach the memory.
fn other_instructions(address: u64) {
    let _ = guarded(address, |a| {
        // SAFETY: an address that is not mapped to anything.
        unsafe {
            asm!("lock or qword ptr [{0}], 1", "xchg [{0}], {1}", "lock inc dword ptr [{0}]",
                in(reg) a, out(reg) _);
        }
    });
    let _ = guarded(address, |a| {
        // SAFETY: as above.
        unsafe { asm!("rep stosq", inout("rdi") a => _, inout("rcx") 8u64 => _, in("rax") 0) };
    });
    let _ = guarded(address, |a| {
        // SAFETY: as above.
        unsafe { asm!("movups [{}], xmm0", in(reg) a) };
    });
    let _ = guarded(address, |a| {
        // SAFETY: as above; compare and exchange with what a read gives.
        unsafe {
            asm!("lock cmpxchg [{0}], {1}", in(reg) a, in(reg) 0u64, inout("rax") u64::MAX => _);
        }
    });
    // Around the border of two pages.
    let _ = guarded(address, |a| write(a - 4, 0));
}

/// Addresses all over the physical address space may be read.
pub(super) fn holes(t: &Test) {
    for address in (0..1u64 << 32).step_by(1 << 20) {
        core::hint::black_box(read(address));
    }
    let bits = cpu::physical_bits();
    if cpu::has_gib_pages() {
        let top = (1u64 << bits.min(39)) - (1 << 30);
        for address in (1u64 << 32..top).step_by(1 << 30) {
            core::hint::black_box(read(address));
        }
    }
    expect!(t, (36..=52).contains(&bits), "{bits} physical address bits");
}

/// Thousands of addresses all over what the processor can express, two CPUs at a time: whatever
/// the hypervisor keeps of each must not become too much.
pub(super) fn device_memory(t: &Test) {
    fn touch() {
        let top = 1u64 << cpu::physical_bits().min(48);
        let step = (top / 4096).max(2 << 20);
        // Not in order, and differently on each CPU.
        let mut at = crate::trap::cpu_index() as u64;
        for _ in 0..4096 {
            at = at.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            let address = (at >> 8) % 4096 * step + 0x1000;
            if address >= 1 << 33 && address < top {
                window::write(address, 0x5a5a_5a5a);
                core::hint::black_box(window::read(address));
            }
        }
    }
    let others = smp::start_all() > 1;
    if others {
        smp::begin_on(1, touch);
    }
    touch();
    let done = !others || cpu::wait_for(cpu::ms(30_000), || smp::is_idle(1));
    expect!(t, done, "CPU 1 has not come to the end");
}

/// Page tables at the top of memory, below and above 4 GiB.
pub(super) fn page_tables(t: &Test) {
    let old = cpu::read_cr3();
    for limit in [1u64 << 32, 1 << 39] {
        let Some(at) = params::high_memory(8192, limit) else {
            expect!(t, false, "no free memory below {limit:#x}");
            continue;
        };
        // SAFETY: two free pages, filled with a copy of the tables in use.
        unsafe {
            let pdpt = (old as *const u64).read_volatile() & !0xfff;
            for i in 0..512 {
                let entry = (pdpt as *const u64).add(i).read_volatile();
                ((at + 4096) as *mut u64).add(i).write_volatile(entry);
                (at as *mut u64).add(i).write_volatile(0);
            }
            (at as *mut u64).write_volatile(at + 4096 + 7);
        }
        cpu::write_cr3(at);
        print!("page tables at {at:#x}\n");
        // An emulated access walks them.
        let version = crate::apic::ioapic_read(1);
        expect!(
            t,
            version != 0 && version != u32::MAX,
            "IOAPIC through tables at {at:#x}"
        );
        cpu::write_cr3(old);
    }
}
