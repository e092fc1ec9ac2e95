//! What stands behind `cargo xtask`: everything that builds, boots and tests the system.
//!
//! The flow of a demo is also the order of the modules. [`setup`] installs Debian
//! packages; [`kernel`], [`image`], [`rootfs`] and [`grub`] make files under `target/`,
//! each reusing what its inputs have not outdated ([`stamp`]); [`machine`] turns a
//! description into a running emulator, [`qemu`] or [`bochs`], whose serial line is a
//! [`console::Console`]; [`session`] knows the prompts and keys of the three consoles
//! behind that line; [`demo`] and [`system`] are scripts on top of it. [`mod@bench`] runs
//! emulators of its own kind, which count instructions.
//!
//! It is a library as well as a program so that other test programs can boot machines
//! the same way. Nothing here needs root except `setup`, and nothing outside `target/`
//! is written except by it.

#![forbid(unsafe_code)]

pub mod bench;
pub mod bochs;
pub mod bridge;
pub mod build;
pub mod console;
pub mod cpio;
pub mod deb;
pub mod demo;
pub mod elf;
pub mod grub;
pub mod image;
pub mod kernel;
pub mod layout;
pub mod machine;
pub mod progress;
pub mod qemu;
pub mod rootfs;
pub mod scenario;
pub mod session;
pub mod setup;
pub mod shim;
pub mod stamp;
pub mod stock;
pub mod system;
pub mod target;
pub mod test;
