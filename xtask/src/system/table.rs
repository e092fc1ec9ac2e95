//! The book's table of what runs on which emulator, made from the results of test runs.
//!
//! A run fills in the cells of its own cases and leaves the others as they are, so the table can be
//! made in parts. A test compares its rows with the list of cases.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

use super::{Emulators, Report, all};
use crate::layout::Layout;
use crate::machine::Emulator;

/// The chapter with the table.
const CHAPTER: &str = "docs/src/emulators.md";
const BEGIN: &str = "<!-- results: begin (written by `cargo xtask test --write-table`) -->\n";
const END: &str = "<!-- results: end -->";
/// The columns.
const COLUMNS: [(Emulator, &str); 2] = [
    (Emulator::Qemu, "AMD SVM in QEMU"),
    (Emulator::Bochs, "Intel VMX in Bochs"),
];

const HOLDS: &str = "passes";
const FAILS: &str = "**fails**";
const UNKNOWN: &str = "not tried";
const ELSEWHERE: &str = "";

/// Cells by case and emulator.
type Cells = BTreeMap<(String, &'static str), String>;

/// Notes the results of a run in the chapter.
///
/// # Errors
/// The chapter is missing, or has no table.
pub fn write(layout: &Layout, report: &Report) -> Result<()> {
    let path = layout.source(CHAPTER);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {CHAPTER}"))?;
    let (before, table, after) = split(&text)?;
    let mut cells = parse(table);
    for (name, emulator, held) in &report.results {
        let word = match held {
            Some(true) => HOLDS,
            Some(false) => FAILS,
            None => continue,
        };
        cells.insert(((*name).to_owned(), emulator.name()), word.to_owned());
    }
    fs::write(&path, format!("{before}{}{after}", render(&cells)))?;
    println!("{CHAPTER} has the results");
    Ok(())
}

fn split(text: &str) -> Result<(&str, &str, &str)> {
    let begin = text.find(BEGIN).map(|at| at + BEGIN.len());
    let end = text.find(END);
    let (begin, end) = begin
        .zip(end)
        .with_context(|| format!("{CHAPTER} has lost the marks around its table"))?;
    Ok((&text[..begin], &text[begin..end], &text[end..]))
}

fn parse(table: &str) -> Cells {
    let mut cells = Cells::new();
    for line in table.lines().skip(2) {
        let mut fields = line.split('|').skip(1).map(str::trim);
        let Some(name) = fields.next().map(|name| name.trim_matches('`')) else {
            continue;
        };
        for ((emulator, _), cell) in COLUMNS.iter().zip(fields) {
            if !cell.is_empty() {
                cells.insert((name.to_owned(), emulator.name()), cell.to_owned());
            }
        }
    }
    cells
}

fn render(cells: &Cells) -> String {
    let heads = COLUMNS.map(|(_, head)| head).join(" | ");
    let mut text = format!(
        "| case | {heads} |\n|---|{}\n",
        "---|".repeat(COLUMNS.len())
    );
    for (name, on, _) in all() {
        let row = COLUMNS.map(|(emulator, _)| cell(cells, name, on, emulator));
        text += &format!("| `{name}` | {} |\n", row.join(" | "));
    }
    text
}

fn cell<'a>(cells: &'a Cells, name: &str, on: Emulators, emulator: Emulator) -> &'a str {
    if !on.contains(&emulator) {
        return ELSEWHERE;
    }
    let known = cells.get(&(name.to_owned(), emulator.name()));
    known.map_or(UNKNOWN, String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let key = |emulator: Emulator| ("micro_smp".to_owned(), emulator.name());
        let mut cells = Cells::new();
        cells.insert(key(Emulator::Bochs), FAILS.into());
        let text = render(&cells);
        assert!(text.contains("| `micro_smp` | not tried | **fails** |"));
        assert!(text.contains("| `boot_grub_uefi` | not tried |  |"));
        let read = parse(&text);
        assert_eq!(read[&key(Emulator::Bochs)], FAILS);
        assert_eq!(render(&read), text);
    }

    #[test]
    fn the_books_table_has_the_cases_of_the_list_and_no_failure() {
        let layout = Layout::of_this_repository().unwrap();
        let text = fs::read_to_string(layout.source(CHAPTER)).unwrap();
        let (_, table, _) = split(&text).unwrap();
        assert_eq!(
            render(&parse(table)),
            table,
            "cargo xtask test --write-table makes it anew"
        );
        assert!(!table.contains(FAILS), "{table}");
    }
}
