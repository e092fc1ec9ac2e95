//! From a board and a scenario to what the hypervisor boots with: validate, allocate, encode.

use crate::allocate::{Plan, VmPlan, allocate};
use crate::model::Hex;
use crate::scenario::{BuildType, Features as FeatureOptions, Vm as ScenarioVm};
use crate::validate::{is_valid, megabytes, validate};
use crate::{Board, BoardFile, Finding, Scenario, ScenarioFile, Severity};
use acrn_abi::{Gpa, Hpa, PcpuId, VmId};
use acrn_config_blob::{
    Board as BoardIdentity, BoardCpu, BoardPci, Capacities, Config, DeviceKind, Features,
    HiddenDevice, List, LoadOrder, MemoryRegion, NO_VM, Options, Os, Range, Record, Scheduler,
    Scheduling, SharedRegion, Text, Vm, Vms, encode,
};
use arrayvec::ArrayString;

/// A configuration that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the hypervisor reads.
    pub blob: Vec<u8>,
    /// What was decided on the way.
    pub plan: Plan,
    /// Warnings and notes.
    pub findings: Vec<Finding>,
}

/// Builds a configuration. An error is everything that is wrong.
pub fn build(board: &BoardFile, scenario: &ScenarioFile) -> Result<Built, Vec<Finding>> {
    let (plan, findings) = plan(board, scenario)?;
    let blob = parts(&board.model, &scenario.model, &plan)
        .and_then(|parts| parts.encoded(&board.model, &scenario.model, &plan))
        .map_err(|message| {
            with(
                findings.clone(),
                scenario,
                "",
                "configuration",
                message,
                REPORT,
            )
        })?;
    Ok(Built {
        blob,
        plan,
        findings,
    })
}

/// Validates and allocates, without encoding.
pub fn plan(
    board: &BoardFile,
    scenario: &ScenarioFile,
) -> Result<(Plan, Vec<Finding>), Vec<Finding>> {
    let findings = validate(board, scenario);
    if !is_valid(&findings) {
        return Err(findings);
    }
    match allocate(&board.model, &scenario.model) {
        Ok(plan) => Ok((plan, findings)),
        Err(error) => {
            let path = error.path(&scenario.model);
            let message = error.to_string();
            Err(with(
                findings,
                scenario,
                &path,
                "allocation",
                message,
                error.remedy(),
            ))
        }
    }
}

/// The remedy for what no rule has foreseen.
const REPORT: &str = "make the value smaller; if it was in range, report this: a rule is missing";

fn with(
    mut findings: Vec<Finding>,
    file: &ScenarioFile,
    path: &str,
    rule: &'static str,
    message: String,
    remedy: &str,
) -> Vec<Finding> {
    findings.push(Finding {
        severity: Severity::Error,
        file: file.name.clone(),
        line: file.document.line_of(path),
        path: path.to_owned(),
        rule,
        message,
        remedy: remedy.to_owned(),
    });
    findings
}

/// What the configuration borrows from: lists that neither the scenario nor the plan has in its form.
struct Parts {
    cpus: Vec<BoardCpu>,
    ram: Vec<Range>,
    pci_devices: Vec<BoardPci>,
    schedulers: Vec<Scheduler>,
    regions: Vec<SharedRegion>,
    hidden: Vec<HiddenDevice>,
    acpi_tags: Vec<String>,
    bootargs: Vec<String>,
}

fn parts(board: &Board, scenario: &Scenario, plan: &Plan) -> Result<Parts, String> {
    let cpus = board.cpus();
    let acpi_tag = |(index, vm): (usize, &ScenarioVm)| match vm.load_order {
        LoadOrder::PreLaunched => format!("{}{index}", acrn_abi::module_tag::ACPI_PREFIX),
        _ => String::new(),
    };
    let memory = plan.vms.iter().flat_map(|vm| &vm.memory);
    Ok(Parts {
        schedulers: cpus
            .iter()
            .map(|cpu| scheduler(&scenario.hv.features, cpu.id))
            .collect(),
        cpus: cpus
            .iter()
            .map(|cpu| BoardCpu {
                apic_id: cpu.apic_id,
            })
            .collect(),
        ram: memory
            .map(|region| Range {
                start: region.start,
                size: region.size,
            })
            .collect(),
        pci_devices: physical_devices(board, plan),
        regions: shared_regions(scenario)?,
        hidden: scenario
            .hv
            .hidden_devices
            .devices
            .iter()
            .map(|&bdf| HiddenDevice { bdf })
            .collect(),
        acpi_tags: scenario.vms.iter().enumerate().map(acpi_tag).collect(),
        bootargs: scenario.vms.iter().map(bootargs).collect(),
    })
}

/// One line: files break long ones, and indent them.
fn bootargs(vm: &ScenarioVm) -> String {
    vm.os_config
        .bootargs
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn scheduler(features: &FeatureOptions, cpu: u16) -> Scheduler {
    let own = features
        .cpu_schedulers
        .list
        .iter()
        .find(|own| own.pcpu == i64::from(cpu));
    own.map_or(features.scheduler, |own| own.scheduler)
}

fn physical_devices(board: &Board, plan: &Plan) -> Vec<BoardPci> {
    let devices = plan.vms.iter().flat_map(|vm| &vm.pci_devices);
    let physical = devices.filter(|device| device.kind == DeviceKind::PassThrough);
    let identity = physical.filter_map(|device| {
        let (vendor, id) = board.pci_function(device.pbdf)?.id()?;
        Some(BoardPci {
            bdf: device.pbdf,
            vendor,
            device: id,
        })
    });
    identity.collect()
}

fn shared_regions(scenario: &Scenario) -> Result<Vec<SharedRegion>, String> {
    let regions = crate::allocate::hypervisor_regions(scenario).map(|(_, region)| {
        let name = ArrayString::from(&region.name).map_err(|error| error.to_string())?;
        Ok(SharedRegion {
            name,
            id: number(region.id),
            size: (region.size.max(0) as u64) << 20,
        })
    });
    regions.collect()
}

/// A list for the configuration.
fn list<'a, T: Record, const MAX: usize>(
    values: &'a [T],
    what: &str,
) -> Result<List<'a, T, MAX>, String> {
    List::new(values).ok_or_else(|| format!("{} {what}, at most {MAX} are possible", values.len()))
}

/// A text for the configuration.
fn text<'a, const MAX: usize>(value: &'a str, what: &str) -> Result<Text<'a, MAX>, String> {
    Text::new(value)
        .ok_or_else(|| format!("{what} “{value}” has more than {MAX} bytes or control characters"))
}

/// As much of a name as fits: it is for messages only.
fn shortened<const MAX: usize>(value: Option<&str>) -> Text<'_, MAX> {
    let value = value.unwrap_or_default();
    let length = (0..=MAX.min(value.len()))
        .rev()
        .find(|&end| value.is_char_boundary(end));
    Text::new(&value[..length.unwrap_or(0)]).unwrap_or_default()
}

/// A number that a rule or a range has already judged.
fn number<T: TryFrom<i64> + Default>(value: i64) -> T {
    T::try_from(value).unwrap_or_default()
}

impl Parts {
    fn encoded(&self, board: &Board, scenario: &Scenario, plan: &Plan) -> Result<Vec<u8>, String> {
        let vms = self.vms(scenario, plan)?;
        let config = self.config(board, scenario, plan, &vms)?;
        config.check().map_err(|error| error.to_string())?;
        let mut blob = Vec::new();
        encode(&config, &mut |piece| blob.extend_from_slice(piece));
        Ok(blob)
    }

    fn config<'a>(
        &'a self,
        board: &'a Board,
        scenario: &'a Scenario,
        plan: &'a Plan,
        vms: &'a [Vm<'a>],
    ) -> Result<Config<'a>, String> {
        Ok(Config {
            board: BoardIdentity {
                name: shortened(board.name.as_deref()),
                scenario: shortened(scenario.name.as_deref()),
                cpus: list(&self.cpus, "CPUs")?,
                memory_size: board.memory_size(),
                ram: list(&self.ram, "pieces of memory")?,
                pci_devices: list(&self.pci_devices, "PCI devices")?,
            },
            options: self.options(scenario, plan)?,
            vms: Vms::new(vms).ok_or_else(|| format!("{} VMs", vms.len()))?,
        })
    }

    fn vms<'a>(&'a self, scenario: &'a Scenario, plan: &'a Plan) -> Result<Vec<Vm<'a>>, String> {
        let vms = scenario.vms.iter().zip(&plan.vms).enumerate();
        vms.map(|(id, (vm, plan))| self.vm(id, vm, plan)).collect()
    }

    fn options<'a>(&'a self, scenario: &Scenario, plan: &'a Plan) -> Result<Options<'a>, String> {
        let hv = &scenario.hv;
        Ok(Options {
            features: features(scenario),
            memory_log_level: number(hv.debug.memory_log_level),
            trace_hub_log_level: number(hv.debug.trace_hub_log_level),
            console_log_level: number(hv.debug.console_log_level),
            console: plan.console,
            shell: hv.debug.shell,
            console_vm: number(hv.debug.console_vm),
            scheduler: hv.features.scheduler,
            cpu_schedulers: list(&self.schedulers, "CPUs")?,
            performance: hv.features.performance,
            vuart_rx_buffer: number(hv.features.vuart_rx_buffer),
            vuart_tx_buffer: number(hv.features.vuart_tx_buffer),
            vuart_timer_cpu: PcpuId(number(hv.features.vuart_timer_pcpu)),
            capacities: capacities(scenario),
            ram_start: Hpa(hv.memory.ram_start.unwrap_or_default().0),
            ram_size: plan.hypervisor_ram,
            gpu: u32::try_from(hv.misc.gpu.0).unwrap_or_default(),
            shared_regions: list(&self.regions, "regions of shared memory")?,
            hidden_devices: list(&self.hidden, "hidden devices")?,
            cache_masks: list(&plan.cache_masks, "cache masks")?,
        })
    }

    fn vm<'a>(&'a self, id: usize, vm: &'a ScenarioVm, plan: &'a VmPlan) -> Result<Vm<'a>, String> {
        let companion = Some(vm.companion_vmid).filter(|&id| id != i64::from(NO_VM));
        Ok(Vm {
            id: VmId(id as u16),
            name: text(&vm.name, "name")?,
            load_order: vm.load_order,
            kind: vm.kind,
            severity: plan.severity,
            flags: plan.flags,
            vcpus: list(&plan.vcpus, "CPUs of a VM")?,
            scheduling: scheduling(vm),
            virtual_clos: list(&plan.virtual_clos, "classes of service of a VM")?,
            memory_size: memory_size(vm),
            memory: list(&plan.memory, "pieces of memory of a VM")?,
            os: self.os(id, vm)?,
            vuarts: list(&plan.vuarts, "serial ports of a VM")?,
            pci_devices: list(&plan.pci_devices, "PCI devices of a VM")?,
            mmio_devices: list(&plan.mmio_devices, "MMIO devices of a VM")?,
            intx_pins: list(&plan.intx_pins, "interrupt pins of a VM")?,
            epc: MemoryRegion {
                start: Hpa(vm.epc.base.0),
                size: vm.epc.size.0,
            },
            companion: companion.map(|id| VmId(number(id))),
            restart: vm.restart,
            huge_pages_1g: plan.huge_pages.of_1g,
            huge_pages_2m: plan.huge_pages.of_2m,
        })
    }

    fn os<'a>(&'a self, id: usize, vm: &'a ScenarioVm) -> Result<Os<'a>, String> {
        if vm.load_order == LoadOrder::PostLaunched {
            return Ok(Os::default());
        }
        let os = &vm.os_config;
        let gpa = |address: Option<Hex>| address.map(|address| Gpa(address.0));
        Ok(Os {
            kind: os.kern_type,
            kernel_tag: text(&os.kern_mod, "module tag")?,
            ramdisk_tag: text(&os.ramdisk_mod, "module tag")?,
            acpi_tag: text(&self.acpi_tags[id], "module tag")?,
            bootargs: text(&self.bootargs[id], "command line")?,
            load_address: gpa(os.load_addr),
            entry_address: gpa(os.entry_addr),
        })
    }
}

fn memory_size(vm: &ScenarioVm) -> u64 {
    match vm.load_order {
        LoadOrder::Service => 0,
        _ => u64::try_from(megabytes(vm))
            .unwrap_or(0)
            .saturating_mul(1 << 20),
    }
}

fn scheduling(vm: &ScenarioVm) -> Scheduling {
    Scheduling {
        priority: vm.priority,
        weight: number(vm.bvt_weight),
        warp_value: number(vm.bvt_warp_value),
        warp_limit: number(vm.bvt_warp_limit),
        unwarp_period: number(vm.bvt_unwarp_period),
    }
}

fn features(scenario: &Scenario) -> Features {
    let hv = &scenario.hv;
    let f = &hv.features;
    let ssram = f.ssram.as_ref().is_some_and(|ssram| ssram.enabled);
    let switches = [
        (Features::DEBUG, hv.build_type == BuildType::Debug),
        (Features::RDT, f.rdt.enabled),
        (Features::CDP, f.rdt.cdp),
        (Features::VCAT, f.rdt.vcat),
        (Features::SSRAM, ssram),
        (Features::HYPERV, f.hyperv),
        (Features::SPLIT_LOCK, f.split_lock),
        (Features::UC_LOCK, f.uc_lock),
        (Features::KEEP_IRQ_DISABLED, f.keep_irq_disabled),
        (Features::IOMMU_SNOOP, f.iommu_snoop),
        (Features::ACPI, f.acpi),
        (Features::L1D_FLUSH, f.l1d_flush),
        (Features::MCE_WORKAROUND, f.mce_workaround),
        (Features::SECURITY_VM_FIXUP, f.security_vm_fixup),
        (Features::SERVICE_SUPERVISES, f.service_supervisor),
        (Features::RELOCATION, f.relocation),
        (Features::MULTIBOOT2, f.multiboot2),
    ];
    switches
        .into_iter()
        .fold(Features::default(), |all, (one, on)| all.with(one, on))
}

fn capacities(scenario: &Scenario) -> Capacities {
    let capacities = &scenario.hv.capacities;
    Capacities {
        max_vms: number(capacities.max_vms),
        max_ioapics: number(capacities.max_ioapics),
        max_pci_buses: number(capacities.max_pci_buses),
        max_pci_devices: number(capacities.max_pci_devices),
        max_ioapic_lines: number(capacities.max_ioapic_lines),
        max_interrupts: number(capacities.max_interrupts),
        max_msix_entries: number(capacities.max_msix),
        max_emulated_mmio: number(capacities.max_emulated_mmio),
        stack_size: u32::try_from(scenario.hv.memory.stack_size.0).unwrap_or_default(),
    }
}

/// Whether what was built says, to the hypervisor, what was meant.
#[cfg(test)]
pub(crate) fn says_what_was_meant(board: &Board, scenario: &Scenario, built: &Built) -> bool {
    let parts = parts(board, scenario, &built.plan).expect("it was built");
    let vms = parts.vms(scenario, &built.plan).expect("it was built");
    let meant = parts
        .config(board, scenario, &built.plan, &vms)
        .expect("it was built");
    Config::parse(&built.blob).is_ok_and(|config| config == meant)
}

#[cfg(test)]
mod tests;
