//! What the boot loader hands over, and how a Linux kernel is started.
//!
//! The hypervisor is entered with two registers. From there:
//!
//! 1. [`multiboot`] reads the loader's description of the machine into one [`BootInfo`], the same
//!    for both versions of the protocol;
//! 2. [`cmdline`] reads the hypervisor's own options from the command line;
//! 3. [`module`] says what each boot module is, by its tag;
//! 4. [`bzimage`] reads a Linux kernel's header, chooses addresses and fills the zero page; [`elf`] and
//!    [`handover`] do the like for other programs.
//!
//! Everything here reads foreign data and is total: it returns an error or skips, and never
//! panics. Pointers are followed through
//! [`PhysicalMemory`](acrn_abi::PhysicalMemory) only.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod bzimage;
pub mod cmdline;
pub mod elf;
pub mod handover;
pub mod info;
pub mod module;
pub mod multiboot;
mod multiboot1;
mod multiboot2;
pub mod zero_page;

#[cfg(test)]
mod testing;

pub use info::{BootInfo, Framebuffer, MemoryKind, MemoryRange, Module};
