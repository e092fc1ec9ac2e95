//! Elements that stand where they have no meaning: a Device Model's in a VM that has none.

use super::vm_path;
use crate::model::{Applies, Group, Place};
use crate::scenario::Vm;
use crate::{Finding, ScenarioFile, Severity};
use acrn_config_blob::LoadOrder;

pub(super) fn check(file: &ScenarioFile) -> Vec<Finding> {
    let vms = file
        .model
        .vms
        .iter()
        .zip(file.document.root.named("vm"))
        .enumerate();
    let mut findings = Vec::new();
    for (index, (vm, element)) in vms {
        let elements = Vm::ITEMS.iter().filter(|item| item.place == Place::Element);
        for item in elements.filter(|item| !has(item.applies, vm.load_order)) {
            let Some(child) = element.child(item.name) else {
                continue;
            };
            let says_nothing = child.elements().next().is_none() && child.text() == item.default;
            if !says_nothing && !child.children.is_empty() {
                findings.push(Finding {
                    severity: Severity::Note,
                    file: file.name.clone(),
                    line: child.line,
                    path: format!("{}/{}", vm_path(index), item.name),
                    rule: "no-effect",
                    message: format!("{} has no effect in a {} VM", item.name, vm.load_order),
                    remedy: "remove it, or change the VM's load order".to_owned(),
                });
            }
        }
    }
    findings
}

fn has(applies: Applies, order: LoadOrder) -> bool {
    match order {
        LoadOrder::PreLaunched => applies.pre,
        LoadOrder::Service => applies.service,
        LoadOrder::PostLaunched => applies.post,
    }
}
