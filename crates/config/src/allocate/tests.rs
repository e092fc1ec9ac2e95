//! Whatever scenario is valid: what is allocated is apart, fits, is the same each time, and builds.

use super::*;
use crate::model::Device;
use crate::presets::{GENERIC_BOARD, preset};
use crate::scenario::{
    ConsoleVuart, IvshmemRegion, IvshmemVm, IvshmemVms, Pcpu, VuartConnection, VuartEndpoint,
};
use crate::validate::is_valid;
use crate::xml::{Document, Element};
use crate::{BoardFile, ScenarioFile, build};
use acrn_config_blob::{Config, VuartKind};
use proptest::prelude::*;

/// What a random VM is like.
#[derive(Clone, Debug)]
struct Sketch {
    cpus: Vec<i64>,
    pieces: i64,
    console: bool,
    devices: Vec<usize>,
}

fn sketch(max: i64) -> impl Strategy<Value = Sketch> {
    let cpus = proptest::sample::subsequence((0..6).collect::<Vec<i64>>(), 1..4);
    let devices = proptest::collection::vec(0usize..6, 0..2);
    (cpus, 1..max, any::<bool>(), devices).prop_map(|(cpus, pieces, console, devices)| Sketch {
        cpus,
        pieces,
        console,
        devices,
    })
}

/// A line or region: which two VMs, of which kind.
type Link = (usize, usize, bool);

fn board() -> BoardFile {
    BoardFile::parse("board.xml", GENERIC_BOARD).unwrap()
}

fn scenario(
    pre: &[Sketch],
    service: bool,
    post: &[Sketch],
    lines: &[Link],
    regions: &[Link],
) -> Scenario {
    let empty = ScenarioFile::of("s", Document::new(Element::new("acrn-config"))).model;
    let mut scenario = Scenario {
        vms: Vec::new(),
        ..empty
    };
    scenario.hv.debug.serial_console = "/dev/ttyS0".to_owned();
    pre.iter()
        .for_each(|sketch| add(&mut scenario, LoadOrder::PreLaunched, sketch));
    if service {
        let sketch = Sketch {
            cpus: vec![],
            pieces: 1,
            console: true,
            devices: vec![],
        };
        add(&mut scenario, LoadOrder::Service, &sketch);
        post.iter()
            .for_each(|sketch| add(&mut scenario, LoadOrder::PostLaunched, sketch));
    }
    let names: Vec<_> = scenario.vms.iter().map(|vm| vm.name.clone()).collect();
    let pick = |index: usize| names[index % names.len().max(1)].clone();
    for &(one, two, pci) in lines.iter().filter(|_| !names.is_empty()) {
        let end = |vm_name| VuartEndpoint {
            vm_name,
            ..VuartEndpoint::default()
        };
        let kind = if pci {
            VuartKind::Pci
        } else {
            VuartKind::Legacy
        };
        let endpoints = vec![end(pick(one)), end(pick(two))];
        let line = VuartConnection {
            name: "line".to_owned(),
            kind,
            endpoints,
        };
        scenario.hv.vuart_connections.list.push(line);
    }
    for (number, &(one, two, large)) in regions.iter().enumerate().filter(|_| !names.is_empty()) {
        let member = |vm_name| IvshmemVm {
            vm_name,
            vbdf: None,
        };
        scenario.hv.features.ivshmem.regions.push(IvshmemRegion {
            name: format!("r{number}"),
            size: if large { 512 } else { 2 },
            members: IvshmemVms {
                list: vec![member(pick(one)), member(pick(two))],
            },
            ..IvshmemRegion::default()
        });
    }
    scenario
}

fn add(scenario: &mut Scenario, load_order: LoadOrder, sketch: &Sketch) {
    let id = scenario.vms.len();
    let places = [
        "00:02.0", "00:14.0", "00:17.0", "00:1e.0", "00:1f.3", "03:00.0",
    ];
    let taken = |place: &str| {
        scenario
            .vms
            .iter()
            .any(|vm| vm.pci_devs.list.iter().any(|device| device.text == place))
    };
    let mut wanted: Vec<_> = sketch
        .devices
        .iter()
        .map(|&n| places[n])
        .filter(|p| !taken(p))
        .collect();
    wanted.dedup();
    let device = |text: &str| Device {
        bdf: crate::parse::bdf(text).unwrap(),
        text: text.to_owned(),
    };
    let mut vm = Vm {
        id: id as i64,
        name: format!("VM{id}"),
        load_order,
        ..Vm::default()
    };
    vm.memory.size = sketch.pieces * 2;
    vm.cpu_affinity.pcpus = sketch
        .cpus
        .iter()
        .map(|&id| Pcpu {
            id,
            real_time: false,
        })
        .collect();
    vm.console_vuart = if sketch.console {
        ConsoleVuart::Com1
    } else {
        ConsoleVuart::Pci
    };
    vm.pci_devs.list = wanted.into_iter().map(device).collect();
    scenario.vms.push(vm);
}

fn apart(mut ranges: Vec<(u64, u64)>) -> bool {
    ranges.sort_unstable();
    ranges
        .windows(2)
        .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
}

fn check_memory(board: &Board, plan: &Plan) -> Result<(), TestCaseError> {
    let regions: Vec<_> = plan
        .vms
        .iter()
        .flat_map(|vm| &vm.memory)
        .map(|r| (r.start.0, r.size))
        .collect();
    for &(start, size) in &regions {
        prop_assert!(size > 0 && (start | size) % (2 << 20) == 0);
        prop_assert!(
            board
                .ram()
                .iter()
                .any(|ram| ram.start <= start && start + size <= ram.end())
        );
    }
    prop_assert!(apart(regions));
    Ok(())
}

fn check_devices(board: &Board, vm: &VmPlan, order: LoadOrder) -> Result<(), TestCaseError> {
    let legacy = vm
        .vuarts
        .iter()
        .filter(|vuart| vuart.kind == VuartKind::Legacy);
    prop_assert!(apart(
        legacy.clone().map(|vuart| (vuart.port.into(), 8)).collect()
    ));
    let irqs = legacy.map(|vuart| vuart.irq).filter(|&irq| irq != 0);
    prop_assert!(apart(irqs.map(|irq| (irq.into(), 1)).collect()));
    prop_assert!(apart(
        vm.vuarts
            .iter()
            .map(|vuart| (vuart.number.into(), 1))
            .collect()
    ));
    prop_assert!(apart(
        vm.pci_devices
            .iter()
            .map(|device| (device.vbdf.0.into(), 1))
            .collect()
    ));
    for device in &vm.pci_devices {
        let native = board.pci_function(device.vbdf).is_some();
        prop_assert!(
            order != LoadOrder::Service || !native,
            "{} is native",
            device.vbdf
        );
    }
    let bars = || {
        vm.pci_devices
            .iter()
            .flat_map(|device| &device.bars)
            .filter(|bar| bar.size > 0)
    };
    prop_assert!(bars().all(|bar| bar.gpa.0 % bar.size.next_power_of_two() == 0));
    for io in [false, true] {
        prop_assert!(apart(
            bars()
                .filter(|bar| bar.io == io)
                .map(|bar| (bar.gpa.0, bar.size))
                .collect()
        ));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn what_is_valid_is_allocated_and_builds(
        pre in proptest::collection::vec(sketch(2500), 0..4),
        service: bool,
        post in proptest::collection::vec(sketch(1000), 0..6),
        lines in proptest::collection::vec(any::<(u8, u8, bool)>(), 0..6),
        regions in proptest::collection::vec(any::<(u8, u8, bool)>(), 0..4),
    ) {
        let link = |&(one, two, kind): &(u8, u8, bool)| (usize::from(one), usize::from(two), kind);
        let lines: Vec<_> = lines.iter().map(link).collect();
        let regions: Vec<_> = regions.iter().map(link).collect();
        let board = board();
        let mut file = ScenarioFile::of("s", Document::new(Element::new("acrn-config")));
        file.update(&scenario(&pre, service, &post, &lines, &regions));
        let valid = is_valid(&crate::validate::validate(&board, &file));
        match allocate(&board.model, &file.model) {
            Ok(plan) => {
                prop_assert_eq!(&allocate(&board.model, &file.model), &Ok(plan.clone()));
                check_memory(&board.model, &plan)?;
                for (vm, planned) in file.model.vms.iter().zip(&plan.vms).filter(|_| valid) {
                    check_devices(&board.model, planned, vm.load_order)?;
                }
                if valid {
                    let built = build(&board, &file);
                    prop_assert!(built.is_ok(), "{:#?}", built);
                    let blob = built.unwrap().blob;
                    let config = Config::parse(&blob);
                    prop_assert!(config.is_ok(), "{:?}", config);
                }
            }
            // More memory than there is can be asked for without breaking another rule.
            Err(error) => prop_assert!(
                !valid || matches!(error, AllocError::Memory { .. } | AllocError::HugePages { .. }),
                "{error}"
            ),
        }
    }

    #[test]
    fn the_service_vm_gets_what_pre_launched_vms_leave(pre in proptest::collection::vec(sketch(2), 0..4)) {
        let scenario = scenario(&pre, true, &[], &[], &[]);
        let cpus = board().model.cpus();
        if let Ok(left) = service_cpus(&cpus, &scenario, &mut Notes::default()) {
            let taken: Vec<_> = pre.iter().flat_map(|sketch| &sketch.cpus).map(|&cpu| cpu as u16).collect();
            prop_assert!(cpus.iter().all(|cpu| left.contains(&cpu.id) != taken.contains(&cpu.id)));
        }
    }
}

fn everything() -> Plan {
    let preset = preset("generic").unwrap();
    let scenario = ScenarioFile::parse("s", preset.scenario).unwrap();
    allocate(&board().model, &scenario.model).unwrap()
}

#[test]
fn vcpus_with_the_same_masks_share_a_class() {
    let plan = everything();
    let classes: Vec<Vec<u8>> = plan
        .vms
        .iter()
        .map(|vm| vm.vcpus.iter().map(|vcpu| vcpu.clos).collect())
        .collect();
    assert_eq!(classes[0], [1, 1]);
    assert_eq!(classes[1], [2, 0, 0, 0, 0, 0]);
    let own: Vec<_> = plan.vms[0]
        .virtual_clos
        .iter()
        .map(|clos| clos.physical)
        .collect();
    assert_eq!(own, [3, 4], "classes that nobody else has");
    let masks: Vec<_> = plan
        .cache_masks
        .iter()
        .map(|mask| (mask.clos, mask.mask))
        .collect();
    assert_eq!(masks, [(1, 0xf00), (2, 0xff), (3, 0xf00), (4, 0xf00)]);
}

#[test]
fn flags_and_severity_follow_from_the_description() {
    let plan = everything();
    let expected = VmFlags::STATIC_VM | VmFlags::LAPIC_PASSTHROUGH | VmFlags::RT | VmFlags::VCAT;
    assert_eq!(
        plan.vms[0].flags,
        expected | VmFlags::PMU_PASSTHROUGH | VmFlags::VHWP
    );
    let severities: Vec<_> = plan.vms.iter().map(|vm| vm.severity).collect();
    assert_eq!(severities, [0x30, 0x20, 0x10, 0x10]);
}

#[test]
fn serial_ports_have_their_customary_numbers() {
    let plan = everything();
    let ports = |vm: usize| -> Vec<_> {
        plan.vms[vm]
            .vuarts
            .iter()
            .map(|vuart| (vuart.number, vuart.port, vuart.irq))
            .collect()
    };
    assert_eq!(
        ports(0),
        [(0, 0x3f8, 4), (1, 0x9200, 5), (2, 0, 0), (3, 0x2f8, 3)]
    );
    assert_eq!(
        ports(1)[..3],
        [(0, 0x3f8, 4), (1, 0x9200, 5), (2, 0x9000, 6)]
    );
    let target = plan.vms[1].vuarts[2].target.unwrap();
    assert_eq!(
        (target.vm.0, target.vuart),
        (0, 3),
        "the line for shutdown comes last"
    );
}

#[test]
fn the_graphics_device_keeps_its_place_and_a_root_port_measures_time() {
    let plan = everything();
    let place = |vm: usize, pbdf: &str| {
        let pbdf = crate::parse::bdf(pbdf).unwrap();
        let mut devices = plan.vms[vm].pci_devices.iter();
        devices
            .find(|device| device.pbdf == pbdf)
            .unwrap()
            .vbdf
            .to_string()
    };
    assert_eq!(place(0, "03:00.0"), "01:00.0");
    assert_eq!(place(0, "00:17.0"), "00:01.0");
    assert_eq!(place(2, "00:02.0"), "00:02.0", "in a post-launched VM too");
}

#[test]
fn huge_pages_leave_the_service_vm_its_share() {
    let plan = everything();
    // 4096 and 1536 MiB; 14 GiB above 4 GiB are enough for pages of 1 GiB.
    assert_eq!(
        plan.vms[1].huge_pages,
        HugePages {
            of_1g: 5,
            of_2m: 256
        }
    );
    let emulator = preset("shared").unwrap();
    let board = BoardFile::parse("b", emulator.board).unwrap();
    let scenario = ScenarioFile::parse("s", emulator.scenario).unwrap();
    let plan = allocate(&board.model, &scenario.model).unwrap();
    assert_eq!(
        plan.vms[0].huge_pages,
        HugePages {
            of_1g: 0,
            of_2m: 768
        }
    );
}

#[test]
fn each_decision_has_a_reason() {
    let plan = everything();
    assert!(plan.decisions.len() > 30);
    assert!(
        plan.decisions
            .iter()
            .all(|d| !d.who.is_empty() && !d.value.is_empty() && !d.why.is_empty())
    );
}
