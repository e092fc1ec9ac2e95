//! The board as a picture: its CPUs and caches, its memory and devices, and who has what. What is in
//! conflict is marked where it is.
//!
//! A picture is made of [`Block`]s, which are laid out in rows and drawn as SVG.

mod block;
mod facts;

use crate::document::Document;
use block::{Block, Line};
use facts::{Facts, Owner};
pub use facts::{Place, class_name, conflicts};
use maud::{Markup, html};

/// Width of a CPU or device, in units of the picture.
const CELL: f64 = 92.0;

/// The picture, so wide that `columns` CPUs are in a row.
pub fn picture(document: &Document, columns: u32) -> Markup {
    let facts = Facts::of(document);
    let width = f64::from(columns) * (CELL + block::GAP) + 6.0 * block::PADDING;
    let sections = [
        Block::row(facts.legend()),
        Block::titled("CPUs and caches", facts.cpus(CELL)),
        memory(&facts, width),
        Block::titled("PCI devices", facts.devices(CELL)),
    ];
    let picture = Block::column(sections.into()).laid_out(width);
    html! {
        svg.picture viewBox={ "0 0 " (width + 1.0) " " (picture.height + 1.0) } role="img" aria-label="The board and who has what" {
            (picture.drawn())
        }
    }
}

/// A bar of all memory, and who has how much.
fn memory(facts: &Facts<'_>, width: f64) -> Block {
    let bar_width = width - 2.0 * block::PADDING;
    let parts = facts.memory();
    let total: u64 = parts
        .iter()
        .map(|part| part.bytes)
        .sum::<u64>()
        .max(facts.memory_size());
    let scale = bar_width / (total.max(1) as f64);
    let bar = parts.iter().map(|part| {
        let wide = (part.bytes as f64 * scale).max(1.0);
        Block::bar(wide, 16.0, part.owner.class())
    });
    let labels = parts.iter().map(|part| {
        let line = Line::new(format!("{} {}", part.owner.name, size(part.bytes)));
        Block::labelled(2.0 * CELL + block::GAP, vec![line], part.owner.class())
    });
    let title = format!("Memory, {}", size(facts.memory_size()));
    let all = vec![Block::tight(bar.collect()), Block::row(labels.collect())];
    Block::titled(&title, vec![Block::column(all)]).marked(facts.memory_conflicts())
}

/// A size as people read it.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = UNITS.iter().find(|(unit, _)| bytes >= *unit);
    let &(unit, name) = unit.unwrap_or(&(1, "bytes"));
    let tenths = bytes.saturating_mul(10) / unit;
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        rest => format!("{}.{rest} {name}", tenths / 10),
    }
}

impl Owner<'_> {
    /// The class of its colour.
    fn class(&self) -> String {
        match self.vm {
            Some(vm) => format!("vm-{vm}"),
            None => "nobody".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
