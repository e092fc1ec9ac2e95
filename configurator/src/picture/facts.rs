//! What there is to draw.

use super::block::{Block, Line};
use super::size;
use crate::document::Document;
use acrn_abi::Bdf;
use acrn_config::allocate::service_cpus;
use acrn_config::board::{Cache, Cpu, PciFunction};
use acrn_config::scenario::Vm;
use acrn_config::validate::megabytes;
use acrn_config::{Board, Scenario, Severity};
use acrn_config_blob::LoadOrder;

/// Who has something.
#[derive(Clone, Debug)]
pub struct Owner<'a> {
    /// Number of the VM; none for the hypervisor and for nobody.
    pub vm: Option<usize>,
    /// Its name.
    pub name: &'a str,
}

/// A part of the memory.
pub struct Part<'a> {
    /// Whose it is.
    pub owner: Owner<'a>,
    /// Its size.
    pub bytes: u64,
}

/// A document, as the picture sees it.
pub struct Facts<'a> {
    document: &'a Document,
    board: &'a Board,
    scenario: &'a Scenario,
    cpus: Vec<Cpu>,
    service: Vec<u16>,
    conflicts: Vec<(Place, String)>,
}

/// Where a conflict is.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// At a CPU.
    Cpu(i64),
    /// At a PCI device.
    Device(Bdf),
    /// In the memory.
    Memory,
}

/// What the hypervisor takes if nothing was decided.
const HYPERVISOR_RAM: u64 = 0x140_0000;

impl<'a> Facts<'a> {
    /// Of a document.
    pub fn of(document: &'a Document) -> Self {
        let (board, scenario) = (&document.board().model, &document.scenario().model);
        let cpus = board.cpus();
        let service = service_cpus(&cpus, scenario, &mut Default::default()).unwrap_or_default();
        let conflicts = conflicts(document);
        Self {
            document,
            board,
            scenario,
            cpus,
            service,
            conflicts,
        }
    }

    fn owner(&self, vm: usize) -> Owner<'a> {
        let name = self.scenario.vms.get(vm).map_or("", |vm| vm.name.as_str());
        Owner { vm: Some(vm), name }
    }

    /// The VMs and their colours.
    pub fn legend(&self) -> Vec<Block> {
        let vms = self.scenario.vms.iter().enumerate();
        let label = |(index, vm): (usize, &Vm)| {
            let line = Line::new(format!("VM{index} {}", vm.name));
            Block::labelled(150.0, vec![line], self.owner(index).class())
        };
        vms.map(label).collect()
    }

    /// The CPUs, in their caches.
    pub fn cpus(&self, width: f64) -> Vec<Block> {
        let rows = self
            .cpus
            .iter()
            .map(|cpu| self.users(cpu).len())
            .max()
            .unwrap_or(0);
        let all: Vec<&Cpu> = self.cpus.iter().collect();
        self.within_caches(&all, 3, width, rows)
    }

    /// CPUs that share a cache of that level are in a frame; so are those of the levels below, if it is more
    /// than one CPU that shares them.
    fn within_caches(&self, cpus: &[&Cpu], level: i64, width: f64, rows: usize) -> Vec<Block> {
        if level < 2 {
            return cpus.iter().map(|cpu| self.cpu(cpu, width, rows)).collect();
        }
        let mut blocks = Vec::new();
        let mut left: Vec<&Cpu> = cpus.to_vec();
        while let Some(&first) = left.first() {
            let cache = self.cache(first, level);
            let is_in = |cpu: &&Cpu| cache.is_some_and(|cache| uses(cache, cpu)) || *cpu == first;
            let (shared, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_in);
            left = others;
            let inner = self.within_caches(&shared, level - 1, width, rows);
            match cache.filter(|_| shared.len() > 1) {
                Some(cache) => blocks.push(Block::titled(&describe(cache), inner).narrow()),
                None => blocks.extend(inner),
            }
        }
        blocks
    }

    fn cache(&self, cpu: &Cpu, level: i64) -> Option<&'a Cache> {
        // Type 2 is a cache for instructions.
        let mut caches = self.board.caches_of(level).filter(|cache| cache.kind != 2);
        caches.find(|cache| uses(cache, cpu))
    }

    fn cpu(&self, cpu: &Cpu, width: f64, rows: usize) -> Block {
        let kind = match cpu.kind.as_str() {
            "Core" => " P",
            "Atom" => " E",
            _ => "",
        };
        let mut lines = vec![Line::new(format!("CPU {}{kind}", cpu.id)).bold()];
        for (vm, real_time) in self.users(cpu) {
            let mark = if real_time { " RT" } else { "" };
            lines.push(Line::new(format!("VM{vm}{mark}")).on(self.owner(vm).class()));
        }
        lines.resize(rows + 1, Line::new(""));
        let caches = (1..=3)
            .rev()
            .filter_map(|level| self.cache(cpu, level).map(describe));
        let caches: Vec<String> = caches.collect();
        let tip = format!(
            "CPU {}, APIC {:#x}\n{}",
            cpu.id,
            cpu.apic_id,
            caches.join("\n")
        );
        Block::cell(width, lines, "")
            .tipped(tip)
            .marked(self.marks(&Place::Cpu(cpu.id.into())))
    }

    /// The VMs that use a CPU, and whether for real-time work.
    fn users(&self, cpu: &Cpu) -> Vec<(usize, bool)> {
        let uses = |(index, vm): (usize, &Vm)| match vm.load_order {
            LoadOrder::Service => self.service.contains(&cpu.id).then_some((index, false)),
            _ => {
                let mut pcpus = vm.cpu_affinity.pcpus.iter();
                let pcpu = pcpus.find(|pcpu| pcpu.id == i64::from(cpu.id))?;
                Some((index, pcpu.real_time))
            }
        };
        self.scenario
            .vms
            .iter()
            .enumerate()
            .filter_map(uses)
            .collect()
    }

    /// All RAM of the board.
    pub fn memory_size(&self) -> u64 {
        self.board.memory_size()
    }

    /// Who has how much memory; the Service VM has what is left.
    pub fn memory(&self) -> Vec<Part<'a>> {
        let plan = self
            .document
            .made()
            .map(|made| made.built.plan.hypervisor_ram);
        let mut parts = vec![Part {
            owner: Owner {
                vm: None,
                name: "Hypervisor",
            },
            bytes: plan.unwrap_or(HYPERVISOR_RAM),
        }];
        let mut left = self.memory_size().saturating_sub(parts[0].bytes);
        for (index, vm) in self.scenario.vms.iter().enumerate() {
            if vm.load_order != LoadOrder::Service {
                let bytes = u64::try_from(megabytes(vm)).unwrap_or(0) << 20;
                left = left.saturating_sub(bytes);
                parts.push(Part {
                    owner: self.owner(index),
                    bytes,
                });
            }
        }
        let rest = match self.scenario.vms_of(LoadOrder::Service).next() {
            Some((index, _)) => self.owner(index),
            None => Owner {
                vm: None,
                name: "Nobody",
            },
        };
        parts.push(Part {
            owner: rest,
            bytes: left,
        });
        parts.retain(|part| part.bytes > 0);
        parts
    }

    /// What is wrong with memory.
    pub fn memory_conflicts(&self) -> Vec<String> {
        self.marks(&Place::Memory)
    }

    /// The PCI devices.
    pub fn devices(&self, width: f64) -> Vec<Block> {
        let functions = self.board.pci_functions();
        functions
            .iter()
            .map(|function| self.device(function, width))
            .collect()
    }

    fn device(&self, function: &PciFunction<'_>, width: f64) -> Block {
        let owners = self.device_owners(function);
        let mut lines = vec![
            Line::new(function.bdf.to_string()).bold(),
            Line::new(class_name(function.class())).quiet(),
        ];
        let names: Vec<String> = owners.iter().map(|vm| format!("VM{vm}")).collect();
        if let Some(&first) = owners.first() {
            lines.push(Line::new(names.join(" ")).on(self.owner(first).class()));
        } else {
            lines.push(Line::new("–").quiet());
        }
        let description = format!("{} {}", function.bdf, function.description());
        Block::cell(width, lines, "")
            .tipped(description)
            .marked(self.marks(&Place::Device(function.bdf)))
    }

    /// Bridges belong to nobody; what nobody has is the Service VM's.
    fn device_owners(&self, function: &PciFunction<'_>) -> Vec<usize> {
        const BRIDGE: u16 = 0x06;
        let has = |vm: &Vm| {
            vm.pci_devs
                .list
                .iter()
                .any(|device| device.bdf == function.bdf)
        };
        let vms = self.scenario.vms.iter().enumerate();
        let owners: Vec<usize> = vms
            .filter(|(_, vm)| has(vm))
            .map(|(index, _)| index)
            .collect();
        let service = self.scenario.vms_of(LoadOrder::Service).next();
        match service {
            Some((index, _)) if owners.is_empty() && function.class() >> 8 != BRIDGE => vec![index],
            _ => owners,
        }
    }

    fn marks(&self, place: &Place) -> Vec<String> {
        let here = self.conflicts.iter().filter(|(other, _)| other == place);
        here.map(|(_, message)| message.clone()).collect()
    }
}

fn uses(cache: &Cache, cpu: &Cpu) -> bool {
    let ids = &cache.processors.apic_ids;
    ids.iter().any(|apic| apic.0 == u64::from(cpu.apic_id))
}

fn describe(cache: &Cache) -> String {
    let bytes = cache.size.unwrap_or(0).max(0) as u64;
    let level = cache.level;
    let size = if bytes > 0 {
        format!(" {}", size(bytes))
    } else {
        String::new()
    };
    match cache.mask_length() {
        0 => format!("L{level}{size}"),
        ways => format!("L{level}{size}, {ways} ways to divide"),
    }
}

/// Errors and warnings, where the picture shows what they are about.
pub fn conflicts(document: &Document) -> Vec<(Place, String)> {
    let serious = document
        .findings()
        .iter()
        .filter(|f| f.severity > Severity::Note);
    let scenario = &document.scenario().model;
    let places = |path: &str| places(scenario, path).into_iter();
    serious
        .flat_map(|finding| places(&finding.path).map(|place| (place, finding.message.clone())))
        .collect()
}

fn places(scenario: &Scenario, path: &str) -> Vec<Place> {
    let mut steps = path.split('/');
    let number = |step: Option<&str>, name: &str| {
        let number = step?
            .strip_prefix(name)?
            .strip_prefix('[')?
            .strip_suffix(']')?;
        number.parse::<usize>().ok()?.checked_sub(1)
    };
    let Some(vm) = number(steps.next(), "vm").and_then(|index| scenario.vms.get(index)) else {
        return Vec::new();
    };
    match (steps.next(), steps.next()) {
        (Some("memory"), _) => vec![Place::Memory],
        (Some("cpu_affinity"), step) => {
            let pcpus = &vm.cpu_affinity.pcpus;
            let one = number(step, "pcpu");
            let meant = pcpus
                .iter()
                .enumerate()
                .filter(|(index, _)| one.is_none_or(|one| one == *index));
            meant.map(|(_, pcpu)| Place::Cpu(pcpu.id)).collect()
        }
        (Some("pci_devs"), step) => {
            let device = number(step, "pci_dev").and_then(|index| vm.pci_devs.list.get(index));
            device
                .map(|device| Place::Device(device.bdf))
                .into_iter()
                .collect()
        }
        _ => Vec::new(),
    }
}

/// What people call a class of PCI devices.
pub fn class_name(class: u16) -> &'static str {
    match class {
        0x0101 => "IDE",
        0x0106 => "SATA",
        0x0108 => "NVMe",
        0x0200 => "Ethernet",
        0x0280 => "Wireless",
        0x0403 | 0x0401 => "Audio",
        0x0700 => "Serial port",
        0x0780 => "Controller",
        0x0c03 => "USB",
        0x0c05 => "SMBus",
        0x0805 => "SD card",
        _ => match class >> 8 {
            0x01 => "Storage",
            0x02 => "Network",
            0x03 => "Graphics",
            0x04 => "Media",
            0x05 => "Memory",
            0x06 => "Bridge",
            0x07 => "Serial",
            0x08 => "System",
            0x09 => "Input",
            0x0c => "Serial bus",
            0x11 => "Signals",
            _ => "Device",
        },
    }
}
