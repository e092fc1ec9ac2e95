//! Each rule, with a change of a good scenario that breaks it, and one near by that does not.

use super::*;
use crate::model::Hex;
use crate::presets::preset;
use crate::scenario::{Backend, CpuScheduler};
use crate::scenario::{
    ConsoleVuart, DisplayType, Hidden, HpaRegion, IvshmemRegion, IvshmemVm, Pcpu, Ssram,
    VuartEndpoint,
};
use acrn_abi::Bdf;
use acrn_config_blob::{CacheKind, KernelKind, LoadOrder, Scheduler, VmKind, VuartKind};

type Change = fn(&mut Board, &mut Scenario);

struct Case(&'static str, Change, Change);

// The VMs of the scenario "everything".
const RT: usize = 0;
const SERVICE: usize = 1;
const WINDOWS: usize = 2;
const LINUX: usize = 3;

fn good() -> (Board, Scenario) {
    let preset = preset("generic").unwrap();
    let board = BoardFile::parse("board.xml", preset.board).unwrap().model;
    (
        board,
        ScenarioFile::parse("scenario.xml", preset.scenario)
            .unwrap()
            .model,
    )
}

fn pcpu(id: i64) -> Pcpu {
    Pcpu {
        id,
        real_time: false,
    }
}

fn piece(start: u64, size: i64) -> HpaRegion {
    HpaRegion {
        start: Hex(start),
        size,
    }
}

/// A second pre-launched VM in front.
fn with_second_pre(s: &mut Scenario, kind: VmKind) {
    let mut vm = s.vms[RT].clone();
    vm.name = "SECOND".to_owned();
    vm.kind = kind;
    vm.pci_devs.list.clear();
    vm.cpu_affinity.pcpus = vec![pcpu(4)];
    vm.mmio_resources.tpm2 = false;
    vm.pt_intx.clear();
    s.vms.insert(1, vm);
    for (id, vm) in s.vms.iter_mut().enumerate() {
        vm.id = id as i64;
    }
}

fn region(s: &mut Scenario) -> &mut IvshmemRegion {
    &mut s.hv.features.ivshmem.regions[0]
}

fn end(s: &mut Scenario, line: usize, end: usize) -> &mut VuartEndpoint {
    &mut s.hv.vuart_connections.list[line].endpoints[end]
}

fn same(_: &mut Board, _: &mut Scenario) {}

fn ssram(b: &mut Board, s: &mut Scenario, start: u64) {
    s.hv.features.ssram = Some(Ssram { enabled: true });
    let cache = b
        .caches
        .list
        .iter_mut()
        .find(|cache| cache.level == 3)
        .unwrap();
    let mut region = cache.capabilities[0].clone();
    region.id = "Software SRAM".to_owned();
    (region.start, region.end) = (Some(Hex(start)), Some(Hex(start + 0xf_ffff)));
    region.size = Some(1 << 20);
    cache.capabilities.push(region);
}

fn first_mask(s: &mut Scenario) -> &mut crate::scenario::CachePolicy {
    &mut s.hv.cache_region.as_mut().unwrap().list[0].policies[0]
}

const CASES: &[Case] = &[
    Case(
        "board-name",
        |_, s| s.board = Some("other".to_owned()),
        |_, s| s.board = None,
    ),
    Case(
        "some-vm",
        |_, s| s.vms.clear(),
        |_, s| s.hv.capacities.max_vms = 4,
    ),
    Case(
        "one-service-vm",
        |_, s| s.vms[LINUX].load_order = LoadOrder::Service,
        same,
    ),
    Case(
        "service-vm-for-post-launched",
        |_, s| s.vms[SERVICE].load_order = LoadOrder::PreLaunched,
        |_, s| s.vms.truncate(1),
    ),
    Case("vm-order", |_, s| s.vms.swap(0, 1), |_, s| s.vms.swap(2, 3)),
    Case("vm-id", |_, s| s.vms[1].id = 2, same),
    Case(
        "vm-name",
        |_, s| s.vms[3].name = s.vms[2].name.clone(),
        |_, s| s.vms[3].name = "other".to_owned(),
    ),
    Case(
        "one-pre-launched-rtvm",
        |_, s| with_second_pre(s, VmKind::RealTime),
        |_, s| with_second_pre(s, VmKind::Standard),
    ),
    Case(
        "one-kind-of-rtvm",
        |_, s| s.vms[LINUX].kind = VmKind::RealTime,
        |_, s| {
            s.vms[LINUX].kind = VmKind::RealTime;
            s.vms[RT].kind = VmKind::Standard;
        },
    ),
    Case(
        "lapic-needs-rtvm",
        |_, s| s.vms[LINUX].lapic_passthrough = true,
        |_, s| {
            s.vms[LINUX].lapic_passthrough = true;
            s.vms[LINUX].kind = VmKind::RealTime;
        },
    ),
    Case(
        "rtvm-wants-lapic",
        |_, s| s.vms[RT].lapic_passthrough = false,
        same,
    ),
    Case(
        "service-lapic-needs-nested",
        |_, s| s.vms[SERVICE].lapic_passthrough = true,
        |_, s| {
            s.vms[SERVICE].lapic_passthrough = true;
            s.vms[SERVICE].nested_virtualization = true;
        },
    ),
    Case(
        "companion",
        |_, s| s.vms[0].companion_vmid = 9,
        |_, s| s.vms[0].companion_vmid = 1,
    ),
    Case(
        "console-vm",
        |_, s| s.hv.debug.console_vm = 9,
        |_, s| s.hv.debug.console_vm = 65535,
    ),
    Case(
        "serial-console",
        |_, s| s.hv.debug.serial_console.clear(),
        |_, s| s.hv.debug.serial_console = "None".to_owned(),
    ),
    Case(
        "serial-console-exists",
        |_, s| s.hv.debug.serial_console = "/dev/ttyS7".to_owned(),
        |_, s| s.hv.debug.serial_console = "/dev/ttyS1".to_owned(),
    ),
    Case(
        "raw-kernel-addresses",
        |_, s| s.vms[RT].os_config.kern_type = KernelKind::Raw,
        |_, s| {
            s.vms[RT].os_config.kern_type = KernelKind::Raw;
            s.vms[RT].os_config.load_addr = Some(Hex(0x1000));
            s.vms[RT].os_config.entry_addr = Some(Hex(0x1000));
        },
    ),
    Case(
        "kernel-tag",
        |_, s| s.vms[RT].os_config.kern_mod.clear(),
        |_, s| s.vms[LINUX].os_config.kern_mod.clear(),
    ),
    Case(
        "board-cpus",
        |b, _| b.processors.dies[0].cores[3].threads.clear(),
        same,
    ),
    Case(
        "cpu-exists",
        |_, s| s.vms[LINUX].cpu_affinity.pcpus[0].id = 8,
        |_, s| s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(5)],
    ),
    Case(
        "cpu-twice",
        |_, s| s.vms[LINUX].cpu_affinity.pcpus[0].id = 7,
        |_, s| s.vms[LINUX].cpu_affinity.pcpus.swap(0, 1),
    ),
    Case(
        "vm-has-cpu",
        |_, s| s.vms[LINUX].cpu_affinity.pcpus.clear(),
        |_, s| s.vms[SERVICE].cpu_affinity.pcpus.clear(),
    ),
    Case(
        "service-vm-has-cpu",
        |_, s| s.vms[RT].cpu_affinity.pcpus = (0..8).map(pcpu).collect(),
        |_, s| s.vms[RT].cpu_affinity.pcpus = (1..8).map(pcpu).collect(),
    ),
    Case(
        "rtvm-cpu-alone",
        |_, s| s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(3)],
        |_, s| s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(1)],
    ),
    Case(
        "own-cpu-alone",
        |_, s| s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(2)],
        |_, s| {
            s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(2)];
            s.vms[RT].own_pcpu = false;
        },
    ),
    Case(
        "cpu-kinds",
        |_, s| s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(5), pcpu(6)],
        |_, s| s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(4), pcpu(5)],
    ),
    Case(
        "rtvm-not-on-cpu-0",
        |_, s| s.vms[RT].cpu_affinity.pcpus = vec![pcpu(0)],
        |_, s| s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(0)],
    ),
    Case(
        "vuart-timer-cpu",
        |_, s| s.hv.features.vuart_timer_pcpu = 2,
        |_, s| s.hv.features.vuart_timer_pcpu = 1,
    ),
    Case(
        "option-cpu-exists",
        |_, s| s.hv.features.vuart_timer_pcpu = 8,
        |_, s| s.hv.features.vuart_timer_pcpu = 7,
    ),
    Case(
        "noop-cpu-alone",
        |_, s| {
            let scheduler = Scheduler::Noop;
            s.hv.features
                .cpu_schedulers
                .list
                .push(CpuScheduler { pcpu: 1, scheduler });
            s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(1)];
        },
        |_, s| s.vms[LINUX].cpu_affinity.pcpus = vec![pcpu(1)],
    ),
    Case(
        "memory-sum",
        |_, s| s.vms[LINUX].memory.size = 1 << 16,
        |_, s| s.vms[LINUX].memory.size = 2048,
    ),
    Case(
        "memory-size",
        |_, s| s.vms[LINUX].memory.size = 511,
        |_, s| s.vms[LINUX].memory.size = 510,
    ),
    Case(
        "memory-region",
        |_, s| s.vms[RT].memory.regions = vec![piece(0x1_0010_0000, 512)],
        |_, s| s.vms[RT].memory.regions = vec![piece(0x1_0020_0000, 512)],
    ),
    Case(
        "memory-region-ram",
        |_, s| s.vms[RT].memory.regions = vec![piece(0x8000_0000, 512)],
        |_, s| s.vms[RT].memory.regions = vec![piece(0x1_0000_0000, 512)],
    ),
    Case(
        "memory-region-once",
        |_, s| {
            s.vms[RT].memory.regions = vec![piece(0x1_0000_0000, 512), piece(0x1_1fe0_0000, 512)]
        },
        |_, s| {
            s.vms[RT].memory.regions = vec![piece(0x1_0000_0000, 512), piece(0x1_2000_0000, 512)]
        },
    ),
    Case(
        "memory-region-count",
        |_, s| {
            s.vms[RT].memory.regions = (0..17)
                .map(|n| piece(0x1_0000_0000 + n * 0x20_0000, 2))
                .collect()
        },
        |_, s| {
            s.vms[RT].memory.regions = (0..16)
                .map(|n| piece(0x1_0000_0000 + n * 0x20_0000, 2))
                .collect()
        },
    ),
    Case(
        "epc-pages",
        |_, s| s.vms[RT].epc.size = Hex(0x1800),
        |_, s| s.vms[RT].epc.size = Hex(0x2000),
    ),
    Case(
        "ivshmem-name",
        |_, s| region(s).name = "shm_region_1".to_owned(),
        |_, s| region(s).name = "other".to_owned(),
    ),
    Case(
        "ivshmem-vm-once",
        |_, s| region(s).members.list[1].vm_name = "PRE_RT_VM0".to_owned(),
        |_, s| region(s).members.list[1].vm_name = "POST_STD_VM1".to_owned(),
    ),
    Case(
        "ivshmem-vm-exists",
        |_, s| region(s).members.list[1].vm_name = "nobody".to_owned(),
        same,
    ),
    Case(
        "ivshmem-size",
        |_, s| region(s).size = 6,
        |_, s| region(s).size = 512,
    ),
    Case(
        "ivshmem-count",
        |_, s| {
            for n in 0..7 {
                let mut new = region(s).clone();
                new.name = format!("n{n}");
                s.hv.features.ivshmem.regions.push(new);
            }
        },
        same,
    ),
    Case(
        "vuart-ends",
        |_, s| drop(s.hv.vuart_connections.list[0].endpoints.pop()),
        same,
    ),
    Case(
        "vuart-vm-exists",
        |_, s| end(s, 0, 0).vm_name = "nobody".to_owned(),
        |_, s| end(s, 0, 0).vm_name = "POST_STD_VM1".to_owned(),
    ),
    Case(
        "vuart-not-to-itself",
        |_, s| end(s, 0, 0).vm_name = "ACRN_Service_VM".to_owned(),
        same,
    ),
    Case(
        "vuart-port-once",
        |_, s| end(s, 0, 0).io_port = Some(Hex(0x3fc)),
        |_, s| {
            end(s, 0, 0).io_port = Some(Hex(0x3f8));
            s.vms[RT].console_vuart = ConsoleVuart::Com2;
        },
    ),
    Case(
        "vuart-port",
        |_, s| end(s, 0, 0).io_port = Some(Hex(0x1_0000)),
        |_, s| end(s, 0, 0).io_port = Some(Hex(0xfff8)),
    ),
    Case(
        "vuart-count",
        |_, s| {
            for _ in 0..23 {
                let line = s.hv.vuart_connections.list[1].clone();
                s.hv.vuart_connections.list.push(line);
            }
        },
        same,
    ),
    Case(
        "board-devices",
        |b, _| {
            b.devices.buses.clear();
            b.pci_device = "00:00.0 Host bridge: of some maker".to_owned();
        },
        |b, _| b.devices.buses.clear(),
    ),
    Case(
        "pci-device-exists",
        |_, s| s.vms[RT].pci_devs.list[0].bdf = Bdf::new(9, 9, 0),
        same,
    ),
    Case(
        "pci-device-once",
        |_, s| s.vms[LINUX].pci_devs = s.vms[RT].pci_devs.clone(),
        |_, s| s.vms[SERVICE].pci_devs = s.vms[RT].pci_devs.clone(),
    ),
    Case(
        "hidden-device",
        |_, s| s.hv.hidden_devices.devices.push(Bdf::new(0, 0x17, 0)),
        |_, s| s.hv.hidden_devices.devices.push(Bdf::new(0, 0x14, 0)),
    ),
    Case(
        "hidden-device-count",
        |_, s| {
            s.hv.hidden_devices = Hidden {
                devices: vec![Bdf(1); 33],
            }
        },
        |_, s| {
            s.hv.hidden_devices = Hidden {
                devices: vec![Bdf(1); 32],
            }
        },
    ),
    Case(
        "tpm2-or-p2sb",
        |_, s| s.vms[RT].mmio_resources.p2sb = true,
        |_, s| s.vms[LINUX].mmio_resources.p2sb = true,
    ),
    Case(
        "mmio-device-once",
        |_, s| {
            with_second_pre(s, VmKind::Standard);
            s.vms[1].mmio_resources.tpm2 = true;
        },
        |_, s| with_second_pre(s, VmKind::Standard),
    ),
    Case(
        "mmio-device-exists",
        |b, _| b.devices.buses[0].devices.clear(),
        same,
    ),
    Case(
        "vbdf-once",
        |_, s| end(s, 1, 0).vbdf = Some(Bdf::new(0, 8, 0)),
        |_, s| end(s, 1, 0).vbdf = Some(Bdf::new(0, 9, 0)),
    ),
    Case(
        "vbdf-not-native",
        |_, s| region(s).members.list[1].vbdf = Some(Bdf::new(0, 0x14, 0)),
        |_, s| region(s).members.list[1].vbdf = Some(Bdf::new(0, 0x13, 0)),
    ),
    Case(
        "vbdf-p2sb",
        |_, s| region(s).members.list[1].vbdf = Some(Bdf::new(0, 0x1f, 1)),
        |_, s| region(s).members.list[1].vbdf = Some(Bdf::new(0, 0x1f, 2)),
    ),
    Case(
        "vbdf-post-launched",
        |_, s| end(s, 1, 1).vbdf = Some(Bdf::new(0, 2, 0)),
        |_, s| end(s, 1, 1).vbdf = Some(Bdf::new(0, 3, 0)),
    ),
    Case(
        "pt-intx-form",
        |_, s| s.vms[RT].pt_intx = "(1, x)".to_owned(),
        |_, s| s.vms[RT].pt_intx = "(1, 2) (0x3,4)".to_owned(),
    ),
    Case(
        "pt-intx-once",
        |_, s| s.vms[RT].pt_intx = "(1, 2) (1, 3)".to_owned(),
        |_, s| s.vms[RT].pt_intx = "(1, 2) (2, 1)".to_owned(),
    ),
    Case(
        "rdt-capability",
        |b, _| {
            b.caches
                .list
                .iter_mut()
                .for_each(|cache| cache.capabilities.clear())
        },
        same,
    ),
    Case(
        "vcat-needs-rdt",
        |_, s| s.hv.features.rdt.cdp = true,
        |_, s| {
            s.hv.features.rdt.cdp = true;
            s.hv.features.rdt.vcat = false;
        },
    ),
    Case(
        "cdp-capability",
        |_, s| s.hv.features.rdt.cdp = true,
        |b, s| {
            s.hv.features.rdt.cdp = true;
            b.caches.list.retain(|cache| cache.level == 3);
        },
    ),
    Case(
        "vm-vcat-needs-vcat",
        |_, s| s.hv.features.rdt.vcat = false,
        |_, s| {
            s.hv.features.rdt.vcat = false;
            s.vms[RT].virtual_cat = false;
        },
    ),
    Case(
        "rdt-or-ssram",
        |_, s| s.hv.features.ssram = Some(Ssram { enabled: true }),
        |_, s| s.hv.features.ssram = Some(Ssram { enabled: false }),
    ),
    Case(
        "ssram-region",
        |b, s| ssram(b, s, 0x9000_0000),
        |b, s| ssram(b, s, 0x4000_0000),
    ),
    Case(
        "cache-exists",
        |_, s| s.hv.cache_region.as_mut().unwrap().list[0].id = Hex(9),
        same,
    ),
    Case(
        "cache-vm-exists",
        |_, s| first_mask(s).vcpu = 2,
        |_, s| first_mask(s).vm = "POST_STD_VM1".to_owned(),
    ),
    Case(
        "cache-mask",
        |_, s| first_mask(s).mask = Hex(0x505),
        |_, s| first_mask(s).mask = Hex(0x7f0),
    ),
    Case(
        "cache-mask-ssram",
        |b, s| ssram(b, s, 0x4000_0000),
        |b, s| {
            ssram(b, s, 0x4000_0000);
            let list = &mut s.hv.cache_region.as_mut().unwrap().list[0].policies;
            list.iter_mut().for_each(|policy| policy.mask = Hex(0x7ff));
        },
    ),
    Case(
        "clos-count",
        |_, s| s.vms[RT].virtual_cat_number = 6,
        |_, s| s.vms[RT].virtual_cat_number = 4,
    ),
    Case(
        "vsock-cid-once",
        |_, s| s.vms[LINUX].virtio_devices.vsocks.push(3),
        |_, s| s.vms[LINUX].virtio_devices.vsocks.push(5),
    ),
    Case(
        "gpu-complete",
        |_, s| gpu(s).horizontal_offset = None,
        |_, s| {
            gpu(s).monitor_id = Some(1);
            gpu(s).vertical_offset = None;
            s.vms[LINUX]
                .virtio_devices
                .gpu
                .as_mut()
                .unwrap()
                .display_type = DisplayType::FullScreen;
        },
    ),
    Case(
        "gpu-resolution",
        |_, s| gpu(s).window_resolutions = Some("1x1".to_owned()),
        |_, s| gpu(s).window_resolutions = Some("800x600".to_owned()),
    ),
    Case(
        "gpu-monitor-once",
        |_, s| full_screens(s, [1, 1]),
        |_, s| full_screens(s, [1, 2]),
    ),
    Case(
        "gpu-display-count",
        |_, s| {
            s.vms[LINUX]
                .virtio_devices
                .gpu
                .as_mut()
                .unwrap()
                .displays
                .list
                .clear()
        },
        same,
    ),
    Case(
        "virtio-console-complete",
        |_, s| s.vms[LINUX].virtio_devices.consoles[0].file = None,
        |_, s| {
            s.vms[LINUX].virtio_devices.consoles[0].file = None;
            s.vms[LINUX].virtio_devices.consoles[0].backend = Backend::Pty;
        },
    ),
    Case(
        "virtio-device-complete",
        |_, s| s.vms[LINUX].virtio_devices.blocks.push(String::new()),
        |_, s| {
            s.vms[LINUX]
                .virtio_devices
                .blocks
                .push("/disk.img".to_owned())
        },
    ),
];

fn gpu(s: &mut Scenario) -> &mut crate::scenario::Display {
    &mut s.vms[LINUX]
        .virtio_devices
        .gpu
        .as_mut()
        .unwrap()
        .displays
        .list[0]
}

fn full_screens<const N: usize>(s: &mut Scenario, monitors: [i64; N]) {
    let gpu = s.vms[LINUX].virtio_devices.gpu.as_mut().unwrap();
    gpu.display_type = DisplayType::FullScreen;
    let first = gpu.displays.list[0].clone();
    let display = |id| crate::scenario::Display {
        monitor_id: Some(id),
        ..first.clone()
    };
    gpu.displays.list = monitors.into_iter().map(display).collect();
}

fn hits(rule: &Rule, change: Change) -> Vec<Hit> {
    let (mut board, mut scenario) = good();
    change(&mut board, &mut scenario);
    rule.judge(&Context::new(&board, &scenario))
}

#[test]
fn every_rule_finds_its_mistake_and_not_its_neighbour() {
    for rule in rules() {
        let case = CASES.iter().find(|case| case.0 == rule.id);
        let Case(id, bad, near) = case.unwrap_or_else(|| panic!("{} has no test", rule.id));
        assert!(
            !hits(rule, *bad).is_empty(),
            "{id} does not find its mistake"
        );
        assert_eq!(hits(rule, *near), [], "{id} finds what is right");
    }
    assert_eq!(CASES.len(), rules().count(), "a case for no rule");
}

#[test]
fn rules_have_different_names_and_say_what_to_do() {
    let ids: std::collections::BTreeSet<_> = rules().map(|rule| rule.id).collect();
    assert_eq!(ids.len(), rules().count());
    assert!(rules().all(|rule| !rule.text.is_empty() && !rule.remedy.is_empty()));
}

#[test]
fn findings_name_the_line_of_the_element() {
    let preset = preset("generic").unwrap();
    let board = BoardFile::parse("board.xml", preset.board).unwrap();
    let text = preset.scenario.replacen("<pcpu_id>6<", "<pcpu_id>99<", 1);
    let text = text.replacen("<pcpu_id>7<", "<pcpu_id>11<", 1);
    let scenario = ScenarioFile::parse("scenario.xml", &text).unwrap();
    let line = |what: &str| 1 + text.lines().position(|line| line.contains(what)).unwrap();
    let found: Vec<_> = validate(&board, &scenario)
        .iter()
        .map(|f| (f.line, f.rule))
        .collect();
    assert_eq!(
        found,
        [
            (line("<pcpu_id>99<"), "bad-value"),
            (line("<pcpu_id>11<"), "cpu-exists")
        ]
    );
}

#[test]
fn an_element_of_another_kind_of_vm_is_noted() {
    let text = "<acrn-config><vm id=\"0\"><load_order>SERVICE_VM</load_order><name>S</name>\
        <virtio_devices><block>x</block></virtio_devices></vm></acrn-config>";
    let scenario = ScenarioFile::parse("scenario.xml", text).unwrap();
    let found = applies::check(&scenario);
    assert_eq!(found[0].path, "vm[1]/virtio_devices");
    assert_eq!((found.len(), found[0].severity), (1, Severity::Note));
}

#[test]
fn a_mask_for_code_needs_cdp() {
    let (board, mut scenario) = good();
    first_mask(&mut scenario).kind = CacheKind::Code;
    let rule = rules().find(|rule| rule.id == "clos-count").unwrap();
    assert_eq!(rule.judge(&Context::new(&board, &scenario)).len(), 1);
}

#[test]
fn only_lines_on_pci_have_places() {
    let (board, mut scenario) = good();
    scenario.hv.vuart_connections.list[1].kind = VuartKind::Legacy;
    end(&mut scenario, 1, 0).vbdf = Some(Bdf::new(0, 8, 0));
    let member = IvshmemVm {
        vm_name: "PRE_RT_VM0".to_owned(),
        vbdf: Some(Bdf::new(0, 8, 0)),
    };
    region(&mut scenario).members.list = vec![member];
    let rule = rules().find(|rule| rule.id == "vbdf-once").unwrap();
    assert_eq!(rule.judge(&Context::new(&board, &scenario)), []);
    assert_eq!(scenario.vms[WINDOWS].name, "POST_STD_VM1");
}
