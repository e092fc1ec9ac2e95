//! Virtual devices of the hypervisor, as pure data structures.
//!
//! A device here is registers and rules: a register access goes in, a value or an *action* comes
//! out, and whoever owns the device (the hypervisor, a test, a fuzzer) carries the action out.
//! Nothing in this crate touches hardware, allocates, blocks or reads a clock; time comes in as a
//! guest TSC value.
//!
//! A guest is hostile: each offset, width and value is accepted as data. What the hardware calls
//! undefined reads as zero or as all ones and writes to it are ignored.
//!
//! | module | device |
//! |---|---|
//! | [`counters`] | PM timer and HPET counter, for guests that measure their TSC |
//! | [`cpuid`] | the processor as guests identify it |
//! | [`interrupt`] | destinations and delivery modes that all interrupt sources share |
//! | [`lapic`] | local APIC in xAPIC and x2APIC mode, with its timer |
//! | [`ioapic`] | I/O APIC |
//! | [`ivshmem`] | registers of shared memory between VMs |
//! | [`pic`] | pair of 8259A interrupt controllers |
//! | [`pci`] | configuration mechanisms, pass-through and virtual functions with MSI and MSI-X |
//! | [`pit`] | interval timer 8254 |
//! | [`pm`] | power management registers of ACPI |
//! | [`rtc`] | real-time clock and CMOS memory |
//! | [`serial_card`] | a serial port on a PCI card |
//! | [`serial_link`] | a serial line between two VMs |
//! | [`uart`] | 16550A serial port |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod counters;
pub mod cpuid;
pub mod interrupt;
pub mod ioapic;
pub mod ivshmem;
pub mod lapic;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod rtc;
pub mod serial_card;
pub mod serial_link;
pub mod uart;
