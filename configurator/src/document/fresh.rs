//! New elements of lists, with values that make sense at once.

use super::{Refused, edit::with, names};
use acrn_config::scenario::{
    CacheRegion, Display, Gpu, HpaRegion, IvshmemRegion, Scenario, Vm, VuartConnection,
    VuartEndpoint,
};
use acrn_config::{Board, ScenarioFile};
use acrn_config_blob::VuartKind;

/// Size of the window of a new display.
const WINDOW: &str = "1280x720";
/// First context id of a vsock that is free.
const FIRST_CID: i64 = 3;

/// Adds an element at `path`.
pub(super) fn add(file: &mut ScenarioFile, board: &Board, path: &str) -> Result<(), Refused> {
    let refused = || Refused::Path(path.to_owned());
    match path {
        "hv/FEATURES/IVSHMEM/IVSHMEM_REGION" => with(file, add_region),
        "hv/vuart_connections/vuart_connection" => with(file, add_line),
        "hv/CACHE_REGION" => with(file, |scenario| {
            scenario.hv.cache_region = Some(CacheRegion::default());
            scenario.hv.features.rdt.enabled = true;
        }),
        path => match within_vm(path).filter(|(vm, _)| *vm < file.model.vms.len()) {
            Some((vm, element)) if add_to_vm(file, board, vm, element) => {}
            _ => drop(file.add(path).ok_or_else(refused)?),
        },
    }
    Ok(())
}

/// The VM and the element in it.
fn within_vm(path: &str) -> Option<(usize, &str)> {
    let (number, element) = path.strip_prefix("vm[")?.split_once("]/")?;
    Some((number.parse::<usize>().ok()?.checked_sub(1)?, element))
}

/// False if an empty element will do.
fn add_to_vm(file: &mut ScenarioFile, board: &Board, index: usize, element: &str) -> bool {
    let add: fn(&mut Scenario, &Board, usize) = match element {
        "virtio_devices/network" => add_network,
        "virtio_devices/vsock" => add_vsock,
        "virtio_devices/gpu" => |scenario, _, vm| {
            let displays = acrn_config::scenario::Displays {
                list: vec![window()],
            };
            let gpu = Gpu {
                displays,
                ..Gpu::default()
            };
            scenario.vms[vm].virtio_devices.gpu = Some(gpu);
        },
        "virtio_devices/gpu/displays/display" => |scenario, _, vm| {
            if let Some(gpu) = &mut scenario.vms[vm].virtio_devices.gpu {
                gpu.displays.list.push(window());
            }
        },
        "usb_xhci/usb_dev" => add_usb,
        "memory/hpa_region" => add_host_memory,
        _ => return false,
    };
    with(file, |scenario| add(scenario, board, index));
    true
}

fn add_region(scenario: &mut Scenario) {
    let regions = &mut scenario.hv.features.ivshmem.regions;
    let name = names::free(
        "shm_region_",
        regions.iter().map(|region| region.name.as_str()),
    );
    regions.push(IvshmemRegion {
        name,
        ..IvshmemRegion::default()
    });
}

/// Between the first two VMs.
fn add_line(scenario: &mut Scenario) {
    let end = |vm: &Vm| VuartEndpoint {
        vm_name: vm.name.clone(),
        ..VuartEndpoint::default()
    };
    let mut endpoints: Vec<_> = scenario.vms.iter().take(2).map(end).collect();
    endpoints.resize_with(2, VuartEndpoint::default);
    let lines = &mut scenario.hv.vuart_connections.list;
    let name = names::free("connection_", lines.iter().map(|line| line.name.as_str()));
    let kind = VuartKind::Legacy;
    lines.push(VuartConnection {
        name,
        kind,
        endpoints,
    });
}

fn add_network(scenario: &mut Scenario, _: &Board, vm: usize) {
    let cards = scenario
        .vms
        .iter()
        .flat_map(|vm| &vm.virtio_devices.networks);
    let interface = names::free("tap", cards.map(|card| card.interface.as_str()));
    let networks = &mut scenario.vms[vm].virtio_devices.networks;
    networks.push(acrn_config::scenario::Network {
        interface,
        ..Default::default()
    });
}

fn add_vsock(scenario: &mut Scenario, _: &Board, vm: usize) {
    let devices = scenario.vms.iter().flat_map(|vm| &vm.virtio_devices.vsocks);
    let taken: Vec<i64> = devices.copied().collect();
    let cid = (FIRST_CID..)
        .find(|cid| !taken.contains(cid))
        .unwrap_or(FIRST_CID);
    scenario.vms[vm].virtio_devices.vsocks.push(cid);
}

fn window() -> Display {
    Display {
        window_resolutions: Some(WINDOW.to_owned()),
        horizontal_offset: Some(0),
        vertical_offset: Some(0),
        ..Display::default()
    }
}

/// The first port with something in it that no VM has.
fn add_usb(scenario: &mut Scenario, board: &Board, vm: usize) {
    let taken: Vec<String> = scenario
        .vms
        .iter()
        .flat_map(|vm| vm.usb.devices.clone())
        .collect();
    let mut ports = usb_ports(board)
        .into_iter()
        .filter(|port| !taken.contains(port));
    let port = ports.next().unwrap_or_default();
    scenario.vms[vm].usb.devices.push(port);
}

/// Ports with something in them, as scenarios name them.
pub(crate) fn usb_ports(board: &Board) -> Vec<String> {
    fn collect(node: &acrn_config::board::Node, ports: &mut Vec<String>) {
        let described = node
            .usb_devices
            .iter()
            .filter_map(|usb| usb.description.clone());
        ports.extend(described);
        node.devices
            .iter()
            .chain(&node.buses)
            .for_each(|node| collect(node, ports));
    }
    let mut ports = Vec::new();
    board
        .devices
        .buses
        .iter()
        .for_each(|bus| collect(bus, &mut ports));
    ports
}

/// As much as the VM has, at the first address above 4 GiB that is RAM.
fn add_host_memory(scenario: &mut Scenario, board: &Board, vm: usize) {
    const HIGH: u64 = 1 << 32;
    let taken = scenario.vms.iter().flat_map(|vm| &vm.memory.regions);
    let end = |region: &HpaRegion| region.start.0 + ((region.size.max(0) as u64) << 20);
    let behind = taken.map(end).max().unwrap_or(HIGH).max(HIGH);
    let ram = board.ram();
    let free = ram.iter().find(|ram| ram.end() > behind);
    let start = free.map_or(behind, |ram| ram.start.max(behind));
    let memory = &mut scenario.vms[vm].memory;
    let size = memory.size;
    memory.regions.push(HpaRegion {
        start: acrn_config::model::Hex(start),
        size,
    });
}
