//! Pages without a form: the board, the outputs, and what was changed at first.

use super::editor::COLUMNS_WIDE;
use super::summary;
use crate::document::Document;
use crate::outputs::outputs as files;
use crate::picture::{picture, size};
use maud::{Markup, html};

/// The board: what it is, and its picture.
pub fn board(document: &Document) -> Markup {
    let board = &document.board().model;
    let identity = summary::identity(board);
    html! {
        h1 { "Board" }
        dl.facts {
            @for (name, value) in &identity { dt { (name) } dd { (value) } }
        }
        div.wide { (picture(document, COLUMNS_WIDE)) }
    }
}

/// The files, and what was decided for them.
pub fn outputs(document: &Document, id: u32, directory: &str) -> Markup {
    let files = files(document);
    html! {
        h1 { "Outputs" }
        @if document.made().is_none() {
            p.problem.error {
                "The scenario is not valid, so nothing can be built of it. It can be saved as a draft; the problems are listed beside."
            }
        }
        section {
            h2 { "Save" }
            form.inline data-save-form="" {
                label for="directory" { "Directory" }
                input #directory type="text" value=(directory) spellcheck="false";
                button.primary type="submit" { @if document.made().is_some() { "Save all" } @else { "Save draft" } }
            }
            p.help { "On the machine where the Configurator runs. It is made if it does not exist; files in it that have these names are replaced only if they are this configuration's." }
        }
        section {
            h2 { "Files" }
            table.grid.files {
                tbody {
                    @for file in &files {
                        tr {
                            td { a href={ "/d/" (id) "/file/" (file.name) } download=(file.name) { (file.name) } }
                            td { (file.what) }
                            td.number { (size(file.bytes.len() as u64)) }
                        }
                    }
                }
            }
            @if document.made().is_some() {
                p.inline {
                    a.button href={ "/d/" (id) "/summary" } { "Summary to print" }
                    a.button href={ "/d/" (id) "/package" } download { "Debian package" }
                }
                p.help {
                    "The package acrn-scenario, installed on the target, puts this scenario in force at the next boot. \
                     What was in force before stays in the boot menu."
                }
            }
        }
        @if let Some(made) = document.made() {
            section {
                h2 { "What was decided" }
                p.help { "What the scenario leaves open is chosen, always in the same way." }
                (summary::decisions(&made.built.plan.decisions))
            }
        }
    }
}

/// What was changed when the files were opened.
pub fn changes(document: &Document, id: u32) -> Markup {
    let changes = document.changes();
    html! {
        h1 { "What changed" }
        p { "The scenario was brought up to date and fitted to its board. These elements are not as they were:" }
        table.grid #changes {
            thead { tr { th { "Element" } th { "Line" } th { "Change" } } }
            tbody {
                @for change in changes {
                    tr {
                        td { code { (change.path) } }
                        td.number { @if change.line > 0 { (change.line) } }
                        td { (change.what) }
                    }
                }
            }
        }
        p { a.button.primary href={ "/d/" (id) "/hypervisor" } { "Go on to the editor" } }
    }
}
