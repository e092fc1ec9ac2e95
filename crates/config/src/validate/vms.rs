//! Rules about the VMs as such.

use super::{Context, Hits, Rule, error, vm_path, warning};
use crate::scenario::BuildType;
use acrn_config_blob::{KernelKind, LoadOrder, MAX_VMS, NO_VM, VmKind};

pub(super) const RULES: &[Rule] = &[
    warning(
        "board-name",
        "the scenario is for the board",
        "use the board file that the scenario names, or change its attribute board",
        board_name,
    ),
    error(
        "some-vm",
        "there is at least one VM, and there are not more than MAX_VM_NUM",
        "remove VMs, or raise MAX_VM_NUM (at most 16)",
        some_vm,
    ),
    error(
        "one-service-vm",
        "there is at most one Service VM",
        "make the others post-launched or pre-launched",
        one_service_vm,
    ),
    error(
        "service-vm-for-post-launched",
        "post-launched VMs need a Service VM",
        "add a VM with load order SERVICE_VM, or make the VM pre-launched",
        service_vm_for_post,
    ),
    error(
        "vm-order",
        "VMs are in the order pre-launched, Service VM, post-launched",
        "move the VM, and number the VMs anew",
        vm_order,
    ),
    error(
        "vm-id",
        "a VM's id is its place in the list, counted from 0",
        "number the VMs 0, 1, 2 …",
        vm_id,
    ),
    error(
        "vm-name",
        "a VM's name is its own",
        "give one of the VMs another name",
        vm_name,
    ),
    warning(
        "one-pre-launched-rtvm",
        "at most one real-time VM is pre-launched",
        "make the other a post-launched or a standard VM",
        one_pre_rtvm,
    ),
    warning(
        "one-kind-of-rtvm",
        "real-time VMs are either pre-launched or post-launched",
        "use one kind only",
        one_kind_of_rtvm,
    ),
    error(
        "lapic-needs-rtvm",
        "only a real-time VM has its local APICs passed through",
        "set vm_type to RTVM, or lapic_passthrough to n",
        lapic_needs_rtvm,
    ),
    warning(
        "rtvm-wants-lapic",
        "a pre-launched real-time VM has its local APICs passed through",
        "set lapic_passthrough to y: without it every interrupt costs an exit",
        rtvm_wants_lapic,
    ),
    error(
        "service-lapic-needs-nested",
        "the Service VM has its local APICs passed through only with nested virtualization",
        "set nested_virtualization_support to y, or lapic_passthrough to n",
        service_lapic,
    ),
    error(
        "companion",
        "companion_vmid is the id of another VM",
        "write the id of an existing VM, or 65535 for none",
        companion,
    ),
    error(
        "console-vm",
        "CONSOLE_VM is the id of a VM",
        "write the id of an existing VM, or 65535 for the shell",
        console_vm,
    ),
    error(
        "serial-console",
        "a debug build names its serial console",
        "choose a serial port of the board, or write None to do without",
        serial_console,
    ),
    error(
        "serial-console-exists",
        "the serial console is a serial port of the board",
        "choose a port that the board file names in TTYS_INFO",
        serial_console_exists,
    ),
    error(
        "raw-kernel-addresses",
        "a raw kernel has a load address and an entry address",
        "add kern_load_addr and kern_entry_addr",
        raw_kernel,
    ),
    error(
        "kernel-tag",
        "a VM that the hypervisor loads has a kernel",
        "name the boot module in kern_mod",
        kernel_tag,
    ),
];

fn board_name(c: &Context<'_>, hits: &mut Hits) {
    if let (Some(board), Some(wanted)) = (&c.board.name, &c.scenario.board) {
        if board != wanted {
            hits.add(
                "",
                format!("the scenario is for board {wanted}, this is board {board}"),
            );
        }
    }
}

fn some_vm(c: &Context<'_>, hits: &mut Hits) {
    let (count, max) = (c.scenario.vms.len(), c.scenario.hv.capacities.max_vms);
    if count == 0 {
        hits.add("", "there is no VM");
    }
    if count > MAX_VMS || count as i64 > max {
        hits.add(
            vm_path(count.saturating_sub(1)),
            format!("{count} VMs, at most {max} are possible"),
        );
    }
}

fn one_service_vm(c: &Context<'_>, hits: &mut Hits) {
    let first = c
        .scenario
        .service_vm()
        .map(|vm| vm.name.clone())
        .unwrap_or_default();
    for (index, vm) in c.scenario.vms_of(LoadOrder::Service).skip(1) {
        let message = format!("VM {} is a second Service VM beside {first}", vm.name);
        hits.add(vm_path(index) + "/load_order", message);
    }
}

fn service_vm_for_post(c: &Context<'_>, hits: &mut Hits) {
    if c.scenario.service_vm().is_none() {
        for (index, vm) in c.scenario.vms_of(LoadOrder::PostLaunched) {
            hits.add(
                vm_path(index) + "/load_order",
                format!("VM {} has no Service VM to start it", vm.name),
            );
        }
    }
}

fn vm_order(c: &Context<'_>, hits: &mut Hits) {
    let vms = &c.scenario.vms;
    for (index, (before, vm)) in vms.iter().zip(vms.iter().skip(1)).enumerate() {
        if before.load_order > vm.load_order {
            let message = format!(
                "VM {} is {} and stands behind {}, which is {}",
                vm.name, vm.load_order, before.name, before.load_order
            );
            hits.add(vm_path(index + 1) + "/load_order", message);
        }
    }
}

fn vm_id(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c
        .scenario
        .vms
        .iter()
        .enumerate()
        .filter(|(i, vm)| vm.id != *i as i64)
    {
        hits.add(
            vm_path(index),
            format!("VM {} has id {} and place {index}", vm.name, vm.id),
        );
    }
}

fn vm_name(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c
        .scenario
        .vms
        .iter()
        .enumerate()
        .filter(|(_, vm)| !vm.name.is_empty())
    {
        if let Some((first, _)) = c.scenario.vm(&vm.name).filter(|(first, _)| *first < index) {
            let message = format!("VM {} has the name of VM {first}", vm.name);
            hits.add(vm_path(index) + "/name", message);
        }
    }
}

fn one_pre_rtvm(c: &Context<'_>, hits: &mut Hits) {
    let real_time = c
        .scenario
        .vms_of(LoadOrder::PreLaunched)
        .filter(|(_, vm)| vm.kind == VmKind::RealTime);
    for (index, vm) in real_time.skip(1) {
        hits.add(
            vm_path(index) + "/vm_type",
            format!("VM {} is another pre-launched real-time VM", vm.name),
        );
    }
}

fn one_kind_of_rtvm(c: &Context<'_>, hits: &mut Hits) {
    let real_time = |order| {
        c.scenario
            .vms_of(order)
            .find(|(_, vm)| vm.kind == VmKind::RealTime)
    };
    if let (Some((_, pre)), Some((index, post))) = (
        real_time(LoadOrder::PreLaunched),
        real_time(LoadOrder::PostLaunched),
    ) {
        let message = format!(
            "real-time VMs {} and {} are of both kinds",
            pre.name, post.name
        );
        hits.add(vm_path(index) + "/vm_type", message);
    }
}

fn lapic_needs_rtvm(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        let user = vm.load_order != LoadOrder::Service;
        if user && vm.lapic_passthrough && vm.kind != VmKind::RealTime {
            hits.add(
                vm_path(index) + "/lapic_passthrough",
                format!("VM {} is no real-time VM", vm.name),
            );
        }
    }
}

fn rtvm_wants_lapic(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms_of(LoadOrder::PreLaunched) {
        if vm.kind == VmKind::RealTime && !vm.lapic_passthrough {
            hits.add(
                vm_path(index),
                format!("real-time VM {} has virtual local APICs", vm.name),
            );
        }
    }
}

fn service_lapic(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms_of(LoadOrder::Service) {
        if vm.lapic_passthrough && !vm.nested_virtualization {
            hits.add(
                vm_path(index) + "/lapic_passthrough",
                format!("VM {} is the Service VM", vm.name),
            );
        }
    }
}

fn exists(c: &Context<'_>, id: i64) -> bool {
    id == i64::from(NO_VM) || usize::try_from(id).is_ok_and(|id| id < c.scenario.vms.len())
}

fn companion(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        if !exists(c, vm.companion_vmid) || vm.companion_vmid == index as i64 {
            let message = format!(
                "companion {} of VM {} does not exist",
                vm.companion_vmid, vm.name
            );
            hits.add(vm_path(index) + "/companion_vmid", message);
        }
    }
}

fn console_vm(c: &Context<'_>, hits: &mut Hits) {
    let id = c.scenario.hv.debug.console_vm;
    if !exists(c, id) {
        hits.add(
            "hv/DEBUG_OPTIONS/CONSOLE_VM",
            format!("there is no VM {id}"),
        );
    }
}

fn serial_console(c: &Context<'_>, hits: &mut Hits) {
    let hv = &c.scenario.hv;
    if hv.build_type == BuildType::Debug && hv.debug.serial_console.is_empty() {
        hits.add(
            "hv/DEBUG_OPTIONS/SERIAL_CONSOLE",
            "a debug build without a serial console",
        );
    }
}

fn serial_console_exists(c: &Context<'_>, hits: &mut Hits) {
    let console = &c.scenario.hv.debug.serial_console;
    let named = !console.is_empty() && console != "None";
    if named && crate::allocate::console(c.board, console).is_none() {
        hits.add(
            "hv/DEBUG_OPTIONS/SERIAL_CONSOLE",
            format!("the board has no serial port {console}"),
        );
    }
}

fn raw_kernel(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        let os = &vm.os_config;
        let loaded = vm.load_order != LoadOrder::PostLaunched;
        let addresses = os.load_addr.is_some() && os.entry_addr.is_some();
        if loaded && os.kern_type == KernelKind::Raw && !addresses {
            hits.add(
                vm_path(index) + "/os_config",
                format!("VM {} has a raw kernel without addresses", vm.name),
            );
        }
    }
}

fn kernel_tag(c: &Context<'_>, hits: &mut Hits) {
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        if vm.load_order != LoadOrder::PostLaunched && vm.os_config.kern_mod.is_empty() {
            hits.add(
                vm_path(index) + "/os_config",
                format!("VM {} has no kernel", vm.name),
            );
        }
    }
}
