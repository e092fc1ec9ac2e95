//! From the loader's entry to the first guest: the order in which the machine is taken over.

use crate::arch::{self, apic, cpu, exception, ioapic, paging, smp, tsc, uart};
use crate::memory::BootMemory;
use crate::{
    config, console, iommu, log, memory, modules, pci, percpu, prelaunched, run, serial, service,
    shared_memory, virt,
};
use acrn_abi::{Hpa, PcpuId, VmId};
use acrn_acpi::Platform;
use acrn_boot::cmdline::{Options, Uart};
use acrn_boot::{BootInfo, multiboot};
use acrn_lifecycle::VmState;
use acrn_memory::{HostMap, MemoryKind, Owner};
use core::sync::atomic::Ordering;
use spin::{Mutex, Once};

/// What the loader said; large, so not on a stack.
static INFO: Mutex<BootInfo> = Mutex::new(BootInfo::new());
/// What the firmware's tables say.
static PLATFORM: Once<Platform> = Once::new();

/// The machine's tables; there after start-up.
pub fn platform() -> Option<&'static Platform> {
    PLATFORM.get()
}

/// Entered by the assembly code on the bootstrap processor.
pub extern "C" fn rust_main(magic: u32, information: u32) -> ! {
    tsc::mark_start();
    exception::build_table();
    percpu::install(PcpuId(0));
    let mut info = INFO.lock();
    let parsed = multiboot::parse(&BootMemory, magic, Hpa(information.into()), &mut info);
    let options_text = info.cmdline;
    let options = Options::parse(&options_text);
    open_console(&options);
    if let Err(error) = parsed {
        stop(format_args!("{error}"));
    }
    info!(
        "acrn-rs {} starts; loader {}",
        env!("CARGO_PKG_VERSION"),
        info.loader
    );
    for problem in &options.problems {
        warning!("{problem}");
    }
    check_processor();
    lay_out_memory(&info);
    if crate::vm::make_table().is_none() {
        stop(format_args!("no memory for the table of VMs"));
    }
    let platform = read_tables(&info);
    take_interrupts(platform);
    if let Err(error) = paging::build(pci::initialise(platform)) {
        stop(format_args!("no memory for page tables: {error:?}"));
    }
    paging::protect_this_cpu();
    apic::initialise();
    measure_clocks(platform);
    arch::rtc::initialise();
    if let Err(error) = memory::build_ownership(Owner::Vm(crate::vm::service().id)) {
        stop(format_args!(
            "no memory for the ownership map: {} bytes wanted",
            error.wanted
        ));
    }
    start_processors(platform);
    config::load(&info, &options);
    // First: whatever looks for free memory from here on must not find it.
    prelaunched::reserve();
    pci::withhold_hidden();
    if let Some(config) = config::setup().config() {
        serial::lay(config);
        shared_memory::reserve(config);
    }
    memory::open_frame_pool();
    iommu::find(platform);
    console::enable_input(platform);
    modules::keep(&mut info);
    prelaunched::launch(&info);
    make_service_vm(&info, platform);
    let_run(platform);
    drop(info);
    run::enter(PcpuId(0))
}

/// Works with what the loader said, after start-up.
pub fn with_info<R>(work: impl FnOnce(&BootInfo) -> R) -> R {
    work(&INFO.lock())
}

fn make_service_vm(info: &BootInfo, platform: &Platform) {
    if config::setup().has_service_vm() {
        if let Err(error) = service::launch(info, platform) {
            error!("no Service VM: {error}");
        }
    }
}

/// Confines the devices of all VMs and lets these run. When there is none, the shell has the console.
fn let_run(platform: &Platform) {
    iommu::confine(platform);
    crate::vm::all()
        .iter()
        .filter(|vm| *vm.state.lock() == VmState::Running)
        .for_each(crate::vm::Vm::let_run);
    match first_console() {
        Some(vm) => console::attach(vm),
        None => crate::shell::prompt(),
    }
}

/// The VM whose console is shown at first: the configuration's choice, else the Service VM, else the
/// first one.
fn first_console() -> Option<VmId> {
    let setup = config::setup();
    let running = |vm: &&crate::vm::Vm| vm.may_run() && vm.uart.lock().is_there();
    let chosen = setup.console_vm().map(|slot| crate::vm::get(VmId(slot)));
    let mut all = crate::vm::all().iter();
    let vm = chosen.filter(running).or_else(|| all.find(running));
    vm.map(|vm| vm.id)
}

/// Says why on the console and stops.
fn stop(reason: core::fmt::Arguments<'_>) -> ! {
    error!("{reason}; stopped");
    cpu::halt_forever()
}

fn open_console(options: &Options<'_>) {
    let location = match options.uart {
        Uart::Unspecified => uart::Location::Port(0x3f8),
        Uart::Disabled => uart::Location::Disabled,
        Uart::Port(port) => uart::Location::Port(port),
        Uart::Mmio(address) => uart::Location::Memory(address.get(), 4),
        Uart::Pci(bdf) => pci::find_uart(bdf).unwrap_or(uart::Location::Port(0x3f8)),
    };
    uart::initialise(location);
    if let Some(level) = options.loglevel {
        log::set_level(level);
    }
}

fn check_processor() {
    let mut complete = true;
    for feature in cpu::required_features().iter().filter(|f| !f.present) {
        error!("this CPU lacks {}", feature.name);
        complete = false;
    }
    match virt::detect() {
        Ok(()) => info!("virtualization by {}", virt::name()),
        Err(missing) => {
            complete = false;
            for feature in missing {
                error!("this CPU lacks {feature}");
            }
        }
    }
    if !complete {
        stop(format_args!("the hypervisor cannot run on this CPU"));
    }
    if !cpu::has_smep() || !cpu::has_smap() {
        warning!("this CPU lacks SMEP or SMAP: guest memory is not fenced off by hardware");
    }
}

/// Takes the memory map over; modules stay where they are until they have been loaded.
fn lay_out_memory(info: &BootInfo) {
    let mut map = HostMap::new();
    for range in &info.memory {
        let kind = MemoryKind::from_e820(range.kind.0);
        if map.insert(range.base, range.size, kind).is_err() {
            warning!("memory range {} + {:#x} ignored", range.base, range.size);
        }
    }
    let image = arch::boot::image();
    let end = image.end;
    let _ = map.set(Hpa(image.start), end - image.start, MemoryKind::Reserved);
    for module in &info.modules {
        let start = module.start.align_down(acrn_abi::PAGE_SIZE);
        let size = (module.end.get() - start.get()).next_multiple_of(acrn_abi::PAGE_SIZE);
        let _ = map.set(start, size, MemoryKind::Reserved);
    }
    let usable = map.total(MemoryKind::Usable);
    if let Err(error) = memory::initialise(map) {
        stop(format_args!(
            "no {} MiB of free memory below 4 GiB",
            error.wanted >> 20
        ));
    }
    let (start, size) = memory::pool();
    info!(
        "{} MiB of memory; {} MiB at {start} are the hypervisor's",
        usable >> 20,
        size >> 20
    );
}

fn read_tables(info: &BootInfo) -> &'static Platform {
    match Platform::discover(&BootMemory, &info.rsdp) {
        Ok(platform) => PLATFORM.call_once(|| platform),
        Err(error) => stop(format_args!("ACPI tables: {error}")),
    }
}

/// Silences the 8259s and takes the IOAPICs over.
fn take_interrupts(platform: &Platform) {
    silence_pics();
    let found = platform.madt.ioapics.iter();
    ioapic::initialise(found.map(|c| (c.id, c.address.get(), c.gsi_base.0)));
}

/// Masks all inputs of the two 8259s.
pub fn silence_pics() {
    // SAFETY: nobody but the hypervisor reaches the legacy interrupt controllers.
    unsafe {
        cpu::outb(0x21, 0xff);
        cpu::outb(0xa1, 0xff);
    }
}

/// Finds the rates of the TSC and of the local APIC's timer, both at once.
fn measure_clocks(platform: &Platform) {
    let fadt = platform.fadt.as_ref();
    let pm_timer = fadt.and_then(|f| f.pm_timer).and_then(|r| r.port());
    let start = apic::begin_calibration();
    let source = tsc::calibrate(pm_timer);
    apic::end_calibration(start, tsc::from_us(500));
    info!("TSC at {} kHz by {source}", tsc::khz());
}

/// Starts the other CPUs with a trampoline below 1 MiB that no guest sees.
fn start_processors(platform: &Platform) {
    let own = percpu::current().apic_id.load(Ordering::Relaxed);
    let Some(page) = reserve_trampoline() else {
        warning!("no free page below 640 KiB: only one CPU is used");
        return;
    };
    if paging::set_trampoline(page, true).is_err() {
        return;
    }
    smp::set_page(page);
    let mut count = 1;
    for found in platform
        .madt
        .cpus
        .iter()
        .filter(|c| c.enabled && c.apic_id != own)
    {
        if count == percpu::MAX_CPUS {
            warning!("only {count} CPUs are used");
            break;
        }
        percpu::set_count(count + 1);
        let id = PcpuId(count as u16);
        if smp::start(id, found.apic_id) {
            count += 1;
        } else {
            warning!("CPU with APIC id {} does not start", found.apic_id);
        }
        percpu::set_count(count);
    }
    smp::open(false);
    let mode = if apic::is_x2apic() { "x2APIC" } else { "xAPIC" };
    info!("{count} CPUs, {mode}");
}

fn reserve_trampoline() -> Option<Hpa> {
    let page = {
        let mut guard = memory::HOST_MAP.lock();
        let map = guard.as_mut()?;
        let side = acrn_memory::Side::Highest;
        let page = map.find_free(4096, 4096, Hpa(0x1000), Hpa(0xa_0000), side)?;
        map.set(page, 4096, MemoryKind::Reserved).ok()?;
        page
    };
    memory::claim(page, 4096).then_some(page)
}
