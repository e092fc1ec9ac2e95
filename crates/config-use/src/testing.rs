//! A configuration for tests: a safety VM on CPU 3, the Service VM, and one User VM.

use crate::Setup;
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{Bdf, Hpa, PcpuId, VmId};
use acrn_config_blob::{
    Board as Identity, BoardCpu, CacheMask, Config, Features, HiddenDevice, List, LoadOrder,
    Machine, NO_VM, Options, Restart, Scheduler, Scheduling, Target, Text, Vcpu, Vm, VmKind, Vms,
    Vuart, encode,
};

/// A machine with some CPUs, whose APICs have the CPUs' numbers, and without anything else.
pub(crate) struct Board(usize);

impl Board {
    pub(crate) const CPUS4: Self = Self(4);
    pub(crate) const CPUS2: Self = Self(2);
}

impl Machine for Board {
    fn cpus(&self) -> usize {
        self.0
    }
    fn apic_id(&self, cpu: PcpuId) -> Option<u32> {
        (cpu.index() < self.0).then_some(cpu.0.into())
    }
    fn pci_id(&self, _: Bdf) -> Option<(u16, u16)> {
        None
    }
    fn is_ram(&self, _: Hpa, _: u64) -> bool {
        true
    }
}

/// What a test may choose.
pub(crate) struct Example {
    pub(crate) service: bool,
    pub(crate) safety: bool,
    pub(crate) features: Features,
    pub(crate) cat: bool,
    pub(crate) line: bool,
    pub(crate) hidden: bool,
    pub(crate) console_vm: u16,
    pub(crate) restart: Restart,
    pub(crate) kind: VmKind,
    pub(crate) severity: u8,
    pub(crate) flags: VmFlags,
}

impl Default for Example {
    fn default() -> Self {
        Self {
            service: true,
            safety: true,
            features: Features::default(),
            cat: false,
            line: false,
            hidden: false,
            console_vm: NO_VM,
            restart: Restart::Never,
            kind: VmKind::Standard,
            severity: 0x10,
            flags: VmFlags::empty(),
        }
    }
}

/// The encoded configuration; never freed, as the boot module's.
pub(crate) fn blob(example: &Example) -> &'static [u8] {
    let cpus = [0, 1, 2, 3].map(|apic_id| BoardCpu { apic_id });
    let schedulers = [Scheduler::RoundRobin];
    let hidden = [HiddenDevice {
        bdf: Bdf::new(0, 5, 0),
    }];
    let masks = [CacheMask {
        mask: 3,
        level: 3,
        ..CacheMask::default()
    }];
    let at = |cpu| Vcpu {
        pcpu: PcpuId(cpu),
        ..Vcpu::default()
    };
    let (own, others) = ([at(3)], [at(0), at(1), at(2)]);
    let vm = |name, load_order, vcpus| Vm {
        name: Text::new(name).unwrap(),
        load_order,
        vcpus: List::new(vcpus).unwrap(),
        scheduling: Scheduling {
            weight: 1,
            ..Scheduling::default()
        },
        ..Vm::default()
    };
    let vuart = |number, target| Vuart {
        number,
        target,
        ..Vuart::default()
    };
    let to = |vm| {
        let vm = VmId(vm);
        [vuart(0, None), vuart(1, Some(Target { vm, vuart: 1 }))]
    };
    let (to_service, to_user) = (to(1), to(2));
    let serial = |ports| List::new(if example.line { ports } else { &[] }).unwrap();
    let mut vms = Vec::new();
    if example.safety {
        vms.push(vm("SAFETY", LoadOrder::PreLaunched, &own));
    }
    if example.service {
        vms.push(Vm {
            vuarts: serial(&to_user),
            ..vm("SERVICE", LoadOrder::Service, &others)
        });
    }
    vms.push(Vm {
        restart: example.restart,
        kind: example.kind,
        severity: example.severity,
        flags: example.flags,
        vuarts: serial(&to_service),
        ..vm("USER1", LoadOrder::PostLaunched, &others[1..])
    });
    for (index, vm) in vms.iter_mut().enumerate() {
        vm.id = VmId(index as u16);
    }
    let config = Config {
        board: Identity {
            cpus: List::new(&cpus).unwrap(),
            ..Identity::default()
        },
        options: Options {
            features: example.features,
            scheduler: Scheduler::Priority,
            cpu_schedulers: List::new(&schedulers).unwrap(),
            console_vm: example.console_vm,
            cache_masks: List::new(if example.cat { &masks } else { &[] }).unwrap(),
            hidden_devices: List::new(if example.hidden { &hidden } else { &[] }).unwrap(),
            ..Options::default()
        },
        vms: Vms::new(&vms).unwrap(),
    };
    let mut bytes = Vec::new();
    encode(&config, &mut |piece| bytes.extend_from_slice(piece));
    bytes.leak()
}

/// Why there is no configuration.
pub(crate) fn refused(setup: &Setup<'_>) -> String {
    match setup {
        Setup::Configured(_) => panic!("the configuration is in force"),
        Setup::Default(refusal) | Setup::Stopped(refusal) => refusal.to_string(),
    }
}
