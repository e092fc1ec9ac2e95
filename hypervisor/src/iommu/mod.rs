//! Remapping of DMA and interrupts: devices reach the memory of the VM that owns them, and nothing else.
//!
//! Each VM with devices has a domain; the Service VM's is that of every function which no other VM has.
//! What a domain maps is what the VM's nested table maps as memory, each range after asking the ownership
//! map, so the hypervisor's pages are not in it; and the regions that firmware's devices need. Pages that the Service VM lends to a
//! User VM stay in it: the Device Model does I/O for the User VM by the Service VM's devices, right
//! into these pages. So no loan changes the domain, and it is built once, before any VM runs.
//! Registers of devices are not in it: no device can write to another's.
//!
//! | module | job |
//! |---|---|
//! | [`domain`] | the addresses that a VM's devices may use |
//! | [`interrupts`] | the interrupts that a device may raise |
//! | [`vtd`] | a unit of Intel's kind; one of AMD's would be its sibling, with the same functions |
//!
//! No VM sees the units: their registers are hidden, and so is the ACPI table that names them.
//!
//! The units' lock is needed by guests that programme interrupts: nothing is logged under it without need.

mod domain;
mod interrupts;
mod vtd;

use crate::arch::apic;
use crate::vm::{self, MAX_VMS, Vm};
use crate::{firmware, log, memory, pci, percpu};
use acrn_abi::{Bdf, Hpa, VmId};
use acrn_acpi::Platform;
use acrn_acpi::dmar::{Dmar, MAX_UNITS};
use acrn_lifecycle::VmState;
use acrn_vtd::Fault;
use arrayvec::ArrayVec;
use core::fmt::Write;
use core::sync::atomic::Ordering;
use domain::Domain;
use interrupts::Table;
use spin::Mutex;
use vtd::Unit;

pub use interrupts::{block, message, reaches, receiver, redirection};

/// The domains, the Service VM's first.
type Domains = ArrayVec<(VmId, Domain), MAX_VMS>;

/// The functions of VMs other than the Service VM.
type Assigned = ArrayVec<(Bdf, VmId), { pci::MAX_FUNCTIONS }>;

/// The number by which units know the first domain.
const FIRST_DOMAIN: u16 = 1;

/// Faults that the shell shows.
const KEPT: usize = 8;
/// Faults that are logged at a time.
const LOGGED: usize = 32;

/// The machine's units.
struct Units {
    list: ArrayVec<Unit, MAX_UNITS>,
    /// Through which all interrupts of devices go, if they do.
    interrupts: Option<Table>,
}

static UNITS: Mutex<Units> = Mutex::new(Units {
    list: ArrayVec::new_const(),
    interrupts: None,
});
static DOMAINS: Mutex<Domains> = Mutex::new(Domains::new_const());
static FAULTS: Mutex<History> = Mutex::new(History {
    count: 0,
    last: ArrayVec::new_const(),
});

struct History {
    count: u64,
    last: ArrayVec<Fault, KEPT>,
}

impl History {
    fn add(&mut self, fault: Fault) {
        self.count += 1;
        if self.last.is_full() {
            self.last.remove(0);
        }
        let _ = self.last.try_push(fault);
    }
}

/// Finds the units, hides them from VMs and has them remap interrupts. Before the Service VM's memory is
/// mapped, and before a device may interrupt.
pub fn find(platform: &Platform) {
    let Some(dmar) = &platform.dmar else {
        let unit = match platform.ivrs {
            Some(_) => "an AMD IOMMU (IVRS) that is not used yet",
            None => "no IOMMU",
        };
        warning!("this machine has {unit}: devices can reach all memory");
        return;
    };
    for description in &dmar.units {
        pci::hide(description.registers, description.size);
        let mut unit = Unit::new(description);
        if let Err(error) = unit.take_over() {
            error!("IOMMU at {}: {error}", unit.registers);
        }
        let _ = UNITS.lock().list.try_push(unit);
    }
    // Another name, which no driver knows.
    if !firmware::patch(dmar.table.address, 0, b"RAMD") {
        warning!("the ACPI table DMAR cannot be hidden from the Service VM");
    }
    interrupts::turn_on(dmar);
}

/// Whether there are units that can keep the devices of VMs apart. After [`find`].
pub fn is_usable() -> bool {
    let units = UNITS.lock();
    let able = |unit: &Unit| unit.capabilities.choose(memory_bits()).is_ok();
    !units.list.is_empty() && units.list.iter().all(able)
}

/// Confines the devices to the memory of the VMs that own them and do not run yet. The Service VM has
/// those that no other VM has; without one they reach nothing.
pub fn confine(platform: &Platform) {
    let Some(dmar) = &platform.dmar else { return };
    let mut assigned = Assigned::new();
    pci::for_each_assigned(|bdf, owner| assigned.push((bdf, owner.id)));
    let mut units = UNITS.lock();
    let gib_pages = units.list.iter().all(|unit| unit.capabilities.gib_pages);
    let mut domains = Domains::new();
    let has_devices = |vm: &Vm| {
        let found = vm.is_service() || assigned.iter().any(|(_, owner)| *owner == vm.id);
        found && *vm.state.lock() == VmState::Running
    };
    for vm in vm::all().iter().filter(|vm| has_devices(vm)) {
        let made = Domain::of(vm, domains.len() as u16 + FIRST_DOMAIN, gib_pages);
        match made {
            Ok(domain) => {
                let _ = domains.try_push((vm.id, domain));
            }
            Err(error) => {
                error!("DMA of vm{} is not possible: {error}", vm.id);
            }
        }
    }
    let service = vm::service();
    if !domains.iter().any(|(id, _)| *id == service.id) {
        if service.vcpu_count() > 0 {
            error!("DMA of the Service VM's devices is not confined");
            return;
        }
        match Domain::empty(domains.len() as u16 + FIRST_DOMAIN, gib_pages) {
            Ok(domain) => domains.insert(0, (service.id, domain)),
            Err(error) => return error!("devices are not confined: {error}"),
        }
    }
    if let Some((_, domain)) = domains.first_mut().filter(|(id, _)| *id == service.id) {
        dmar.regions
            .iter()
            .for_each(|region| domain.reserve(service.id, region));
    }
    let receiver = percpu::all()[0].apic_id.load(Ordering::Relaxed);
    let mut confined = !units.list.is_empty();
    for (index, unit) in units.list.iter_mut().enumerate() {
        if let Err(error) = unit.turn_on(&domains, &assigned, receiver) {
            confined = false;
            error!(
                "IOMMU {index} at {}: {error}; DMA behind it is not confined",
                unit.registers
            );
        }
    }
    if confined {
        for (id, domain) in domains.iter().filter(|(_, domain)| domain.bytes() > 0) {
            let mib = domain.bytes() >> 20;
            info!("DMA of vm{id}'s devices is confined to its {mib} MiB");
        }
    }
    *DOMAINS.lock() = domains;
}

/// After the machine's sleep, in which the units have forgotten everything.
pub fn wake() {
    let receiver = percpu::all()[0].apic_id.load(Ordering::Relaxed);
    let mut units = UNITS.lock();
    let interrupts = units.interrupts;
    for (index, unit) in units.list.iter_mut().enumerate() {
        if let Err(error) = unit.go_on(interrupts, apic::is_x2apic(), receiver) {
            error!("IOMMU {index}: {error}; devices behind it are not confined any more");
        }
    }
}

/// A unit has something to say: [`apic::IOMMU_VECTOR`].
pub fn interrupt() {
    collect();
}

/// Takes over what the units have recorded. Devices can be told to fault without end, so few of the
/// faults are logged.
fn collect() {
    for index in 0..MAX_UNITS {
        let mut taken: ArrayVec<Fault, LOGGED> = ArrayVec::new();
        let lost = {
            let mut units = UNITS.lock();
            let Some(unit) = units.list.get_mut(index).filter(|unit| unit.is_on()) else {
                continue;
            };
            unit.take_faults(|fault| {
                FAULTS.lock().add(fault);
                let _ = taken.try_push(fault);
            })
        };
        for fault in taken.iter().take_while(|_| log::limited()) {
            warning!("IOMMU {index}: {fault}");
        }
        if lost && log::limited() {
            warning!("IOMMU {index}: further faults came too fast to be recorded");
        }
    }
}

/// Shows units, domains and faults. Lines end as a terminal wants.
///
/// # Errors
/// Those of `out`.
pub fn list(platform: &Platform, out: &mut dyn Write) -> core::fmt::Result {
    let Some(dmar) = &platform.dmar else {
        return write!(out, "no IOMMU in use\r\n");
    };
    collect();
    let units = UNITS.lock().list.clone();
    for (index, unit) in units.iter().enumerate() {
        write!(out, "unit {index} at {}: {unit}\r\n", unit.registers)?;
        show_scopes(dmar, index, out)?;
    }
    for (id, domain) in DOMAINS.lock().iter() {
        let (kib, frames) = (domain.bytes() >> 10, domain.frames());
        match kib {
            0 => write!(out, "functions that no VM has reach nothing\r\n")?,
            _ => write!(
                out,
                "domain of vm{id}: {kib} KiB in {frames} table frames\r\n"
            )?,
        }
    }
    let faults = FAULTS.lock();
    write!(out, "faults: {}\r\n", faults.count)?;
    for fault in &faults.last {
        write!(out, "  {fault}\r\n")?;
    }
    Ok(())
}

fn show_scopes(dmar: &Dmar, index: usize, out: &mut dyn Write) -> core::fmt::Result {
    for scope in dmar.scopes_of(index) {
        write!(out, "  {} {:02x}", scope.kind, scope.bus)?;
        for (device, function) in &scope.path {
            write!(out, ":{device:02x}.{function:x}")?;
        }
        write!(out, "\r\n")?;
    }
    let Some(unit) = dmar.units.get(index).filter(|unit| unit.rest) else {
        return Ok(());
    };
    write!(out, "  all other functions of segment {}\r\n", unit.segment)
}

/// Where a unit's own interrupt, which is not remapped, goes to: address and data. `None` when the local
/// APIC's id is too large for that.
fn own_message(receiver: u32, vector: u8) -> Option<(u32, u32)> {
    let id = u8::try_from(receiver).ok().filter(|id| *id != u8::MAX)?;
    let address = apic::XAPIC_BASE as u32 | u32::from(id) << 12;
    Some((address, vector.into()))
}

/// Width of the addresses of all memory.
fn memory_bits() -> u8 {
    (u64::BITS - (memory::top() - 1).leading_zeros()) as u8
}

/// Where a register is.
fn at(registers: Hpa, offset: u64) -> Hpa {
    Hpa(registers.0 + offset)
}
