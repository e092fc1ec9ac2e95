//! The devices by which VMs reach each other, as the configuration says: serial lines and shared
//! memory; and consoles on serial cards, which are like them.
//!
//! A VM that the hypervisor starts has all of them from its beginning ([`furnish`]). A Device Model,
//! which lays out the PCI bus of its VM, asks for those on PCI ([`add_card`],
//! [`add_shared_memory`]); those at ports the VM has without being asked.

use crate::serial::{self, Seat};
use crate::shared_memory::{self, Member};
use crate::virtual_pci::{self, Device};
use crate::vm::{ConsolePlace, Vm};
use acrn_abi::{Bdf, Gsi, VmId};
use acrn_config_blob::{CONSOLE_VUART, DeviceKind, LoadOrder, PciDevice, VuartKind};
use acrn_config_use::LineEnd;
use acrn_lifecycle::validate::UartPlace;
use acrn_vdev::pci::VirtualFunction;
use acrn_vdev::serial_card;
use core::fmt;

/// Why a VM does not get a device.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    /// The scenario has no serial line to this vUART.
    NoLine(u16),
    /// The VM has the end of that line already.
    Connected(u16),
    /// The scenario does not let the VM have such a region, or there is no memory for it.
    NoRegion,
    /// There is no room on its bus.
    Bus(virtual_pci::Refused),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLine(number) => write!(f, "no serial line is connected to its vUART {number}"),
            Self::Connected(number) => write!(f, "its vUART {number} is connected already"),
            Self::NoRegion => f.write_str("the scenario does not let it share such memory"),
            Self::Bus(error) => error.fmt(f),
        }
    }
}

/// Gives a VM that is being made its devices of the scenario. `place` says where on its bus it sees a
/// PCI function, `line` which line of its IOAPICs is an interrupt of a PC.
pub fn furnish(
    vm: &Vm,
    described: &acrn_config_blob::Vm<'_>,
    place: impl Fn(Bdf) -> Option<Bdf>,
    line: impl Fn(u32) -> Gsi,
) {
    for vuart in described.vuarts.iter() {
        let end = LineEnd {
            vm: described.id,
            vuart: vuart.number,
        };
        let found = serial::find(end).filter(|_| vuart.kind == VuartKind::Legacy);
        let Some(end) = found else { continue };
        let gsi = (vuart.irq != 0).then(|| line(vuart.irq));
        let possible = UartPlace::is_possible(vuart.port);
        if !possible || !vm.ports.add(vm, vuart.port, gsi, end) {
            warning!(
                "vm{}: its serial line cannot be at port {:#x}; move it in the scenario",
                vm.id,
                vuart.port
            );
        }
    }
    if described.load_order == LoadOrder::PostLaunched {
        return;
    }
    for device in described.pci_devices.iter() {
        if let Err(refused) = add_function(vm, described.id, &device, &place) {
            warning!(
                "vm{}: no {} at {}: {refused}",
                vm.id,
                device.kind,
                device.vbdf
            );
        }
    }
}

/// A VM that is off for a while keeps nobody waiting. A reset of its devices brings it back.
pub fn leave(vm: &Vm) {
    vm.ports.leave();
    virtual_pci::leave(vm);
}

fn add_function(
    vm: &Vm,
    id: VmId,
    device: &PciDevice,
    place: impl Fn(Bdf) -> Option<Bdf>,
) -> Result<(), Refused> {
    if !matches!(device.kind, DeviceKind::Vuart | DeviceKind::SharedMemory) {
        return Ok(());
    }
    let bdf = place(device.vbdf).ok_or(Refused::Bus(virtual_pci::Refused::Full))?;
    let bars = device.bars.map(|bar| bar.gpa.0);
    let end = LineEnd {
        vm: id,
        vuart: device.number,
    };
    match device.kind {
        DeviceKind::Vuart => add_card(vm, end, bdf, &bars),
        _ => add_shared_memory(vm, device.number as u8, bdf, &bars),
    }?;
    info!("vm{}: {} at {bdf}", vm.id, device.kind);
    Ok(())
}

/// Puts the end of a serial line, or the UART of its console, on the PCI bus of a VM, with BARs at these
/// addresses.
pub fn add_card(vm: &Vm, end: LineEnd, bdf: Bdf, bars: &[u64; 6]) -> Result<(), Refused> {
    let number = end.vuart;
    if number == CONSOLE_VUART {
        return add_console(vm, bdf, bars);
    }
    let end = serial::find(end).ok_or(Refused::NoLine(number))?;
    if serial::is_plugged(end) {
        return Err(Refused::Connected(number));
    }
    let function = placed(serial_card::function(), bars);
    virtual_pci::add(vm, bdf, function, Device::Serial(end)).map_err(Refused::Bus)?;
    serial::plug(end, Seat::Card { vm: vm.id, bdf });
    Ok(())
}

fn add_console(vm: &Vm, bdf: Bdf, bars: &[u64; 6]) -> Result<(), Refused> {
    if vm.uart.lock().is_there() {
        return Err(Refused::Connected(CONSOLE_VUART));
    }
    let function = placed(serial_card::function(), bars);
    virtual_pci::add(vm, bdf, function, Device::Console).map_err(Refused::Bus)?;
    let place = ConsolePlace::Card { bdf, told: false };
    vm.uart.lock().put(place);
    Ok(())
}

/// Puts a region of shared memory on the PCI bus of a VM.
pub fn add_shared_memory(vm: &Vm, region: u8, bdf: Bdf, bars: &[u64; 6]) -> Result<(), Refused> {
    let function = shared_memory::function(region).ok_or(Refused::NoRegion)?;
    let device = Device::SharedMemory(Member::new(vm.id, region));
    virtual_pci::add(vm, bdf, placed(function, bars), device).map_err(Refused::Bus)
}

fn placed(function: VirtualFunction, bars: &[u64; 6]) -> VirtualFunction {
    let numbered = (0u8..).zip(bars);
    numbered.fold(function, |function, (bar, at)| function.placed(bar, *at))
}
