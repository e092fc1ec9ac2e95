//! The start page: a new configuration, files that are there, and recent work.

use super::layout::{Theme, brand, page, theme_switch};
use acrn_config::presets::{PRESETS, Preset, QEMU_BOARD, SAMPLE_BOARDS};
use maud::{Markup, html};

/// Work that was done before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recent {
    /// Place in the list.
    pub number: usize,
    /// Path of the scenario.
    pub scenario: String,
    /// Path of the board.
    pub board: String,
}

/// The start page. `open` are the configurations that are open, by number and name.
pub fn start(theme: Theme, open: &[(u32, String, bool)], recent: &[Recent]) -> Markup {
    let body = html! {
        header.bar { (brand()) span.spacer {} (theme_switch()) }
        main.start {
            h1 { "ACRN Configurator" }
            p.lead { "Lay out virtual machines on a board, and get the configuration that the hypervisor boots with." }
            div.columns {
                (new())
                div { (existing()) (work(open, recent)) }
            }
        }
        div #message role="status" aria-live="polite" {}
    };
    page("Start", theme, &body)
}

/// The presets that fit any board.
fn presets() -> impl Iterator<Item = &'static Preset> {
    PRESETS.iter().filter(|preset| preset.board == QEMU_BOARD)
}

fn new() -> Markup {
    html! {
        section.panel {
            h2 { "New configuration" }
            form #new data-open="new" {
                h3 { "1. The board" }
                p.help { "The file that acrn-board-inspector has written on the target." }
                (file_field("new-board", "board", "Board file"))
                div.field {
                    label for="sample" { "or one to try" }
                    select #sample name="sample" {
                        option value="" { "–" }
                        @for (name, _) in SAMPLE_BOARDS { option value=(name) { (name) } }
                    }
                }
                h3 { "2. How the machine is shared" }
                div.choices role="radiogroup" aria-label="Preset" {
                    @for (number, preset) in presets().enumerate() {
                        label.choice {
                            input type="radio" name="preset" value=(preset.name) checked[number == 0];
                            span { strong { (preset.title) } span.quiet { (preset.help) } }
                        }
                    }
                }
                button.primary type="submit" { "Create" }
            }
        }
    }
}

fn existing() -> Markup {
    html! {
        section.panel {
            h2 { "Open files of ACRN" }
            p.help { "Scenarios of ACRN 2.x and 3.x are brought up to date; what changed is listed." }
            form #open data-open="files" {
                (file_field("scenario", "scenario", "Scenario"))
                (file_field("board", "board", "Board"))
                (file_field("launch", "launch", "Launch file of ACRN 2.x, if there is one"))
                button.primary type="submit" { "Open" }
            }
        }
    }
}

/// A file, dropped or chosen, or a path on the machine where the program runs.
fn file_field(id: &str, name: &str, title: &str) -> Markup {
    html! {
        div.file {
            label for=(id) { (title) span.quiet { " – drop it here, or choose it" } }
            input type="file" id=(id) name=(name) accept=".xml,text/xml";
            input type="text" name={ (name) "_path" } aria-label={ (title) ", path" } placeholder="or its path on this machine" spellcheck="false";
        }
    }
}

fn work(open: &[(u32, String, bool)], recent: &[Recent]) -> Markup {
    html! {
        @if !open.is_empty() {
            section.panel {
                h2 { "Open" }
                ul.plain {
                    @for (id, name, is_changed) in open {
                        li { a href={ "/d/" (id) "/board" } { (name) } @if *is_changed { span.quiet { " not saved" } } }
                    }
                }
            }
        }
        @if !recent.is_empty() {
            section.panel {
                h2 { "Recent" }
                ul.plain {
                    @for entry in recent {
                        li {
                            form data-open="recent" {
                                input type="hidden" name="recent" value=(entry.number);
                                button.link type="submit" { (entry.scenario) }
                            }
                            div.small.quiet { "with " (entry.board) }
                        }
                    }
                }
            }
        }
    }
}
