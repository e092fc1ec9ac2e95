//! Classes of service: vCPUs with the same masks share one. Class 0, which everybody has who is not named,
//! may fill all caches.

use super::{AllocError, HYPERVISOR, Notes};
use crate::scenario::Vm;
use crate::{Board, Scenario};
use acrn_config_blob::{CacheKind, CacheMask, LoadOrder, MAX_CLOS, VirtualClos};

/// What a class may fill: level, number and mask of caches, in order.
type Masks = Vec<(i64, u64, CacheKind, u64)>;

/// The classes of service of all vCPUs.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    /// For each VM, for each vCPU.
    vcpus: Vec<Vec<u8>>,
    /// For each VM, the classes that it may choose of.
    pub virtual_clos: Vec<Vec<VirtualClos>>,
    /// The masks.
    pub masks: Vec<CacheMask>,
}

impl Classes {
    /// The classes of a VM's vCPUs.
    pub fn of(&self, vm: usize) -> &[u8] {
        self.vcpus.get(vm).map_or(&[], Vec::as_slice)
    }
}

/// The classes of all vCPUs of a scenario.
pub fn classes(
    board: &Board,
    scenario: &Scenario,
    service_cpus: &[u16],
    notes: &mut Notes,
) -> Result<Classes, AllocError> {
    let count = scenario.vms.len();
    let mut result = Classes {
        vcpus: vec![Vec::new(); count],
        virtual_clos: vec![Vec::new(); count],
        masks: Vec::new(),
    };
    if !scenario.hv.features.rdt.enabled || board.caches.list.iter().all(|c| c.mask_length() == 0) {
        return Ok(result);
    }
    let mut known: Vec<Masks> = vec![Masks::new()];
    for (index, vm) in scenario.vms.iter().enumerate() {
        let cpus = match vm.load_order {
            LoadOrder::Service => service_cpus.len(),
            _ => vm.cpu_affinity.pcpus.len(),
        };
        for vcpu in 0..cpus {
            let masks = masks(scenario, vm, vcpu);
            let clos = known
                .iter()
                .position(|other| *other == masks)
                .unwrap_or_else(|| {
                    known.push(masks);
                    known.len() - 1
                });
            if clos > 0 {
                let why = "vCPUs with the same masks share a class; 0 may fill everything";
                notes.add(
                    &vm.name,
                    "class of service",
                    format!("{clos} for vCPU {vcpu}"),
                    why,
                );
            }
            result.vcpus[index].push(u8::try_from(clos).unwrap_or(u8::MAX));
        }
    }
    virtual_classes(scenario, &mut known, &mut result, notes);
    if known.len() > MAX_CLOS {
        return Err(AllocError::NoClos {
            count: known.len(),
            max: MAX_CLOS,
        });
    }
    result.masks = known
        .iter()
        .enumerate()
        .flat_map(|(clos, masks)| encode(clos, masks))
        .collect();
    notes.add(
        HYPERVISOR,
        "classes of service",
        known.len().to_string(),
        "different combinations of masks",
    );
    Ok(result)
}

/// How many classes a scenario needs.
pub(crate) fn clos_count(board: &Board, scenario: &Scenario) -> usize {
    let service = super::service_cpus(&board.cpus(), scenario, &mut Notes::default());
    let classes = classes(
        board,
        scenario,
        &service.unwrap_or_default(),
        &mut Notes::default(),
    );
    match classes {
        Ok(classes) => {
            let used = classes.vcpus.iter().flatten().copied();
            let chosen = classes
                .virtual_clos
                .iter()
                .flatten()
                .map(|clos| clos.physical);
            used.chain(chosen)
                .max()
                .map_or(1, |most| usize::from(most) + 1)
        }
        Err(AllocError::NoClos { count, .. }) => count,
        Err(_) => 0,
    }
}

/// The masks of a vCPU.
fn masks(scenario: &Scenario, vm: &Vm, vcpu: usize) -> Masks {
    let caches = scenario
        .hv
        .cache_region
        .iter()
        .flat_map(|region| &region.list);
    let mut masks: Masks = caches
        .flat_map(|cache| {
            let own = cache
                .policies
                .iter()
                .filter(|p| p.vm == vm.name && p.vcpu == vcpu as i64);
            own.map(|policy| (cache.level, cache.id.0, policy.kind, policy.mask.0))
        })
        .collect();
    masks.sort_unstable();
    masks
}

/// Classes of their own for VMs that choose themselves, beginning with what their first vCPU may fill.
fn virtual_classes(
    scenario: &Scenario,
    known: &mut Vec<Masks>,
    result: &mut Classes,
    notes: &mut Notes,
) {
    for (index, vm) in scenario
        .vms
        .iter()
        .enumerate()
        .filter(|(_, vm)| vm.virtual_cat)
    {
        let masks = masks(scenario, vm, 0);
        for _ in 0..vm.virtual_cat_number {
            let physical = u8::try_from(known.len()).unwrap_or(u8::MAX);
            result.virtual_clos[index].push(VirtualClos { physical });
            known.push(masks.clone());
        }
        let list: Vec<_> = result.virtual_clos[index]
            .iter()
            .map(|clos| clos.physical)
            .collect();
        notes.add(
            &vm.name,
            "virtual classes",
            format!("{list:?}"),
            "nobody else has them",
        );
    }
}

fn encode(clos: usize, masks: &Masks) -> impl Iterator<Item = CacheMask> {
    masks.iter().map(move |&(level, id, kind, mask)| CacheMask {
        level: level as u8,
        kind,
        cache_id: id as u32,
        clos: u8::try_from(clos).unwrap_or(u8::MAX),
        mask: mask as u32,
    })
}
