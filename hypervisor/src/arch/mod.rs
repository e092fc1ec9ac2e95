//! The host machine: processor, tables, interrupt controllers, clock and console. Together with
//! `virt` this is where the crate's `unsafe` lives.

pub mod apic;
pub mod boot;
pub mod cpu;
pub mod device;
pub mod exception;
pub mod ioapic;
pub mod paging;
pub mod rtc;
pub mod segment;
pub mod smp;
pub mod tsc;
pub mod uart;
