//! The editor: a bar, the list of pages, one page, and beside it the picture and what is wrong.
//!
//! It is made of parts, so that only they are sent after an edit.

use super::layout::{Theme, brand, page, theme_switch};
use super::{findings, form, other};
use crate::document::Document;
use crate::picture::picture;
use acrn_config::scenario::Vm;
use acrn_config_blob::{LoadOrder, VmKind};
use maud::{Markup, PreEscaped, html};
use serde::Serialize;
use serde_json::json;

/// CPUs in a row of the picture beside a page, and of that on a page of its own.
const COLUMNS_ASIDE: u32 = 4;
pub(super) const COLUMNS_WIDE: u32 = 8;

/// A page of the editor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The board.
    Board,
    /// The hypervisor.
    Hypervisor,
    /// A VM.
    Vm(usize),
    /// What is made of it all.
    Outputs,
    /// What was changed when it was opened.
    Changes,
}

impl Page {
    /// Of its place below the document's.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "board" => Some(Self::Board),
            "hypervisor" => Some(Self::Hypervisor),
            "outputs" => Some(Self::Outputs),
            "changes" => Some(Self::Changes),
            path => path.strip_prefix("vm-")?.parse().ok().map(Self::Vm),
        }
    }

    /// Its place below the document's.
    pub fn path(self) -> String {
        match self {
            Self::Board => "board".to_owned(),
            Self::Hypervisor => "hypervisor".to_owned(),
            Self::Vm(vm) => format!("vm-{vm}"),
            Self::Outputs => "outputs".to_owned(),
            Self::Changes => "changes".to_owned(),
        }
    }

    /// The page of an element.
    pub fn of_element(path: &str) -> Self {
        let number = path
            .strip_prefix("vm[")
            .and_then(|rest| rest.split_once(']'));
        let vm = number.and_then(|(number, _)| number.parse::<usize>().ok()?.checked_sub(1));
        vm.map_or(Self::Hypervisor, Self::Vm)
    }
}

/// The parts that change with an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parts {
    bar: String,
    nav: String,
    page: String,
    side: String,
}

/// The parts of an editor.
pub fn parts(document: &Document, id: u32, page: Page, directory: &str) -> Parts {
    Parts {
        bar: bar(document, id).into_string(),
        nav: nav(document, id, page).into_string(),
        page: contents(document, id, page, directory).into_string(),
        side: side(document, id, page).into_string(),
    }
}

/// A whole page.
pub fn editor(
    document: &Document,
    id: u32,
    current: Page,
    directory: &str,
    theme: Theme,
) -> Markup {
    let parts = parts(document, id, current, directory);
    let body = html! {
        a.skip href="#page" { "Skip to the form" }
        div #editor data-document=(id) data-page=(current.path()) {
            header.bar {
                (brand())
                div #bar { (PreEscaped(parts.bar)) }
                (theme_switch())
            }
            nav #nav aria-label="Pages" { (PreEscaped(parts.nav)) }
            main #page tabindex="-1" { (PreEscaped(parts.page)) }
            aside #side aria-label="Board and problems" { (PreEscaped(parts.side)) }
        }
        div #message role="status" aria-live="polite" {}
    };
    page(document.name(), theme, &body)
}

fn bar(document: &Document, id: u32) -> Markup {
    let (can_undo, can_redo) = document.can_undo_redo();
    let board = document.board().model.name.as_deref().unwrap_or("board");
    html! {
        span.title {
            strong { (document.name()) }
            span.quiet { " on " (board) }
            @if document.is_changed() { span.dot title="Not saved" { "●" } }
        }
        span.spacer {}
        (state(document))
        button #undo type="button" disabled[!can_undo] data-step="undo" title="Ctrl+Z" { "Undo" }
        button #redo type="button" disabled[!can_redo] data-step="redo" title="Ctrl+Shift+Z" { "Redo" }
        a.button href={ "/d/" (id) "/outputs" } { "Outputs" }
        button #save.primary type="button" data-save="" title="Ctrl+S" {
            @if document.made().is_some() { "Save" } @else { "Save draft" }
        }
    }
}

fn state(document: &Document) -> Markup {
    let errors = document.errors();
    html! {
        @if document.made().is_some() {
            span #state.state.good { "✓ Valid" }
        } @else {
            a #state.state.bad href="#findings" { "✕ " (errors) @if errors == 1 { " error" } @else { " errors" } }
        }
    }
}

fn nav(document: &Document, id: u32, current: Page) -> Markup {
    let scenario = &document.scenario().model;
    let has_service = scenario.service_vm().is_some();
    let link = |page: Page, title: &str| {
        let here = (page == current).then_some("page");
        html! {
            a.entry href={ "/d/" (id) "/" (page.path()) } aria-current=[here] {
                (title) (findings::badge(document, page))
            }
        }
    };
    html! {
        (link(Page::Board, "Board"))
        (link(Page::Hypervisor, "Hypervisor"))
        h2 { "Virtual machines" }
        @for (index, vm) in scenario.vms.iter().enumerate() { (vm_entry(document, id, index, vm, current)) }
        details.menu {
            summary.button { "+ Add a VM" }
            div {
                (add("Post-launched", LoadOrder::PostLaunched, false))
                (add("Post-launched, real-time", LoadOrder::PostLaunched, true))
                (add("Pre-launched", LoadOrder::PreLaunched, false))
                (add("Pre-launched, real-time", LoadOrder::PreLaunched, true))
                @if !has_service { (add("Service VM", LoadOrder::Service, false)) }
            }
        }
        h2 { "Results" }
        (link(Page::Outputs, "Outputs"))
        @if !document.changes().is_empty() { (link(Page::Changes, "What changed")) }
    }
}

fn add(title: &str, order: LoadOrder, real_time: bool) -> Markup {
    let word = acrn_config::model::Scalar::text(&order);
    let edit = json!({ "do": "add-vm", "order": word, "real_time": real_time });
    let id = format!("add-{word}-{real_time}");
    html! { button type="button" id=(id) data-edit=(edit) { (title) } }
}

fn vm_entry(document: &Document, id: u32, index: usize, vm: &Vm, current: Page) -> Markup {
    let page = Page::Vm(index);
    let here = (page == current).then_some("page");
    html! {
        a.entry href={ "/d/" (id) "/" (page.path()) } aria-current=[here] {
            span class={ "swatch vm-" (index) } {}
            span.names {
                span { "VM" (index) " " (vm.name) }
                span.quiet.small { (kind(vm)) }
            }
            (findings::badge(document, page))
        }
    }
}

/// What a VM is, in few words.
pub(super) fn kind(vm: &Vm) -> String {
    let order = match vm.load_order {
        LoadOrder::PreLaunched => "pre-launched",
        LoadOrder::Service => "Service VM",
        LoadOrder::PostLaunched => "post-launched",
    };
    match vm.kind {
        VmKind::RealTime => format!("{order}, real-time"),
        _ => order.to_owned(),
    }
}

fn contents(document: &Document, id: u32, page: Page, directory: &str) -> Markup {
    let is_there = document.scenario().model.vms.len();
    match page {
        Page::Board => other::board(document),
        Page::Hypervisor => form::hypervisor(document),
        Page::Vm(vm) if vm < is_there => form::vm(document, vm),
        Page::Vm(_) => html! { h1 { "This VM does not exist any more" } },
        Page::Outputs => other::outputs(document, id, directory),
        Page::Changes => other::changes(document, id),
    }
}

fn side(document: &Document, id: u32, page: Page) -> Markup {
    html! {
        (findings::list(document, id))
        @if page != Page::Board { (picture(document, COLUMNS_ASIDE)) }
    }
}
