//! PCI: configuration access is mediated; functions are passed through.

use crate::arch::uart;
use crate::vcpu::Vcpu;
use crate::virt::NestedTable;
use acrn_abi::{Bdf, Gpa, Hpa};
use acrn_acpi::Platform;

/// Finds the configuration window.
pub fn initialise(platform: &Platform) -> Option<(Hpa, u64)> {
    platform.ecam.first().map(|e| (e.base, 256 << 20))
}

/// A UART behind a PCI function: its first BAR.
pub fn find_uart(_bdf: Bdf) -> Option<uart::Location> {
    None
}

/// Access to ports 0xCF8 to 0xCFF.
pub fn port_access(_vcpu: &Vcpu, port: u16, size: u8, write: Option<u32>) -> u32 {
    crate::exit::io::host_port(port, size, write)
}

/// Access to the configuration window or an MSI-X table; `None` when the address is neither.
pub fn memory_access(_vcpu: &Vcpu, _gpa: Gpa, _size: u8, _write: Option<u64>) -> Option<u64> {
    None
}

/// Whether an address is one that the Service VM may reach only through this module.
pub fn is_mediated(_gpa: Gpa) -> bool {
    false
}

/// Takes what is mediated out of a range that was just mapped.
pub fn exclude_mediated(_table: &mut NestedTable, _start: Gpa, _size: u64) -> bool {
    true
}
