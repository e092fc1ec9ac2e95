//! Whether there is a configuration, and what is in force with it and without.

use crate::schedule;
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{Bdf, PcpuId, VmId, module_tag};
use acrn_config_blob::{
    Config, Error, LoadOrder, Machine, Mismatch, NO_VM, Scheduler, ShellMode, Vm,
};
use acrn_sched::{Params, Policy};
use core::fmt;

/// Largest boot module that is taken for a configuration, in bytes. The largest that can be built has
/// less than half of it.
pub const MAX_SIZE: u64 = 1 << 20;

/// Slots of the hypervisor's table of VMs. The first is the Service VM's, the last ones are those of
/// pre-launched VMs, and post-launched VMs have the others.
pub const SLOTS: u16 = 8;

/// Why there is no configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No boot module has the tag.
    Absent,
    /// The module is larger than any configuration.
    TooLarge {
        /// Its size, in bytes.
        size: u64,
    },
    /// The module lies where there is no memory, or there is none for a copy.
    NoMemory {
        /// Its size, in bytes.
        size: u64,
    },
    /// The module is damaged or no configuration.
    Damaged(Error),
    /// The configuration is for another machine.
    Machine(Mismatch),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = module_tag::CONFIG;
        match self {
            Self::Absent => write!(
                f,
                "no boot module has the tag {tag}; load what acrn-config build wrote as a module whose string is that word"
            ),
            Self::TooLarge { size } => write!(
                f,
                "module {tag}: {size} bytes are too many for a configuration; pass what acrn-config build wrote"
            ),
            Self::NoMemory { size } => write!(
                f,
                "module {tag}: its {size} bytes cannot be copied; there must be memory where the loader says that it is"
            ),
            Self::Damaged(error) => write!(f, "module {tag}: {error}"),
            Self::Machine(mismatch) => write!(
                f,
                "module {tag}: {mismatch}; build it with this machine's board file"
            ),
        }
    }
}

impl core::error::Error for Refusal {}

/// What is in force.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is no heap, and one of these in the machine"
)]
pub enum Setup<'a> {
    /// A configuration.
    Configured(Config<'a>),
    /// The safe default, a Service VM alone.
    Default(Refusal),
    /// Nothing: the machine is to stop at this, and no VM starts.
    Stopped(Refusal),
}

/// What the scenario says of a User VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has a VM of this name.
    Static {
        /// The one slot of the VM table that it gets.
        slot: u16,
        /// The CPUs of which it may have some, as bits.
        cpus: u64,
        /// What its vCPUs are entitled to.
        share: Params,
    },
    /// It does not know the VM, which gets any slot that no VM of the scenario has.
    Dynamic,
}

/// What a VM is compared with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// How important it is: ACRN's number.
    pub severity: u8,
    /// Whether it is real-time.
    pub real_time: bool,
}

/// Severities of VMs of which the scenario says nothing.
const STANDARD: u8 = 0x10;
const SERVICE: u8 = 0x20;

impl<'a> Setup<'a> {
    /// Judges the bytes of the boot module. `strict` is a machine that must not run without.
    pub fn judge(module: Result<&'a [u8], Refusal>, machine: &impl Machine, strict: bool) -> Self {
        let parsed = module.and_then(|bytes| Config::parse(bytes).map_err(Refusal::Damaged));
        let suits = |config: &Config<'_>| config.check_machine(machine).map_err(Refusal::Machine);
        let judged = parsed.and_then(|config| suits(&config).map(|()| config));
        match judged {
            Ok(config) => Self::Configured(config),
            Err(refusal) if strict => Self::Stopped(refusal),
            Err(refusal) => Self::Default(refusal),
        }
    }

    /// The configuration, when one is in force.
    pub const fn config(&self) -> Option<&Config<'a>> {
        match self {
            Self::Configured(config) => Some(config),
            Self::Default(_) | Self::Stopped(_) => None,
        }
    }

    /// What the hypervisor's shell may do. Without a configuration all, to find out why.
    pub fn shell(&self) -> ShellMode {
        self.config()
            .map_or(ShellMode::Full, |config| config.options.shell)
    }

    /// How vCPUs share a CPU.
    pub fn scheduler(&self, cpu: PcpuId) -> Scheduler {
        let of = |config: &Config<'_>| {
            let own = config.options.cpu_schedulers.get(cpu.index());
            own.unwrap_or(config.options.scheduler)
        };
        self.config().map_or(Scheduler::Bvt, of)
    }

    /// The same for the scheduler, over a clock with `tick` ticks a millisecond.
    pub fn policy(&self, cpu: PcpuId, tick: u64) -> Policy {
        schedule::policy(self.scheduler(cpu), tick)
    }

    /// The Service VM of the configuration.
    pub fn service_vm(&self) -> Option<Vm<'a>> {
        self.config()?.service_vm()
    }

    /// Whether a Service VM is to start.
    pub fn has_service_vm(&self) -> bool {
        match self {
            Self::Configured(_) => self.service_vm().is_some(),
            Self::Default(_) => true,
            Self::Stopped(_) => false,
        }
    }

    /// What the Service VM's vCPUs are entitled to.
    pub fn service_params(&self) -> Params {
        self.service_vm()
            .map_or(Params::default(), |vm| schedule::params(&vm.scheduling))
    }

    /// Whether the Service VM has a vCPU on this CPU. All of them unless configured.
    pub fn service_has(&self, cpu: PcpuId) -> bool {
        self.service_vm()
            .is_none_or(|vm| vm.vcpus.iter().any(|vcpu| vcpu.pcpu == cpu))
    }

    /// Where a User VM of this name goes.
    pub fn place(&self, name: &str) -> Place {
        let known = self.config().and_then(|config| config.vm_by_name(name));
        let known = known.filter(|vm| vm.load_order == LoadOrder::PostLaunched);
        match known.and_then(|vm| Some((self.slot(&vm)?, vm))) {
            Some((slot, vm)) => Place::Static {
                slot,
                cpus: vm.cpu_mask(),
                share: schedule::params(&vm.scheduling),
            },
            None => Place::Dynamic,
        }
    }

    /// The VMs that start with the machine, each with its slot and what its vCPUs are entitled to.
    pub fn pre_launched(&self) -> impl Iterator<Item = (u16, Params, Vm<'a>)> {
        let vms = self
            .config()
            .into_iter()
            .flat_map(|config| config.pre_launched());
        vms.filter_map(|vm| Some((self.slot(&vm)?, schedule::params(&vm.scheduling), vm)))
    }

    /// Whether a slot is kept for a VM of the scenario.
    pub fn is_reserved(&self, slot: u16) -> bool {
        let mut vms = self
            .config()
            .into_iter()
            .flat_map(|config| config.vms.iter());
        vms.any(|vm| self.slot(&vm) == Some(slot))
    }

    /// The slot of a VM; `None` when there are too many. Those of post-launched VMs count from the
    /// Service VM, as Device Models see them, and those of pre-launched VMs end with the last.
    pub fn slot(&self, vm: &Vm<'_>) -> Option<u16> {
        let config = self.config()?;
        let count = config.pre_launched().count() as u16;
        let first = SLOTS.checked_sub(count)?;
        match vm.load_order {
            LoadOrder::Service => Some(0),
            LoadOrder::PreLaunched => {
                let before = config.pre_launched().take_while(|other| other.id != vm.id);
                Some(first + before.count() as u16).filter(|slot| *slot > 0)
            }
            LoadOrder::PostLaunched => {
                let slot = vm.id.0.checked_sub(self.service_vm()?.id.0)?;
                (0 < slot && slot < first).then_some(slot)
            }
        }
    }

    /// The VM of the scenario that has this slot.
    pub fn vm_in(&self, slot: u16) -> Option<Vm<'a>> {
        if slot == 0 {
            return self.service_vm();
        }
        let mut vms = self.config()?.vms.iter();
        vms.find(|vm| self.slot(vm) == Some(slot))
    }

    /// What the VM in a slot is: what the scenario says of it, else what follows from who starts it. `flags` are
    /// those that it was made with.
    pub fn rank(&self, slot: u16, order: LoadOrder, flags: VmFlags) -> Rank {
        let known = self.vm_in(slot).filter(|vm| vm.load_order == order);
        let default = match order {
            LoadOrder::Service => SERVICE,
            LoadOrder::PreLaunched | LoadOrder::PostLaunched => STANDARD,
        };
        Rank {
            severity: known.as_ref().map_or(default, |vm| vm.severity),
            real_time: known
                .map_or(flags, |vm| vm.flags | flags)
                .contains(VmFlags::RT),
        }
    }

    /// Whether no VM may see this function.
    pub fn hides(&self, bdf: Bdf) -> bool {
        let hidden = self.config().map(|config| config.options.hidden_devices);
        hidden.is_some_and(|list| list.iter().any(|device| device.bdf == bdf))
    }

    /// The slot of the VM whose console is shown at first, when the scenario names one.
    pub fn console_vm(&self) -> Option<u16> {
        let config = self.config()?;
        let wanted = config.options.console_vm;
        let chosen = (wanted != NO_VM).then(|| config.vm(VmId(wanted))).flatten();
        chosen.and_then(|vm| self.slot(&vm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Board, Example, blob, refused};

    fn setup(example: &Example) -> Setup<'static> {
        let bytes = blob(example);
        Setup::judge(Ok(bytes), &Board::CPUS4, false)
    }

    #[test]
    fn each_refusal_says_what_is_wrong_and_leaves_a_service_vm_alone() {
        let good = blob(&Example::default());
        let mut damaged = good.to_vec();
        damaged[40] ^= 1;
        type Case<'a> = (Result<&'a [u8], Refusal>, &'a Board, &'a str);
        let cases: [Case<'_>; 5] = [
            (
                Err(Refusal::Absent),
                &Board::CPUS4,
                "no boot module has the tag acrn_config",
            ),
            (
                Err(Refusal::TooLarge { size: 9 }),
                &Board::CPUS4,
                "9 bytes are too many",
            ),
            (Ok(&damaged), &Board::CPUS4, "the file is damaged"),
            (Ok(&good[..10]), &Board::CPUS4, "10 bytes are too few"),
            (Ok(good), &Board::CPUS2, "it has 4 CPUs, this machine has 2"),
        ];
        for (module, board, sentence) in cases {
            let setup = Setup::judge(module.clone(), board, false);
            let refusal = refused(&setup);
            assert!(refusal.contains(sentence), "{refusal}");
            assert!(matches!(setup, Setup::Default(_)) && setup.has_service_vm());
            assert_eq!(setup.shell(), ShellMode::Full);
            assert!(setup.service_has(PcpuId(3)));
            assert_eq!(setup.place("USER1"), Place::Dynamic);
            let strict = Setup::judge(module, board, true);
            assert!(!strict.has_service_vm(), "{refusal}");
            assert_eq!(refused(&strict), refusal);
        }
    }

    #[test]
    fn a_good_configuration_is_in_force_strict_or_not() {
        let good = blob(&Example::default());
        for strict in [false, true] {
            let setup = Setup::judge(Ok(good), &Board::CPUS4, strict);
            assert!(setup.config().is_some() && setup.has_service_vm());
        }
    }

    #[test]
    fn a_cpu_has_its_own_scheduler_or_that_of_all() {
        let setup = setup(&Example::default());
        assert_eq!(setup.scheduler(PcpuId(0)), Scheduler::RoundRobin);
        assert_eq!(setup.scheduler(PcpuId(3)), Scheduler::Priority);
        assert_eq!(setup.policy(PcpuId(3), 1), Policy::Priority);
    }

    #[test]
    fn slots_count_from_the_service_vm() {
        let setup = setup(&Example::default());
        let place = Place::Static {
            slot: 1,
            cpus: 0b110,
            share: Params::default(),
        };
        assert_eq!(setup.place("USER1"), place);
        assert!(setup.is_reserved(1) && !setup.is_reserved(2));
        let first: Vec<_> = setup.pre_launched().map(|(slot, ..)| slot).collect();
        assert_eq!(first, [SLOTS - 1]);
        assert!(setup.is_reserved(SLOTS - 1));
        assert_eq!(setup.place("other"), Place::Dynamic);
        let name = |slot| setup.vm_in(slot).map(|vm| vm.name.as_str().to_owned());
        let names = [0, 1, 2].map(name);
        assert_eq!(names, [Some("SERVICE".into()), Some("USER1".into()), None]);
        // Neither the Service VM nor a pre-launched VM is a Device Model's to make.
        assert_eq!(setup.place("SERVICE"), Place::Dynamic);
        assert_eq!(setup.place("SAFETY"), Place::Dynamic);
    }

    #[test]
    fn the_rank_of_a_vm_is_the_scenarios_or_that_of_who_starts_it() {
        let rank = |setup: &Setup<'_>, slot, order, flags| {
            let Rank {
                severity,
                real_time,
            } = setup.rank(slot, order, flags);
            (severity, real_time)
        };
        let (post, none) = (LoadOrder::PostLaunched, VmFlags::empty());
        let scenario = setup(&Example {
            severity: 0x30,
            flags: VmFlags::RT,
            ..Example::default()
        });
        assert_eq!(rank(&scenario, 1, post, none), (0x30, true));
        // A slot of no VM, and the same slots without a scenario.
        assert_eq!(rank(&scenario, 2, post, none), (STANDARD, false));
        assert_eq!(rank(&scenario, 2, post, VmFlags::RT), (STANDARD, true));
        let default = Setup::Default(Refusal::Absent);
        assert_eq!(rank(&default, 1, post, none), (STANDARD, false));
        assert_eq!(
            rank(&default, 0, LoadOrder::Service, none),
            (SERVICE, false)
        );
    }

    #[test]
    fn only_hidden_devices_are_hidden() {
        let hides = |setup: &Setup<'_>, device| setup.hides(Bdf::new(0, device, 0));
        let scenario = setup(&Example {
            hidden: true,
            ..Example::default()
        });
        assert!(hides(&scenario, 5) && !hides(&scenario, 6));
        assert!(!hides(&Setup::Default(Refusal::Absent), 5));
    }

    #[test]
    fn the_service_vm_has_the_cpus_of_the_scenario() {
        let setup = setup(&Example::default());
        let has = [0, 1, 2, 3].map(|cpu| setup.service_has(PcpuId(cpu)));
        assert_eq!(has, [true, true, true, false]);
    }

    #[test]
    fn without_a_service_vm_in_the_scenario_none_starts() {
        let setup = setup(&Example {
            service: false,
            ..Example::default()
        });
        assert!(!setup.has_service_vm());
        assert!(!setup.is_reserved(1));
    }
}
