//! Adding, copying, removing and ordering VMs. A VM's number is its place, so the numbers follow.

use super::edit::with;
use super::{Refused, names};
use acrn_config::scenario::{ConsoleVuart, Pcpu, Vm};
use acrn_config::xml::{Element, Node};
use acrn_config::{Board, Scenario, ScenarioFile};
use acrn_config_blob::{LoadOrder, NO_VM, VmKind};

/// Most VMs.
const MAX_VMS: usize = 16;

/// Adds a VM behind those of its load order.
pub(super) fn add(
    file: &mut ScenarioFile,
    board: &Board,
    order: LoadOrder,
    real_time: bool,
) -> Result<(), Refused> {
    room(file)?;
    let vm = fresh(&file.model, board, order, real_time);
    with(file, |scenario| scenario.vms.push(vm));
    sort(file);
    Ok(())
}

/// Adds a VM like another, with a name of its own and without the devices that only one VM can have.
pub(super) fn copy(file: &mut ScenarioFile, vm: usize) -> Result<(), Refused> {
    let name = names::name_of(file, vm)?;
    room(file)?;
    let stem: String = name
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .to_owned();
    let stem: String = stem.chars().take(13).collect();
    let new = names::free_for_vm(&file.model, &stem);
    let places = places(file);
    let mut copied = file.document.root.children[places[vm]].clone();
    if let Node::Element(element) = &mut copied {
        // It was not read from the file, so it gets a line of its own there.
        element.line = 0;
    }
    file.document.root.children.insert(places[vm] + 1, copied);
    file.refresh();
    with(file, |scenario| {
        let copy = &mut scenario.vms[vm + 1];
        copy.name = new;
        copy.pci_devs.list.clear();
        copy.memory.regions.clear();
        copy.usb.devices.clear();
        copy.virtio_devices.vsocks.clear();
        copy.mmio_resources.tpm2 = false;
        copy.mmio_resources.p2sb = false;
        copy.pt_intx.clear();
    });
    renumber(file, |old| if old > vm { Some(old + 1) } else { Some(old) });
    Ok(())
}

/// Removes a VM and what connects others to it.
pub(super) fn remove(file: &mut ScenarioFile, vm: usize) -> Result<(), Refused> {
    let name = names::name_of(file, vm)?;
    file.remove(&format!("vm[{}]", vm + 1));
    with(file, |scenario| names::forget(scenario, &name));
    renumber(file, |old| match old.cmp(&vm) {
        std::cmp::Ordering::Less => Some(old),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(old - 1),
    });
    Ok(())
}

/// Moves a VM by one place, if its neighbour there has the same load order.
pub(super) fn shift(file: &mut ScenarioFile, vm: usize, up: bool) -> Result<(), Refused> {
    names::name_of(file, vm)?;
    if let Some(other) = neighbour(&file.model, vm, up) {
        let places = places(file);
        file.document.root.children.swap(places[vm], places[other]);
        file.refresh();
        renumber(file, |old| match old {
            old if old == vm => Some(other),
            old if old == other => Some(vm),
            old => Some(old),
        });
    }
    Ok(())
}

/// The VM with which a VM would change places.
pub(crate) fn neighbour(scenario: &Scenario, vm: usize, up: bool) -> Option<usize> {
    let other = if up { vm.checked_sub(1)? } else { vm + 1 };
    let order = |index: usize| scenario.vms.get(index).map(|vm| vm.load_order);
    (order(other)? == order(vm)?).then_some(other)
}

/// Puts VMs in the order of who starts them, and otherwise as they are.
pub(super) fn sort(file: &mut ScenarioFile) {
    let rank = |order: LoadOrder| match order {
        LoadOrder::PreLaunched => 0,
        LoadOrder::Service => 1,
        LoadOrder::PostLaunched => 2,
    };
    let vms = &file.model.vms;
    let mut order: Vec<usize> = (0..vms.len()).collect();
    order.sort_by_key(|&index| rank(vms[index].load_order));
    let places = places(file);
    let children = &mut file.document.root.children;
    let sorted: Vec<Node> = order
        .iter()
        .map(|&vm| children[places[vm]].clone())
        .collect();
    for (place, vm) in places.into_iter().zip(sorted) {
        children[place] = vm;
    }
    file.refresh();
    renumber(file, |old| order.iter().position(|&vm| vm == old));
}

/// Whether there is room for one more VM.
fn room(file: &ScenarioFile) -> Result<(), Refused> {
    match file.model.vms.len() {
        count if count >= MAX_VMS => Err(Refused::Full(count)),
        _ => Ok(()),
    }
}

/// Places of the VMs among all that is in the document.
fn places(file: &ScenarioFile) -> Vec<usize> {
    let is_vm = |node: &Node| matches!(node, Node::Element(Element { name, .. }) if name == "vm");
    let nodes = file.document.root.children.iter().enumerate();
    nodes
        .filter(|(_, node)| is_vm(node))
        .map(|(place, _)| place)
        .collect()
}

/// Numbers VMs by their places, and corrects what names a number; `moved` has the new place of an old one.
fn renumber(file: &mut ScenarioFile, moved: impl Fn(usize) -> Option<usize>) {
    let new = |old: i64| match usize::try_from(old) {
        Ok(old) if old < MAX_VMS => moved(old).map_or(i64::from(NO_VM), |new| new as i64),
        _ => old,
    };
    with(file, |scenario| {
        scenario.hv.debug.console_vm = new(scenario.hv.debug.console_vm);
        for (index, vm) in scenario.vms.iter_mut().enumerate() {
            vm.id = index as i64;
            vm.companion_vmid = new(vm.companion_vmid);
        }
    });
}

/// A VM with what it needs.
fn fresh(scenario: &Scenario, board: &Board, order: LoadOrder, real_time: bool) -> Vm {
    let stem = match (order, real_time) {
        (LoadOrder::Service, _) => "SERVICE_VM",
        (LoadOrder::PreLaunched, false) => "PRE_STD_VM",
        (LoadOrder::PreLaunched, true) => "PRE_RT_VM",
        (LoadOrder::PostLaunched, false) => "POST_STD_VM",
        (LoadOrder::PostLaunched, true) => "POST_RT_VM",
    };
    let mut vm = Vm {
        load_order: order,
        name: names::free_for_vm(scenario, stem),
        console_vuart: ConsoleVuart::Com1,
        ..Vm::default()
    };
    vm.memory.size = 512;
    if real_time {
        vm.kind = VmKind::RealTime;
        vm.lapic_passthrough = true;
    }
    if order != LoadOrder::Service {
        let alone = real_time || order == LoadOrder::PreLaunched;
        let cpu = cpu_for(scenario, board, alone);
        vm.cpu_affinity
            .pcpus
            .extend(cpu.map(|id| Pcpu { id, real_time }));
    }
    vm
}

/// The CPU with the fewest VMs, of those that no real-time VM has; the last such one for a VM that is to be
/// alone.
fn cpu_for(scenario: &Scenario, board: &Board, alone: bool) -> Option<i64> {
    let users = |cpu: i64| {
        let vms = scenario.vms.iter();
        vms.filter(move |vm| vm.cpu_affinity.pcpus.iter().any(|pcpu| pcpu.id == cpu))
    };
    let is_taken = |cpu: i64| users(cpu).any(|vm| vm.kind == VmKind::RealTime || vm.own_pcpu);
    let cpus = board.cpus().into_iter().map(|cpu| i64::from(cpu.id));
    let free = cpus.filter(|&cpu| !(is_taken(cpu) || alone && cpu == 0));
    free.min_by_key(|&cpu| (users(cpu).count(), if alone { -cpu } else { cpu }))
}
