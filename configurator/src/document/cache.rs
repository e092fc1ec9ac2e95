//! How caches are divided among vCPUs.

use super::{Refused, edit::with};
use acrn_config::allocate::service_cpus;
use acrn_config::board::Cache;
use acrn_config::model::Hex;
use acrn_config::scenario::{CacheAllocation, CachePolicy, Vm};
use acrn_config::{Board, Scenario, ScenarioFile};
use acrn_config_blob::{CacheKind, LoadOrder};

/// A cache that can be divided, and who may fill what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DividedCache {
    /// Its place in the board file.
    pub index: usize,
    /// Its level.
    pub level: i64,
    /// Its number among those of its level.
    pub id: u64,
    /// Its size, in bytes; 0 if it is not known.
    pub size: u64,
    /// In how many ways it is divided.
    pub ways: u32,
    /// The masks of the vCPUs that use it.
    pub shares: Vec<(Share, u64)>,
}

/// Whose a share is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Name of the VM.
    pub vm: String,
    /// Number of the vCPU.
    pub vcpu: i64,
    /// What for.
    pub kind: CacheKind,
}

/// The caches of a board that can be divided, with all vCPUs that use them.
pub fn divided_caches(board: &Board, scenario: &Scenario) -> Vec<DividedCache> {
    let vcpus = vcpus(board, scenario);
    let kinds: &[CacheKind] = match scenario.hv.features.rdt.cdp {
        true => &[CacheKind::Code, CacheKind::Data],
        false => &[CacheKind::Unified],
    };
    let caches = board.caches.list.iter().enumerate();
    let divisible = caches.filter(|(_, cache)| cache.mask_length() > 0);
    let divided = divisible.map(|(index, cache)| {
        let uses = |apic: u32| cache.processors.apic_ids.contains(&Hex(apic.into()));
        let users = vcpus.iter().filter(|(_, _, apic)| uses(*apic));
        let shares = users.flat_map(|(vm, vcpu, _)| {
            kinds.iter().map(|&kind| Share {
                vm: vm.clone(),
                vcpu: *vcpu,
                kind,
            })
        });
        DividedCache {
            index,
            level: cache.level,
            id: cache.id.0,
            size: cache.size.unwrap_or(0).max(0) as u64,
            ways: cache.mask_length() as u32,
            shares: shares
                .map(|share| with_mask(scenario, cache, share))
                .collect(),
        }
    });
    divided.collect()
}

/// All vCPUs, as VM, number, and the APIC id of their CPU.
fn vcpus(board: &Board, scenario: &Scenario) -> Vec<(String, i64, u32)> {
    let cpus = board.cpus();
    let service = service_cpus(&cpus, scenario, &mut Default::default()).unwrap_or_default();
    let pcpus = |vm: &Vm| match vm.load_order {
        LoadOrder::Service => service
            .iter()
            .map(|&cpu| i64::from(cpu))
            .collect::<Vec<_>>(),
        _ => vm.cpu_affinity.pcpus.iter().map(|pcpu| pcpu.id).collect(),
    };
    let apic = |id: i64| {
        let cpu = cpus.iter().find(|cpu| i64::from(cpu.id) == id);
        cpu.map(|cpu| cpu.apic_id)
    };
    let of_vm = |vm: &Vm| {
        let numbered = pcpus(vm).into_iter().enumerate();
        let known =
            numbered.filter_map(|(vcpu, id)| Some((vm.name.clone(), vcpu as i64, apic(id)?)));
        known.collect::<Vec<_>>()
    };
    scenario.vms.iter().flat_map(of_vm).collect()
}

fn is_of(allocation: &CacheAllocation, cache: &Cache) -> bool {
    allocation.id == cache.id && allocation.level == cache.level
}

fn is_for(policy: &CachePolicy, share: &Share) -> bool {
    policy.vm == share.vm && policy.vcpu == share.vcpu && policy.kind == share.kind
}

fn full(cache: &Cache) -> u64 {
    (1 << cache.mask_length()) - 1
}

/// A share without a mask of its own is the whole cache.
fn with_mask(scenario: &Scenario, cache: &Cache, share: Share) -> (Share, u64) {
    let allocations = scenario
        .hv
        .cache_region
        .iter()
        .flat_map(|region| &region.list);
    let mut policies = allocations
        .filter(|allocation| is_of(allocation, cache))
        .flat_map(|allocation| &allocation.policies);
    let mask = policies.find(|policy| is_for(policy, &share));
    let mask = mask.map_or(full(cache), |policy| policy.mask.0);
    (share, mask)
}

/// Lets a vCPU fill a way or not.
pub(super) fn set_way(
    file: &mut ScenarioFile,
    board: &Board,
    cache: usize,
    share: &Share,
    way: u32,
    on: bool,
) -> Result<(), Refused> {
    let cache = board
        .caches
        .list
        .get(cache)
        .ok_or_else(|| Refused::Absent {
            what: "cache",
            number: cache.to_string(),
        })?;
    if u64::from(way) >= cache.mask_length() {
        let (what, number) = ("way", way.to_string());
        return Err(Refused::Absent { what, number });
    }
    with(file, |scenario| {
        let mask = mask_of(scenario, cache, share);
        mask.0 = mask.0 & !(1 << way) | u64::from(on) << way;
    });
    Ok(())
}

/// The mask of a share, made if it has none.
fn mask_of<'s>(scenario: &'s mut Scenario, cache: &Cache, share: &Share) -> &'s mut Hex {
    let caches = &mut scenario.hv.cache_region.get_or_insert_default().list;
    let place = caches
        .iter()
        .position(|allocation| is_of(allocation, cache));
    let place = place.unwrap_or_else(|| {
        caches.push(CacheAllocation {
            id: cache.id,
            level: cache.level,
            policies: Vec::new(),
        });
        caches.len() - 1
    });
    let policies = &mut caches[place].policies;
    let place = policies.iter().position(|policy| is_for(policy, share));
    let place = place.unwrap_or_else(|| {
        policies.push(CachePolicy {
            vm: share.vm.clone(),
            vcpu: share.vcpu,
            kind: share.kind,
            mask: Hex(full(cache)),
        });
        policies.len() - 1
    });
    &mut policies[place].mask
}
