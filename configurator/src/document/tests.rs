//! Edits of presets: what they change, what they refuse, and that they can be undone.

use super::*;
use acrn_config::model::Scalar;
use acrn_config::presets::{GENERIC_BOARD, PRESETS, QEMU_BOARD, preset, preset as named};

use acrn_config_blob::{Config, LoadOrder};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

fn shared() -> Document {
    Document::new(QEMU_BOARD, preset("shared").unwrap()).unwrap()
}

fn everything() -> Document {
    Document::new(GENERIC_BOARD, preset("generic").unwrap()).unwrap()
}

fn set(path: &str, text: &str) -> Edit {
    let (path, text) = (path.to_owned(), text.to_owned());
    Edit::Set { path, text }
}

fn add(path: &str) -> Edit {
    Edit::Add {
        path: path.to_owned(),
    }
}

fn add_vm(order: LoadOrder, real_time: bool) -> Edit {
    Edit::AddVm {
        order: order.text(),
        real_time,
    }
}

fn names(document: &Document) -> Vec<&str> {
    let vms = document.scenario().model.vms.iter();
    vms.map(|vm| vm.name.as_str()).collect()
}

fn rules(document: &Document) -> Vec<&str> {
    document
        .findings()
        .iter()
        .map(|finding| finding.rule)
        .collect()
}

#[test]
fn presets_are_valid_and_without_changes_on_their_boards() {
    for preset in PRESETS {
        let document = Document::new(preset.board, preset).unwrap();
        assert!(
            document.made().is_some(),
            "{}: {:?}",
            preset.name,
            document.findings()
        );
        assert!(document.changes().is_empty() && document.text() == preset.scenario);
    }
}

#[test]
fn an_edit_is_judged_undone_and_done_again() {
    let mut document = shared();
    let before = document.text().to_owned();
    document
        .apply(&set("vm[2]/memory/size", "3"), false)
        .unwrap();
    assert!(document.made().is_none() && rules(&document).contains(&"memory-size"));
    assert!(document.undo() && document.made().is_some() && document.text() == before);
    assert!(!document.undo());
    assert!(document.redo() && document.errors() == 1 && !document.redo());
    document
        .apply(&set("vm[2]/memory/size", "4"), false)
        .unwrap();
    assert_eq!(document.can_undo_redo(), (true, false));
}

#[test]
fn what_is_typed_in_one_go_is_undone_in_one_go() {
    let mut document = shared();
    for text in ["1", "10", "102", "1024"] {
        document
            .apply(&set("vm[2]/memory/size", text), true)
            .unwrap();
    }
    document
        .apply(&set("vm[3]/memory/size", "64"), true)
        .unwrap();
    assert!(document.undo());
    assert_eq!(document.scenario().model.vms[1].memory.size, 1024);
    assert!(document.undo());
    assert_eq!(document.scenario().model.vms[1].memory.size, 512);
    assert!(!document.undo());
}

#[test]
fn impossible_edits_are_refused_and_change_nothing() {
    let mut document = shared();
    let before = document.text().to_owned();
    let impossible = [
        set("vm[9]/name", "a"),
        set("vm[1]/nothing", "a"),
        set("@nothing", "a"),
        set("vm[2]/name", "a\u{1}"),
        add("vm[9]/virtio_devices/network"),
        add("hv"),
        Edit::Remove {
            path: "vm[2]/epc_section".to_owned(),
        },
        Edit::RemoveVm { vm: 9 },
        Edit::MoveVm { vm: 9, up: true },
        Edit::CopyVm { vm: 9 },
        Edit::Cpu {
            vm: 9,
            cpu: 0,
            on: true,
        },
        Edit::Device {
            vm: 1,
            bdf: "00:1e.0".to_owned(),
            on: true,
        },
        Edit::Share {
            region: 9,
            vm: 0,
            on: true,
        },
        Edit::AddVm {
            order: "NO_VM".to_owned(),
            real_time: false,
        },
    ];
    for edit in impossible {
        assert!(document.apply(&edit, false).is_err(), "{edit:?}");
    }
    assert!(document.text() == before && !document.undo());
}

#[test]
fn who_knows_a_vm_by_its_name_learns_the_new_one() {
    let mut document = shared();
    document.apply(&set("vm[2]/name", "HMI"), false).unwrap();
    let ends = &document.scenario().model.hv.vuart_connections.list[0].endpoints;
    assert_eq!(ends[0].vm_name, "HMI");
    assert!(document.made().is_some(), "{:?}", document.findings());
}

#[test]
fn a_new_vm_stands_where_its_load_order_belongs_and_is_valid() {
    for (order, real_time, place) in [
        (LoadOrder::PreLaunched, false, 0),
        (LoadOrder::PostLaunched, false, 4),
    ] {
        let mut document = shared();
        document.apply(&add_vm(order, real_time), false).unwrap();
        let vm = &document.scenario().model.vms[place];
        assert_eq!((vm.load_order, vm.id), (order, place as i64));
        assert!(
            document.made().is_some(),
            "{order}: {:?}",
            document.findings()
        );
    }
}

#[test]
fn a_hypervisor_has_16_vms_at_most() {
    let mut document = shared();
    let edit = add_vm(LoadOrder::PostLaunched, false);
    for _ in 0..12 {
        document.apply(&edit, false).unwrap();
    }
    assert!(matches!(
        document.apply(&edit, false),
        Err(Refused::Full(16))
    ));
    assert!(matches!(
        document.apply(&Edit::CopyVm { vm: 1 }, false),
        Err(Refused::Full(16))
    ));
}

#[test]
fn a_copy_has_a_name_of_its_own_and_stands_behind_its_model() {
    let mut document = everything();
    document.apply(&Edit::CopyVm { vm: 3 }, false).unwrap();
    assert_eq!(names(&document)[3..], ["POST_STD_VM2", "POST_STD_VM3"]);
    let vms = &document.scenario().model.vms;
    assert_eq!(vms[4].memory.size, vms[3].memory.size);
    assert!(vms[4].pci_devs.list.is_empty() && vms[4].id == 4);
}

#[test]
fn a_vm_that_goes_leaves_nothing_behind() {
    let mut document = shared();
    document
        .apply(&set("hv/DEBUG_OPTIONS/CONSOLE_VM", "3"), false)
        .unwrap();
    document.apply(&Edit::RemoveVm { vm: 1 }, false).unwrap();
    let scenario = &document.scenario().model;
    assert!(scenario.hv.vuart_connections.list.is_empty());
    assert_eq!(scenario.hv.debug.console_vm, 2);
    assert!(document.made().is_some(), "{:?}", document.findings());
    document.apply(&Edit::RemoveVm { vm: 1 }, false).unwrap();
    let members = &document.scenario().model.hv.features.ivshmem.regions[0]
        .members
        .list;
    assert_eq!(members.len(), 1);
}

#[test]
fn vms_change_places_within_their_load_order_only() {
    let mut document = shared();
    document
        .apply(&Edit::MoveVm { vm: 1, up: false }, false)
        .unwrap();
    assert_eq!(names(&document)[1..3], ["POST_RT_VM1", "POST_STD_VM1"]);
    assert!(document.made().is_some(), "{:?}", document.findings());
    let before = document.text().to_owned();
    document
        .apply(&Edit::MoveVm { vm: 1, up: true }, false)
        .unwrap();
    assert_eq!(document.text(), before);
}

#[test]
fn a_vm_with_another_load_order_moves() {
    let mut document = shared();
    document
        .apply(&set("vm[4]/load_order", "PRE_LAUNCHED_VM"), false)
        .unwrap();
    assert_eq!(names(&document)[..2], ["POST_STD_VM2", "ACRN_Service_VM"]);
    let ids: Vec<_> = document
        .scenario()
        .model
        .vms
        .iter()
        .map(|vm| vm.id)
        .collect();
    assert_eq!(ids, [0, 1, 2, 3]);
}

#[test]
fn cpus_and_devices_are_given_and_taken() {
    let mut document = shared();
    document
        .apply(
            &Edit::Cpu {
                vm: 1,
                cpu: 2,
                on: true,
            },
            false,
        )
        .unwrap();
    document
        .apply(
            &Edit::Cpu {
                vm: 1,
                cpu: 0,
                on: false,
            },
            false,
        )
        .unwrap();
    document
        .apply(
            &Edit::RealTime {
                vm: 1,
                cpu: 2,
                on: true,
            },
            false,
        )
        .unwrap();
    document
        .apply(
            &Edit::Device {
                vm: 1,
                bdf: "00:03.0".to_owned(),
                on: true,
            },
            false,
        )
        .unwrap();
    let vm = &document.scenario().model.vms[1];
    let pcpus: Vec<_> = vm
        .cpu_affinity
        .pcpus
        .iter()
        .map(|p| (p.id, p.real_time))
        .collect();
    assert_eq!(pcpus, [(1, false), (2, true)]);
    assert!(vm.pci_devs.list[0].text.starts_with("00:03.0 Ethernet"));
    document
        .apply(
            &Edit::Device {
                vm: 1,
                bdf: "00:03.0".to_owned(),
                on: false,
            },
            false,
        )
        .unwrap();
    assert!(document.scenario().model.vms[1].pci_devs.list.is_empty());
}

#[test]
fn new_elements_make_sense_at_once() {
    let mut document = shared();
    for path in [
        "hv/FEATURES/IVSHMEM/IVSHMEM_REGION",
        "hv/vuart_connections/vuart_connection",
        "vm[2]/virtio_devices/network",
        "vm[2]/virtio_devices/vsock",
        "vm[2]/virtio_devices/gpu",
        "vm[2]/virtio_devices/console",
    ] {
        document.apply(&add(path), false).unwrap();
        assert!(
            document.made().is_some(),
            "{path}: {:?}",
            document.findings()
        );
    }
    document
        .apply(&add("vm[2]/virtio_devices/block"), false)
        .unwrap();
    assert!(rules(&document).contains(&"virtio-device-complete"));
}

#[test]
fn ways_of_a_cache_are_taken_from_a_vcpu() {
    let mut document = everything();
    let caches = divided_caches(&document.board().model, &document.scenario().model);
    let cache = caches.iter().find(|cache| cache.level == 3).unwrap();
    let (share, mask) = cache
        .shares
        .iter()
        .find(|(share, _)| share.vm == "POST_STD_VM1")
        .unwrap();
    let way = Edit::Way {
        cache: cache.index,
        vm: share.vm.clone(),
        vcpu: share.vcpu,
        kind: share.kind.text(),
        way: mask.trailing_zeros(),
        on: false,
    };
    document.apply(&way, false).unwrap();
    let caches = divided_caches(&document.board().model, &document.scenario().model);
    let shares = caches
        .iter()
        .find(|other| other.index == cache.index)
        .unwrap()
        .shares
        .iter();
    let (_, now) = shares.clone().find(|(other, _)| other == share).unwrap();
    assert_eq!(*now, mask & (mask - 1));
    let beyond = Edit::Way {
        cache: 99,
        vm: String::new(),
        vcpu: 0,
        kind: share.kind.text(),
        way: 0,
        on: true,
    };
    assert!(document.apply(&beyond, false).is_err());
}

#[test]
fn an_old_scenario_is_brought_up_to_date_and_says_what_changed() {
    let old = QEMU_OLD;
    let document = Document::open(QEMU_BOARD, old, None).unwrap();
    assert!(!document.changes().is_empty());
    assert_eq!(
        document.scenario().model.vms[0].load_order,
        LoadOrder::Service
    );
}

/// As ACRN 2.x wrote them.
const QEMU_OLD: &str = r#"<acrn-config board="qemu" scenario="old">
  <hv><DEBUG_OPTIONS><RELEASE>n</RELEASE><SERIAL_CONSOLE>/dev/ttyS0</SERIAL_CONSOLE></DEBUG_OPTIONS></hv>
  <vm id="0"><vm_type>SERVICE_VM</vm_type><name>Service</name></vm>
</acrn-config>"#;

/// Edits as people make them, sensible or not.
fn any_edit() -> impl Strategy<Value = Edit> {
    let vm = 0usize..6;
    let texts = [
        "",
        "0",
        "3",
        "64",
        "512",
        "y",
        "n",
        "0x100000000",
        "RTVM",
        "PRE_LAUNCHED_VM",
        "SERVICE_VM",
        "COM Port 1",
        "A VM",
        "\"",
        "x",
    ];
    let text = prop::sample::select(texts.to_vec());
    let fields = [
        "name",
        "memory/size",
        "load_order",
        "vm_type",
        "lapic_passthrough",
        "console_vuart",
        "customized_parameters",
        "own_pcpu",
        "os_config/kern_mod",
        "virtio_devices/block[1]",
    ];
    let field = prop::sample::select(fields.to_vec());
    let lists = [
        "hv/FEATURES/IVSHMEM/IVSHMEM_REGION",
        "hv/vuart_connections/vuart_connection",
        "vm[2]/virtio_devices/network",
        "vm[3]/virtio_devices/gpu",
        "vm[3]/memory/hpa_region",
        "hv/CACHE_REGION",
    ];
    let list = prop::sample::select(lists.to_vec());
    let orders = ["PRE_LAUNCHED_VM", "SERVICE_VM", "POST_LAUNCHED_VM"];
    let order = prop::sample::select(orders.to_vec());
    let places = ["00:03.0", "00:1f.2", "00:02.0"];
    let place = prop::sample::select(places.to_vec());
    prop_oneof![
        (vm.clone(), field, text)
            .prop_map(|(vm, field, text)| set(&format!("vm[{}]/{field}", vm + 1), text)),
        list.prop_map(add),
        (order, any::<bool>()).prop_map(|(order, real_time)| Edit::AddVm {
            order: order.to_owned(),
            real_time
        }),
        vm.clone().prop_map(|vm| Edit::CopyVm { vm }),
        vm.clone().prop_map(|vm| Edit::RemoveVm { vm }),
        (vm.clone(), any::<bool>()).prop_map(|(vm, up)| Edit::MoveVm { vm, up }),
        (vm.clone(), -1i64..6, any::<bool>()).prop_map(|(vm, cpu, on)| Edit::Cpu { vm, cpu, on }),
        (vm.clone(), 0i64..4, any::<bool>()).prop_map(|(vm, cpu, on)| Edit::RealTime {
            vm,
            cpu,
            on
        }),
        (vm.clone(), place, any::<bool>()).prop_map(|(vm, bdf, on)| Edit::Device {
            vm,
            bdf: bdf.to_owned(),
            on
        }),
        (0usize..2, vm, any::<bool>()).prop_map(|(region, vm, on)| Edit::Share { region, vm, on }),
    ]
}

/// A preset, and what somebody does to it.
fn any_work() -> impl Strategy<Value = (&'static str, Vec<Edit>)> {
    let presets = ["shared", "partitioned", "hybrid", "hybrid_rt"];
    let preset = prop::sample::select(presets.to_vec());
    (preset, prop::collection::vec(any_edit(), 1..12))
}

/// Scenarios that the hypervisor has to boot: the edits that leave them valid.
#[test]
#[ignore = "cargo xtask test --filter config_random runs it, and boots what it writes"]
fn valid_scenarios_for_the_emulator_are_written() {
    let named = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let directory = std::path::PathBuf::from(named("ACRN_SCENARIOS"));
    let count: usize = named("ACRN_COUNT").parse().unwrap();
    let mut runner = proptest::test_runner::TestRunner::default();
    for number in 0..count {
        let (preset, edits) = any_work().new_tree(&mut runner).unwrap().current();
        let mut document = Document::new(QEMU_BOARD, self::named(preset).unwrap()).unwrap();
        for edit in &edits {
            if document.apply(edit, false).is_ok() && document.made().is_none() {
                document.undo();
            }
        }
        assert!(document.made().is_some(), "{edits:?}");
        let path = directory.join(format!("random-{number}.xml"));
        std::fs::write(path, document.text()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_valid_is_built_by_others_too_and_all_edits_can_be_undone((preset, edits) in any_work()) {
        let mut document = Document::new(QEMU_BOARD, named(preset).unwrap()).unwrap();
        let before = document.text().to_owned();
        for edit in &edits {
            let _ = document.apply(edit, false);
            if let Some(made) = document.made() {
                // As acrn-config would, from the files.
                let board = BoardFile::parse("b", &document.board().document.to_string()).unwrap();
                let scenario = ScenarioFile::parse("s", document.text()).unwrap();
                let built = build(&board, &scenario);
                prop_assert!(built.is_ok_and(|built| built.blob == made.built.blob));
                prop_assert!(Config::parse(&made.built.blob).is_ok());
            }
        }
        while document.undo() {}
        prop_assert_eq!(document.text(), before);
    }
}
