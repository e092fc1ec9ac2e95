//! Names of VMs, and those who know VMs by them.

use super::Refused;
use super::edit::with;
use acrn_config::{Scenario, ScenarioFile};

/// The name of VM number `vm`.
pub(super) fn name_of(file: &ScenarioFile, vm: usize) -> Result<String, Refused> {
    let vm = file.model.vms.get(vm).map(|vm| vm.name.clone());
    vm.ok_or_else(|| Refused::Absent {
        what: "VM",
        number: "with that number".to_owned(),
    })
}

/// The name of the VM whose name is at `path`, if that is its own.
pub(super) fn name_at(file: &ScenarioFile, path: &str) -> Option<String> {
    let number = path.strip_prefix("vm[")?.strip_suffix("]/name")?;
    let index = number.parse::<usize>().ok()?.checked_sub(1)?;
    let name = &file.model.vms.get(index)?.name;
    let owners = file.model.vms.iter().filter(|vm| vm.name == *name).count();
    (owners == 1 && !name.is_empty()).then(|| name.clone())
}

/// A name like `stem` with a number behind it that none of `taken` is.
pub(super) fn free<'t>(stem: &str, taken: impl Iterator<Item = &'t str>) -> String {
    let taken: Vec<&str> = taken.collect();
    let names = (1..).map(|number| format!("{stem}{number}"));
    let mut free = names.filter(|name| !taken.contains(&name.as_str()));
    free.next().expect("there are numbers without end")
}

/// A name for a VM.
pub(super) fn free_for_vm(scenario: &Scenario, stem: &str) -> String {
    free(stem, scenario.vms.iter().map(|vm| vm.name.as_str()))
}

/// Those who know a VM by its name learn the new one.
pub(super) fn rename(file: &mut ScenarioFile, old: &str, new: &str) {
    with(file, |scenario| {
        for name in references(scenario).filter(|name| *name == old) {
            new.clone_into(name);
        }
    });
}

fn references(scenario: &mut Scenario) -> impl Iterator<Item = &mut String> {
    let hv = &mut scenario.hv;
    let regions = hv.features.ivshmem.regions.iter_mut();
    let members = regions.flat_map(|region| &mut region.members.list);
    let lines = hv.vuart_connections.list.iter_mut();
    let ends = lines.flat_map(|line| &mut line.endpoints);
    let caches = hv
        .cache_region
        .iter_mut()
        .flat_map(|region| &mut region.list);
    let shares = caches.flat_map(|cache| &mut cache.policies);
    members
        .map(|member| &mut member.vm_name)
        .chain(ends.map(|end| &mut end.vm_name))
        .chain(shares.map(|share| &mut share.vm))
}

/// Nobody is connected to a VM any more.
pub(super) fn forget(scenario: &mut Scenario, name: &str) {
    let hv = &mut scenario.hv;
    for region in &mut hv.features.ivshmem.regions {
        region.members.list.retain(|member| member.vm_name != name);
    }
    let lines = &mut hv.vuart_connections.list;
    lines.retain(|line| line.endpoints.iter().all(|end| end.vm_name != name));
    for cache in hv
        .cache_region
        .iter_mut()
        .flat_map(|region| &mut region.list)
    {
        cache.policies.retain(|share| share.vm != name);
    }
}
