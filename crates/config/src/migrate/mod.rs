//! Bringing scenario files of older ACRN releases (2.x and early 3.x) up to date.
//!
//! Each step knows one thing that was written differently once, changes it in the document, and notes
//! what it did. A step that finds nothing does nothing, so a current file comes out as it went in. What
//! no step knows stays, and is reported when the file is read.

mod features;
mod launch;
mod links;
mod memory;
mod virtio;
mod vm;

use crate::Scenario;
use crate::model::settle_all;
use crate::xml::{Document, Element};

/// Something that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The element that was there.
    pub path: String,
    /// Its line in the old file; 0 if it comes from elsewhere.
    pub line: usize,
    /// What became of it.
    pub what: String,
}

/// The changes so far.
#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn note(&mut self, path: impl Into<String>, line: usize, what: impl Into<String>) {
        self.0.push(Change {
            path: path.into(),
            line,
            what: what.into(),
        });
    }
}

type Step = fn(&mut Element, &mut Changes);

/// The steps. Later ones may rely on what earlier ones have put right.
const STEPS: &[Step] = &[
    features::build_type,
    features::renamed,
    features::inverted,
    features::dropped,
    vm::names,
    vm::load_order,
    vm::guest_flags,
    vm::cpu_affinity,
    vm::boot_arguments,
    vm::dropped,
    memory::sizes,
    memory::regions,
    links::consoles,
    links::serial_lines,
    links::shared_memory,
    virtio::networks,
    virtio::consoles,
    virtio::inputs,
];

/// Brings a scenario up to date, with the launch file that belonged to it, if there was one.
pub fn migrate(document: &mut Document, launch: Option<&Document>) -> Vec<Change> {
    let mut changes = Changes::default();
    if let Some(launch) = launch {
        launch::merge(&mut document.root, &launch.root, &mut changes);
    }
    STEPS
        .iter()
        .for_each(|step| step(&mut document.root, &mut changes));
    settle_all(&mut document.root, Scenario::schema());
    changes.0
}

/// Calls `step` for each VM and its path.
fn each_vm(root: &mut Element, mut step: impl FnMut(&str, &mut Element)) {
    let vms = root.elements_mut().filter(|element| element.name == "vm");
    vms.enumerate()
        .for_each(|(index, vm)| step(&crate::validate::vm_path(index), vm));
}

/// Takes the first element of that name away, with a note.
fn drop_child(parent: &mut Element, path: &str, name: &str, why: &str, changes: &mut Changes) {
    while let Some(old) = parent.remove(name, 0) {
        changes.note(
            format!("{path}/{name}"),
            old.line,
            format!("left out: {why}"),
        );
    }
}

/// Gives an element a text, making the element if needed.
fn set(parent: &mut Element, path: &str, text: &str) {
    parent.make(path).set_text(text);
}

#[cfg(test)]
mod tests;
