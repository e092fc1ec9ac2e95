//! Forms, made of the scenario's schema: each item that is known to the model becomes a field, a list or a
//! section, and everything in between is followed.

use super::{field, findings, widget};
use crate::document::Document;
use acrn_config::model::{Applies, Group, Item, Occurs, Place, View};
use acrn_config::scenario::{Hv, Vm};
use acrn_config::xml::Element;
use acrn_config_blob::LoadOrder;
use maud::{Markup, html};
use serde_json::json;

/// A form while it is made.
#[derive(Clone, Copy)]
pub struct Form<'a> {
    /// What is edited.
    pub document: &'a Document,
    /// The VM that it is about, if it is about one.
    pub vm: Option<usize>,
    /// For whom fields are shown at the moment.
    level: View,
}

/// Fields with a title.
struct Section {
    title: &'static str,
    help: &'static str,
    path: String,
    body: Vec<Markup>,
}

/// The form of the hypervisor.
pub fn hypervisor(document: &Document) -> Markup {
    let root = &document.scenario().document.root;
    html! {
        h1 { "Hypervisor" }
        (section_of_names(document))
        (levels(document, None, Hv::ITEMS, root.child("hv"), "hv"))
    }
}

/// Name of the scenario.
fn section_of_names(document: &Document) -> Markup {
    let form = Form {
        document,
        vm: None,
        level: View::Basic,
    };
    let items = acrn_config::Scenario::ITEMS.iter();
    let attributes = items.filter(|item| item.place == Place::Attribute);
    let root = &document.scenario().document.root;
    html! {
        section {
            h2 { "Scenario" }
            @for item in attributes {
                (field::attribute(&form, item, root.attribute(item.name)))
            }
        }
    }
}

/// The form of a VM.
pub fn vm(document: &Document, index: usize) -> Markup {
    let Some(vm) = document.scenario().model.vms.get(index) else {
        return html! {};
    };
    let element = document.scenario().document.root.named("vm").nth(index);
    html! {
        div.heading {
            h1 { span class={ "swatch vm-" (index) } {} "VM" (index) " " (vm.name) }
            span.spacer {}
            (vm_buttons(document, index))
        }
        (levels(document, Some(index), Vm::ITEMS, element, &format!("vm[{}]", index + 1)))
    }
}

fn vm_buttons(document: &Document, vm: usize) -> Markup {
    let scenario = &document.scenario().model;
    let moves = |up| crate::document::neighbour(scenario, vm, up).is_some();
    let button = |id: &str, title: &str, is_possible: bool, edit: serde_json::Value| {
        html! { button type="button" id=(id) disabled[!is_possible] data-edit=(edit) { (title) } }
    };
    html! {
        (button("move-up", "Up", moves(true), json!({ "do": "move-vm", "vm": vm, "up": true })))
        (button("move-down", "Down", moves(false), json!({ "do": "move-vm", "vm": vm, "up": false })))
        (button("duplicate", "Duplicate", true, json!({ "do": "copy-vm", "vm": vm })))
        (button("delete", "Delete", true, json!({ "do": "remove-vm", "vm": vm })))
    }
}

/// Basic fields, then advanced ones and those that hardly anybody needs, which are folded.
fn levels(
    document: &Document,
    vm: Option<usize>,
    items: &'static [Item],
    element: Option<&Element>,
    path: &str,
) -> Markup {
    let form = |level| Form {
        document,
        vm,
        level,
    };
    let show = |level| sections(&form(level), items, element, path);
    let folded = |level, id: &str, title: &str, help: &str| {
        html! {
            details.level id=(id) {
                summary { span { (title) } span.quiet { " " (help) } }
                (show(level))
            }
        }
    };
    html! {
        div.level #basic { (show(View::Basic)) }
        (folded(View::Advanced, "advanced", "Advanced", "for who looks for it"))
        (folded(View::Hidden, "rare", "Rarely needed", "what forms usually leave out"))
    }
}

fn sections(
    form: &Form<'_>,
    items: &'static [Item],
    element: Option<&Element>,
    path: &str,
) -> Markup {
    let mut sections = vec![Section {
        title: "General",
        help: "",
        path: String::new(),
        body: Vec::new(),
    }];
    form.gather(items, element, path, View::Basic, &mut sections);
    html! {
        @for section in sections.iter().filter(|section| !section.body.is_empty()) {
            section id=[(!section.path.is_empty()).then_some(&section.path)] {
                h2 { (section.title) }
                @if !section.help.is_empty() { p.help { (section.help) } }
                @for part in &section.body { (part) }
            }
        }
    }
}

impl Form<'_> {
    /// Adds the fields of this level to sections. `view` is that of the elements around.
    fn gather(
        &self,
        items: &'static [Item],
        element: Option<&Element>,
        path: &str,
        view: View,
        sections: &mut Vec<Section>,
    ) {
        let here = sections.len() - 1;
        for item in items.iter().filter(|item| item.place == Place::Element) {
            let child = element.and_then(|element| element.child(item.name));
            let view = view.max(item.view);
            let path = format!("{path}/{}", item.name);
            if !self.applies(item, child) || !is_meant(item, items, element) {
                continue;
            }
            if let Some(widget) = widget::of(self, &path) {
                if view == self.level {
                    sections.push(section(item, path, vec![widget]));
                }
            } else if item.occurs == Occurs::Once && !item.children().is_empty() {
                sections.push(section(item, path.clone(), Vec::new()));
                self.gather(item.children(), child, &path, view, sections);
            } else if view == self.level {
                let body = self.part(item, element, &path);
                sections[here].body.push(body);
            }
        }
    }

    /// Whether the VM has such an element; what is there anyway is shown.
    fn applies(&self, item: &Item, child: Option<&Element>) -> bool {
        let vm = self
            .vm
            .and_then(|vm| self.document.scenario().model.vms.get(vm));
        let Applies { pre, service, post } = item.applies;
        let has = vm.is_none_or(|vm| match vm.load_order {
            LoadOrder::PreLaunched => pre,
            LoadOrder::Service => service,
            LoadOrder::PostLaunched => post,
        });
        has || child.is_some_and(|child| !child.children.is_empty())
    }

    /// One field, a list, or a group that may be absent.
    fn part(&self, item: &'static Item, around: Option<&Element>, path: &str) -> Markup {
        let child = around.and_then(|around| around.child(item.name));
        match (item.occurs, item.children().is_empty()) {
            (Occurs::Many, true) => field::list(self, item, around, path),
            (Occurs::Many, false) => self.cards(item, around, path),
            (Occurs::Optional, false) => self.optional(item, child, path),
            (Occurs::Once, false) => self.fields(item.children(), child, path),
            (_, true) => field::field(self, item, child, path),
        }
    }

    /// All fields of a group, whatever their level.
    fn fields(&self, items: &'static [Item], element: Option<&Element>, path: &str) -> Markup {
        let meant = items
            .iter()
            .filter(|item| item.place == Place::Element && is_meant(item, items, element));
        html! {
            @for item in meant {
                (self.part(item, element, &format!("{path}/{}", item.name)))
            }
        }
    }

    /// A list of groups: a card for each.
    fn cards(&self, item: &'static Item, around: Option<&Element>, path: &str) -> Markup {
        let elements = around
            .into_iter()
            .flat_map(|around| around.named(item.name));
        html! {
            div.list {
                @for (index, element) in elements.enumerate() {
                    @let path = format!("{path}[{}]", index + 1);
                    fieldset.card id=(path) {
                        legend { (item.title) " " (index + 1) }
                        (field::remove(&path, item.title))
                        (findings::at(self.document, &path, false))
                        (self.fields(item.children(), Some(element), &path))
                    }
                }
                (field::add(path, item))
            }
        }
    }

    /// A group that is there or not.
    fn optional(&self, item: &'static Item, element: Option<&Element>, path: &str) -> Markup {
        html! {
            @if let Some(element) = element {
                fieldset.card id=(path) {
                    legend { (item.title) }
                    (field::remove(path, item.title))
                    (findings::at(self.document, path, false))
                    (self.fields(item.children(), Some(element), path))
                }
            } @else {
                div.list { (field::add(path, item)) }
            }
        }
    }
}

fn section(item: &Item, path: String, body: Vec<Markup>) -> Section {
    Section {
        title: item.title,
        help: item.help,
        path,
        body,
    }
}

/// Whether an item means something beside its siblings, or is there anyway.
fn is_meant(item: &Item, siblings: &[Item], around: Option<&Element>) -> bool {
    let Some(when) = item.when else { return true };
    let text = |name: &str| around.and_then(|around| around.child_text(name));
    let default = siblings.iter().find(|other| other.name == when.sibling);
    let default = default.map_or("", |other| other.default);
    let value = text(when.sibling).filter(|text| !text.is_empty());
    let is_there = text(item.name).is_some_and(|text| !text.is_empty());
    is_there || when.words.contains(&value.as_deref().unwrap_or(default))
}

#[cfg(test)]
mod tests;
