//! What can be done to a scenario.

use super::{cache, fresh, names, vms};
use acrn_config::model::{Device, Scalar, item};
use acrn_config::scenario::{IvshmemVm, Pcpu, Vm};
use acrn_config::{Board, LoadError, Scenario, ScenarioFile};
use acrn_config_blob::{CacheKind, LoadOrder};
use serde::Deserialize;

/// An edit. VMs, regions and caches are known by their places in their lists, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Edit {
    /// Give an element or attribute a text.
    Set {
        /// Which, such as `vm[2]/memory/size`.
        path: String,
        /// The text.
        text: String,
    },
    /// Add an element to a list, or one that is optional, with what it needs.
    Add {
        /// Which, without a number.
        path: String,
    },
    /// Take an element away.
    Remove {
        /// Which.
        path: String,
    },
    /// Add a VM behind those of its load order.
    AddVm {
        /// Word of the load order.
        order: String,
        /// Whether it is a real-time VM.
        #[serde(default)]
        real_time: bool,
    },
    /// Add a VM like another.
    CopyVm {
        /// The other.
        vm: usize,
    },
    /// Take a VM away, and with it what connects others to it.
    RemoveVm {
        /// The VM.
        vm: usize,
    },
    /// Move a VM by one place among those of its load order.
    MoveVm {
        /// The VM.
        vm: usize,
        /// Towards the first.
        up: bool,
    },
    /// Give a VM a CPU, or take it away.
    Cpu {
        /// The VM.
        vm: usize,
        /// The CPU.
        cpu: i64,
        /// Whether it has it.
        on: bool,
    },
    /// Let a vCPU do real-time work or not.
    RealTime {
        /// The VM.
        vm: usize,
        /// The CPU that it is on.
        cpu: i64,
        /// Whether it does.
        on: bool,
    },
    /// Give a VM a PCI device of the board, or take it away.
    Device {
        /// The VM.
        vm: usize,
        /// Place of the device.
        bdf: String,
        /// Whether it has it.
        on: bool,
    },
    /// Let a VM share a region of memory or not.
    Share {
        /// The region.
        region: usize,
        /// The VM.
        vm: usize,
        /// Whether it shares it.
        on: bool,
    },
    /// Let a vCPU fill a way of a cache or not.
    Way {
        /// The cache's place in the board file.
        cache: usize,
        /// Name of the VM.
        vm: String,
        /// Number of the vCPU.
        vcpu: i64,
        /// Word of what the mask is for.
        kind: String,
        /// Number of the way.
        way: u32,
        /// Whether it may.
        on: bool,
    },
}

/// Why an edit is impossible.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such element.
    #[error("nothing can be at {0}; reload the page, which may be older than the scenario")]
    Path(String),
    /// There is no such thing.
    #[error("there is no {what} {number}; reload the page, which may be older than the scenario")]
    Absent {
        /// What.
        what: &'static str,
        /// Its number or name.
        number: String,
    },
    /// There would be too many VMs.
    #[error("there are {0} VMs already, and a hypervisor has at most that many; delete one first")]
    Full(usize),
    /// A character cannot be in a file.
    #[error("the character {0:?} cannot be in an XML file; leave it out")]
    Character(char),
    /// The text cannot be in a file.
    #[error("this text cannot be in an XML file ({0}); write something else")]
    Text(LoadError),
}

impl Edit {
    /// The element that is edited, for edits that people type.
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Set { path, .. } => path,
            _ => "",
        }
    }
}

/// Edits a file.
pub(super) fn edit(file: &mut ScenarioFile, board: &Board, edit: &Edit) -> Result<(), Refused> {
    match edit {
        Edit::Set { path, text } => set(file, path, text),
        Edit::Add { path } => fresh::add(file, board, path),
        Edit::Remove { path } => match file.remove(path) {
            true => Ok(()),
            false => Err(Refused::Path(path.clone())),
        },
        Edit::AddVm { order, real_time } => vms::add(file, board, load_order(order)?, *real_time),
        Edit::CopyVm { vm } => vms::copy(file, *vm),
        Edit::RemoveVm { vm } => vms::remove(file, *vm),
        Edit::MoveVm { vm, up } => vms::shift(file, *vm, *up),
        Edit::Cpu { vm, cpu, on } => with_vm(file, *vm, |vm| give_cpu(vm, *cpu, *on)),
        Edit::RealTime { vm, cpu, on } => with_vm(file, *vm, |vm| {
            let mut pcpus = vm.cpu_affinity.pcpus.iter_mut();
            if let Some(pcpu) = pcpus.find(|pcpu| pcpu.id == *cpu) {
                pcpu.real_time = *on;
            }
        }),
        Edit::Device { vm, bdf, on } => {
            let device = device(board, bdf)?;
            with_vm(file, *vm, |vm| give_device(vm, device, *on))
        }
        Edit::Share { region, vm, on } => share(file, *region, *vm, *on),
        Edit::Way {
            cache,
            vm,
            vcpu,
            kind,
            way,
            on,
        } => {
            let kind = word::<CacheKind>(kind, "kind of share")?;
            let share = cache::Share {
                vm: vm.clone(),
                vcpu: *vcpu,
                kind,
            };
            cache::set_way(file, board, *cache, &share, *way, *on)
        }
    }
}

/// A text. Those who know a VM by its name learn its new one; a VM with another load order moves.
fn set(file: &mut ScenarioFile, path: &str, text: &str) -> Result<(), Refused> {
    let is_bad = |c: &char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    if let Some(bad) = text.chars().find(is_bad) {
        return Err(Refused::Character(bad));
    }
    let renamed = names::name_at(file, path);
    if !file.set(path, text) {
        return Err(Refused::Path(path.to_owned()));
    }
    if let Some(old) = renamed {
        names::rename(file, &old, text);
    }
    if path.ends_with("/load_order") {
        vms::sort(file);
    }
    Ok(())
}

fn word<T: Scalar>(text: &str, what: &'static str) -> Result<T, Refused> {
    T::parse(text, &item("", "", "")).map_err(|_| Refused::Absent {
        what,
        number: text.to_owned(),
    })
}

fn load_order(text: &str) -> Result<LoadOrder, Refused> {
    word(text, "load order")
}

/// Changes what a file means.
pub(super) fn with(file: &mut ScenarioFile, change: impl FnOnce(&mut Scenario)) {
    let mut model = file.model.clone();
    change(&mut model);
    file.update(&model);
}

fn with_vm(
    file: &mut ScenarioFile,
    vm: usize,
    change: impl FnOnce(&mut Vm),
) -> Result<(), Refused> {
    names::name_of(file, vm)?;
    with(file, |scenario| change(&mut scenario.vms[vm]));
    Ok(())
}

fn give_cpu(vm: &mut Vm, id: i64, on: bool) {
    let pcpus = &mut vm.cpu_affinity.pcpus;
    let real_time = pcpus.iter().any(|pcpu| pcpu.real_time);
    pcpus.retain(|pcpu| pcpu.id != id);
    if on {
        pcpus.push(Pcpu { id, real_time });
        pcpus.sort_by_key(|pcpu| pcpu.id);
    }
}

/// The device at a place of the board, as scenarios name it.
fn device(board: &Board, bdf: &str) -> Result<Device, Refused> {
    let absent = || Refused::Absent {
        what: "PCI device",
        number: bdf.to_owned(),
    };
    let place = word::<acrn_abi::Bdf>(bdf, "PCI place")?;
    let function = board.pci_function(place).ok_or_else(absent)?;
    let description = function.description();
    Ok(Device {
        bdf: place,
        text: format!("{place} {description}").trim().to_owned(),
    })
}

fn give_device(vm: &mut Vm, device: Device, on: bool) {
    let devices = &mut vm.pci_devs.list;
    devices.retain(|other| other.bdf != device.bdf);
    if on {
        devices.push(device);
        devices.sort_by_key(|device| device.bdf);
    }
}

fn share(file: &mut ScenarioFile, region: usize, vm: usize, on: bool) -> Result<(), Refused> {
    let name = names::name_of(file, vm)?;
    if file.model.hv.features.ivshmem.regions.len() <= region {
        let (what, number) = ("region", region.to_string());
        return Err(Refused::Absent { what, number });
    }
    with(file, |scenario| {
        let members = &mut scenario.hv.features.ivshmem.regions[region].members.list;
        members.retain(|member| member.vm_name != name);
        if on {
            members.push(IvshmemVm {
                vm_name: name,
                vbdf: None,
            });
        }
    });
    Ok(())
}
