//! Guest flags and severity: what a VM's description amounts to.

use super::Notes;
use crate::scenario::{BuildType, OsType, Vm};
use crate::{Board, Scenario};
use acrn_abi::vm_flags::VmFlags;
use acrn_config_blob::{LoadOrder, VmKind};

/// What a flag depends on.
struct Input<'a> {
    vm: &'a Vm,
    board: &'a Board,
    scenario: &'a Scenario,
}

/// A flag, when it is set, and why.
type Policy = (VmFlags, &'static str, fn(&Input<'_>) -> bool);

const POLICIES: &[Policy] = &[
    (VmFlags::STATIC_VM, "the scenario describes the VM", |_| {
        true
    }),
    (VmFlags::LAPIC_PASSTHROUGH, "lapic_passthrough", |i| {
        i.vm.lapic_passthrough
    }),
    (
        VmFlags::IO_COMPLETION_POLLING,
        "io_completion_polling",
        |i| i.vm.io_completion_polling,
    ),
    (VmFlags::VCAT, "virtual_cat_support", |i| i.vm.virtual_cat),
    (VmFlags::SECURE_WORLD, "secure_world_support", |i| {
        i.vm.secure_world
    }),
    (VmFlags::HIDE_MTRR, "hide_mtrr_support", |i| i.vm.hide_mtrr),
    (VmFlags::NESTED, "nested_virtualization_support", |i| {
        i.vm.nested_virtualization
    }),
    (VmFlags::SECURITY_VM, "security_vm", |i| i.vm.security_vm),
    (VmFlags::VTM, "virtual_thermal_monitor", |i| {
        i.vm.virtual_thermal_monitor
    }),
    (VmFlags::STATELESS, "stateless", |i| i.vm.stateless),
    (VmFlags::RT, "vm_type RTVM", |i| {
        i.vm.kind == VmKind::RealTime
    }),
    (VmFlags::TEE, "vm_type TEE_VM", |i| i.vm.kind == VmKind::Tee),
    (VmFlags::REE, "vm_type REE_VM", |i| i.vm.kind == VmKind::Ree),
    (
        VmFlags::PMU_PASSTHROUGH,
        "a pre-launched RTVM in a debug build",
        |i| {
            i.vm.kind == VmKind::RealTime
                && i.vm.load_order == LoadOrder::PreLaunched
                && i.scenario.hv.build_type == BuildType::Debug
        },
    ),
    (
        VmFlags::VHWP,
        "own_pcpu, no Windows, and the board has hardware P-states",
        |i| {
            i.vm.own_pcpu
                && i.vm.os_type != OsType::Windows
                && i.board.has_cpu_capability("hwp_supported")
        },
    ),
];

/// The flags of a VM.
pub fn guest_flags(vm: &Vm, board: &Board, scenario: &Scenario, notes: &mut Notes) -> VmFlags {
    let input = Input {
        vm,
        board,
        scenario,
    };
    let set = POLICIES.iter().filter(|(.., applies)| applies(&input));
    set.fold(VmFlags::empty(), |flags, (flag, why, _)| {
        let name = flag.iter_names().map(|(name, _)| name).collect::<String>();
        notes.add(&vm.name, "flag", name, *why);
        flags | *flag
    })
}

/// Whose reset the machine follows: real-time VMs before the Service VM before others, unless the
/// Service VM supervises real-time VMs that it has started.
pub fn severity(vm: &Vm, scenario: &Scenario) -> u8 {
    let supervised =
        vm.load_order == LoadOrder::PostLaunched && scenario.hv.features.service_supervisor;
    match (vm.load_order, vm.kind) {
        (LoadOrder::Service, _) => 0x20,
        (_, VmKind::RealTime) if !supervised => 0x30,
        _ => 0x10,
    }
}
