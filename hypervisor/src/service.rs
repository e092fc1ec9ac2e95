//! Making the Service VM: identity-mapped, owning whatever the hypervisor does not keep.

use crate::arch::{apic, boot, cpu, ioapic};
use crate::memory::{self, BootMemory};
use crate::vcpu::Wait;
use crate::virt::{ControlState, NestedTable, Segment, StartState, VirtConfig, gpr};
use crate::vm::{self, Vm};
use crate::{config, console, device_memory, exit, inter_vm, iommu, lifecycle, pci, percpu};
use acrn_abi::{Gpa, Gsi, Hpa, PAGE_SIZE, module_tag};
use acrn_acpi::Platform;
use acrn_boot::bzimage::{self, Initrd, KernelImage, LoadPlan, Search};
use acrn_boot::zero_page::{self, E820Entry};
use acrn_boot::{BootInfo, Module};
use acrn_lifecycle::VmState;
use acrn_memory::{Access, HostMap, MapError, MemType, MemoryKind, Owner, Side};
use acrn_vdev::ioapic::VIoApic;
use core::fmt;
use core::sync::atomic::Ordering;

/// Why there is no Service VM.
pub enum Error {
    /// No module has this tag.
    NoKernel(&'static str),
    /// The kernel is not what it should be, or does not fit.
    Kernel(bzimage::Error),
    /// The zero page cannot be built.
    ZeroPage(zero_page::Error),
    /// Nested tables.
    Map(MapError),
    /// The configuration windows and the pages with interrupt tables cannot be kept from it.
    Mediated,
    /// A copy into the VM's memory failed.
    Copy,
    /// More vCPUs than a CPU holds.
    Full,
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel(tag) => write!(
                f,
                "no boot module has the tag {tag}; load the kernel as a module whose string \
                 begins with that word"
            ),
            Self::Kernel(error) => write!(f, "the kernel's module: {error}"),
            Self::ZeroPage(error) => write!(f, "{error}"),
            Self::Map(error) => write!(f, "nested page tables: {error}"),
            Self::Mediated => {
                f.write_str("no page-table frames to keep PCI configuration from the VM")
            }
            Self::Copy => f.write_str("a boot module lies outside of the VM's memory"),
            Self::Full => f.write_str("no room for its vCPUs"),
        }
    }
}

/// Boot arguments when the module's string has none.
const DEFAULT_BOOTARGS: &str = "console=ttyS0 no_timer_check root=/dev/vda rw";

/// Creates the Service VM, loads its kernel and lets it run.
pub fn launch(info: &BootInfo, platform: &Platform) -> Result<(), Error> {
    let vm = vm::service();
    let wanted = config::setup().service_vm();
    let name = wanted.as_ref().map_or("Service_VM", |vm| vm.name.as_str());
    vm.describe(name.as_bytes(), true, 0);
    let os = Os::find(info, wanted.as_ref())?;
    let table = map_everything()?;
    // Which ports are the VM's own depends on its devices.
    add_devices(vm, platform);
    let config = VirtConfig {
        nested_root: table.root_pointer(),
        io_bitmap: lifecycle::service_io_bitmap(),
        msr_bitmap: lifecycle::msr_bitmap(),
    };
    *vm.nested.lock() = Some(table);
    add_vcpus(vm, &config)?;
    load(vm, info, &os)?;
    iommu::confine(vm, platform);
    *vm.state.lock() = VmState::Running;
    console::attach(vm.id);
    vm.let_run();
    Ok(())
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
    let image = boot::image();
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
    let (port, gsi) = console::service_uart_line(platform);
    {
        let mut uart = vm.uart.lock();
        uart.port = port;
        uart.gsi = gsi;
    }
    if let Some(described) = config::setup().service_vm() {
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

/// What is loaded into the VM.
struct Os<'a> {
    kernel: &'a Module,
    ramdisk: Option<&'a Module>,
    /// Boot arguments: those of the module's string, else the configuration's.
    cmdline: &'a str,
}

impl<'a> Os<'a> {
    /// The modules with the tags of the configuration, without one those with customary tags.
    fn find(info: &'a BootInfo, vm: Option<&acrn_config_blob::Vm<'static>>) -> Result<Self, Error> {
        let Some(os) = vm.map(|vm| &vm.os) else {
            let kernel = info.kernel();
            let kernel = kernel.ok_or(Error::NoKernel(module_tag::SERVICE_VM_KERNEL))?;
            return Ok(Self::of(kernel, info.ramdisk(), DEFAULT_BOOTARGS));
        };
        let tag = os.kernel_tag.as_str();
        let kernel = info.module(tag).ok_or(Error::NoKernel(tag))?;
        let ramdisk = info.module(&os.ramdisk_tag);
        if ramdisk.is_none() && !os.ramdisk_tag.is_empty() {
            warning!(
                "no boot module has the tag {}: the Service VM gets no RAM disk",
                os.ramdisk_tag
            );
        }
        Ok(Self::of(kernel, ramdisk, os.bootargs.as_str()))
    }

    fn of(kernel: &'a Module, ramdisk: Option<&'a Module>, bootargs: &'a str) -> Self {
        let cmdline = kernel.tag().text.unwrap_or(bootargs);
        Self {
            kernel,
            ramdisk,
            cmdline,
        }
    }
}

/// Loads the kernel and sets the bootstrap processor to its 32-bit entry.
fn load(vm: &'static Vm, info: &BootInfo, os: &Os<'_>) -> Result<(), Error> {
    let Os {
        kernel,
        ramdisk,
        cmdline,
    } = *os;
    let image =
        KernelImage::read(&BootMemory, kernel.start, kernel.size()).map_err(Error::Kernel)?;
    let initrd = ramdisk.map(|m| Initrd {
        size: m.size(),
        in_place: None,
    });
    let mut map = memory::HOST_MAP.lock();
    let map = map.as_mut().ok_or(Error::Copy)?;
    // A scratch copy: what is found free is taken from it, the guest's own map stays whole.
    let mut free = map.clone();
    let kernel_at = clear_of(&image, kernel, &mut free)?;
    let ramdisk_at = ramdisk
        .map(|m| clear_of(&image, m, &mut free))
        .transpose()?;
    let plan = LoadPlan::choose(&image, initrd, cmdline.len() as u64, |search| {
        take(&mut free, search)
    })
    .map_err(Error::Kernel)?;
    let rsdp = place_rsdp(vm, info, map, &mut free);
    copy_images(kernel_at, ramdisk_at.zip(ramdisk), &image, &plan)?;
    // The modules' memory is the guest's from here on.
    for module in &info.modules {
        let start = module.start.align_down(PAGE_SIZE);
        let size = (module.end.get() - start.get()).next_multiple_of(PAGE_SIZE);
        let _ = map.set(start, size, MemoryKind::Usable);
        hand_over(vm, start, size)?;
    }
    write_parameters(
        vm,
        &image,
        &plan,
        ramdisk.map_or(0, Module::size),
        rsdp,
        cmdline,
        map,
    )?;
    info!(
        "Service VM: Linux {} at {}, {} vCPUs",
        image.version,
        plan.kernel,
        vm.vcpu_count()
    );
    start_state(vm, &plan);
    Ok(())
}

/// Makes memory that held a boot module ordinary memory of the VM, which it may also lend.
fn hand_over(vm: &Vm, start: Hpa, size: u64) -> Result<(), Error> {
    if let Some(owners) = memory::OWNERS.lock().as_mut() {
        owners
            .set_range(start, size, Owner::Vm(vm.id))
            .map_err(|_| Error::Copy)?;
    }
    let mut guard = vm.nested.lock();
    let table = guard.as_mut().ok_or(Error::Copy)?;
    let gpa = Gpa(start.0);
    Ok(table.map(gpa, start, size, Access::RWX, MemType::WriteBack)?)
}

fn take(free: &mut HostMap, search: Search) -> Option<u64> {
    let side = if search.highest {
        Side::Highest
    } else {
        Side::Lowest
    };
    let max = Hpa(search.max.min(memory::top()));
    let found = free.find_free(search.size, search.align, Hpa(search.min), max, side)?;
    free.set(found, search.size, MemoryKind::Reserved).ok()?;
    Some(found.get())
}

/// A copy of the root pointer for kernels that are not started by firmware they know.
fn place_rsdp(vm: &Vm, info: &BootInfo, map: &mut HostMap, free: &mut HostMap) -> Gpa {
    if info.rsdp.is_empty() {
        return Gpa(0);
    }
    let search = Search {
        size: PAGE_SIZE,
        align: PAGE_SIZE,
        min: PAGE_SIZE,
        max: 0xa_0000,
        highest: true,
    };
    let Some(page) = take(free, search) else {
        return Gpa(0);
    };
    let _ = map.set(Hpa(page), PAGE_SIZE, MemoryKind::Acpi);
    if vm.write(Gpa(page), &info.rsdp) {
        Gpa(page)
    } else {
        Gpa(0)
    }
}

/// Moves a module away from where the kernel would like to be, and tells where it is then.
/// A loader that puts modules low (GRUB on UEFI) would else leave a kernel that cannot run
/// elsewhere without a place.
fn clear_of(image: &KernelImage, module: &Module, free: &mut HostMap) -> Result<Hpa, Error> {
    let kernel_end = image.pref_address.saturating_add(image.init_size);
    let first = module.start.align_down(PAGE_SIZE);
    let size = (module.end.get() - first.get()).next_multiple_of(PAGE_SIZE);
    if first.get() >= kernel_end || module.end.get() <= image.pref_address {
        return Ok(module.start);
    }
    let beyond = Search {
        size,
        align: PAGE_SIZE,
        min: kernel_end,
        max: u64::MAX,
        highest: true,
    };
    // Without room the kernel may still run elsewhere, with the module where it is.
    let Some(to) = take(free, beyond) else {
        return Ok(module.start);
    };
    if !memory::move_guest(module.start, Hpa(to), module.size()) {
        return Err(Error::Copy);
    }
    let _ = free.set(first, size, MemoryKind::Usable);
    Ok(Hpa(to))
}

/// Copies initrd and kernel from where they are now to their places, which are apart from both.
fn copy_images(
    kernel: Hpa,
    ramdisk: Option<(Hpa, &Module)>,
    image: &KernelImage,
    plan: &LoadPlan,
) -> Result<(), Error> {
    let ok = |done: bool| if done { Ok(()) } else { Err(Error::Copy) };
    if let (Some((start, module)), Some(target)) = (ramdisk, plan.initrd) {
        ok(memory::move_guest(start, Hpa(target.0), module.size()))?;
    }
    let payload = Hpa(kernel.get() + image.payload_offset);
    ok(memory::move_guest(
        payload,
        Hpa(plan.kernel.0),
        image.payload_size,
    ))
}

fn write_parameters(
    vm: &Vm,
    image: &KernelImage,
    plan: &LoadPlan,
    initrd_size: u64,
    rsdp: Gpa,
    cmdline: &str,
    map: &HostMap,
) -> Result<(), Error> {
    let mut page = [0; 4096];
    let e820 = map.iter().map(|block| E820Entry {
        base: Gpa(block.start.get()),
        size: block.size(),
        kind: acrn_boot::MemoryKind(block.kind.to_e820()),
    });
    zero_page::build(&mut page, image, plan, initrd_size, rsdp, e820).map_err(Error::ZeroPage)?;
    let written = vm.write(plan.zero_page, &page)
        && vm.write(plan.cmdline, cmdline.as_bytes())
        && vm.write(Gpa(plan.cmdline.0 + cmdline.len() as u64), &[0]);
    if written { Ok(()) } else { Err(Error::Copy) }
}

/// 32-bit protected mode without paging, as the boot protocol wants it.
fn start_state(vm: &'static Vm, plan: &LoadPlan) {
    let flat = |selector, access| Segment {
        selector,
        access,
        limit: u32::MAX,
        base: 0,
    };
    let state = StartState {
        control: ControlState {
            cr0: cpu::cr0::PE | cpu::cr0::ET,
            ..ControlState::default()
        },
        cs: flat(0x10, 0xc09b),
        data: [flat(0x18, 0xc093); 5],
        gdt: (0, 0),
        idt: (0, 0),
        ldt: 0,
        tr: 0,
    };
    let Some(vcpu) = vm.vcpu(0) else { return };
    // SAFETY: the VM does not run yet.
    let local = unsafe { vcpu.local() };
    local.virt.set_state(&state);
    local.registers.rip = plan.kernel.0;
    local.registers.gpr[gpr::RSI] = plan.zero_page.0;
    local.pending_io = exit::PendingIo::None;
    vcpu.set_wait(Wait::Nothing);
}
