//! Rules about devices of the Device Model.

use super::{Context, Hits, Rule, error, vm_path};
use crate::scenario::{Backend, Display, DisplayType, Gpu, Vm, WINDOW_RESOLUTIONS};
use acrn_config_blob::LoadOrder;

pub(super) const RULES: &[Rule] = &[
    error(
        "vsock-cid-once",
        "a vsock context id belongs to one device",
        "choose another number above 2",
        vsock_once,
    ),
    error(
        "gpu-complete",
        "a display has what its type needs: a monitor, or size and place of a window",
        "add monitor_id, or window_resolutions, horizontal_offset and vertical_offset",
        gpu_complete,
    ),
    error(
        "gpu-resolution",
        "the size of a window is one that the Device Model knows",
        "choose a size such as 1920x1080",
        gpu_resolution,
    ),
    error(
        "gpu-monitor-once",
        "a monitor shows one display",
        "choose another monitor",
        monitor_once,
    ),
    error(
        "gpu-display-count",
        "a VM has at most 4 full screens or 2 windows, and at least one",
        "remove displays",
        display_count,
    ),
    error(
        "virtio-console-complete",
        "a virtio console has what its backend needs: a file, socket or terminal",
        "add output_file_path, sock_file_path or tty_device_path",
        console_complete,
    ),
    error(
        "virtio-device-complete",
        "a disk has a path, a network card its interface, an input device the device it stands for",
        "write what is missing, or remove the device",
        device_complete,
    ),
];

fn each_vm<'c>(c: &'c Context<'_>) -> impl Iterator<Item = (String, &'c Vm)> {
    let vms = c.scenario.vms_of(LoadOrder::PostLaunched);
    vms.map(|(index, vm)| (vm_path(index) + "/virtio_devices", vm))
}

fn each_gpu<'c>(c: &'c Context<'_>) -> impl Iterator<Item = (String, &'c Vm, &'c Gpu)> {
    each_vm(c).filter_map(|(path, vm)| Some((path + "/gpu", vm, vm.virtio_devices.gpu.as_ref()?)))
}

fn each_display<'c>(
    c: &'c Context<'_>,
) -> impl Iterator<Item = (String, &'c Vm, DisplayType, &'c Display)> {
    each_gpu(c).flat_map(|(path, vm, gpu)| {
        let displays = gpu.displays.list.iter().enumerate();
        displays.map(move |(place, display)| {
            (
                format!("{path}/displays/display[{}]", place + 1),
                vm,
                gpu.display_type,
                display,
            )
        })
    })
}

fn vsock_once(c: &Context<'_>, hits: &mut Hits) {
    let mut seen = Vec::new();
    for (path, vm) in each_vm(c) {
        for (place, cid) in vm.virtio_devices.vsocks.iter().enumerate() {
            if seen.contains(cid) {
                let path = format!("{path}/vsock[{}]", place + 1);
                hits.add(path, format!("context id {cid} of VM {} is taken", vm.name));
            }
            seen.push(*cid);
        }
    }
}

fn gpu_complete(c: &Context<'_>, hits: &mut Hits) {
    for (path, vm, kind, display) in each_display(c) {
        let complete = match kind {
            DisplayType::FullScreen => display.monitor_id.is_some(),
            DisplayType::Window => {
                display
                    .window_resolutions
                    .as_ref()
                    .is_some_and(|size| !size.is_empty())
                    && display.horizontal_offset.is_some()
                    && display.vertical_offset.is_some()
            }
        };
        if !complete {
            hits.add(path, format!("a display of VM {} is incomplete", vm.name));
        }
    }
}

fn gpu_resolution(c: &Context<'_>, hits: &mut Hits) {
    for (path, vm, kind, display) in each_display(c) {
        let size = display.window_resolutions.as_deref().unwrap_or_default();
        let known = size.is_empty() || WINDOW_RESOLUTIONS.contains(&size);
        if kind == DisplayType::Window && !known {
            hits.add(
                path + "/window_resolutions",
                format!("a window of VM {} has size {size}", vm.name),
            );
        }
    }
}

fn monitor_once(c: &Context<'_>, hits: &mut Hits) {
    let mut seen = Vec::new();
    for (path, vm, kind, display) in each_display(c) {
        let Some(monitor) = display
            .monitor_id
            .filter(|_| kind == DisplayType::FullScreen)
        else {
            continue;
        };
        if seen.contains(&monitor) {
            hits.add(
                path + "/monitor_id",
                format!("monitor {monitor} of VM {} is taken", vm.name),
            );
        }
        seen.push(monitor);
    }
}

fn display_count(c: &Context<'_>, hits: &mut Hits) {
    for (path, vm, gpu) in each_gpu(c) {
        let (max, called) = match gpu.display_type {
            DisplayType::FullScreen => (4, "full screens"),
            DisplayType::Window => (2, "windows"),
        };
        let count = gpu.displays.list.len();
        if !(1..=max).contains(&count) {
            hits.add(path, format!("VM {} has {count} {called}", vm.name));
        }
    }
}

fn console_complete(c: &Context<'_>, hits: &mut Hits) {
    for (path, vm) in each_vm(c) {
        for (place, console) in vm.virtio_devices.consoles.iter().enumerate() {
            let needed = match console.backend {
                Backend::File => &console.file,
                Backend::SocketClient | Backend::SocketServer => &console.socket,
                Backend::Tty => &console.tty,
                Backend::Stdio | Backend::Pty => continue,
            };
            if needed.as_ref().is_none_or(String::is_empty) {
                let path = format!("{path}/console[{}]", place + 1);
                hits.add(
                    path,
                    format!("a console of VM {} is connected to nothing", vm.name),
                );
            }
        }
    }
}

fn device_complete(c: &Context<'_>, hits: &mut Hits) {
    for (path, vm) in each_vm(c) {
        let virtio = &vm.virtio_devices;
        let disks = virtio.blocks.iter().map(String::as_str);
        let networks = virtio.networks.iter().map(|card| card.interface.as_str());
        let inputs = virtio.inputs.iter().map(|input| input.device.as_str());
        missing(&path, "block[N]", "a disk without a path", disks, hits);
        let interface = "network[N]/interface_name";
        missing(
            &path,
            interface,
            "a network card without an interface",
            networks,
            hits,
        );
        let device = "input[N]/backend_device_file";
        missing(
            &path,
            device,
            "an input device without its device file",
            inputs,
            hits,
        );
    }
}

/// Hits of the texts that are empty; `N` in `place` stands for their numbers.
fn missing<'t>(
    path: &str,
    place: &str,
    what: &str,
    texts: impl Iterator<Item = &'t str>,
    hits: &mut Hits,
) {
    for (index, _) in texts.enumerate().filter(|(_, text)| text.is_empty()) {
        let place = place.replace('N', &(index + 1).to_string());
        hits.add(format!("{path}/{place}"), what);
    }
}
