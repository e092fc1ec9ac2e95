//! Windows of PCI devices in VMs that have no firmware to place them: pre-launched ones. The Service VM's
//! firmware is the machine's, which does not know the hypervisor's devices: they get what it has left.

use super::pci::hypervisor_regions;
use super::{AllocError, Notes, Window};
use crate::scenario::Vm;
use crate::{Board, Scenario};
use acrn_abi::{Bdf, Gpa, Hpa};
use acrn_config_blob::{Bar, DeviceKind, LoadOrder, PciDevice};

const PAGE: u64 = 0x1000;

/// The addresses that devices of a VM may have.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Memory below 4 GiB.
    pub low: Vec<Window>,
    /// Memory above.
    pub high: Vec<Window>,
    /// I/O ports.
    pub ports: Window,
}

/// A window that is wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    number: usize,
    size: u64,
    hpa: u64,
    wide: bool,
    io: bool,
}

impl Windows {
    /// Of a pre-launched VM.
    pub fn pre_launched() -> Self {
        Self {
            low: vec![Window::new(0x8000_0000, 0xe000_0000)],
            high: vec![Window::new(0x40_0000_0000, 0x80_0000_0000)],
            ports: Window::new(0xd00, 0x9000),
        }
    }

    /// Of the Service VM: what is free in the host bridge's windows.
    pub fn service(board: &Board) -> Self {
        let bridges = board.pci_windows().into_iter();
        let mut windows: Vec<_> = bridges
            .map(|(first, last)| Window::new(first, last.saturating_add(1)))
            .collect();
        for function in board.pci_functions() {
            for resource in function
                .node
                .resources
                .iter()
                .filter(|r| r.kind == "memory")
            {
                let (start, size) = (
                    resource.min.unwrap_or_default().0,
                    resource.len.unwrap_or_default().0,
                );
                windows
                    .iter_mut()
                    .for_each(|window| window.reserve(start, size));
            }
        }
        let is_low = |window: &Window| window.free().next().is_none_or(|free| free.start < 1 << 32);
        let (low, high) = windows.into_iter().partition(is_low);
        Self {
            low,
            high,
            ports: Window::new(0, 0),
        }
    }

    /// Takes a window aligned to its size, below 4 GiB unless `wide`.
    fn take(&mut self, wanted: Wanted) -> Option<u64> {
        let size = wanted.size.checked_next_power_of_two()?;
        if wanted.io {
            return self.ports.take(size, size.max(8));
        }
        let size = size.max(PAGE);
        let mut low = self.low.iter_mut();
        if wanted.wide {
            let high = self
                .high
                .iter_mut()
                .find_map(|window| window.take(size, size));
            return high.or_else(|| low.find_map(|window| window.take(size, size)));
        }
        low.find_map(|window| window.take(size, size))
    }
}

/// Gives the devices of a VM their windows.
pub fn place_bars(
    board: &Board,
    scenario: &Scenario,
    vm: &Vm,
    devices: &mut [PciDevice],
    notes: &mut Notes,
) -> Result<(), AllocError> {
    let mut windows = match vm.load_order {
        LoadOrder::PreLaunched => Windows::pre_launched(),
        LoadOrder::Service => Windows::service(board),
        LoadOrder::PostLaunched => return Ok(()),
    };
    for device in devices {
        for wanted in wanted(board, scenario, device) {
            let none = || AllocError::NoWindow {
                vm: vm.name.clone(),
                device: device.vbdf,
                size: wanted.size,
            };
            let gpa = windows.take(wanted).ok_or_else(none)?;
            note(vm, device.vbdf, wanted, gpa, notes);
            if let Some(bar) = device.bars.get_mut(wanted.number) {
                *bar = Bar {
                    gpa: Gpa(gpa),
                    hpa: Hpa(wanted.hpa),
                    size: wanted.size,
                    io: wanted.io,
                };
            }
        }
    }
    Ok(())
}

fn note(vm: &Vm, device: Bdf, wanted: Wanted, gpa: u64, notes: &mut Notes) {
    let value = format!(
        "BAR {} of {device}: {:#x} at {gpa:#x}",
        wanted.number, wanted.size
    );
    let why = match (wanted.io, wanted.wide, vm.load_order) {
        (true, ..) => "first free I/O ports from 0xd00 on",
        (_, _, LoadOrder::Service) => "free in the windows of the board's host bridge",
        (_, true, _) => "first free addresses of the 64-bit window, aligned to the size",
        (_, false, _) => "first free addresses of the 32-bit window, aligned to the size",
    };
    notes.add(&vm.name, "window", value, why);
}

/// The windows that a device needs.
fn wanted(board: &Board, scenario: &Scenario, device: &PciDevice) -> Vec<Wanted> {
    let page = |number| Wanted {
        number,
        size: PAGE,
        hpa: 0,
        wide: false,
        io: false,
    };
    match device.kind {
        DeviceKind::HostBridge | DeviceKind::RootPort => Vec::new(),
        DeviceKind::PassThrough => physical(board, device.pbdf),
        // Registers, and the MSI-X table.
        DeviceKind::Vuart => vec![page(0), page(1)],
        DeviceKind::SharedMemory => {
            let mut regions = hypervisor_regions(scenario);
            let region = regions.find(|(number, _)| *number == device.number);
            let size = region.map_or(0, |(_, region)| (region.size.max(0) as u64) << 20);
            vec![
                page(0),
                page(1),
                Wanted {
                    size,
                    wide: true,
                    ..page(2)
                },
            ]
        }
    }
}

fn physical(board: &Board, bdf: Bdf) -> Vec<Wanted> {
    let Some(function) = board.pci_function(bdf) else {
        return Vec::new();
    };
    let resources = function.node.resources.iter();
    let bars = resources.filter_map(|resource| {
        let number: usize = resource.id.as_deref()?.strip_prefix("bar")?.parse().ok()?;
        let io = resource.kind == "io_port";
        let known = (io || resource.kind == "memory") && number < 6;
        let wide = resource.width.as_deref() == Some("64");
        let (hpa, size) = (resource.min?.0, resource.len?.0);
        (known && size > 0).then_some(Wanted {
            number,
            size,
            hpa,
            wide,
            io,
        })
    });
    bars.collect()
}
