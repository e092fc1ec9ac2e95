//! Pre-launched VMs: made at boot on CPUs, memory and devices of their own, with a PC's devices from the
//! hypervisor and no Device Model.
//!
//! Their memory is taken from the host's before the Service VM gets the rest ([`reserve`]).

use crate::arch::{cpu, rtc, tsc};
use crate::exit::io::Answer;
use crate::interval_timer::{self, IntervalTimer};
use crate::os::{self, Os};
use crate::static_vm::{self, Owed};
use crate::vcpu::Vcpu;
use crate::virt::{NestedTable, VirtConfig};
use crate::vm::{self, ConsolePlace, Vm};
use crate::{config, inter_vm, iommu, lifecycle, memory, pci};
use acrn_abi::{Gpa, Gsi, VmId, guest_map};
use acrn_acpi::build::{self, Machine, SCI, Serial};
use acrn_boot::BootInfo;
use acrn_config_blob::{CONSOLE_VUART, LoadOrder, VuartKind};
use acrn_lifecycle::VmState;
use acrn_lifecycle::validate::UartPlace;
use acrn_memory::{Access, MapError, MemType, MemoryKind, Owner, pc};
use acrn_sched::Params;
use acrn_vdev::counters::Counters;
use acrn_vdev::pit::Pit;
use acrn_vdev::pm::{Pm, PmAction};
use acrn_vdev::rtc::{DATA_PORT, INDEX_PORT};
use arrayvec::ArrayVec;
use core::fmt;

type Wanted = acrn_config_blob::Vm<'static>;

/// Least memory, in bytes.
const LEAST_MEMORY: u64 = 16 << 20;

/// Why a VM is not there.
enum Error {
    /// Less memory than anything needs.
    Memory(u64),
    /// Nested tables.
    Map(MapError),
    /// A CPU has no room for its vCPU.
    Full,
    /// More CPUs than a VM may have.
    Cpus(usize),
    /// Its system cannot be loaded.
    Os(os::Error),
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl From<os::Error> for Error {
    fn from(error: os::Error) -> Self {
        Self::Os(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(size) => write!(
                f,
                "{size:#x} bytes of memory are too few; give it {LEAST_MEMORY:#x} at least"
            ),
            Self::Map(error) => write!(f, "nested page tables: {error}"),
            Self::Full => f.write_str(
                "one of its CPUs has no room for another vCPU, or would be shared by one with \
                 LAPIC pass-through",
            ),
            Self::Cpus(count) => {
                write!(
                    f,
                    "{count} CPUs are too many; it may have {}",
                    vm::MAX_VCPUS
                )
            }
            Self::Os(error) => write!(f, "{error}"),
        }
    }
}

/// What the configuration says of a VM, and what its vCPUs are entitled to.
pub fn wanted(vm: &Vm) -> Option<(Params, Wanted)> {
    let mut all = config::setup().pre_launched();
    all.find_map(|(slot, share, wanted)| (slot == vm.id.0).then_some((share, wanted)))
}

/// Takes the memory of all pre-launched VMs from the rest. Before anything looks for free memory.
pub fn reserve() {
    for (slot, _, wanted) in config::setup().pre_launched() {
        for region in wanted.memory.iter() {
            let owner = Owner::Vm(VmId(slot));
            memory::give(region.start, region.size, MemoryKind::Reserved, owner);
        }
    }
}

/// Makes all pre-launched VMs.
pub fn launch(info: &BootInfo) {
    for (slot, share, wanted) in config::setup().pre_launched() {
        let vm = vm::get(VmId(slot));
        let mut state = vm.state.lock();
        vm.describe(
            wanted.name.as_bytes(),
            LoadOrder::PreLaunched,
            wanted.flags.bits(),
        );
        if let Err(error) = make(vm, share, &wanted).and_then(|()| Ok(boot(vm, info)?)) {
            error!("VM {} is not started: {error}", wanted.name);
            continue;
        }
        *state = VmState::Running;
    }
}

/// Memory, devices and vCPUs.
fn make(vm: &'static Vm, share: Params, wanted: &Wanted) -> Result<(), Error> {
    let size = memory_size(wanted);
    if size < LEAST_MEMORY {
        return Err(Error::Memory(size));
    }
    if wanted.vcpus.len() > vm::MAX_VCPUS {
        return Err(Error::Cpus(wanted.vcpus.len()));
    }
    let table = map_memory(wanted)?;
    let virt = VirtConfig {
        nested_root: table.root_pointer(),
        io_bitmap: lifecycle::user_io_bitmap(),
        msr_bitmap: lifecycle::msr_bitmap(),
    };
    *vm.nested.lock() = Some(table);
    add_devices(vm, wanted);
    pci::assign(vm, wanted.pci_devices.iter(), iommu::is_usable());
    for (vcpu, cpu) in vm.vcpus.iter().zip(wanted.vcpus.iter()) {
        let id = vcpu.id.0.into();
        lifecycle::prepare_vcpu(vcpu, &virt, cpu.pcpu, id, share).ok_or(Error::Full)?;
        vm.set_vcpu_count(vcpu.id.index() + 1);
    }
    Ok(())
}

fn memory_size(wanted: &Wanted) -> u64 {
    wanted.memory.iter().map(|region| region.size).sum()
}

fn map_memory(wanted: &Wanted) -> Result<NestedTable, Error> {
    let mut table = NestedTable::new()?;
    let regions = wanted.memory.iter();
    for piece in pc::pieces(regions.map(|region| (region.start, region.size))) {
        let (access, kind) = (Access::RWX, MemType::WriteBack);
        table.map(piece.gpa, piece.hpa, piece.size, access, kind)?;
    }
    Ok(table)
}

fn add_devices(vm: &Vm, wanted: &Wanted) {
    vm.become_pc();
    *vm.counters.lock() = Some(Counters::new(tsc::khz(), cpu::rdtsc()));
    *vm.interval_timer.lock() = Some(IntervalTimer::new());
    let console = wanted
        .vuart(CONSOLE_VUART)
        .filter(|uart| uart.kind == VuartKind::Legacy);
    if let Some(console) = console {
        let place = UartPlace {
            port: console.port,
            gsi: Gsi(console.irq),
        };
        vm.uart.lock().put(ConsolePlace::Ports(place));
    }
    inter_vm::furnish(vm, wanted, Some, Gsi);
}

/// Loads the VM's system and its tables. Its vCPUs are in reset state.
pub fn boot(vm: &'static Vm, info: &BootInfo) -> Result<(), os::Error> {
    let Some((_, wanted)) = wanted(vm) else {
        return Ok(());
    };
    let mut os = Os::find(info, &wanted.name, &wanted.os)?;
    // VMs may share a kernel, so what the scenario says of this one comes first.
    if wanted.os.bootargs.is_empty() {
        os = os.with_arguments_of_module();
    }
    write_tables(vm, &wanted)?;
    os::load(vm, &os, &pc::map(memory_size(&wanted)), pc::TABLES)
}

fn write_tables(vm: &Vm, wanted: &Wanted) -> Result<(), os::Error> {
    let ids: ArrayVec<u32, { vm::MAX_VCPUS }> =
        vm.active_vcpus().map(|vcpu| vcpu.id.0.into()).collect();
    let ports = wanted.vuarts.iter();
    let ports = ports.filter(|uart| uart.kind == VuartKind::Legacy && uart.irq != 0);
    let serial: ArrayVec<Serial, { build::MAX_SERIAL }> = ports
        .map(|uart| Serial {
            port: uart.port,
            irq: uart.irq as u8,
        })
        .take(build::MAX_SERIAL)
        .collect();
    let machine = Machine {
        apic_ids: &ids,
        serial: &serial,
    };
    let tables = build::tables(&machine, pc::TABLES);
    match vm.write(pc::TABLES, &tables) {
        true => Ok(()),
        false => Err(os::Error::Copy),
    }
}

/// An access to a port that is none of the devices that every VM has.
pub fn port(vcpu: &Vcpu, port: u16, size: u8, write: Option<u32>) -> Answer {
    let vm = vcpu.vm();
    match port {
        guest_map::PORT_RESET_CONTROL if size == 1 => {
            if write.is_some_and(|value| value & 4 != 0) {
                reset(vcpu, "port 0xCF9");
            }
            Answer::Done(0)
        }
        guest_map::PORT_PCI_ADDRESS | guest_map::PORT_PCI_DATA..=0xcff => {
            Answer::Done(pci::port_access(vcpu, port, size, write))
        }
        guest_map::PORT_PM_TIMER if size == 4 => {
            let counters = vm.counters.lock();
            let now = counters
                .as_ref()
                .map(|counters| counters.pm_timer(cpu::rdtsc()));
            Answer::Done(now.unwrap_or(0))
        }
        _ => {
            let value = pci::assigned_port(vm, port, size, write);
            Answer::Done(value.unwrap_or_else(|| by_bytes(vcpu, port, size, write)))
        }
    }
}

/// Devices whose registers are bytes.
fn by_bytes(vcpu: &Vcpu, port: u16, size: u8, write: Option<u32>) -> u32 {
    let mut value = 0;
    for lane in 0..size.min(4) {
        let at = port.wrapping_add(lane.into());
        let read = byte(vcpu, at, write.map(|value| (value >> (8 * lane)) as u8));
        value |= u32::from(read) << (8 * lane);
    }
    value
}

fn byte(vcpu: &Vcpu, port: u16, write: Option<u8>) -> u8 {
    const PM: u16 = guest_map::PORT_PM1A_EVENT;
    const PM_END: u16 = PM + Pm::SIZE - 1;
    let vm = vcpu.vm();
    match (port, write) {
        (port, write) if Pit::owns(port) => {
            return interval_timer::access(vm, port, write).unwrap_or(0xff);
        }
        (INDEX_PORT | DATA_PORT, Some(value)) => vm.rtc.lock().write(port, value, rtc::now()),
        (INDEX_PORT | DATA_PORT, None) => return vm.rtc.lock().read(port, rtc::now()),
        (PM..=PM_END, Some(value)) => write_pm(vcpu, port - PM, value),
        (PM..=PM_END, None) => return vm.pm.lock().read(port - PM),
        (guest_map::PORT_KEYBOARD_COMMAND, Some(value)) if value & 0xf1 == 0xf0 => {
            reset(vcpu, "the keyboard controller");
        }
        (0x92, Some(value)) if value & 1 != 0 => reset(vcpu, "port 0x92"),
        (_, Some(_)) => {}
        (_, None) => return 0xff,
    }
    0
}

fn write_pm(vcpu: &Vcpu, offset: u16, value: u8) {
    let vm = vcpu.vm();
    let action = {
        let mut pm = vm.pm.lock();
        let action = pm.write(offset, value);
        vm.set_line(Gsi(SCI.into()), pm.sci());
        action
    };
    match action {
        PmAction::None => {}
        PmAction::Sleep(kind) if kind == build::S5.a => {
            info!("vm{} ({}) switches itself off", vm.id, vm.name());
            static_vm::owe_guest(vcpu, static_vm::after_power_off(vm));
        }
        PmAction::Sleep(kind) => {
            if crate::log::limited() {
                warning!(
                    "vm{} asks for sleep type {kind:#x}: it has none but S5",
                    vm.id
                );
            }
        }
    }
}

fn reset(vcpu: &Vcpu, by: &str) {
    let vm = vcpu.vm();
    info!("vm{} ({}) resets itself by {by}", vm.id, vm.name());
    static_vm::owe_guest(vcpu, Owed::Reset);
}

/// Presses the VM's power button. `false` when it does not listen.
pub fn press_power_button(vm: &Vm) -> bool {
    let mut pm = vm.pm.lock();
    let heard = pm.press_power_button();
    vm.set_line(Gsi(SCI.into()), pm.sci());
    heard
}

/// An access to memory that the VM does not have.
pub fn memory(vcpu: &Vcpu, gpa: Gpa, size: u8, write: Option<u64>) -> u64 {
    pci::memory_access(vcpu, gpa, size, write).unwrap_or(u64::MAX)
}
