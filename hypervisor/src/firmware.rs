//! Changes to the firmware's ACPI tables in memory, before a VM reads them. The firmware makes the tables
//! anew when the machine is reset.

use crate::memory::{self, BootMemory};
use crate::{config, percpu};
use acrn_abi::Hpa;
use acrn_acpi::table::CHECKSUM_OFFSET;
use acrn_acpi::{Madt, Platform, Signature, checksum, madt};
use core::sync::atomic::Ordering;

/// Writes bytes into a table, whose checksum stays right. `false` when the table is not in memory that
/// can be written; it may then be damaged, which a guest sees.
pub fn patch(table: Hpa, offset: u32, bytes: &[u8]) -> bool {
    let at = Hpa(table.0 + u64::from(offset));
    let mut sum = [0];
    let sum_at = Hpa(table.0 + CHECKSUM_OFFSET as u64);
    if !memory::read_guest(sum_at, &mut sum) {
        return false;
    }
    for (index, byte) in bytes.iter().enumerate() {
        let at = Hpa(at.0 + index as u64);
        let (mut old, mut seen) = ([0], [0]);
        let written = memory::read_guest(at, &mut old)
            && memory::write_guest(at, &[*byte])
            && memory::read_guest(at, &mut seen);
        if !written || seen != [*byte] {
            return false;
        }
        sum[0] = checksum::adjusted(sum[0], &old, &seen);
    }
    memory::write_guest(sum_at, &sum)
}

/// Says in the MADT that CPUs which are not the Service VM's are not there, so that its kernel does not
/// wait for them.
pub fn hide_cpus(platform: &Platform) {
    let setup = config::setup();
    let is_own = |id: u32| {
        let mut cpus = percpu::all().iter();
        let cpu = cpus.find(|cpu| cpu.apic_id.load(Ordering::Relaxed) == id);
        cpu.is_some_and(|cpu| setup.service_has(cpu.id()))
    };
    let mut tables = platform.tables.iter();
    let Some(table) = tables.find(|table| table.signature == Signature::MADT) else {
        return;
    };
    Madt::for_each_cpu(&BootMemory, table, |id, offset, flags| {
        let usable = madt::ENABLED | madt::ONLINE_CAPABLE;
        if flags & usable == 0 || is_own(id) {
            return;
        }
        if !patch(table.address, offset, &(flags & !usable).to_le_bytes()) {
            warning!("the CPU with APIC id {id} cannot be hidden from the Service VM");
        }
    });
}
