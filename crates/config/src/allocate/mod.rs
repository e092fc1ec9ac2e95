//! Deciding what a scenario leaves open: addresses, places, numbers.
//!
//! Each allocator is a pure function of its inputs, in a module of its own: the same inputs give the
//! same result, and nothing is given twice. [`allocate`] calls them in order and gathers a [`Plan`]. Each
//! decision is noted with its reason, for `acrn-config allocate`.

mod bars;
mod clos;
mod console;
mod cpu;
mod flags;
mod frequency;
mod memory;
mod mmio;
mod pci;
mod vuart;
mod window;

pub use bars::{Windows, place_bars};
pub use clos::{Classes, classes};
pub use console::console;
pub use cpu::service_cpus;
pub use flags::{guest_flags, severity};
pub use frequency::{Limits, frequencies};
pub use memory::{HugePages, huge_pages, hypervisor_ram, place_memory};
pub use mmio::{p2sb_window, tpm2_window};
pub use pci::{Slots, place_devices};
pub use vuart::{place_vuarts, vuart_count};
pub use window::Window;

pub(crate) use clos::clos_count;
pub(crate) use pci::hypervisor_regions;

use crate::scenario::Vm;
use crate::{Board, Scenario};
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{Gsi, Hpa, PcpuId};
use acrn_config_blob::{
    CacheMask, Console, IntxPin, LoadOrder, MemoryRegion, MmioDevice, PciDevice, Vcpu, VirtualClos,
    Vuart,
};

/// Everything that was decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// For each VM.
    pub vms: Vec<VmPlan>,
    /// The hypervisor's console.
    pub console: Console,
    /// Memory of the hypervisor, in bytes.
    pub hypervisor_ram: u64,
    /// Masks of the classes of service.
    pub cache_masks: Vec<CacheMask>,
    /// Limits of each CPU's performance, where the board file has its levels.
    pub performance: Vec<Limits>,
    /// What was decided, and why.
    pub decisions: Vec<Decision>,
}

/// What was decided for a VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmPlan {
    /// Its CPUs.
    pub vcpus: Vec<Vcpu>,
    /// Classes of service that it may choose of.
    pub virtual_clos: Vec<VirtualClos>,
    /// Its flags.
    pub flags: VmFlags,
    /// Whose reset the machine follows.
    pub severity: u8,
    /// Its host memory, if pre-launched.
    pub memory: Vec<MemoryRegion>,
    /// Its serial ports.
    pub vuarts: Vec<Vuart>,
    /// Its PCI devices.
    pub pci_devices: Vec<PciDevice>,
    /// Its devices without PCI.
    pub mmio_devices: Vec<MmioDevice>,
    /// Its interrupt pins.
    pub intx_pins: Vec<IntxPin>,
    /// Huge pages that its kernel reserves, if it is the Service VM.
    pub huge_pages: HugePages,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// For whom: a VM's name, or the hypervisor.
    pub who: String,
    /// About what.
    pub what: &'static str,
    /// What was decided.
    pub value: String,
    /// Why.
    pub why: String,
}

/// Why something cannot be allocated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// Pre-launched VMs want more memory than there is.
    #[error("VM {vm} needs {missing:#x} more bytes of RAM above 4 GiB than are free")]
    Memory {
        /// The VM.
        vm: String,
        /// Bytes that are missing.
        missing: u64,
    },
    /// A piece of host memory is not free RAM.
    #[error("VM {vm}: {size:#x} bytes at {start:#x} are not free RAM")]
    MemoryRegion {
        /// The VM.
        vm: String,
        /// Start.
        start: u64,
        /// Size, in bytes.
        size: u64,
    },
    /// A VM's memory would be in too many pieces.
    #[error("VM {vm}: free RAM is in too many pieces")]
    Pieces {
        /// The VM.
        vm: String,
    },
    /// No CPU is left.
    #[error("no CPU is left for the Service VM")]
    NoCpu,
    /// No I/O port is left.
    #[error("VM {vm}: no I/O port is left for a serial port")]
    NoPort {
        /// The VM.
        vm: String,
    },
    /// No place is left on a VM's PCI bus.
    #[error("VM {vm}: no place is left on its PCI bus")]
    NoSlot {
        /// The VM.
        vm: String,
    },
    /// No address is left for a window of a device.
    #[error("VM {vm}: no {size:#x} bytes are left for a window of device {device}")]
    NoWindow {
        /// The VM.
        vm: String,
        /// The device's place in the VM.
        device: acrn_abi::Bdf,
        /// Size of the window, in bytes.
        size: u64,
    },
    /// More classes of service are needed than a byte counts.
    #[error("{count} classes of service are needed, at most {max} are possible")]
    NoClos {
        /// Classes.
        count: usize,
        /// Most classes.
        max: usize,
    },
    /// Post-launched VMs want more memory than is left.
    #[error("post-launched VMs need {wanted} MiB, the Service VM has {available} MiB")]
    HugePages {
        /// In MiB.
        wanted: u64,
        /// In MiB.
        available: u64,
    },
}

impl AllocError {
    /// What to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Memory { .. } => {
                "give pre-launched VMs less memory, or name hpa_regions below 4 GiB"
            }
            Self::MemoryRegion { .. } | Self::Pieces { .. } => {
                "choose other hpa_regions, or leave them out to have them chosen"
            }
            Self::NoCpu => "take a CPU from a pre-launched VM",
            Self::NoPort { .. } => "remove serial lines, or make them of type pci",
            Self::NoSlot { .. } | Self::NoWindow { .. } => "give the VM fewer devices",
            Self::NoClos { .. } => "give some vCPUs the same masks, or lower virtual_cat_number",
            Self::HugePages { .. } => "give post-launched VMs less memory",
        }
    }

    /// The element to look at first.
    pub fn path(&self, scenario: &Scenario) -> String {
        let of = |name: &String, element: &str| match scenario.vm(name) {
            Some((index, _)) => format!("{}/{element}", crate::validate::vm_path(index)),
            None => String::new(),
        };
        match self {
            Self::Memory { vm, .. } | Self::MemoryRegion { vm, .. } | Self::Pieces { vm } => {
                of(vm, "memory")
            }
            Self::NoCpu => "vm[1]/cpu_affinity".to_owned(),
            Self::HugePages { .. } => {
                let last = scenario.vms.last();
                last.map_or(String::new(), |vm| of(&vm.name, "memory"))
            }
            Self::NoPort { .. } => "hv/vuart_connections".to_owned(),
            Self::NoSlot { vm } | Self::NoWindow { vm, .. } => of(vm, "pci_devs"),
            Self::NoClos { .. } => "hv/CACHE_REGION".to_owned(),
        }
    }
}

/// Decisions that are gathered.
#[derive(Default)]
pub struct Notes(Vec<Decision>);

impl Notes {
    /// Notes one.
    pub fn add(
        &mut self,
        who: &str,
        what: &'static str,
        value: impl Into<String>,
        why: impl Into<String>,
    ) {
        let (value, why) = (value.into(), why.into());
        self.0.push(Decision {
            who: who.to_owned(),
            what,
            value,
            why,
        });
    }
}

/// What notes of the hypervisor itself are called.
pub(crate) const HYPERVISOR: &str = "hypervisor";

/// Decides everything that the scenario leaves open. The scenario is valid.
pub fn allocate(board: &Board, scenario: &Scenario) -> Result<Plan, AllocError> {
    let mut notes = Notes::default();
    let mut plan = Plan {
        console: hypervisor_console(board, scenario, &mut notes),
        hypervisor_ram: hypervisor_ram(scenario, &mut notes),
        ..Plan::default()
    };
    let service = service_cpus(&board.cpus(), scenario, &mut notes)?;
    let mut memory = place_memory(&board.ram(), scenario, &mut notes)?;
    let mut vuarts = place_vuarts(scenario, &board.free_irqs(), &mut notes)?;
    let pages = huge_pages(&board.ram(), scenario, &mut notes)?;
    let mut classes = classes(board, scenario, &service, &mut notes)?;
    for (index, vm) in scenario.vms.iter().enumerate() {
        let pcpus = pcpus(vm, &service);
        let mut vm_plan = VmPlan {
            vcpus: vcpus(&pcpus, classes.of(index)),
            virtual_clos: std::mem::take(&mut classes.virtual_clos[index]),
            flags: guest_flags(vm, board, scenario, &mut notes),
            severity: severity(vm, scenario),
            memory: std::mem::take(&mut memory[index]),
            vuarts: std::mem::take(&mut vuarts[index]),
            mmio_devices: mmio::devices(vm, board, &mut notes),
            intx_pins: intx_pins(vm),
            ..VmPlan::default()
        };
        vm_plan.pci_devices =
            place_devices(board, scenario, index, &mut vm_plan.vuarts, &mut notes)?;
        place_bars(board, scenario, vm, &mut vm_plan.pci_devices, &mut notes)?;
        if vm.load_order == LoadOrder::Service {
            vm_plan.huge_pages = pages;
        }
        plan.vms.push(vm_plan);
    }
    plan.cache_masks = classes.masks;
    plan.performance = frequencies(board, scenario, &mut notes);
    plan.decisions = notes.0;
    Ok(plan)
}

fn hypervisor_console(board: &Board, scenario: &Scenario, notes: &mut Notes) -> Console {
    let name = &scenario.hv.debug.serial_console;
    let console = console(board, name).unwrap_or_default();
    if !name.is_empty() {
        let value = format!("{} {:#x}", console.kind, console.address);
        notes.add(
            HYPERVISOR,
            "console",
            value,
            format!("the board file says so of {name}"),
        );
    }
    console
}

/// The physical CPUs of a VM and whether they do real-time work.
fn pcpus(vm: &Vm, service: &[u16]) -> Vec<(u16, bool)> {
    match vm.load_order {
        LoadOrder::Service => service.iter().map(|&cpu| (cpu, false)).collect(),
        _ => vm
            .cpu_affinity
            .pcpus
            .iter()
            .map(|pcpu| (pcpu.id as u16, pcpu.real_time))
            .collect(),
    }
}

fn vcpus(pcpus: &[(u16, bool)], clos: &[u8]) -> Vec<Vcpu> {
    let classes = clos.iter().copied().chain(std::iter::repeat(0));
    let vcpu = |(&(pcpu, real_time), clos)| Vcpu {
        pcpu: PcpuId(pcpu),
        real_time,
        clos,
    };
    pcpus.iter().zip(classes).map(vcpu).collect()
}

fn intx_pins(vm: &Vm) -> Vec<IntxPin> {
    if vm.load_order != LoadOrder::PreLaunched {
        return Vec::new();
    }
    let pins = crate::validate::pins(&vm.pt_intx).unwrap_or_default();
    pins.into_iter()
        .map(|(physical, guest)| IntxPin {
            physical: Gsi(physical),
            guest: Gsi(guest),
        })
        .collect()
}

pub(crate) fn region(start: u64, size: u64) -> MemoryRegion {
    MemoryRegion {
        start: Hpa(start),
        size,
    }
}

#[cfg(test)]
mod tests;
