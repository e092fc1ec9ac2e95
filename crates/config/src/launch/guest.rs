//! What a VM is for `acrn-dm`, and what it needs of the Service VM.

use super::LaunchError;
use super::quote::words;
use crate::allocate::{Plan, Slots, VmPlan};
use crate::board::Cpu;
use crate::scenario::{
    Backend, Console, ConsoleUse, ConsoleVuart, Display, DisplayType, Gpu, NetworkFramework,
    OsType, Provider, Vm,
};
use crate::{Board, Scenario};
use acrn_abi::Bdf;
use acrn_config_blob::{DeviceKind, PciDevice, Scheduler, VmKind};

const OVMF: &str = "/usr/share/acrn/bios/OVMF.fd";
/// The host bridge, and what has the serial ports.
const HOST_BRIDGE: &str = "0:0,hostbridge";
const LPC: &str = "1:0,lpc";
/// Drivers look for the graphics device here.
const GRAPHICS_SLOT: u8 = 2;
const ETHERNET: u16 = 0x0200;
const XHCI: u16 = 0x0c03;

/// A VM.
#[derive(Clone, Debug, Default)]
pub(super) struct Guest {
    pub(super) name: String,
    pub(super) restart: acrn_config_blob::Restart,
    /// For `-m`.
    pub(super) memory: String,
    /// Local APIC ids, vCPU 0's first.
    pub(super) apic_ids: Vec<u32>,
    /// For `-s`.
    pub(super) pci: Vec<String>,
    /// For `-l`.
    pub(super) ports: Vec<String>,
    pub(super) real_time: bool,
    pub(super) lapic_passthrough: bool,
    /// Options without a key in `acrn-dm --config`.
    pub(super) options: Vec<String>,
    /// The user's own words.
    pub(super) more: Vec<String>,
    /// Network interfaces.
    pub(super) taps: Vec<String>,
    /// What must be there.
    pub(super) files: Vec<String>,
    /// Kernel modules.
    pub(super) modules: Vec<&'static str>,
    /// The CPUs are the VM's own.
    pub(super) owns_cpus: bool,
    /// PCI devices that it is given.
    pub(super) passed: Vec<Bdf>,
}

impl Guest {
    pub(super) fn new(
        board: &Board,
        scenario: &Scenario,
        plan: &Plan,
        index: usize,
        vm: &Vm,
    ) -> Result<Self, LaunchError> {
        let more = words(&vm.customized_parameters).ok_or_else(|| LaunchError::Quote {
            vm: vm.name.clone(),
            text: vm.customized_parameters.clone(),
        })?;
        let mut this = Self {
            name: vm.name.clone(),
            restart: vm.restart,
            memory: format!("{}M", vm.memory.size),
            apic_ids: apic_ids(&board.cpus(), vm)?,
            real_time: vm.kind == VmKind::RealTime,
            lapic_passthrough: vm.lapic_passthrough,
            owns_cpus: owns_cpus(scenario, vm),
            more,
            ..Self::default()
        };
        this.firmware(vm);
        this.serial_ports(vm);
        let none = VmPlan::default();
        let places = plan.vms.get(index).unwrap_or(&none);
        let mut devices = Devices::new(&vm.name, &places.pci_devices);
        this.planned(board, scenario, vm, &places.pci_devices, &mut devices);
        this.shared_by_device_model(scenario, vm, &mut devices)?;
        this.virtio(vm, &mut devices)?;
        this.pci = devices.in_order();
        this.needs_files();
        Ok(this)
    }

    /// All words for `acrn-dm`.
    pub(super) fn words(&self) -> Vec<String> {
        let mut all = vec!["-m".to_owned(), self.memory.clone()];
        if !self.apic_ids.is_empty() {
            all.extend(["--cpu_affinity".to_owned(), self.affinity()]);
        }
        for (option, values) in [("-l", &self.ports), ("-s", &self.pci)] {
            for value in values {
                all.extend([option.to_owned(), value.clone()]);
            }
        }
        all.extend(self.options.iter().cloned());
        for (option, wanted) in [
            ("--rtvm", self.real_time),
            ("--lapic_pt", self.lapic_passthrough),
        ] {
            all.extend(wanted.then(|| option.to_owned()));
        }
        all.extend(self.more.iter().cloned());
        all.push(self.name.clone());
        all
    }

    /// For `--cpu_affinity`.
    pub(super) fn affinity(&self) -> String {
        let ids: Vec<String> = self.apic_ids.iter().map(u32::to_string).collect();
        ids.join(",")
    }

    fn firmware(&mut self, vm: &Vm) {
        if vm.vbootloader {
            self.options.extend(["--ovmf".to_owned(), OVMF.to_owned()]);
            self.files.push(OVMF.to_owned());
        }
        let windows = vm.os_type == OsType::Windows;
        for (option, wanted) in [("--windows", windows), ("--enable_trusty", vm.secure_world)] {
            self.options.extend(wanted.then(|| option.to_owned()));
        }
    }

    fn serial_ports(&mut self, vm: &Vm) {
        let console = match vm.console_vuart {
            ConsoleVuart::Com1 => Some("com1"),
            ConsoleVuart::Com2 => Some("com2"),
            ConsoleVuart::Com3 => Some("com3"),
            ConsoleVuart::Com4 => Some("com4"),
            ConsoleVuart::None | ConsoleVuart::Pci => None,
        };
        if vm.vuart0 {
            self.ports.push("com1,stdio".to_owned());
        }
        if let Some(port) = console.filter(|port| !(vm.vuart0 && *port == "com1")) {
            self.ports.push(format!("{port},hv"));
        }
    }

    /// What the plan has a place for: physical devices, shared memory, serial cards.
    fn planned(
        &mut self,
        board: &Board,
        scenario: &Scenario,
        vm: &Vm,
        planned: &[PciDevice],
        devices: &mut Devices,
    ) {
        for device in planned {
            let slot = device.vbdf.device();
            match device.kind {
                DeviceKind::SharedMemory => {
                    let regions = &scenario.hv.features.ivshmem.regions;
                    let mut own = regions
                        .iter()
                        .filter(|r| r.provider == Provider::Hypervisor);
                    if let Some(region) = own.nth(usize::from(device.number)) {
                        let (name, size) = (&region.name, region.size);
                        devices.put(slot, format!("ivshmem,hv:/{name},{size}"));
                    }
                }
                DeviceKind::Vuart => {
                    devices.put(slot, format!("uart,vuart_idx:{}", device.number));
                }
                DeviceKind::PassThrough => {
                    self.passed.push(device.pbdf);
                    let slot = root_port_of(planned, device).unwrap_or(slot);
                    devices.put(slot, passed_through(board, vm, device.pbdf));
                }
                DeviceKind::HostBridge | DeviceKind::RootPort => {}
            }
        }
    }

    fn shared_by_device_model(
        &self,
        scenario: &Scenario,
        vm: &Vm,
        devices: &mut Devices,
    ) -> Result<(), LaunchError> {
        let regions = scenario.hv.features.ivshmem.regions.iter();
        for region in regions.filter(|region| region.provider == Provider::DeviceModel) {
            let mut members = region.members.list.iter();
            if let Some(member) = members.find(|member| member.vm_name == vm.name) {
                let text = format!("ivshmem,dm:/{},{}", region.name, region.size);
                match member.vbdf {
                    Some(vbdf) => devices.put(vbdf.device(), text),
                    None => devices.add(text)?,
                }
            }
        }
        Ok(())
    }

    fn virtio(&mut self, vm: &Vm, devices: &mut Devices) -> Result<(), LaunchError> {
        let virtio = &vm.virtio_devices;
        if let Some(gpu) = &virtio.gpu {
            devices.put(GRAPHICS_SLOT, graphics(gpu));
        }
        let ports: Vec<String> = vm.usb.devices.iter().map(|port| first_word(port)).collect();
        if !ports.is_empty() {
            devices.add(format!("xhci,{}", ports.join(":")))?;
        }
        for input in &virtio.inputs {
            let device = first_word(&input.device);
            let id = input
                .id
                .as_ref()
                .map_or(String::new(), |id| format!(",{id}"));
            devices.add(format!("virtio-input,{device}{id}"))?;
            self.files.push(device);
        }
        for (number, console) in virtio.consoles.iter().enumerate() {
            devices.add(self::console(number, console))?;
        }
        for network in &virtio.networks {
            let vhost = network.framework == NetworkFramework::Kernel;
            let carrier = if vhost { ",vhost" } else { "" };
            devices.add(format!("virtio-net,tap={}{carrier}", network.interface))?;
            self.taps.push(network.interface.clone());
            self.modules.extend(vhost.then_some("vhost_net"));
        }
        for block in &virtio.blocks {
            devices.add(format!("virtio-blk,{block}"))?;
        }
        for cid in &virtio.vsocks {
            devices.add(format!("vhost-vsock,cid={cid}"))?;
            self.modules.push("vhost_vsock");
        }
        self.modules.sort_unstable();
        self.modules.dedup();
        // Serial ports hang on it; a real-time VM without any does not need it.
        let fixed = [HOST_BRIDGE, LPC].into_iter();
        let wanted = fixed.take(if self.real_time && self.ports.is_empty() {
            1
        } else {
            2
        });
        devices.begin_with(wanted);
        Ok(())
    }

    /// Paths in what was put together.
    fn needs_files(&mut self) {
        let blocks = self
            .pci
            .iter()
            .filter_map(|words| words.split_once("virtio-blk,"));
        let paths = blocks.flat_map(|(_, words)| words.split(','));
        let path = paths.filter(|word| word.starts_with(['/', '.']));
        self.files.extend(path.map(str::to_owned));
        let own = self.more.iter().zip(self.more.iter().skip(1));
        let kernels = own
            .filter(|(option, _)| ["-k", "-r", "--kernel", "--ramdisk"].contains(&option.as_str()));
        self.files.extend(kernels.map(|(_, path)| path.clone()));
    }
}

fn apic_ids(cpus: &[Cpu], vm: &Vm) -> Result<Vec<u32>, LaunchError> {
    let id = |number: i64| {
        let found = cpus.iter().find(|cpu| i64::from(cpu.id) == number);
        found.map(|cpu| cpu.apic_id).ok_or(LaunchError::Cpu {
            vm: vm.name.clone(),
            cpu: number,
        })
    };
    vm.cpu_affinity
        .pcpus
        .iter()
        .map(|pcpu| id(pcpu.id))
        .collect()
}

/// Whether Linux in the Service VM must leave the VM's CPUs.
fn owns_cpus(scenario: &Scenario, vm: &Vm) -> bool {
    let noop = scenario.hv.features.scheduler == Scheduler::Noop;
    vm.own_pcpu || vm.kind == VmKind::RealTime || noop
}

/// The place of the root port that a device is behind.
fn root_port_of(planned: &[PciDevice], device: &PciDevice) -> Option<u8> {
    let bus = u16::from(device.vbdf.bus());
    let is_its = |port: &&PciDevice| port.kind == DeviceKind::RootPort && port.number == bus;
    planned.iter().find(is_its).map(|port| port.vbdf.device())
}

fn passed_through(board: &Board, vm: &Vm, bdf: Bdf) -> String {
    let function = board.pci_function(bdf);
    let class = function.as_ref().map_or(0, |function| function.class());
    let ptm = function.is_some_and(|function| function.has_capability("PTM"));
    let mut text = format!(
        "passthru,{:02x}/{:02x}/{}",
        bdf.bus(),
        bdf.device(),
        bdf.function()
    );
    if vm.ptm && ptm && class == ETHERNET {
        text.push_str(",enable_ptm");
    }
    if vm.os_type == OsType::Windows && class == XHCI {
        text.push_str(",d3hot_reset");
    }
    text
}

fn graphics(gpu: &Gpu) -> String {
    let geometry = |display: &Display| match gpu.display_type {
        DisplayType::FullScreen => {
            let monitor = display.monitor_id.unwrap_or(0);
            format!("geometry=fullscreen:{monitor}")
        }
        DisplayType::Window => {
            let size = display.window_resolutions.as_deref().unwrap_or("1280x720");
            let (x, y) = (display.horizontal_offset, display.vertical_offset);
            let (x, y) = (x.unwrap_or(0), y.unwrap_or(0));
            format!("geometry={size}+{x}+{y}")
        }
    };
    let all: Vec<String> = gpu.displays.list.iter().map(geometry).collect();
    format!("virtio-gpu,{}", all.join(","))
}

fn console(number: usize, console: &Console) -> String {
    let mark = match console.use_type {
        ConsoleUse::Console => "@",
        ConsoleUse::Port => "",
    };
    let path = |path: &Option<String>| path.clone().unwrap_or_default();
    let end = match console.backend {
        Backend::Stdio => format!("stdio:stdio_port{number}"),
        Backend::Pty => format!("pty:pty_port{number}"),
        Backend::File => format!("file:file_port{number}={}", path(&console.file)),
        Backend::Tty => format!("tty:tty_port{number}={}", path(&console.tty)),
        Backend::SocketServer => {
            format!(
                "socket:socket_port{number}={}:server",
                path(&console.socket)
            )
        }
        Backend::SocketClient => {
            format!(
                "socket:socket_port{number}={}:client",
                path(&console.socket)
            )
        }
    };
    format!("virtio-console,{mark}{end}")
}

/// What stands before the description that the Configurator adds.
fn first_word(text: &str) -> String {
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The devices on the VM's bus.
struct Devices {
    vm: String,
    slots: Slots,
    list: Vec<(u8, String)>,
}

impl Devices {
    fn new(vm: &str, planned: &[PciDevice]) -> Self {
        let mut slots = Slots::post_launched();
        planned.iter().for_each(|device| slots.reserve(device.vbdf));
        Self {
            vm: vm.to_owned(),
            slots,
            list: Vec::new(),
        }
    }

    /// At a place that was chosen.
    fn put(&mut self, slot: u8, words: String) {
        self.slots.reserve(Bdf::new(0, slot, 0));
        self.list.push((slot, format!("{slot},{words}")));
    }

    /// At the first free one.
    fn add(&mut self, words: String) -> Result<(), LaunchError> {
        let place = self.slots.take(None, 0);
        let place = place.ok_or_else(|| LaunchError::NoSlot {
            vm: self.vm.clone(),
        })?;
        self.put(place.device(), words);
        Ok(())
    }

    fn begin_with(&mut self, fixed: impl Iterator<Item = &'static str>) {
        self.list.extend(fixed.map(|words| (0, words.to_owned())));
    }

    fn in_order(mut self) -> Vec<String> {
        self.list.sort();
        self.list.into_iter().map(|(_, words)| words).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_are_windows_or_monitors() {
        let mut gpu = Gpu {
            display_type: DisplayType::FullScreen,
            ..Gpu::default()
        };
        gpu.displays.list = vec![Display::default(), Display::default()];
        gpu.displays.list[1].monitor_id = Some(1);
        let both = "virtio-gpu,geometry=fullscreen:0,geometry=fullscreen:1";
        assert_eq!(graphics(&gpu), both);
        gpu.display_type = DisplayType::Window;
        gpu.displays.list.truncate(1);
        gpu.displays.list[0].horizontal_offset = Some(100);
        assert_eq!(graphics(&gpu), "virtio-gpu,geometry=1280x720+100+0");
    }

    #[test]
    fn consoles_have_names_of_their_own() {
        let file = Console {
            backend: Backend::File,
            file: Some("/tmp/log".to_owned()),
            use_type: ConsoleUse::Port,
            ..Console::default()
        };
        assert_eq!(console(0, &file), "virtio-console,file:file_port0=/tmp/log");
        let socket = Console {
            backend: Backend::SocketClient,
            socket: Some("/run/s".to_owned()),
            ..Console::default()
        };
        let expected = "virtio-console,@socket:socket_port1=/run/s:client";
        assert_eq!(console(1, &socket), expected);
    }
}
