//! Making the Service VM: identity-mapped, owning whatever the hypervisor does not keep.

use crate::arch::{apic, boot as image, cpu, ioapic};
use crate::os::{self, Os};
use crate::vcpu::Vcpu;
use crate::virt::{NestedTable, VirtConfig};
use crate::vm::{self, ConsolePlace, Vm};
use crate::{
    config, console, device_memory, firmware, inter_vm, lifecycle, memory, modules, pci, percpu,
};
use acrn_abi::{Gpa, Gsi, Hpa, PAGE_SIZE, module_tag};
use acrn_acpi::Platform;
use acrn_boot::BootInfo;
use acrn_boot::bzimage::Search;
use acrn_config_blob::{CONSOLE_VUART, LoadOrder, VuartKind};
use acrn_config_use::HugePages;
use acrn_lifecycle::VmState;
use acrn_memory::{Access, HostMap, MapError, MemType, MemoryKind};
use acrn_vdev::ioapic::VIoApic;
use arrayvec::ArrayString;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;
use spin::Once;

/// Why there is no Service VM.
pub enum Error {
    /// Its system cannot be loaded.
    Os(os::Error),
    /// The configuration windows and the pages with interrupt tables cannot be kept from it.
    Mediated,
    /// More vCPUs than a CPU holds.
    Full,
}

impl From<os::Error> for Error {
    fn from(error: os::Error) -> Self {
        Self::Os(error)
    }
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        Self::Os(os::Error::Map(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os(error) => write!(f, "{error}"),
            Self::Mediated => {
                f.write_str("no page-table frames to keep PCI configuration from the VM")
            }
            Self::Full => f.write_str("no room for its vCPUs"),
        }
    }
}

/// Boot arguments when the module's string has none.
const DEFAULT_BOOTARGS: &str = "console=ttyS0 no_timer_check root=/dev/vda rw";

/// Where the copy of the root pointer is, if there is one.
static RSDP: Once<Option<Gpa>> = Once::new();

/// Creates the Service VM and loads its kernel.
pub fn launch(info: &BootInfo, platform: &Platform) -> Result<(), Error> {
    let vm = vm::service();
    let wanted = config::setup().service_vm();
    let name = wanted.as_ref().map_or("Service_VM", |vm| vm.name.as_str());
    vm.describe(name.as_bytes(), LoadOrder::Service, 0);
    let table = map_everything()?;
    // Which ports are the VM's own depends on its devices.
    add_devices(vm, platform);
    let config = virt_config(&table);
    *vm.nested.lock() = Some(table);
    firmware::hide_cpus(platform);
    add_vcpus(vm, &config)?;
    boot(vm, info)?;
    *vm.state.lock() = VmState::Running;
    Ok(())
}

fn virt_config(table: &NestedTable) -> VirtConfig {
    VirtConfig {
        nested_root: table.root_pointer(),
        io_bitmap: lifecycle::service_io_bitmap(),
        msr_bitmap: lifecycle::msr_bitmap(),
    }
}

/// Everything at its own address, but for what the hypervisor keeps or mediates.
fn map_everything() -> Result<NestedTable, Error> {
    let mut table = NestedTable::new()?;
    let top = memory::top();
    table.map(Gpa(0), Hpa(0), top, Access::RWX, MemType::Uncacheable)?;
    {
        let guard = memory::HOST_MAP.lock();
        for block in guard.iter().flat_map(|map| map.iter()) {
            if matches!(
                block.kind,
                MemoryKind::Usable | MemoryKind::Acpi | MemoryKind::Nvs
            ) {
                let start = block.start.get().next_multiple_of(PAGE_SIZE);
                let end = (block.start.get() + block.size()) & !(PAGE_SIZE - 1);
                if start < end {
                    let size = end - start;
                    table.map(
                        Gpa(start),
                        Hpa(start),
                        size,
                        Access::RWX,
                        MemType::WriteBack,
                    )?;
                }
            }
        }
    }
    let mut hide = |start: u64, size: u64| table.unmap(Gpa(start), size);
    let image = image::image();
    hide(image.start, image.end - image.start)?;
    let (pool, size) = memory::pool();
    hide(pool.get(), size)?;
    hide(apic::XAPIC_BASE, PAGE_SIZE)?;
    for controller in ioapic::controllers() {
        hide(controller.base, PAGE_SIZE)?;
    }
    for (start, size) in memory::claimed() {
        hide(start, size)?;
    }
    for (start, size) in modules::kept() {
        hide(start.get(), size)?;
    }
    for (_, _, vm) in config::setup().pre_launched() {
        for region in vm.memory.iter() {
            hide(region.start.get(), region.size)?;
        }
    }
    if !pci::exclude_mediated(&mut table, Gpa(0), top) {
        return Err(Error::Mediated);
    }
    device_memory::begin(table.frames());
    Ok(table)
}

fn add_devices(vm: &Vm, platform: &Platform) {
    let mut list = vm.ioapics.lock();
    for c in ioapic::controllers() {
        let device = VIoApic::new(c.id, Gsi(c.gsi_base), c.pins.min(120) as u8);
        let _ = list.try_push((Gpa(c.base), device));
    }
    drop(list);
    vm.connect_pic(|gsi| platform.madt.isa_irq(gsi));
    let described = config::setup().service_vm();
    let wanted = described.as_ref().and_then(|vm| vm.vuart(CONSOLE_VUART));
    if wanted.is_none_or(|console| console.kind == VuartKind::Legacy) {
        let place = console::service_uart(platform);
        vm.uart.lock().put(ConsolePlace::Ports(place));
    }
    if let Some(described) = described {
        let place = |wanted| pci::free_place(vm, wanted);
        inter_vm::furnish(vm, &described, place, |irq| {
            platform.madt.isa(irq as u8).gsi
        });
    }
}

/// One vCPU on each CPU that it has, with the APIC id that the firmware's tables name.
fn add_vcpus(vm: &'static Vm, config: &VirtConfig) -> Result<(), Error> {
    let setup = config::setup();
    let own = || {
        let cpus = percpu::all().iter();
        cpus.filter(|cpu| setup.service_has(cpu.id()))
    };
    vm.set_vcpu_count(own().count());
    for (vcpu, cpu) in vm.active_vcpus().zip(own()) {
        let apic_id = cpu.apic_id.load(Ordering::Relaxed);
        lifecycle::prepare_vcpu(vcpu, config, cpu.id(), apic_id, setup.service_params())
            .ok_or(Error::Full)?;
    }
    Ok(())
}

/// Brings back the CPUs that the VM has given away, before it starts anew. Those to whom it gave them have ended.
pub fn recall_cpus(vm: &'static Vm) {
    let Some(config) = vm.nested.lock().as_ref().map(virt_config) else {
        return;
    };
    let share = config::setup().service_params();
    let given = |vcpu: &&Vcpu| !vcpu.shared.active.load(Ordering::SeqCst);
    for vcpu in vm.active_vcpus().filter(given) {
        let (cpu, apic_id) = (vcpu.pcpu(), vcpu.apic_id());
        match lifecycle::prepare_vcpu(vcpu, &config, cpu, apic_id, share) {
            Some(()) => info!("the Service VM has CPU {cpu} again"),
            None => warning!("the Service VM does not get CPU {cpu} back: it is full"),
        }
    }
}

/// Loads the VM's system and lets its boot processor begin there. Its vCPUs are in reset state.
pub fn boot(vm: &'static Vm, info: &BootInfo) -> Result<(), os::Error> {
    let wanted = config::setup().service_vm();
    let os = match &wanted {
        Some(wanted) => Os::find(info, &wanted.name, &wanted.os)?,
        None => {
            let kernel = info.kernel();
            let kernel = kernel.ok_or_else(|| os::no_kernel(module_tag::SERVICE_VM_KERNEL))?;
            Os::linux(kernel, info.ramdisk(), DEFAULT_BOOTARGS)
        }
    };
    let mut map = memory::HOST_MAP.lock();
    let map = map.as_mut().ok_or(os::Error::Copy)?;
    let place = *RSDP.call_once(|| place_of_rsdp(info, map));
    // At each start: the VM may have written over it.
    let rsdp = place.filter(|place| vm.write(*place, &info.rsdp));
    let rsdp = rsdp.unwrap_or(Gpa(0));
    let os = os.with_arguments_of_module();
    let pages = wanted.as_ref().map_or(HugePages::default(), |wanted| {
        HugePages::wanted(wanted, os.arguments(), cpu::has_gib_pages())
    });
    let mut more = ArrayString::<96>::new();
    let _ = write!(more, "{pages}");
    os::load(vm, &os.with_more_arguments(&more), map, rsdp)
}

/// A page for a copy of the root pointer, for kernels that are not started by firmware they know. `None`
/// when the loader gave none, or there is no room.
fn place_of_rsdp(info: &BootInfo, map: &mut HostMap) -> Option<Gpa> {
    if info.rsdp.is_empty() {
        return None;
    }
    let search = Search {
        size: PAGE_SIZE,
        align: PAGE_SIZE,
        min: PAGE_SIZE,
        max: 0xa_0000,
        highest: true,
    };
    let page = os::take(map, search)?;
    let _ = map.set(Hpa(page), PAGE_SIZE, MemoryKind::Acpi);
    Some(Gpa(page))
}
