//! Where things are in the guest-physical and I/O space of a User VM.
//!
//! The Device Model builds a post-launched VM after this map and writes ACPI tables that say so, and the
//! hypervisor a pre-launched one; it traps the parts that it emulates itself.

use crate::{Gpa, Gsi};
use core::ops::Range;

/// Conventional memory: RAM from 0 up to here.
pub const LOW_RAM_END: Gpa = Gpa(0xA_0000);
/// Where RAM continues after the legacy video and BIOS areas.
pub const EXTENDED_RAM_BASE: Gpa = Gpa(0x10_0000);
/// RAM below 4 GiB ends here at the latest; more RAM continues at [`HIGH_RAM_BASE`].
pub const LOW_MEMORY_LIMIT: Gpa = Gpa(0x8000_0000);
/// RAM above the 32-bit holes.
pub const HIGH_RAM_BASE: Gpa = Gpa(0x1_0000_0000);

/// Window for 32-bit PCI memory BARs.
pub const PCI_MMIO32: Range<u64> = 0x8000_0000..0xE000_0000;
/// Memory-mapped PCI configuration space, buses 0 to 255.
pub const PCI_ECAM: Range<u64> = 0xE000_0000..0xF000_0000;
/// Window for 64-bit PCI memory BARs (256 GiB to 512 GiB).
pub const PCI_MMIO64: Range<u64> = 0x40_0000_0000..0x80_0000_0000;

/// Register page of the virtual I/O APIC.
pub const IOAPIC_BASE: Gpa = Gpa(0xFEC0_0000);
/// Bytes of the I/O APIC's register page.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Inputs of the virtual I/O APIC of a User VM.
pub const IOAPIC_PINS: u32 = 48;
/// Registers of the HPET that the Device Model emulates.
pub const HPET_BASE: Gpa = Gpa(0xFED0_0000);
/// Bytes of the HPET's registers.
pub const HPET_SIZE: u64 = 0x400;
/// Nanoseconds from one tick of the HPET to the next.
pub const HPET_TICK_NS: u64 = 100;
/// Register page of the local APIC in xAPIC mode, and the range of MSI addresses.
pub const LAPIC_BASE: Gpa = Gpa(0xFEE0_0000);
/// Bytes of the local APIC's register page.
pub const LAPIC_SIZE: u64 = 0x1000;

/// Where the RSDP, and after it the other ACPI tables, of a post-launched VM are.
pub const ACPI_RSDP: Gpa = Gpa(0xF_2400);
/// End of a firmware image: its reset vector is 16 bytes below.
pub const FIRMWARE_END: Gpa = Gpa(0x1_0000_0000);
/// Largest firmware image.
pub const FIRMWARE_MAX_SIZE: u64 = 0x20_0000;

/// Command and status port of the first 8259.
pub const PORT_PIC_MASTER: u16 = 0x20;
/// Command and status port of the second 8259.
pub const PORT_PIC_SLAVE: u16 = 0xA0;
/// Edge/level control registers, two ports.
pub const PORT_ELCR: u16 = 0x4D0;
/// First port of the 8254 timer, four ports.
pub const PORT_PIT: u16 = 0x40;
/// Gate and output of the 8254's third counter.
pub const PORT_SYSTEM_CONTROL: u16 = 0x61;
/// The pin that stands for ISA's line 0, the 8254's.
pub const TIMER_GSI: Gsi = Gsi(2);
/// Keyboard controller's command port; 0xFE resets.
pub const PORT_KEYBOARD_COMMAND: u16 = 0x64;
/// CMOS index port; data port follows.
pub const PORT_RTC: u16 = 0x70;
/// PCI configuration address.
pub const PORT_PCI_ADDRESS: u16 = 0xCF8;
/// PCI configuration data, four ports.
pub const PORT_PCI_DATA: u16 = 0xCFC;
/// Reset control register; sits inside the PCI address dword.
pub const PORT_RESET_CONTROL: u16 = 0xCF9;
/// First serial port, eight ports.
pub const PORT_COM1: u16 = 0x3F8;
/// PM1a event block.
pub const PORT_PM1A_EVENT: u16 = 0x400;
/// PM1a control register.
pub const PORT_PM1A_CONTROL: u16 = 0x404;
/// PM timer, 32 bits wide.
pub const PORT_PM_TIMER: u16 = 0x408;

/// Vendor and device id of the emulated host bridge at 00:00.0.
pub const HOST_BRIDGE_ID: (u16, u16) = (0x8086, 0x5AF0);
/// Vendor and device id of the ivshmem device.
pub const IVSHMEM_ID: (u16, u16) = (0x1AF4, 0x1110);
/// Vendor and device id of the PCI serial port.
pub const PCI_UART_ID: (u16, u16) = (0x9710, 0x9900);
/// Vendor and device id of the virtual root port (carries PTM).
pub const ROOT_PORT_ID: (u16, u16) = (0x8086, 0x9D14);
