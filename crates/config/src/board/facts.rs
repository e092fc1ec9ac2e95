//! What validation and allocation want to know of a board.

use super::{Board, Cache, Node, Resource};
use crate::model::Hex;
use acrn_abi::Bdf;

/// A logical CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: u16,
    /// Number of its local APIC.
    pub apic_id: u32,
    /// `Core` or `Atom` of a hybrid processor, else empty.
    pub kind: String,
}

/// A range of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// Start.
    pub start: u64,
    /// Size, in bytes.
    pub size: u64,
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq)]
pub struct PciFunction<'a> {
    /// Its place.
    pub bdf: Bdf,
    /// Its description in the file.
    pub node: &'a Node,
}

impl Ram {
    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

impl PciFunction<'_> {
    /// Vendor and device.
    pub fn id(&self) -> Option<(u16, u16)> {
        let number = |value: Option<Hex>| u16::try_from(value?.0).ok();
        Some((number(self.node.vendor)?, number(self.node.identifier)?))
    }

    /// Its description, without its place.
    pub fn description(&self) -> &str {
        let text = self.node.description.as_deref().unwrap_or_default();
        let place = self.bdf.to_string();
        text.strip_prefix(&place).unwrap_or(text).trim()
    }

    /// Class and subclass, such as 0x0200 for Ethernet.
    pub fn class(&self) -> u16 {
        self.node.class.map_or(0, |class| (class.0 >> 8) as u16)
    }

    /// Number, start and size of its memory windows.
    pub fn memory_bars(&self) -> impl Iterator<Item = (usize, &Resource)> {
        self.node
            .resources
            .iter()
            .filter(|resource| resource.kind == "memory")
            .filter_map(|resource| {
                let number = resource.id.as_deref()?.strip_prefix("bar")?.parse().ok()?;
                Some((number, resource))
            })
    }

    /// Whether it has a capability of that name.
    pub fn has_capability(&self, name: &str) -> bool {
        self.node
            .capabilities
            .iter()
            .any(|capability| capability.id == name)
    }
}

impl Board {
    /// The CPUs in the order of their numbers.
    pub fn cpus(&self) -> Vec<Cpu> {
        let dies = &self.processors.dies;
        let modules = dies.iter().flat_map(|die| &die.modules);
        let cores = dies
            .iter()
            .flat_map(|die| &die.cores)
            .chain(modules.flat_map(|m| &m.cores));
        let mut cpus: Vec<_> = cores
            .flat_map(|core| &core.threads)
            .map(|thread| Cpu {
                id: thread.cpu_id as u16,
                apic_id: thread.x2apic_id.unwrap_or(thread.apic_id).0 as u32,
                kind: thread.core_type.clone().unwrap_or_default(),
            })
            .collect();
        if cpus.is_empty() {
            let plain = |id| Cpu {
                id,
                apic_id: id.into(),
                kind: String::new(),
            };
            cpus = self.legacy_cpus().into_iter().map(plain).collect();
        }
        cpus.sort_by_key(|cpu| cpu.id);
        cpus.dedup_by_key(|cpu| cpu.id);
        cpus
    }

    /// Ranges of RAM in order; what overlaps the one before is left out.
    pub fn ram(&self) -> Vec<Ram> {
        let range = |range: &super::MemoryRange| {
            let size = range.end.0.checked_sub(range.start.0)?.checked_add(1)?;
            Some(Ram {
                start: range.start.0,
                size,
            })
        };
        let is_ram = |range: &&super::MemoryRange| range.id.as_deref().is_none_or(|id| id == "RAM");
        let mut ram: Vec<_> = self
            .memory
            .ranges
            .iter()
            .filter(is_ram)
            .filter_map(range)
            .collect();
        if ram.is_empty() {
            ram = self.legacy_ram();
        }
        ram.sort_by_key(|ram| ram.start);
        let mut end = 0;
        ram.retain(|ram| {
            let free = ram.start >= end;
            end = if free { ram.end() } else { end };
            free
        });
        ram
    }

    /// All RAM, in bytes.
    pub fn memory_size(&self) -> u64 {
        let sum = self
            .ram()
            .iter()
            .fold(0u64, |sum, ram| sum.saturating_add(ram.size));
        if sum > 0 {
            sum
        } else {
            self.legacy_memory_size().unwrap_or(0)
        }
    }

    /// All PCI functions, in the order of the file.
    pub fn pci_functions(&self) -> Vec<PciFunction<'_>> {
        let mut found = Vec::new();
        self.devices
            .buses
            .iter()
            .for_each(|bus| collect(bus, None, &mut found));
        found
    }

    /// The PCI function at a place.
    pub fn pci_function(&self, bdf: Bdf) -> Option<PciFunction<'_>> {
        self.pci_functions()
            .into_iter()
            .find(|function| function.bdf == bdf)
    }

    /// Windows of memory that the PCI host bridge passes on, as first and last address.
    pub fn pci_windows(&self) -> Vec<(u64, u64)> {
        let roots = self
            .devices
            .buses
            .iter()
            .flat_map(|bus| bus.buses.iter().chain([bus]));
        let roots = roots.filter(|bus| bus.kind.as_deref() == Some("pci"));
        let memory = roots
            .flat_map(|bus| &bus.resources)
            .filter(|r| r.kind == "memory");
        memory.filter_map(|r| Some((r.min?.0, r.max?.0))).collect()
    }

    /// Caches of that level.
    pub fn caches_of(&self, level: i64) -> impl Iterator<Item = &Cache> {
        self.caches
            .list
            .iter()
            .filter(move |cache| cache.level == level)
    }

    /// Whether the processor has a capability of that name.
    pub fn has_cpu_capability(&self, name: &str) -> bool {
        let mut models = self.processors.models.iter();
        models.any(|model| {
            model
                .capabilities
                .iter()
                .any(|capability| capability.id == name)
        })
    }
}

impl Cache {
    /// What it says of a capability.
    pub fn capability(&self, name: &str) -> Option<&super::CacheCapability> {
        self.capabilities
            .iter()
            .find(|capability| capability.id == name)
    }

    /// Bits of a mask; 0 without cache allocation.
    pub fn mask_length(&self) -> u64 {
        let length = self.capability("CAT").and_then(|cat| cat.mask_length);
        length.map_or(0, |length| length.0.min(32))
    }

    /// Number of classes of service.
    pub fn classes(&self) -> u64 {
        self.capability("CAT")
            .and_then(|cat| cat.clos_number)
            .map_or(0, |number| number.0)
    }
}

/// The PCI functions of a bus and those behind its bridges.
fn collect<'a>(bus: &'a Node, number: Option<u8>, found: &mut Vec<PciFunction<'a>>) {
    let is_pci = bus.kind.as_deref() == Some("pci");
    let own = bus
        .address
        .filter(|_| is_pci)
        .map(|address| address.0 as u8);
    let number = own.or(number).or(is_pci.then_some(0));
    for device in &bus.devices {
        if let (Some(bus), Some(address), true) = (number, device.address, device.vendor.is_some())
        {
            let bdf = Bdf::new(bus, (address.0 >> 16) as u8, address.0 as u8);
            found.push(PciFunction { bdf, node: device });
        }
        device
            .buses
            .iter()
            .for_each(|bus| collect(bus, None, found));
    }
    bus.buses.iter().for_each(|bus| collect(bus, None, found));
}
