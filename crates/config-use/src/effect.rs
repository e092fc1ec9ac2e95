//! What a configuration asks for and does not get, so that nothing is silently ignored.
//!
//! Not named is what has no meaning here: sizes of ACRN's tables and stacks, its trace hub, the place
//! that the image is linked for. `docs/src/configuration.md` lists that.

use acrn_abi::VmId;
use acrn_abi::vm_flags::VmFlags;
use acrn_config_blob::{
    Config, ConsoleKind, DeviceKind, Features, LoadOrder, PerformancePolicy, Restart, Vm, VmKind,
};
use core::fmt::Arguments;

/// Takes one line.
type Say<'a> = &'a mut dyn FnMut(Arguments<'_>);

/// Features that the hypervisor does not have.
const FEATURES: &[(Features, &str)] = &[
    (Features::RDT, "cache allocation (RDT)"),
    (
        Features::CDP,
        "separate cache masks for code and data (CDP)",
    ),
    (Features::VCAT, "cache allocation by VMs (VCAT)"),
    (Features::SSRAM, "software SRAM"),
    (Features::HYPERV, "Hyper-V's interface for VMs"),
    (Features::SPLIT_LOCK, "detection of split locks"),
    (Features::UC_LOCK, "detection of locks on uncached memory"),
    (Features::KEEP_IRQ_DISABLED, "interrupts that stay off"),
    (Features::IOMMU_SNOOP, "snooping by the IOMMU"),
    (Features::L1D_FLUSH, "flushing the L1 data cache"),
    (
        Features::MCE_WORKAROUND,
        "large pages that are never executable",
    ),
    (
        Features::SECURITY_VM_FIXUP,
        "TPM and SMBIOS data for a security VM",
    ),
];

/// Flags of VMs that the hypervisor does not have.
const FLAGS: &[(VmFlags, &str)] = &[
    (VmFlags::SECURE_WORLD, "a secure world"),
    (VmFlags::HIDE_MTRR, "hidden MTRRs"),
    (VmFlags::NESTED, "nested virtualization"),
    (VmFlags::SECURITY_VM, "the platform's TPM and SMBIOS data"),
    (VmFlags::VCAT, "cache allocation by the VM"),
    (
        VmFlags::PMU_PASSTHROUGH,
        "pass-through of performance counters",
    ),
    (VmFlags::VHWP, "hardware P-states"),
    (VmFlags::VTM, "thermal monitoring"),
];

/// Kinds of PCI devices that VMs do not get, with what they are called.
const DEVICES: &[(DeviceKind, &str)] = &[
    (DeviceKind::PassThrough, "passed-through PCI devices"),
    (DeviceKind::RootPort, "root ports with precision time"),
];

/// Calls `say` with one line for each part of the configuration that is not supported yet. `uart` says
/// that the command line has chosen the console.
pub fn without_effect(config: &Config<'_>, uart: bool, say: Say<'_>) {
    options(config, uart, say);
    for vm in config.vms.iter() {
        of_vm(&vm, say);
    }
}

fn options(config: &Config<'_>, uart: bool, say: Say<'_>) {
    let options = &config.options;
    for (_, what) in FEATURES
        .iter()
        .filter(|(f, _)| options.features.contains(*f))
    {
        say(format_args!("{what}: not supported yet"));
    }
    let console = options.console;
    if !uart && (console.kind, console.address) != (ConsoleKind::Port, 0x3f8) {
        say(format_args!(
            "console ({} {:#x}): chosen by uart= on the command line only",
            console.kind, console.address
        ));
    }
    let chosen = config.vm(VmId(options.console_vm));
    if let Some(vm) = chosen.filter(|vm| vm.load_order == LoadOrder::PostLaunched) {
        say(format_args!(
            "console of VM {} at first: it does not start with the machine",
            vm.name
        ));
    }
    if options.performance != PerformancePolicy::Performance {
        say(format_args!(
            "frequencies ({}): not supported yet; the firmware's choice stays",
            options.performance
        ));
    }
    if !options.cache_masks.is_empty() {
        let masks = options.cache_masks.len();
        say(format_args!("{masks} cache masks: not supported yet"));
    }
}

fn of_vm(vm: &Vm<'_>, say: Say<'_>) {
    let name = vm.name;
    let mut lacks = |what: &str| say(format_args!("VM {name}: {what}: not supported yet"));
    if !matches!(vm.kind, VmKind::Standard | VmKind::RealTime) {
        lacks(vm.kind.name());
    }
    let flags = FLAGS.iter().filter(|(flag, _)| vm.flags.contains(*flag));
    flags.for_each(|(_, what)| lacks(what));
    for (kind, what) in DEVICES {
        if (*kind, vm.load_order) == (DeviceKind::PassThrough, LoadOrder::PreLaunched) {
            continue;
        }
        if vm.pci_devices.iter().any(|device| device.kind == *kind) {
            lacks(what);
        }
    }
    let parts = [
        (
            vm.vcpus.iter().any(|vcpu| vcpu.clos != 0),
            "classes of service",
        ),
        (!vm.mmio_devices.is_empty(), "devices without PCI"),
        (!vm.intx_pins.is_empty(), "pins of I/O APICs"),
        (vm.epc.size != 0, "enclave memory (SGX)"),
        (vm.companion.is_some(), "a companion VM"),
        (
            vm.load_order == LoadOrder::PostLaunched && vm.restart != Restart::Never,
            "starting it again when it has stopped (acrnd does)",
        ),
    ];
    let asked = parts.iter().filter(|(asked, _)| *asked);
    asked.for_each(|(_, what)| lacks(what));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Example, blob};

    fn lines(example: &Example) -> Vec<String> {
        let config = Config::parse(blob(example)).unwrap();
        let mut lines = Vec::new();
        without_effect(&config, true, &mut |line| lines.push(line.to_string()));
        lines
    }

    #[test]
    fn what_can_be_had_is_not_named() {
        let plain = Example {
            safety: false,
            features: Features::DEBUG,
            ..Example::default()
        };
        assert_eq!(lines(&plain), Vec::<String>::new());
    }

    #[test]
    fn each_part_that_is_not_supported_has_a_line() {
        let much = Example {
            features: Features::HYPERV.with(Features::RDT, true),
            cat: true,
            line: true,
            console_vm: 2,
            restart: Restart::Always,
            kind: VmKind::Tee,
            ..Example::default()
        };
        assert_eq!(
            lines(&much),
            [
                "cache allocation (RDT): not supported yet",
                "Hyper-V's interface for VMs: not supported yet",
                "console of VM USER1 at first: it does not start with the machine",
                "1 cache masks: not supported yet",
                "VM USER1: TEE: not supported yet",
                "VM USER1: starting it again when it has stopped (acrnd does): not supported yet",
            ]
        );
    }

    #[test]
    fn another_console_is_named_unless_the_command_line_has_chosen() {
        let config = Config::parse(blob(&Example::default())).unwrap();
        let mut lines = Vec::new();
        without_effect(&config, false, &mut |line| lines.push(line.to_string()));
        assert_eq!(
            lines[0],
            "console (none 0x0): chosen by uart= on the command line only"
        );
    }
}
