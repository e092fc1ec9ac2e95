//! Places on VMs' PCI buses.

use super::{AllocError, Notes};
use crate::scenario::{Provider, Vm};
use crate::{Board, Scenario};
use acrn_abi::Bdf;
use acrn_config_blob::{DeviceKind, LoadOrder, PciDevice, Vuart, VuartKind};
use core::fmt::Display;

/// The places of a VM's bus 0: which there are, and which are taken.
#[derive(Clone, Debug)]
pub struct Slots {
    first: u8,
    last: u8,
    taken: Vec<Bdf>,
}

/// Devices that look for shared memory and serial cards here by custom.
const SHARED_MEMORY_FROM: u8 = 8;
const VUART_FROM: u8 = 0x10;
/// Is kept free: a volume management device has this place in every VM.
const VMD: Bdf = Bdf::new(0, 0x0e, 0);
/// Drivers of the integrated graphics device look for it here.
const GRAPHICS: Bdf = Bdf::new(0, 2, 0);

impl Slots {
    /// Of a pre-launched VM: everything but the host bridge.
    pub fn pre_launched() -> Self {
        Self {
            first: 1,
            last: 0x1f,
            taken: vec![Bdf::new(0, 0, 0), VMD],
        }
    }

    /// Of a post-launched VM: what the Device Model leaves.
    pub fn post_launched() -> Self {
        Self {
            first: 3,
            last: 0x1e,
            taken: Vec::new(),
        }
    }

    /// Of the Service VM: what the board leaves. The place of the P2SB bridge is kept free.
    pub fn service(board: &Board) -> Self {
        let mut taken: Vec<_> = board
            .pci_functions()
            .iter()
            .map(|function| function.bdf)
            .collect();
        taken.push(Bdf::new(0, 0x1f, 1));
        Self {
            first: 1,
            last: 0x1f,
            taken,
        }
    }

    /// Takes a place.
    pub fn reserve(&mut self, bdf: Bdf) {
        self.taken.push(bdf);
    }

    /// Takes `wished` if it is free, else the first free device from `from` on, else any.
    pub fn take(&mut self, wished: Option<Bdf>, from: u8) -> Option<Bdf> {
        // A device whose other functions are taken would be a function of something else.
        let free = |bdf: &Bdf| {
            !self
                .taken
                .iter()
                .any(|t| t.bus() == bdf.bus() && t.device() == bdf.device())
        };
        let slots = (from.max(self.first)..=self.last).chain(self.first..=self.last);
        let mut places = wished
            .into_iter()
            .chain(slots.map(|device| Bdf::new(0, device, 0)));
        let place = places.find(free)?;
        self.taken.push(place);
        Some(place)
    }
}

/// The PCI devices of VM number `index`, without their windows. Serial cards get their places.
pub fn place_devices(
    board: &Board,
    scenario: &Scenario,
    index: usize,
    vuarts: &mut [Vuart],
    notes: &mut Notes,
) -> Result<Vec<PciDevice>, AllocError> {
    let Some(vm) = scenario.vms.get(index) else {
        return Ok(Vec::new());
    };
    let mut slots = match vm.load_order {
        LoadOrder::PreLaunched => Slots::pre_launched(),
        LoadOrder::Service => Slots::service(board),
        LoadOrder::PostLaunched => Slots::post_launched(),
    };
    reserve_named(scenario, vm, &mut slots);
    let mut place = Placing {
        vm,
        slots,
        notes,
        devices: Vec::new(),
    };
    if vm.load_order == LoadOrder::PreLaunched {
        place.devices.push(PciDevice {
            kind: DeviceKind::HostBridge,
            ..PciDevice::default()
        });
    }
    if vm.load_order != LoadOrder::Service {
        place.physical(board)?;
    }
    place.shared_memory(scenario)?;
    place.vuarts(vuarts)?;
    Ok(place.devices)
}

/// Places that the scenario names.
fn reserve_named(scenario: &Scenario, vm: &Vm, slots: &mut Slots) {
    let lines = scenario
        .hv
        .vuart_connections
        .list
        .iter()
        .filter(|line| line.kind == VuartKind::Pci);
    let ends = lines
        .flat_map(|line| &line.endpoints)
        .filter(|end| end.vm_name == vm.name);
    let regions = hypervisor_regions(scenario).flat_map(|(_, region)| &region.members.list);
    let members = regions.filter(|member| member.vm_name == vm.name);
    let named = ends
        .filter_map(|end| end.vbdf)
        .chain(members.filter_map(|member| member.vbdf));
    named.for_each(|bdf| slots.reserve(bdf));
}

/// The regions that the hypervisor emulates, with their numbers in the configuration.
pub(crate) fn hypervisor_regions(
    scenario: &Scenario,
) -> impl Iterator<Item = (u16, &crate::scenario::IvshmemRegion)> {
    let regions = &scenario.hv.features.ivshmem.regions;
    (0..).zip(
        regions
            .iter()
            .filter(|region| region.provider == Provider::Hypervisor),
    )
}

/// The devices of one VM under way.
struct Placing<'a> {
    vm: &'a Vm,
    slots: Slots,
    notes: &'a mut Notes,
    devices: Vec<PciDevice>,
}

impl Placing<'_> {
    fn take(&mut self, wished: Option<Bdf>, from: u8) -> Result<Bdf, AllocError> {
        let none = || AllocError::NoSlot {
            vm: self.vm.name.clone(),
        };
        self.slots.take(wished, from).ok_or_else(none)
    }

    fn note(&mut self, what: &'static str, which: impl Display, vbdf: Bdf, why: &str) {
        let value = format!("{which} at {vbdf}");
        self.notes.add(&self.vm.name, what, value, why);
    }

    fn physical(&mut self, board: &Board) -> Result<(), AllocError> {
        let functions = board.pci_functions();
        for device in &self.vm.pci_devs.list {
            let Some(function) = functions.iter().find(|f| f.bdf == device.bdf) else {
                continue;
            };
            let graphics = device.bdf == GRAPHICS && function.class() >> 8 == 3;
            let measured = self.vm.ptm && function.has_capability("PTM");
            let vbdf = match measured && self.vm.load_order == LoadOrder::PreLaunched {
                true => self.behind_root_port()?,
                false => self.take(graphics.then_some(GRAPHICS), 0)?,
            };
            let why = match graphics && vbdf == GRAPHICS {
                true => "drivers look for graphics there",
                false => "first free place",
            };
            self.note("PCI device", device.bdf, vbdf, why);
            self.devices.push(PciDevice {
                kind: DeviceKind::PassThrough,
                vbdf,
                pbdf: device.bdf,
                ..PciDevice::default()
            });
        }
        Ok(())
    }

    /// A root port with a bus of its own, on which the device is alone.
    fn behind_root_port(&mut self) -> Result<Bdf, AllocError> {
        let ports = self
            .devices
            .iter()
            .filter(|device| device.kind == DeviceKind::RootPort);
        let bus = ports.count() as u8 + 1;
        let vbdf = self.take(None, 0)?;
        self.notes.add(
            &self.vm.name,
            "PCI root port",
            vbdf.to_string(),
            "Precision Time Measurement",
        );
        self.devices.push(PciDevice {
            kind: DeviceKind::RootPort,
            vbdf,
            number: bus.into(),
            ..PciDevice::default()
        });
        Ok(Bdf::new(bus, 0, 0))
    }

    fn shared_memory(&mut self, scenario: &Scenario) -> Result<(), AllocError> {
        for (number, region) in hypervisor_regions(scenario) {
            let mut members = region.members.list.iter();
            let Some(member) = members.find(|member| member.vm_name == self.vm.name) else {
                continue;
            };
            let vbdf = match member.vbdf {
                Some(named) => named,
                None => self.take(None, SHARED_MEMORY_FROM)?,
            };
            let why = match member.vbdf {
                Some(_) => "the scenario says so",
                None => "first free place from 00:08.0 on",
            };
            self.note("shared memory", &region.name, vbdf, why);
            self.devices.push(PciDevice {
                kind: DeviceKind::SharedMemory,
                vbdf,
                number,
                ..PciDevice::default()
            });
        }
        Ok(())
    }

    fn vuarts(&mut self, vuarts: &mut [Vuart]) -> Result<(), AllocError> {
        for vuart in vuarts
            .iter_mut()
            .filter(|vuart| vuart.kind == VuartKind::Pci)
        {
            let named = vuart.vbdf != Bdf::default();
            if !named {
                vuart.vbdf = self.take(None, VUART_FROM)?;
            }
            let why = match named {
                true => "the scenario says so",
                false => "first free place from 00:10.0 on",
            };
            let name = format!("vUART {}", vuart.number);
            self.note("serial card", name, vuart.vbdf, why);
            let (kind, vbdf, number) = (DeviceKind::Vuart, vuart.vbdf, vuart.number);
            self.devices.push(PciDevice {
                kind,
                vbdf,
                number,
                ..PciDevice::default()
            });
        }
        Ok(())
    }
}
