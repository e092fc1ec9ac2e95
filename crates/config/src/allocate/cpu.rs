//! CPUs of the Service VM: those that pre-launched VMs leave.

use super::{AllocError, Notes};
use crate::Scenario;
use crate::board::Cpu;
use acrn_config_blob::LoadOrder;

/// The CPUs of the Service VM; none without one.
pub fn service_cpus(
    cpus: &[Cpu],
    scenario: &Scenario,
    notes: &mut Notes,
) -> Result<Vec<u16>, AllocError> {
    let Some(service) = scenario.service_vm() else {
        return Ok(Vec::new());
    };
    let taken = |cpu: u16| {
        let mut pre = scenario.vms_of(LoadOrder::PreLaunched);
        pre.any(|(_, vm)| {
            vm.cpu_affinity
                .pcpus
                .iter()
                .any(|pcpu| pcpu.id == i64::from(cpu))
        })
    };
    let left: Vec<u16> = cpus
        .iter()
        .map(|cpu| cpu.id)
        .filter(|&cpu| !taken(cpu))
        .collect();
    if left.is_empty() {
        return Err(AllocError::NoCpu);
    }
    notes.add(
        &service.name,
        "CPUs",
        format!("{left:?}"),
        "those that no pre-launched VM has",
    );
    Ok(left)
}
