//! `kvm-boot`: the smallest virtual machine monitor that boots Linux on KVM, to compare with.
//!
//! One vCPU, memory at address 0, KVM's own interrupt controllers and PIT, a 16550 on COM1
//! whose output goes to standard output; any other port reads as zeros and any other address
//! as ones, which costs what answering in user space costs at least. It ends when the guest
//! resets itself.
//!
//! The guest gets the CPU features that KVM supports, with its clock, its x2APIC and the
//! TSC-deadline timer: KVM at its best.
//!
//! Usage: `kvm-boot KERNEL INITRD MIB COMMAND-LINE`

mod load;
mod machine;
mod mptable;

use anyhow::{Context, Result};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvm-boot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut next = |name| words.next().with_context(|| format!("{name} is missing"));
    let kernel = next("KERNEL")?;
    let initrd = next("INITRD")?;
    let mib: usize = next("MIB")?.parse().context("MIB is no number")?;
    let cmdline = next("COMMAND-LINE")?;
    let read = |path: &str| std::fs::read(path).with_context(|| format!("cannot read {path}"));
    let mut memory = machine::Memory::new(mib << 20)?;
    let entry = load::linux(memory.bytes(), &read(&kernel)?, &read(&initrd)?, &cmdline)?;
    machine::Machine::new(&memory)?.run(&entry)
}
