//! Rules about cache allocation and Software SRAM.

use super::{Context, Hits, Rule, error, vm_path, warning};
use crate::board::Cache;
use crate::scenario::{CacheAllocation, CachePolicy};
use acrn_config_blob::{CacheKind, LoadOrder, VmKind};

pub(super) const RULES: &[Rule] = &[
    warning(
        "rdt-capability",
        "cache allocation needs a cache that can be divided",
        "set RDT_ENABLED to n: the board file names no such cache",
        rdt_capability,
    ),
    error(
        "vcat-needs-rdt",
        "VCAT_ENABLED needs RDT_ENABLED, and CDP_ENABLED off",
        "set RDT_ENABLED to y and CDP_ENABLED to n, or VCAT_ENABLED to n",
        vcat_needs_rdt,
    ),
    error(
        "cdp-capability",
        "CDP_ENABLED needs the capability CDP on all caches that can be divided",
        "set CDP_ENABLED to n",
        cdp_capability,
    ),
    error(
        "vm-vcat-needs-vcat",
        "virtual_cat_support needs RDT_ENABLED and VCAT_ENABLED",
        "enable them, or set virtual_cat_support to n",
        vm_vcat,
    ),
    error(
        "rdt-or-ssram",
        "RDT_ENABLED and SSRAM_ENABLED exclude each other",
        "set one of them to n",
        rdt_or_ssram,
    ),
    warning(
        "ssram-region",
        "Software SRAM is not where a pre-launched real-time VM has other things",
        "disable Software SRAM: the firmware has put it between 2 GiB and 3.9 GiB",
        ssram_region,
    ),
    error(
        "cache-exists",
        "a divided cache is a cache of the board that can be divided",
        "write CACHE_ID and CACHE_LEVEL of a cache with the capability CAT",
        cache_exists,
    ),
    error(
        "cache-vm-exists",
        "a share of a cache belongs to a vCPU of the scenario",
        "correct VM and VCPU",
        cache_vm_exists,
    ),
    error(
        "cache-mask",
        "a mask is contiguous bits within the cache's mask",
        "write a mask such as 0xff whose bits are within the cache's capacity mask",
        cache_mask,
    ),
    error(
        "cache-mask-ssram",
        "a mask leaves the ways of Software SRAM alone",
        "take the ways of Software SRAM out of the mask",
        cache_mask_ssram,
    ),
    error(
        "clos-count",
        "there are classes of service enough for all different combinations of masks",
        "give some vCPUs the same masks",
        clos_count,
    ),
];

fn divisible<'c>(c: &'c Context<'_>) -> impl Iterator<Item = &'c Cache> {
    c.board
        .caches
        .list
        .iter()
        .filter(|cache| cache.capability("CAT").is_some())
}

fn rdt_capability(c: &Context<'_>, hits: &mut Hits) {
    if c.scenario.hv.features.rdt.enabled && divisible(c).next().is_none() {
        hits.add(
            "hv/FEATURES/RDT/RDT_ENABLED",
            "no cache of the board can be divided",
        );
    }
}

fn vcat_needs_rdt(c: &Context<'_>, hits: &mut Hits) {
    let rdt = &c.scenario.hv.features.rdt;
    if rdt.vcat && (rdt.cdp || !rdt.enabled) {
        hits.add(
            "hv/FEATURES/RDT/VCAT_ENABLED",
            "VCAT_ENABLED with CDP_ENABLED or without RDT_ENABLED",
        );
    }
}

fn cdp_capability(c: &Context<'_>, hits: &mut Hits) {
    let lacks = |cache: &&Cache| cache.capability("CDP").is_none();
    if !c.scenario.hv.features.rdt.cdp {
        return;
    }
    match divisible(c).find(lacks) {
        Some(cache) => hits.add(
            "hv/FEATURES/RDT/CDP_ENABLED",
            format!(
                "cache {:#x} of level {} has no CDP",
                cache.id.0, cache.level
            ),
        ),
        None if divisible(c).next().is_none() => {
            hits.add(
                "hv/FEATURES/RDT/CDP_ENABLED",
                "no cache of the board has CDP",
            );
        }
        None => {}
    }
}

fn vm_vcat(c: &Context<'_>, hits: &mut Hits) {
    let rdt = &c.scenario.hv.features.rdt;
    for (index, vm) in c.scenario.vms.iter().enumerate() {
        if vm.virtual_cat && !(rdt.enabled && rdt.vcat) {
            hits.add(
                vm_path(index) + "/virtual_cat_support",
                format!("VM {} has virtual_cat_support", vm.name),
            );
        }
    }
}

fn ssram_enabled(c: &Context<'_>) -> bool {
    c.scenario
        .hv
        .features
        .ssram
        .as_ref()
        .is_some_and(|ssram| ssram.enabled)
}

fn rdt_or_ssram(c: &Context<'_>, hits: &mut Hits) {
    if c.scenario.hv.features.rdt.enabled && ssram_enabled(c) {
        hits.add("hv/FEATURES/SSRAM/SSRAM_ENABLED", "both are enabled");
    }
}

fn ssram_region(c: &Context<'_>, hits: &mut Hits) {
    let real_time = c
        .scenario
        .vms_of(LoadOrder::PreLaunched)
        .any(|(_, vm)| vm.kind == VmKind::RealTime);
    if !ssram_enabled(c) || !real_time {
        return;
    }
    for region in c
        .board
        .caches_of(3)
        .filter_map(|cache| cache.capability("Software SRAM"))
    {
        let (start, end) = (
            region.start.unwrap_or_default().0,
            region.end.unwrap_or_default().0,
        );
        if end >= 0x8000_0000 && start < 0xf800_0000 {
            let message = format!("Software SRAM is at {start:#x} to {end:#x}");
            hits.add("hv/FEATURES/SSRAM/SSRAM_ENABLED", message);
        }
    }
}

fn each_cache<'c>(
    c: &'c Context<'_>,
) -> impl Iterator<Item = (String, &'c CacheAllocation, Option<&'c Cache>)> {
    let list = c
        .scenario
        .hv
        .cache_region
        .iter()
        .flat_map(|region| &region.list)
        .enumerate();
    list.map(|(place, allocation)| {
        let path = format!("hv/CACHE_REGION/CACHE_ALLOCATION[{}]", place + 1);
        let mut caches = c.board.caches_of(allocation.level);
        (
            path,
            allocation,
            caches.find(|cache| cache.id == allocation.id),
        )
    })
}

fn each_policy<'c>(
    c: &'c Context<'_>,
) -> impl Iterator<Item = (String, &'c CachePolicy, Option<&'c Cache>)> {
    each_cache(c).flat_map(|(path, allocation, cache)| {
        let policies = allocation.policies.iter().enumerate();
        policies
            .map(move |(place, policy)| (format!("{path}/POLICY[{}]", place + 1), policy, cache))
    })
}

fn cache_exists(c: &Context<'_>, hits: &mut Hits) {
    for (path, allocation, cache) in each_cache(c) {
        if cache.is_none_or(|cache| cache.mask_length() == 0) {
            let message = format!(
                "cache {:#x} of level {} cannot be divided",
                allocation.id.0, allocation.level
            );
            hits.add(path, message);
        }
    }
}

fn cache_vm_exists(c: &Context<'_>, hits: &mut Hits) {
    for (path, policy, _) in each_policy(c) {
        let vm = c.scenario.vm(&policy.vm);
        let cpus = vm.map_or(0, |(_, vm)| match vm.load_order {
            LoadOrder::Service => c.cpus.len(),
            _ => vm.cpu_affinity.pcpus.len(),
        });
        if !usize::try_from(policy.vcpu).is_ok_and(|vcpu| vcpu < cpus) {
            hits.add(
                path,
                format!("there is no vCPU {} of a VM “{}”", policy.vcpu, policy.vm),
            );
        }
    }
}

fn contiguous(mask: u64) -> bool {
    mask != 0
        && (mask >> mask.trailing_zeros())
            .wrapping_add(1)
            .is_power_of_two()
}

fn cache_mask(c: &Context<'_>, hits: &mut Hits) {
    for (path, policy, cache) in each_policy(c) {
        let Some(cache) = cache else { continue };
        let length = cache.mask_length();
        if !contiguous(policy.mask.0) || policy.mask.0 >> length != 0 {
            let message = format!("mask {:#x} for a cache with {length} ways", policy.mask.0);
            hits.add(path + "/CLOS_MASK", message);
        }
    }
}

/// Software SRAM takes the highest ways of its cache.
fn cache_mask_ssram(c: &Context<'_>, hits: &mut Hits) {
    for (path, policy, cache) in each_policy(c).filter(|_| ssram_enabled(c)) {
        let Some((cache, taken)) = cache.and_then(|cache| Some((cache, ssram_ways(cache)?))) else {
            continue;
        };
        let free = cache.mask_length().saturating_sub(taken);
        if policy.mask.0.checked_shr(free as u32).unwrap_or(0) != 0 {
            let message = format!(
                "mask {:#x} reaches into the {taken} ways of Software SRAM",
                policy.mask.0
            );
            hits.add(path + "/CLOS_MASK", message);
        }
    }
}

fn ssram_ways(cache: &Cache) -> Option<u64> {
    let size = u64::try_from(cache.capability("Software SRAM")?.size?).ok()?;
    let ways = u64::try_from(cache.ways?).ok().filter(|&ways| ways > 0)?;
    let way = u64::try_from(cache.size?).ok()? / ways;
    Some(size.div_ceil(way.max(1)))
}

fn clos_count(c: &Context<'_>, hits: &mut Hits) {
    let rdt = &c.scenario.hv.features.rdt;
    let each = if rdt.cdp { 2 } else { 1 };
    let Some(classes) = divisible(c).map(|cache| cache.classes() / each).min() else {
        return;
    };
    let used = crate::allocate::clos_count(c.board, c.scenario) as u64;
    if rdt.enabled && used > classes {
        hits.add(
            "hv/CACHE_REGION",
            format!("{used} classes of service are needed, the caches have {classes}"),
        );
    }
    let split = |policy: &CachePolicy| policy.kind != CacheKind::Unified;
    if let Some((path, policy, _)) = each_policy(c).find(|(_, policy, _)| split(policy) && !rdt.cdp)
    {
        hits.add(
            path + "/TYPE",
            format!("a mask for {} needs CDP_ENABLED", policy.kind),
        );
    }
}
