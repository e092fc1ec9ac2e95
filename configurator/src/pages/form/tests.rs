//! The forms have every element of the schema.

use super::*;
use acrn_config::presets::preset;

fn everything() -> Document {
    let preset = preset("generic").unwrap();
    Document::new(preset.board, preset).unwrap()
}

/// Elements that a form lacks: no field, no way to add them, and no widget that stands for them.
fn missing(form: &str, items: &[Item], path: &str, has: &dyn Fn(&Item) -> bool) -> Vec<String> {
    let wanted = items
        .iter()
        .filter(|item| item.place == Place::Element && item.when.is_none() && has(item));
    let mut missing = Vec::new();
    for item in wanted {
        let path = format!("{path}/{}", item.name);
        let is_here = |id: &str| form.contains(&format!("id=\"{id}\""));
        let ids = ["", "add:"].map(|kind| format!("{kind}{path}"));
        let is_shown = ids.iter().any(|id| is_here(id)) || is_here(&format!("{path}/table"));
        match (item.occurs, item.children().is_empty()) {
            (Occurs::Once, false) if !is_shown => {
                missing.extend(self::missing(form, item.children(), &path, has));
            }
            _ if is_shown => {}
            _ => missing.push(path),
        }
    }
    missing
}

#[test]
fn the_hypervisors_form_has_every_element() {
    let form = hypervisor(&everything()).into_string();
    assert_eq!(missing(&form, Hv::ITEMS, "hv", &|_| true), [""; 0]);
}

#[test]
fn the_form_of_each_kind_of_vm_has_every_element_of_its_kind() {
    let document = everything();
    for (index, other) in document.scenario().model.vms.iter().enumerate() {
        let form = vm(&document, index).into_string();
        let has = |item: &Item| match other.load_order {
            LoadOrder::PreLaunched => item.applies.pre,
            LoadOrder::Service => item.applies.service,
            LoadOrder::PostLaunched => item.applies.post,
        };
        let path = format!("vm[{}]", index + 1);
        assert_eq!(
            missing(&form, Vm::ITEMS, &path, &has),
            [""; 0],
            "{}",
            other.name
        );
    }
}

#[test]
fn what_means_nothing_is_left_out_until_it_does() {
    let mut document = everything();
    let path = "vm[1]/os_config/kern_load_addr";
    let shows = |document: &Document| vm(document, 0).into_string().contains(path);
    assert!(!shows(&document));
    let edit = crate::document::Edit::Set {
        path: "vm[1]/os_config/kern_type".to_owned(),
        text: "KERNEL_RAWIMAGE".to_owned(),
    };
    document.apply(&edit, false).unwrap();
    assert!(shows(&document));
}
