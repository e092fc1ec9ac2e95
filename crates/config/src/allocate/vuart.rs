//! Serial ports of VMs: consoles, lines between VMs, and lines for shutdown.
//!
//! Number 0 is the console. Lines of the scenario follow in its order. Last come the lines on which the
//! Service VM and each other VM tell each other to shut down (S5): at COM2 of the other VM if that is
//! free, and from 0x9000 on in the Service VM.

use super::{AllocError, Notes};
use crate::Scenario;
use crate::scenario::{ConsoleVuart, Vm};
use crate::validate::console_port;
use acrn_abi::VmId;
use acrn_config_blob::{LoadOrder, Target, Vuart, VuartKind};

/// Ports for lines that name none.
const LINE_PORTS: (u64, u64) = (0x9200, 0xa000);
/// Ports for shutdown.
const SHUTDOWN_PORTS: (u64, u64) = (0x9000, 0x9200);
/// Interrupts that ports without a customary one may have.
const IRQS: std::ops::RangeInclusive<u32> = 5..=13;

/// The serial ports of each VM. The place of those on PCI is not decided here.
pub fn place_vuarts(
    scenario: &Scenario,
    service_irqs: &[u32],
    notes: &mut Notes,
) -> Result<Vec<Vec<Vuart>>, AllocError> {
    let mut vuarts: Vec<Vec<Vuart>> = scenario.vms.iter().map(console).collect();
    lines(scenario, &mut vuarts, notes)?;
    shutdown_lines(scenario, &mut vuarts, notes)?;
    for (vm, vuarts) in scenario.vms.iter().zip(&mut vuarts) {
        interrupts(vm, service_irqs, vuarts, notes);
    }
    Ok(vuarts)
}

/// How many serial ports a VM has.
pub fn vuart_count(scenario: &Scenario, index: usize) -> usize {
    let Some(vm) = scenario.vms.get(index) else {
        return 0;
    };
    let lines = scenario.hv.vuart_connections.list.iter();
    let ends = lines
        .flat_map(|line| &line.endpoints)
        .filter(|end| end.vm_name == vm.name)
        .count();
    let shutdown = match (scenario.service_vm(), vm.load_order) {
        (None, _) => 0,
        (Some(_), LoadOrder::Service) => scenario.vms.len() - 1,
        (Some(_), _) => 1,
    };
    usize::from(vm.console_vuart != ConsoleVuart::None) + ends + shutdown
}

fn console(vm: &Vm) -> Vec<Vuart> {
    let port = console_port(vm.console_vuart);
    match vm.console_vuart {
        ConsoleVuart::None => Vec::new(),
        ConsoleVuart::Pci => vec![Vuart {
            kind: VuartKind::Pci,
            ..Vuart::default()
        }],
        _ => vec![Vuart {
            port: port.unwrap_or_default() as u16,
            ..Vuart::default()
        }],
    }
}

/// The number of the next line of a VM; 0 is kept for the console.
fn next_number(vuarts: &[Vuart]) -> u16 {
    vuarts
        .iter()
        .map(|vuart| vuart.number + 1)
        .max()
        .unwrap_or(1)
        .max(1)
}

/// Connects new serial ports of two VMs.
fn connect(vuarts: &mut [Vec<Vuart>], ends: [(usize, Vuart); 2]) {
    let numbers = ends.map(|(vm, _)| next_number(&vuarts[vm]));
    for (this, other) in [(0, 1), (1, 0)] {
        let (vm, vuart) = ends[this];
        let target = Target {
            vm: VmId(ends[other].0 as u16),
            vuart: numbers[other],
        };
        vuarts[vm].push(Vuart {
            number: numbers[this],
            target: Some(target),
            ..vuart
        });
    }
}

fn lines(
    scenario: &Scenario,
    vuarts: &mut [Vec<Vuart>],
    notes: &mut Notes,
) -> Result<(), AllocError> {
    for line in &scenario.hv.vuart_connections.list {
        let mut ends = Vec::new();
        for end in &line.endpoints {
            let Some((index, vm)) = scenario.vm(&end.vm_name) else {
                continue;
            };
            let mut vuart = Vuart {
                kind: line.kind,
                ..Vuart::default()
            };
            match (line.kind, end.io_port) {
                (VuartKind::Pci, _) => vuart.vbdf = end.vbdf.unwrap_or_default(),
                (VuartKind::Legacy, Some(port)) => vuart.port = port.0 as u16,
                (VuartKind::Legacy, None) => {
                    let named = named_ports(scenario, &vm.name);
                    vuart.port = free_port(vm, &[], &named, &vuarts[index], LINE_PORTS)?;
                    let why = format!("first free port for line “{}”", line.name);
                    notes.add(&vm.name, "serial port", format!("{:#x}", vuart.port), why);
                }
            }
            ends.push((index, vuart));
        }
        if let [one, two] = ends[..] {
            connect(vuarts, [one, two]);
        }
    }
    Ok(())
}

/// Ports that the scenario names for a VM.
fn named_ports(scenario: &Scenario, vm: &str) -> Vec<u64> {
    let lines = scenario
        .hv
        .vuart_connections
        .list
        .iter()
        .filter(|line| line.kind == VuartKind::Legacy);
    let ends = lines
        .flat_map(|line| &line.endpoints)
        .filter(|end| end.vm_name == vm);
    ends.filter_map(|end| Some(end.io_port?.0)).collect()
}

fn free_port(
    vm: &Vm,
    wished: &[u64],
    named: &[u64],
    vuarts: &[Vuart],
    (first, end): (u64, u64),
) -> Result<u16, AllocError> {
    let legacy = vuarts
        .iter()
        .filter(|vuart| vuart.kind == VuartKind::Legacy);
    let taken: Vec<u64> = legacy
        .map(|vuart| vuart.port.into())
        .chain(named.iter().copied())
        .collect();
    let mut ports = wished.iter().copied().chain((first..end).step_by(8));
    let free = ports.find(|port| taken.iter().all(|other| other.abs_diff(*port) >= 8));
    free.map(|port| port as u16)
        .ok_or_else(|| AllocError::NoPort {
            vm: vm.name.clone(),
        })
}

fn shutdown_lines(
    scenario: &Scenario,
    vuarts: &mut [Vec<Vuart>],
    notes: &mut Notes,
) -> Result<(), AllocError> {
    let Some((service, service_vm)) = scenario.vms_of(LoadOrder::Service).next() else {
        return Ok(());
    };
    for (index, vm) in scenario
        .vms
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != service)
    {
        let here = free_port(service_vm, &[], &[], &vuarts[service], SHUTDOWN_PORTS)?;
        let there = free_port(vm, &[0x2f8], &[], &vuarts[index], SHUTDOWN_PORTS)?;
        let port = |port| Vuart {
            port,
            ..Vuart::default()
        };
        connect(vuarts, [(service, port(here)), (index, port(there))]);
        let why = format!("shutdown of {}, from 0x9000 on", vm.name);
        notes.add(&service_vm.name, "serial port", format!("{here:#x}"), why);
        let why = format!("shutdown by {}, COM2 if it is free", service_vm.name);
        notes.add(&vm.name, "serial port", format!("{there:#x}"), why);
    }
    Ok(())
}

/// COM ports have their customary interrupts; others get the first that no port of the VM and, in the
/// Service VM, no device of the board uses. When none is left, the port is polled.
fn interrupts(vm: &Vm, service_irqs: &[u32], vuarts: &mut [Vuart], notes: &mut Notes) {
    let service = vm.load_order == LoadOrder::Service;
    let mut taken = Vec::new();
    for pass in [true, false] {
        for vuart in vuarts
            .iter_mut()
            .filter(|vuart| vuart.kind == VuartKind::Legacy)
        {
            let customary = customary_irq(vuart.port).filter(|irq| !taken.contains(irq));
            if vuart.irq != 0 || pass && customary.is_none() {
                continue;
            }
            let usable =
                |irq: &u32| !taken.contains(irq) && (!service || service_irqs.contains(irq));
            vuart.irq = customary.or_else(|| IRQS.clone().find(usable)).unwrap_or(0);
            taken.push(vuart.irq);
            let why = match (customary, vuart.irq) {
                (Some(_), _) => "customary for this port",
                (None, 0) => "no interrupt is left: the port is polled",
                (None, _) => "first free interrupt from 5 to 13",
            };
            notes.add(
                &vm.name,
                "interrupt",
                format!("{} of port {:#x}", vuart.irq, vuart.port),
                why,
            );
        }
    }
}

fn customary_irq(port: u16) -> Option<u32> {
    match port {
        0x3f8 | 0x3e8 => Some(4),
        0x2f8 | 0x2e8 => Some(3),
        _ => None,
    }
}
