//! The tests. Each file is about one part of the machine.

mod addresses;
mod batch;
mod bench;
mod chaos;
mod code;
mod debug;
mod delivery;
mod devices;
mod dma;
mod excursion;
mod fatal;
mod hostile;
mod hypercalls;
mod instructions;
mod interrupts;
mod modes;
mod neighbour;
mod offline;
mod peers;
mod processors;
mod rings;
mod shadow;
mod shares;
mod shortage;
mod tasks;
mod timers;
mod virtualization;
mod vm;
mod x2apic;

use crate::report::Test;

/// Name, whether the machine is usable afterwards, and the test.
type Entry = (&'static str, bool, fn(&Test));

/// All tests, in the order of `test=all`.
pub const TESTS: &[Entry] = &[
    ("cpuid", true, instructions::cpuid),
    ("msr", true, instructions::msr),
    ("ports", true, instructions::ports),
    ("sleep", true, instructions::sleep),
    ("xsetbv", true, instructions::xsetbv),
    ("undefined", true, instructions::undefined),
    ("virtualization", true, virtualization::instructions),
    ("virtualization_msrs", true, virtualization::msrs),
    ("control_registers", true, virtualization::control_registers),
    ("strict", false, virtualization::strict),
    ("cpuid_policy", true, virtualization::cpuid_policy),
    ("features", true, virtualization::features),
    ("debug", true, debug::exceptions),
    ("cache", true, instructions::cache),
    ("timer", true, timers::xapic),
    ("timer_x2apic", true, timers::x2apic),
    ("tsc_adjust", true, timers::tsc_adjust),
    ("apic_modes", true, interrupts::apic_modes),
    ("x2apic", true, x2apic::registers),
    ("self_ipi", true, interrupts::self_ipi),
    ("priority", true, interrupts::priority),
    ("nmi", true, interrupts::nmi),
    ("shadow", true, shadow::interrupts),
    ("task_priority", false, shadow::task_priority),
    ("nested_nmi", true, shadow::nested_nmi),
    ("nmi_wakes", true, shadow::nmi_wakes),
    ("halt", true, interrupts::halt),
    ("cut_off", true, delivery::cut_off),
    ("cut_off_interrupt", true, delivery::cut_off_interrupt),
    (
        "cut_off_with_interrupt",
        true,
        delivery::cut_off_with_interrupt,
    ),
    ("cut_off_page_fault", true, delivery::cut_off_page_fault),
    ("ioapic_level", true, interrupts::ioapic_level),
    ("ioapic_pit", true, interrupts::ioapic_pit),
    ("pic", true, interrupts::pic),
    ("smp", true, processors::start),
    ("ipi", true, processors::ipi),
    ("ioapic_forms", true, devices::ioapic_forms),
    ("string_io", true, devices::string_io),
    ("modes", true, excursion::modes),
    ("strict_modes", true, excursion::strict),
    ("tasks", true, tasks::tasks),
    ("strict_tasks", true, tasks::strict),
    ("code_edges", true, modes::code_edges),
    ("moving_code", true, code::moving),
    ("string_endless", true, devices::endless_string),
    ("memory", true, addresses::hypervisor_memory),
    ("holes", true, addresses::holes),
    ("device_memory", true, addresses::device_memory),
    ("page_tables", true, addresses::page_tables),
    ("dma", false, dma::confined),
    ("dma_units", false, dma::units),
    ("dma_interrupts", false, dma::interrupts),
    ("dma_blocked_interrupts", false, dma::blocked_interrupts),
    ("hypercall_policy", true, hypercalls::policy),
    ("hypercall_fuzz", true, hypercalls::fuzz),
    ("vm_life", true, vm::life),
    ("vm_lending", true, vm::lending),
    ("vm_fault", true, vm::fault),
    ("vm_refused", false, vm::refused),
    ("vm_real_mode", true, modes::real_mode),
    ("vm_read_only", true, vm::read_only),
    ("vm_hostile", true, hostile::user_vm),
    ("vm_neighbour", true, neighbour::registers),
    ("rings", true, rings::rings),
    ("observer", true, rings::observer),
    ("chaos", true, chaos::stream),
    ("startup_storm", true, chaos::startup_storm),
    ("vm_slots", true, vm::slots),
    ("vm_scattered", true, batch::scattered),
    ("vm_outranking", false, vm::outranking),
    ("vm_shares", false, shares::shares),
    ("vm_peers", false, peers::devices),
    ("bench_ipi", false, bench::ipi),
    ("offline", false, offline::cpu),
    ("vm_no_frames", false, shortage::creation),
    ("vm_cycles", false, vm::cycles),
    ("vm_shell", false, vm::shell),
    ("wait", false, vm::wait),
    ("tables_in_mmio", false, fatal::tables_in_mmio),
    ("code_in_mmio", false, fatal::code_in_mmio),
    ("tables_in_hypervisor", false, fatal::tables_in_hypervisor),
    ("tables_in_rom", false, fatal::tables_in_rom),
    ("idt_in_hypervisor", false, fatal::idt_in_hypervisor),
    ("gdt_in_hypervisor", false, fatal::gdt_in_hypervisor),
    ("stack_in_mmio", false, fatal::stack_in_mmio),
    ("triple_fault", false, fatal::triple_fault),
    ("machine", false, devices::machine),
    ("loop", false, fatal::endless),
];
