//! The longest calls that a Device Model can make: meanwhile interrupts arrive, and another VM on
//! the same CPU goes on.

use super::vm::{COUNTING, UserVm, counter, failed};
use crate::apic::{self, reg};
use crate::cpu;
use crate::params;
use crate::report::Test;
use crate::trap::count;
use acrn_abi::hypercall::{MemoryRegion, memory};

/// As many as one call takes, and enough to see that a call is interrupted.
const REGIONS: u64 = 128 * 1024;
const SOME: u64 = 16 * 1024;
const PAGE: u64 = 4096;
const TICK: u8 = 0x43;

/// A list of regions in memory of the guest's choice.
struct List(u64);

impl List {
    /// Page n of the guest's memory becomes page `REGIONS` - 1 - n of the VM: no two neighbours
    /// can be joined.
    fn fill(&self, operation: u32, start: u64, count: u64) {
        for n in 0..count {
            self.set(
                n,
                MemoryRegion {
                    operation,
                    attributes: memory::RWX | memory::WB,
                    user_vm_pa: (REGIONS - 1 - n) * PAGE,
                    service_vm_pa: start + n * PAGE,
                    size: PAGE,
                },
            );
        }
    }

    fn set(&self, n: u64, region: MemoryRegion) {
        // SAFETY: the list is free memory of that size.
        unsafe { (self.0 as *mut MemoryRegion).add(n as usize).write(region) };
    }

    fn call(&self, vm: &UserVm, count: u64) -> i64 {
        let first = self.0 as *const MemoryRegion;
        // SAFETY: `fill` has written so many.
        vm.regions(unsafe { core::slice::from_raw_parts(first, count as usize) })
    }
}

/// Runs `call`, during which the timer has to be heard and the neighbour has to run.
fn shared(t: &Test, name: &str, call: impl FnOnce() -> i64) -> i64 {
    let (ticks, counted, start) = (count(TICK), counter(), cpu::rdtsc());
    let result = call();
    let took = cpu::rdtsc().wrapping_sub(start) / cpu::tsc_khz();
    // A turn takes some milliseconds.
    let (ticks, counted) = (count(TICK) - ticks, counter() != counted);
    print!("{name}: {took} ms, {ticks} ticks\n");
    expect!(
        t,
        ticks >= 5,
        "{name}: {ticks} timer interrupts in {took} ms"
    );
    expect!(
        t,
        counted || took < 100,
        "{name}: the other VM of the CPU has stood still"
    );
    result
}

pub(super) fn scattered(t: &Test) {
    let size = REGIONS * (PAGE + size_of::<MemoryRegion>() as u64);
    let (Some(at), Ok(neighbour)) = (
        params::high_memory(size, 1 << 32),
        UserVm::prepared(b"neighbour", 1, COUNTING),
    ) else {
        expect!(t, false, "no memory for the test");
        return;
    };
    let (list, start) = (List(at + REGIONS * PAGE), at);
    expect!(t, neighbour.start() == 0, "START_VM of the neighbour");
    cpu::enable_interrupts();
    apic::write(reg::TIMER_DIVIDE, 0b1011);
    apic::write(reg::LVT_TIMER, 1 << 17 | u32::from(TICK));
    apic::write(reg::TIMER_INITIAL, cpu::ms(1) as u32);
    if let Ok(vm) = UserVm::create(b"scattered", 1) {
        list.fill(MemoryRegion::ADD, start, SOME);
        let result = shared(t, "add", || list.call(&vm, SOME));
        expect!(t, result == 0, "ADD of many pages: {result}");
        for n in [0, 1, 4711, SOME - 1] {
            let taken = failed(neighbour.map(0x10_0000, start + n * PAGE, PAGE));
            expect!(t, taken, "page {n} is not lent");
        }
        list.fill(MemoryRegion::DELETE, start, SOME);
        let result = shared(t, "delete", || list.call(&vm, SOME));
        expect!(t, result == 0, "DELETE of many pages: {result}");
        // The last page but one is lent now: nothing of the batch may stay.
        let last = start + (SOME - 2) * PAGE;
        expect!(t, neighbour.map(0x10_0000, last, PAGE) == 0, "map");
        list.fill(MemoryRegion::ADD, start, SOME);
        let result = shared(t, "refused", || list.call(&vm, SOME));
        expect!(t, failed(result), "a page is lent twice: {result}");
        expect!(t, neighbour.unmap(0x10_0000, PAGE) == 0, "unmap");
        let result = neighbour.map(0x1000_0000, start, SOME * PAGE);
        expect!(
            t,
            result == 0,
            "pages of a refused batch are lent: {result}"
        );
        let result = neighbour.unmap(0x1000_0000, SOME * PAGE);
        expect!(t, result == 0, "unmap of all: {result}");
        // A VM with all of it ends, and another has it at once.
        list.fill(MemoryRegion::ADD, start, REGIONS);
        let result = shared(t, "add all", || list.call(&vm, REGIONS));
        expect!(t, result == 0, "ADD of all pages: {result}");
        let result = shared(t, "destroy", || vm.destroy());
        expect!(t, result == 0, "DESTROY_VM: {result}");
        let result = neighbour.map(0x1000_0000, start, REGIONS * PAGE);
        expect!(t, result == 0, "pages of the dead VM are lent: {result}");
    } else {
        expect!(t, false, "CREATE_VM");
    }
    apic::write(reg::LVT_TIMER, 1 << 16);
    cpu::disable_interrupts();
    expect!(t, neighbour.destroy() == 0, "DESTROY_VM of the neighbour");
}
