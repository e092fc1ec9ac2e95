//! Everything that reads foreign bytes, as functions of one byte string.
//!
//! A function takes its input apart, feeds it to the code in question and asserts what must hold
//! whatever the input is. Two things call them: `tests/random.rs` here, with some hundred thousand
//! pseudo-random inputs in each run of the tests, and the targets in `fuzz/`, with whatever a
//! coverage-guided fuzzer finds (`cargo fuzz run NAME`; it needs a nightly compiler).

#![forbid(unsafe_code)]

mod acpi;
mod boot;
mod calls;
mod config;
mod controllers;
mod decoder;
mod inspector;
mod inter_vm;
mod manager;
mod memory;
mod paging;
mod pci;
mod schedule;
mod shell;
mod source;
mod task;
mod trace;

pub use source::Source;

/// Something that reads foreign bytes.
pub struct Target {
    /// Name, that of the file in `fuzz/fuzz_targets` too.
    pub name: &'static str,
    /// Reads an input; panics when something does not hold.
    pub run: fn(&[u8]),
    /// Inputs that are almost right, to be changed a little.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "decoder",
        run: decoder::run,
        seeds: decoder::seeds,
    },
    Target {
        name: "paging",
        run: paging::run,
        seeds: none,
    },
    Target {
        name: "task",
        run: task::run,
        seeds: task::seeds,
    },
    Target {
        name: "multiboot",
        run: boot::multiboot,
        seeds: boot::multiboot_seeds,
    },
    Target {
        name: "bzimage",
        run: boot::bzimage,
        seeds: boot::bzimage_seeds,
    },
    Target {
        name: "elf",
        run: boot::elf,
        seeds: boot::elf_seeds,
    },
    Target {
        name: "cmdline",
        run: boot::cmdline,
        seeds: boot::cmdline_seeds,
    },
    Target {
        name: "acpi",
        run: acpi::run,
        seeds: acpi::seeds,
    },
    Target {
        name: "hypercalls",
        run: calls::run,
        seeds: none,
    },
    Target {
        name: "pci",
        run: pci::run,
        seeds: pci::seeds,
    },
    Target {
        name: "lapic",
        run: controllers::lapic,
        seeds: none,
    },
    Target {
        name: "ioapic",
        run: controllers::ioapic,
        seeds: none,
    },
    Target {
        name: "pic",
        run: controllers::pic,
        seeds: none,
    },
    Target {
        name: "uart",
        run: controllers::uart,
        seeds: none,
    },
    Target {
        name: "serial_line",
        run: inter_vm::line,
        seeds: none,
    },
    Target {
        name: "virtual_function",
        run: inter_vm::function,
        seeds: none,
    },
    Target {
        name: "memory",
        run: memory::run,
        seeds: none,
    },
    Target {
        name: "schedule",
        run: schedule::run,
        seeds: none,
    },
    Target {
        name: "trace_file",
        run: trace::file,
        seeds: trace::file_seeds,
    },
    Target {
        name: "trace_ring",
        run: trace::ring,
        seeds: trace::ring_seeds,
    },
    Target {
        name: "shell",
        run: shell::run,
        seeds: shell::seeds,
    },
    Target {
        name: "config",
        run: config::blob,
        seeds: config::blob_seeds,
    },
    Target {
        name: "scenario",
        run: config::scenario,
        seeds: config::scenario_seeds,
    },
    Target {
        name: "board",
        run: config::board,
        seeds: config::board_seeds,
    },
    Target {
        name: "definition",
        run: manager::definition,
        seeds: manager::definition_seeds,
    },
    Target {
        name: "manager_json",
        run: manager::manager_json,
        seeds: manager::manager_json_seeds,
    },
    Target {
        name: "launch_script",
        run: manager::launch_script,
        seeds: manager::launch_script_seeds,
    },
    Target {
        name: "life_cycle",
        run: manager::life_cycle,
        seeds: manager::life_cycle_seeds,
    },
    Target {
        name: "aml",
        run: inspector::aml,
        seeds: inspector::aml_seeds,
    },
    Target {
        name: "board_facts",
        run: inspector::board_facts,
        seeds: inspector::board_facts_seeds,
    },
];

fn none() -> Vec<Vec<u8>> {
    Vec::new()
}

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
