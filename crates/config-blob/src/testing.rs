//! A configuration with some of everything.

use crate::{
    Bar, Board, BoardCpu, BoardPci, Config, Console, ConsoleKind, DeviceKind, Features, KernelKind,
    List, LoadOrder, MemoryRegion, Options, Os, PciDevice, Scheduler, Scheduling, SharedRegion,
    Target, Text, Vcpu, Vm, VmKind, Vms, Vuart, VuartKind, encode,
};
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{Bdf, Gpa, Hpa, PcpuId, VmId};
use arrayvec::ArrayString;

pub(crate) fn list<T: crate::field::Record, const MAX: usize>(values: &[T]) -> List<'_, T, MAX> {
    List::new(values).expect("a short list")
}

fn text<const MAX: usize>(text: &str) -> Text<'_, MAX> {
    Text::new(text).expect("a short text")
}

/// A configuration and its VMs, to be changed.
pub(crate) struct Example<'a> {
    pub(crate) config: Config<'a>,
    pub(crate) vms: [Vm<'a>; 3],
}

impl Example<'_> {
    pub(crate) fn config(&self) -> Config<'_> {
        let vms = Vms::new(&self.vms).expect("three VMs");
        Config {
            vms,
            ..self.config.clone()
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        bytes(&self.config())
    }
}

/// Calls `with` with a pre-launched real-time VM, a Service VM and a User VM.
pub(crate) fn with_example<R>(with: impl FnOnce(&mut Example<'_>) -> R) -> R {
    let cpus = [0, 2, 4, 6].map(|apic_id| BoardCpu { apic_id });
    let nic = BoardPci {
        bdf: Bdf::new(0, 4, 0),
        vendor: 0x8086,
        device: 0x10d3,
    };
    let region = SharedRegion {
        name: ArrayString::from("region").unwrap(),
        id: 7,
        size: 2 << 20,
    };
    let vcpu = |pcpu| Vcpu {
        pcpu: PcpuId(pcpu),
        ..Vcpu::default()
    };
    let rt_cpus = [2, 3].map(|pcpu| Vcpu {
        real_time: true,
        ..vcpu(pcpu)
    });
    let service_cpus = [0, 1].map(vcpu);
    let memory = [MemoryRegion {
        start: Hpa(0x1_0000_0000),
        size: 1 << 30,
    }];
    let bar = Bar {
        gpa: Gpa(0x8000_0000),
        hpa: Hpa(0xfeb0_0000),
        size: 0x20000,
        io: false,
    };
    let mut bars = [Bar::default(); 6];
    bars[0] = bar;
    let devices = [
        PciDevice {
            kind: DeviceKind::HostBridge,
            ..PciDevice::default()
        },
        PciDevice {
            vbdf: Bdf::new(0, 1, 0),
            pbdf: nic.bdf,
            bars,
            ..PciDevice::default()
        },
        PciDevice {
            kind: DeviceKind::SharedMemory,
            vbdf: Bdf::new(0, 8, 0),
            ..PciDevice::default()
        },
    ];
    let port = |vm, port| Vuart {
        number: 1,
        kind: VuartKind::Legacy,
        port,
        irq: 3,
        target: Some(Target {
            vm: VmId(vm),
            vuart: 1,
        }),
        ..Vuart::default()
    };
    let (here, there) = ([port(1, 0x9200)], [port(0, 0x9208)]);
    let os = Os {
        kind: KernelKind::BzImage,
        kernel_tag: text("RT_bzImage"),
        bootargs: text("console=ttyS0 quiet"),
        load_address: Some(Gpa(0x100000)),
        ..Os::default()
    };
    let scheduling = Scheduling {
        weight: 1,
        ..Scheduling::default()
    };
    let common = Vm {
        scheduling,
        ..Vm::default()
    };
    let schedulers = [
        Scheduler::Bvt,
        Scheduler::Bvt,
        Scheduler::Noop,
        Scheduler::Noop,
    ];
    let vms = [
        Vm {
            name: text("RT"),
            kind: VmKind::RealTime,
            severity: 0x30,
            flags: VmFlags::RT | VmFlags::LAPIC_PASSTHROUGH,
            vcpus: list(&rt_cpus),
            memory_size: 1 << 30,
            memory: list(&memory),
            os,
            vuarts: list(&here),
            pci_devices: list(&devices),
            ..common.clone()
        },
        Vm {
            id: VmId(1),
            name: text("Service"),
            load_order: LoadOrder::Service,
            vcpus: list(&service_cpus),
            vuarts: list(&there),
            ..common.clone()
        },
        Vm {
            id: VmId(2),
            name: text("User"),
            load_order: LoadOrder::PostLaunched,
            vcpus: list(&service_cpus),
            companion: Some(VmId(1)),
            ..common
        },
    ];
    let (nics, regions) = ([nic], [region]);
    let config = Config {
        board: Board {
            name: text("example"),
            cpus: list(&cpus),
            memory_size: 8 << 30,
            pci_devices: list(&nics),
            ..Board::default()
        },
        options: Options {
            features: Features::DEBUG.with(Features::HYPERV, true),
            console: Console {
                kind: ConsoleKind::Port,
                address: 0x3f8,
            },
            console_vm: crate::NO_VM,
            cpu_schedulers: list(&schedulers),
            shared_regions: list(&regions),
            ..Options::default()
        },
        ..Config::default()
    };
    with(&mut Example { config, vms })
}

/// The encoded example.
pub(crate) fn bytes(config: &Config<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(config, &mut |piece| bytes.extend(piece));
    bytes
}

mod tests {
    use super::*;
    use crate::{Error, Problem};
    use proptest::prelude::*;

    fn refused(change: impl for<'a> FnOnce(&mut Example<'a>)) -> String {
        with_example(|example| {
            change(example);
            Config::parse(&example.bytes()).unwrap_err().to_string()
        })
    }

    #[test]
    fn what_is_encoded_parses_to_the_same() {
        with_example(|example| {
            assert_eq!(Config::parse(&example.bytes()), Ok(example.config()));
        });
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_named_with_its_place() {
        const NOWHERE: [Vcpu; 1] = [Vcpu {
            pcpu: PcpuId(9),
            real_time: false,
            clos: 0,
        }];
        let error = refused(|example| example.vms[2].vcpus = list(&NOWHERE));
        assert_eq!(error, "vms[2].vcpus[0]: CPU 9 is not on the board");
        let error = refused(|example| example.vms[2].companion = Some(VmId(7)));
        assert_eq!(error, "vms[2].companion: there is no VM 7");
        let error = refused(|example| example.vms[1].vuarts = List::default());
        assert_eq!(
            error,
            "vms[0].vuarts[0]: there is no vUART 1 that leads back"
        );
        let error = refused(|example| example.config.options.shared_regions = List::default());
        assert_eq!(error, "vms[0].pci_devices[2]: there is no shared region 0");
    }

    #[test]
    fn members_of_a_region_are_found_by_their_devices() {
        with_example(|example| {
            let config = example.config();
            let members: Vec<_> = config.members(0).collect();
            assert_eq!(members, [(VmId(0), Bdf::new(0, 8, 0))]);
            assert_eq!(config.members(1).count(), 0);
        });
    }

    #[test]
    fn vms_are_numbered_named_and_ordered() {
        let error = refused(|example| example.vms[1].id = VmId(5));
        assert_eq!(
            error,
            "vms[1].id: number 5 is not the VM's place in the list"
        );
        let error = refused(|example| example.vms[2].name = example.vms[1].name);
        assert_eq!(error, "vms[2].name: another VM has this name");
        let error = refused(|example| example.vms[2].load_order = LoadOrder::PreLaunched);
        assert!(error.starts_with("vms[2].load_order"), "{error}");
        let error = refused(|example| example.vms[2].load_order = LoadOrder::Service);
        assert_eq!(error, "vms[2].load_order: a second Service VM");
    }

    #[test]
    fn shares_of_a_cpu_are_what_schedulers_take() {
        let error = refused(|example| example.vms[1].scheduling.weight = 0);
        assert_eq!(error, "vms[1].scheduling: weight 0 is not in 1..=128");
        let error = refused(|example| example.vms[1].scheduling.warp_value = 8193);
        assert_eq!(
            error,
            "vms[1].scheduling: warp value 8193 is not in -8192..=8192"
        );
    }

    #[test]
    fn memory_of_two_vms_does_not_overlap() {
        const OVERLAP: [MemoryRegion; 1] = [MemoryRegion {
            start: Hpa(0x1_3fff_f000),
            size: 0x2000,
        }];
        let error = refused(|example| {
            example.vms[1].load_order = LoadOrder::PreLaunched;
            example.vms[1].memory = list(&OVERLAP);
        });
        assert_eq!(
            error,
            "vms[1].memory[0]: memory at 0x13ffff000 belongs to VM 0 too"
        );
    }

    #[test]
    fn a_bad_value_is_named_with_its_whole_path() {
        let (mut good, at) = with_example(|example| {
            let good = example.bytes();
            example.vms[0].kind = VmKind::Standard;
            let other = example.bytes();
            let at = (crate::header::SIZE..good.len()).find(|&at| good[at] != other[at]);
            (good, at.unwrap())
        });
        good[at] = 99;
        let crc = crate::crc::Crc::of(&good[crate::header::SIZE..]);
        good[16..20].copy_from_slice(&crc.to_le_bytes());
        let error = Config::parse(&good).unwrap_err();
        assert_eq!(error.to_string(), "vms[0].kind: 0x63 means nothing here");
    }

    #[test]
    fn a_body_that_goes_on_is_refused() {
        let mut good = with_example(|example| example.bytes());
        good.push(0);
        let length = good.len() as u32;
        good[12..16].copy_from_slice(&length.to_le_bytes());
        let crc = crate::crc::Crc::of(&good[crate::header::SIZE..]);
        good[16..20].copy_from_slice(&crc.to_le_bytes());
        let problem = Problem::Trailing(1);
        assert_eq!(
            Config::parse(&good),
            Err(Error::Field {
                path: Default::default(),
                problem
            })
        );
    }

    proptest! {
        #[test]
        fn any_change_of_the_body_is_answered(changes in proptest::collection::vec((0usize..2000, any::<u8>()), 1..6), cut in 0usize..2000) {
            let mut bytes = with_example(|example| example.bytes());
            let body = crate::header::SIZE;
            if cut > body { bytes.truncate(cut) }
            for (at, value) in changes {
                let length = bytes.len() - body;
                if let Some(byte) = bytes.get_mut(body + at % length.max(1)) { *byte = value }
            }
            let length = bytes.len() as u32;
            bytes[12..16].copy_from_slice(&length.to_le_bytes());
            let crc = crate::crc::Crc::of(&bytes[body..]);
            bytes[16..20].copy_from_slice(&crc.to_le_bytes());
            if let Ok(config) = Config::parse(&bytes) {
                prop_assert_eq!(&self::bytes(&config), &bytes);
            }
        }
    }
}
