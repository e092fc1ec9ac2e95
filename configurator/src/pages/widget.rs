//! Parts of forms that are more than fields: CPUs, PCI devices, shared memory, caches.

use super::form::Form;
use super::{field, findings};
use crate::document::{DividedCache, divided_caches};
use crate::picture::{Place, class_name, conflicts, size};
use acrn_config::model::{Item, Scalar};
use acrn_config::scenario::{IvshmemRegion, Vm};
use acrn_config_blob::VmKind;
use maud::{Markup, html};
use serde_json::json;

/// The widget of an element, if it has one.
pub fn of(form: &Form<'_>, path: &str) -> Option<Markup> {
    let element = match form.vm {
        Some(_) => path.split_once('/')?.1,
        None => path,
    };
    match (form.vm, element) {
        (Some(vm), "cpu_affinity") => Some(cpus(form, vm, path)),
        (Some(vm), "pci_devs") => Some(devices(form, vm, path)),
        (None, "hv/FEATURES/IVSHMEM") => Some(regions(form, path)),
        (None, "hv/CACHE_REGION") => Some(caches(form, path)),
        _ => None,
    }
}

fn checkbox(id: &str, is_on: bool, edit: &serde_json::Value, label: &str) -> Markup {
    html! { input type="checkbox" id=(id) checked[is_on] data-toggle=(edit) aria-label=(label); }
}

/// A row for each CPU: whether the VM has it, whether for real-time work, and who else does.
fn cpus(form: &Form<'_>, vm: usize, path: &str) -> Markup {
    let scenario = &form.document.scenario().model;
    let Some(own) = scenario.vms.get(vm) else {
        return html! {};
    };
    let board = form.document.board().model.cpus();
    let pcpus = &own.cpu_affinity.pcpus;
    let strangers = pcpus
        .iter()
        .enumerate()
        .filter(|(_, pcpu)| board.iter().all(|cpu| i64::from(cpu.id) != pcpu.id));
    html! {
        table.grid id={ (path) "/table" } {
            thead { tr { th { "CPU" } th { "Has it" } th { "Real-time" } th { "vCPU" } th { "Also used by" } } }
            tbody {
                @for cpu in &board {
                    @let place = pcpus.iter().position(|pcpu| pcpu.id == i64::from(cpu.id));
                    @let real_time = place.is_some_and(|place| pcpus[place].real_time);
                    @let has = json!({ "do": "cpu", "vm": vm, "cpu": cpu.id });
                    @let works = json!({ "do": "real-time", "vm": vm, "cpu": cpu.id });
                    tr {
                        th scope="row" { "CPU " (cpu.id) " " span.quiet { (core_kind(&cpu.kind)) } }
                        td { (checkbox(&format!("cpu-{}", cpu.id), place.is_some(), &has, &format!("{} has CPU {}", own.name, cpu.id))) }
                        td {
                            @if place.is_some() { (checkbox(&format!("rt-{}", cpu.id), real_time, &works, &format!("Real-time on CPU {}", cpu.id))) }
                        }
                        td { @if let Some(place) = place { (place) } }
                        td { (others(&scenario.vms, vm, |other| other.cpu_affinity.pcpus.iter().any(|pcpu| pcpu.id == i64::from(cpu.id)))) }
                    }
                }
                @for (index, pcpu) in strangers {
                    tr {
                        th scope="row" { "CPU " (pcpu.id) " " span.quiet { "not on the board" } }
                        td { (field::remove(&format!("{path}/pcpu[{}]", index + 1), "CPU")) }
                        td {} td {} td {}
                    }
                }
            }
        }
        (problems(form, path, |place| matches!(place, Place::Cpu(id) if pcpus.iter().any(|pcpu| pcpu.id == *id))))
    }
}

/// What is wrong with an element and all that is in it, and what others have against what the VM has.
fn problems(form: &Form<'_>, path: &str, is_here: impl Fn(&Place) -> bool) -> Markup {
    let own: Vec<&str> = form
        .document
        .findings()
        .iter()
        .filter(|finding| finding.path.starts_with(path))
        .map(|finding| finding.message.as_str())
        .collect();
    let mut others = conflicts(form.document);
    others.retain(|(place, message)| is_here(place) && !own.contains(&message.as_str()));
    others.dedup_by(|one, other| one.1 == other.1);
    html! {
        (findings::at(form.document, path, true))
        @for (_, message) in &others { p class="problem error" { "✕ " (message) } }
    }
}

fn core_kind(kind: &str) -> &'static str {
    match kind {
        "Core" => "performance core",
        "Atom" => "efficiency core",
        _ => "",
    }
}

/// The VMs other than `vm` that have something.
fn others(vms: &[Vm], vm: usize, has: impl Fn(&Vm) -> bool) -> Markup {
    let others = vms
        .iter()
        .enumerate()
        .filter(|(index, other)| *index != vm && has(other));
    html! {
        @for (index, other) in others {
            span.tag { span class={ "swatch vm-" (index) } {} "VM" (index) @if other.kind == VmKind::RealTime { " RT" } } " "
        }
    }
}

/// A row for each PCI device of the board.
fn devices(form: &Form<'_>, vm: usize, path: &str) -> Markup {
    const BRIDGE: u16 = 0x06;
    let scenario = &form.document.scenario().model;
    let Some(own) = scenario.vms.get(vm) else {
        return html! {};
    };
    let functions = form.document.board().model.pci_functions();
    let has = |vm: &Vm, bdf| vm.pci_devs.list.iter().any(|device| device.bdf == bdf);
    let shown = functions
        .iter()
        .filter(|function| function.class() >> 8 != BRIDGE || has(own, function.bdf));
    let strangers = own.pci_devs.list.iter().enumerate();
    let strangers =
        strangers.filter(|(_, device)| functions.iter().all(|function| function.bdf != device.bdf));
    html! {
        table.grid id={ (path) "/table" } {
            thead { tr { th { "Has it" } th { "Device" } th { "Of" } } }
            tbody {
                @for function in shown {
                    @let bdf = function.bdf.to_string();
                    @let edit = json!({ "do": "device", "vm": vm, "bdf": bdf });
                    @let description = function.description();
                    tr {
                        td { (checkbox(&format!("pci-{bdf}"), has(own, function.bdf), &edit, &format!("{} has {bdf}", own.name))) }
                        td {
                            code { (bdf) } " " (class_name(function.class()))
                            @if !description.is_empty() { div.quiet.small { (description) } }
                        }
                        td { (others(&scenario.vms, vm, |other| has(other, function.bdf))) }
                    }
                }
                @for (index, device) in strangers {
                    tr {
                        td { (field::remove(&format!("{path}/pci_dev[{}]", index + 1), "device")) }
                        td { (device.text) div.quiet.small { "not on the board" } }
                        td {}
                    }
                }
            }
        }
        (problems(form, path, |place| matches!(place, Place::Device(bdf) if has(own, *bdf))))
    }
}

/// The item of an element, found by its path in the schema.
fn item(path: &str) -> Option<&'static Item> {
    let mut items = acrn_config::Scenario::schema();
    let mut found = None;
    for name in path.split('/') {
        let item = items.iter().find(|item| item.name == name)?;
        items = item.children();
        found = Some(item);
    }
    found
}

/// A card for each region of shared memory, with a switch for each VM.
fn regions(form: &Form<'_>, path: &str) -> Markup {
    let regions = &form.document.scenario().model.hv.features.ivshmem.regions;
    let list = format!("{path}/IVSHMEM_REGION");
    html! {
        div.list {
            @for (index, region) in regions.iter().enumerate() {
                @let path = format!("{list}[{}]", index + 1);
                fieldset.card id=(path) {
                    legend { "Region " (index + 1) }
                    (field::remove(&path, "region"))
                    (findings::at(form.document, &path, false))
                    @for name in ["NAME", "PROVIDED_BY", "IVSHMEM_SIZE", "IVSHMEM_REGION_ID"] {
                        (own_field(form, &path, &list, name))
                    }
                    (members(form, index, region, &path))
                }
            }
            @if let Some(item) = item(&list) { (field::add(&list, item)) }
        }
    }
}

fn own_field(form: &Form<'_>, path: &str, list: &str, name: &str) -> Markup {
    let element = acrn_config::xml::find(&form.document.scenario().document.root, path);
    let child = element.and_then(|element| element.child(name));
    match item(&format!("{list}/{name}")) {
        Some(item) => field::field(form, item, child, &format!("{path}/{name}")),
        None => html! {},
    }
}

fn members(form: &Form<'_>, index: usize, region: &IvshmemRegion, path: &str) -> Markup {
    let vms = form.document.scenario().model.vms.iter().enumerate();
    let members = &region.members.list;
    let list = "hv/FEATURES/IVSHMEM/IVSHMEM_REGION/IVSHMEM_VMS/IVSHMEM_VM";
    html! {
        div.field {
            span.label { "VMs" }
            div.control.column {
                @for (vm, other) in vms {
                    @let member = members.iter().position(|member| member.vm_name == other.name);
                    @let id = format!("share-{index}-{vm}");
                    @let edit = json!({ "do": "share", "region": index, "vm": vm });
                    div.value {
                        (checkbox(&id, member.is_some(), &edit, &format!("{} shares {}", other.name, region.name)))
                        label for=(id) { span class={ "swatch vm-" (vm) } {} (other.name) }
                        @if let Some(member) = member {
                            @let path = format!("{path}/IVSHMEM_VMS/IVSHMEM_VM[{}]/VBDF", member + 1);
                            @if let Some(item) = item(&format!("{list}/VBDF")) {
                                @let place = members[member].vbdf.map(|bdf| bdf.text()).unwrap_or_default();
                                input.mono.short type="text" id=(path) data-set=(path) value=(place)
                                    aria-label=(item.title) title=(item.help) placeholder="automatic";
                            }
                        }
                    }
                }
            }
            p.help { "The VMs that share the region. The place is bus, device and function in the VM." }
            (findings::at(form.document, &format!("{path}/IVSHMEM_VMS"), true))
        }
    }
}

/// A grid for each cache: the vCPUs that use it, and the ways that they may fill.
fn caches(form: &Form<'_>, path: &str) -> Markup {
    let document = form.document;
    let scenario = &document.scenario().model;
    let divided = divided_caches(&document.board().model, scenario);
    html! {
        @if divided.is_empty() {
            p.quiet { "The board has no cache that can be divided." }
        } @else if scenario.hv.cache_region.is_none() {
            button.add type="button" id={ "add:" (path) } data-edit=(json!({ "do": "add", "path": path })) { "+ Divide the caches" }
        } @else {
            (field::remove(path, "division"))
            @for cache in &divided { (cache_grid(cache)) }
        }
        (findings::at(document, path, true))
    }
}

fn cache_grid(cache: &DividedCache) -> Markup {
    html! {
        h3 { "L" (cache.level) " cache " (cache.id) span.quiet { " " (size(cache.size)) ", " (cache.ways) " ways" } }
        table.grid.ways {
            tbody {
                @for (share, mask) in &cache.shares {
                    tr {
                        th scope="row" { (share.vm) " vCPU " (share.vcpu) @if share.kind.text() != "Unified" { " " (share.kind.text()) } }
                        @for way in (0..cache.ways).rev() {
                            @let label = format!("{} vCPU {} fills way {way}", share.vm, share.vcpu);
                            @let id = format!("way-{}-{}-{}-{}-{way}", cache.index, share.vm, share.vcpu, share.kind.text());
                            @let edit = json!({
                                "do": "way", "cache": cache.index, "vm": share.vm, "vcpu": share.vcpu,
                                "kind": share.kind.text(), "way": way,
                            });
                            td { (checkbox(&id, mask >> way & 1 == 1, &edit, &label)) }
                        }
                        td.mono { (format!("{mask:#x}")) }
                    }
                }
            }
        }
    }
}
