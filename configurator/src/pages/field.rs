//! One value: its label, the control that suits it, what it does, and what is wrong with it.

use super::findings;
use super::form::Form;
use crate::document::usb_ports;
use acrn_config::model::{Item, Kind, Occurs, OptionsFrom};
use acrn_config::xml::Element;
use maud::{Markup, html};
use serde_json::json;

/// A choice: word in the file, and title.
type Options = Vec<(String, String)>;

/// The field of an element.
pub fn field(form: &Form<'_>, item: &Item, element: Option<&Element>, path: &str) -> Markup {
    let text = element.map(Element::text).unwrap_or_default();
    let is_other = element.is_some() && !item.default.is_empty() && text != item.default;
    row(
        form,
        item,
        path,
        &html! {
            (control(form, item, &text, path))
            @if !item.unit.is_empty() { span.unit { (item.unit) } }
            @if is_other {
                button.link type="button" id={ "reset:" (path) } data-edit=(json!({ "do": "remove", "path": path }))
                    title={ "Back to the default, " (shown_default(item)) } { "default" }
            }
        },
    )
}

/// The field of an attribute of the scenario.
pub fn attribute(form: &Form<'_>, item: &Item, value: Option<&str>) -> Markup {
    let path = format!("@{}", item.name);
    row(
        form,
        item,
        &path,
        &control(form, item, value.unwrap_or_default(), &path),
    )
}

fn row(form: &Form<'_>, item: &Item, path: &str, control: &Markup) -> Markup {
    let facts = facts(item);
    html! {
        div.field {
            label for=(path) title=(item.name) { (item.title) }
            div.control { (control) }
            p.help { (item.help) @if !facts.is_empty() { " " span.facts { (facts) } } }
            (findings::at(form.document, path, false))
        }
    }
}

/// Range and default.
fn facts(item: &Item) -> String {
    let mut facts = Vec::new();
    if let Some((least, greatest)) = item.range {
        facts.push(match greatest {
            i64::MAX => format!("{least} or more."),
            _ => format!("{least} to {greatest}."),
        });
    }
    if !item.default.is_empty() && !item.long {
        facts.push(format!("Default: {}.", shown_default(item)));
    }
    facts.join(" ")
}

fn shown_default(item: &Item) -> String {
    match (item.kind, item.default) {
        (Kind::Flag, "y") => "on".to_owned(),
        (Kind::Flag, _) => "off".to_owned(),
        (Kind::Choice(choices), default) => {
            let choice = choices.iter().find(|choice| choice.word == default);
            choice.map_or(default, |choice| choice.title).to_owned()
        }
        (_, default) => default.to_owned(),
    }
}

/// The control of a value, whose text in the file is `text`.
fn control(form: &Form<'_>, item: &Item, text: &str, path: &str) -> Markup {
    let value = if text.is_empty() { item.default } else { text };
    if let Some(options) = options(form, item) {
        return select(item, &options, value, path);
    }
    match item.kind {
        Kind::Flag => {
            html! { input type="checkbox" id=(path) data-set=(path) checked[value == "y"]; }
        }
        _ if item.long => html! {
            textarea id=(path) data-set=(path) rows=(rows(text)) spellcheck="false" placeholder=(item.default) { (text) }
        },
        Kind::Number => html! {
            input.number type="text" inputmode="numeric" id=(path) data-set=(path) value=(value) autocomplete="off" placeholder=(placeholder(item));
        },
        Kind::Hex | Kind::Bdf => html! {
            input.mono.short type="text" id=(path) data-set=(path) value=(value) spellcheck="false" autocomplete="off" placeholder=(placeholder(item));
        },
        _ => html! {
            input type="text" id=(path) data-set=(path) value=(value) spellcheck="false" autocomplete="off" placeholder=(placeholder(item));
        },
    }
}

/// Lines of a text area: as many as the text needs, within reason.
fn rows(text: &str) -> usize {
    const LINE: usize = 60;
    (text.chars().count() / LINE + 1).clamp(2, 8)
}

fn placeholder(item: &Item) -> &'static str {
    match item.occurs {
        Occurs::Optional => "automatic",
        _ => "",
    }
}

/// A choice. What the file says and is none of them stays.
fn select(item: &Item, options: &Options, value: &str, path: &str) -> Markup {
    let is_known = options.iter().any(|(word, _)| word == value);
    let may_be_nothing = item.occurs == Occurs::Optional;
    html! {
        select id=(path) data-set=(path) {
            @if !is_known || may_be_nothing {
                option value=(value) selected[!is_known] {
                    @if value.is_empty() { "–" } @else if is_known { (value) } @else { (value) " (not there)" }
                }
            }
            @for (word, title) in options {
                option value=(word) selected[word == value] { (title) }
            }
        }
    }
}

/// What can be chosen; none if anything can be written.
fn options(form: &Form<'_>, item: &Item) -> Option<Options> {
    let board = &form.document.board().model;
    let same = |word: String| (word.clone(), word);
    let all: Options = match item.options {
        OptionsFrom::Kind => match item.kind {
            Kind::Choice(choices) => {
                let pair = |choice: &acrn_config::model::Choice| {
                    (choice.word.to_owned(), choice.title.to_owned())
                };
                choices.iter().map(pair).collect()
            }
            _ => return None,
        },
        OptionsFrom::BoardCpus => {
            let cpus = board.cpus().into_iter();
            cpus.map(|cpu| (cpu.id.to_string(), format!("CPU {}", cpu.id)))
                .collect()
        }
        OptionsFrom::BoardTtys => {
            let ports = board.ttys().into_iter().map(|tty| same(tty.path));
            ports
                .chain([("None".to_owned(), "None".to_owned())])
                .collect()
        }
        OptionsFrom::VmNames => {
            let vms = form.document.scenario().model.vms.iter();
            vms.map(|vm| same(vm.name.clone())).collect()
        }
        OptionsFrom::BoardUsbDevices => usb_ports(board).into_iter().map(same).collect(),
        OptionsFrom::BoardPciDevices | OptionsFrom::BoardInputs => return None,
    };
    (!all.is_empty()).then_some(all)
}

/// A list of single values.
pub fn list(form: &Form<'_>, item: &Item, around: Option<&Element>, path: &str) -> Markup {
    let elements = around
        .into_iter()
        .flat_map(|around| around.named(item.name));
    html! {
        div.field.values {
            span.label title=(item.name) { (item.title) }
            div.control.column {
                @for (index, element) in elements.enumerate() {
                    @let path = format!("{path}[{}]", index + 1);
                    div.value {
                        (control(form, item, &element.text(), &path))
                        (remove(&path, item.title))
                    }
                    (findings::at(form.document, &path, false))
                }
                (add(path, item))
            }
            p.help { (item.help) @if !facts(item).is_empty() { " " span.facts { (facts(item)) } } }
        }
    }
}

/// Adds an element.
pub fn add(path: &str, item: &Item) -> Markup {
    let edit = json!({ "do": "add", "path": path });
    html! {
        button.add type="button" id={ "add:" (path) } data-edit=(edit) title=(item.help) { "+ " (item.title) }
    }
}

/// Takes an element away.
pub fn remove(path: &str, title: &str) -> Markup {
    let edit = json!({ "do": "remove", "path": path });
    html! {
        button.remove type="button" id={ "remove:" (path) } data-edit=(edit) aria-label={ "Remove " (title) } title="Remove" { "✕" }
    }
}
