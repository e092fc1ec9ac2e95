//! The ACRN Type-1 hypervisor.
//!
//! One image for every machine: it boots by multiboot, takes the machine over, starts a Service
//! VM that owns what is left, and serves the hypercalls by which that VM creates others.
//!
//! | module | job |
//! |---|---|
//! | [`arch`] | the host machine: boot code, tables, interrupt controllers, clock, UART |
//! | [`virt`] | the vendor contract and its siblings |
//! | [`memory`] | pool, page ownership, access to guest memory |
//! | [`device_memory`], [`withheld`] | device memory on first use; frames between two uses |
//! | [`percpu`], [`run`], [`run_queue`] | data, loop and vCPUs of each physical CPU |
//! | [`vm`], [`vcpu`] | the structures of a VM |
//! | [`exit`] | what happens on each exit |
//! | [`irq`], [`pci`] | pass-through of interrupts and of PCI functions |
//! | [`iommu`] | what devices may reach by DMA, and which interrupts they may raise |
//! | [`lifecycle`], [`service`], [`user_vm`] | life of vCPUs; making the Service VM and others |
//! | [`power`] | switching the machine off, resetting it |
//! | [`config`] | the configuration in force |
//! | [`firmware`] | changes to the firmware's tables |
//! | [`console`], [`shell`], [`log`], [`stats`] | what people see |
#![no_std]
#![no_main]
#![expect(
    bad_asm_style,
    reason = "boot code mixes in AT&T lines for addresses that Intel syntax cannot say"
)]

#[cfg(not(bare_image))]
extern crate std;

#[macro_use]
mod log;

mod arch;
mod boot;
mod config;
mod console;
mod device_memory;
mod exit;
mod firmware;
mod inter_vm;
mod interval_timer;
mod iommu;
mod irq;
mod lapic_passthrough;
mod lifecycle;
mod memory;
mod modules;
mod os;
mod pci;
mod percpu;
mod power;
mod prelaunched;
mod rings;
mod run;
mod run_queue;
mod runtime;
mod serial;
mod service;
mod shared_memory;
mod shell;
mod sleep;
mod static_vm;
mod stats;
mod trace;
mod user_vm;
mod vcpu;
mod virt;
mod virtual_pci;
mod vm;
mod withheld;

pub use boot::rust_main;
