//! What is wrong: a list with links to the fields, marks at the pages, and texts at the fields.

use super::editor::Page;
use crate::document::Document;
use acrn_config::{Finding, Severity};
use maud::{Markup, html};

/// Everything that is wrong, the worst first.
pub fn list(document: &Document, id: u32) -> Markup {
    let mut findings: Vec<&Finding> = document.findings().iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    html! {
        section #findings {
            h2 { "Problems" span.quiet { " " (findings.len()) } }
            @if findings.is_empty() { p.quiet { "None. The configuration can be built." } }
            ul { @for finding in findings { li class=(finding.severity.name()) { (entry(document, id, finding)) } } }
        }
    }
}

fn entry(document: &Document, id: u32, finding: &Finding) -> Markup {
    let is_board = finding.file == document.board().name;
    let page = if is_board {
        Page::Board
    } else {
        Page::of_element(&finding.path)
    };
    let to = format!("/d/{id}/{}#{}", page.path(), finding.path);
    html! {
        a href=(to) { (icon(finding.severity)) " " (finding.message) }
        div.remedy { (finding.remedy) }
        div.small.quiet {
            @if is_board { "board file, " } @else if let Page::Vm(vm) = page { "VM" (vm) ", " }
            code { (finding.rule) }
        }
    }
}

fn icon(severity: Severity) -> Markup {
    let (icon, name) = match severity {
        Severity::Error => ("✕", "Error"),
        Severity::Warning => ("⚠", "Warning"),
        Severity::Note => ("ℹ", "Note"),
    };
    html! { span.icon role="img" aria-label=(name) { (icon) } }
}

/// How many errors, or else warnings, a page has.
pub fn badge(document: &Document, page: Page) -> Markup {
    let is_here = |finding: &&Finding| match finding.file == document.board().name {
        true => page == Page::Board,
        false => page == Page::of_element(&finding.path),
    };
    let of = |severity| {
        let here = document.findings().iter().filter(is_here);
        here.filter(|finding| finding.severity == severity).count()
    };
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    html! {
        @if errors > 0 {
            span.badge.error title="Errors" { (errors) }
        } @else if warnings > 0 {
            span.badge.warning title="Warnings" { (warnings) }
        }
    }
}

/// What is wrong with an element itself, or also with what is in it.
pub fn at(document: &Document, path: &str, and_within: bool) -> Markup {
    let board = &document.board().name;
    let is_at = |finding: &&Finding| {
        let rest = finding.path.strip_prefix(path);
        let is_it =
            rest.is_some_and(|rest| rest.is_empty() || and_within && rest.starts_with(['/', '[']));
        is_it && finding.file != *board
    };
    html! {
        @for finding in document.findings().iter().filter(is_at) {
            p class={ "problem " (finding.severity.name()) } {
                (icon(finding.severity)) " " (finding.message) " " span.remedy { (finding.remedy) }
            }
        }
    }
}
