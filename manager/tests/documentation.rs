//! The book and the manual pages name what the command lines have, and nothing else.

use acrn_manager::cli::{ControlArgs, DaemonArgs};
use acrn_manager::definition::Definition;
use acrn_manager::events::Event;
use acrn_manager::life_mngr::cli::Args as LifeArgs;
use acrn_manager::life_mngr::config::Config;
use acrn_manager::life_mngr::request::Request;
use acrn_manager::view::VmState;
use clap::{Command, CommandFactory};

const BOOK: &str = include_str!("../../docs/src/managing-vms.md");
const LIFE_BOOK: &str = include_str!("../../docs/src/life-cycle.md");
const LIFE: &str = include_str!("../../docs/man/life_mngr.8");
const DAEMON: &str = include_str!("../../docs/man/acrnd.8");
const CONTROL: &str = include_str!("../../docs/man/acrnctl.1");

fn plain(manual: &str) -> String {
    ["\\fB", "\\fR", "\\fI"]
        .iter()
        .fold(manual.replace("\\-", "-"), |text, font| {
            text.replace(font, " ")
        })
}

/// The long options of a command and of those below it.
fn options(command: &Command) -> Vec<String> {
    let own = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set());
    let own = own.filter_map(|argument| argument.get_long());
    let mut all: Vec<String> = own.map(str::to_owned).collect();
    for below in command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        all.extend(options(below));
    }
    all
}

/// The words of a text that begin with two dashes.
fn long_options(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.split(move |c| !part(c))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
}

#[test]
fn the_manual_pages_name_every_option_and_no_other() {
    for (manual, mut command) in [
        (plain(DAEMON), DaemonArgs::command()),
        (plain(CONTROL), ControlArgs::command()),
        (plain(LIFE), LifeArgs::command()),
    ] {
        command.build();
        let known = options(&command);
        let named: Vec<&str> = long_options(&manual).collect();
        for name in &known {
            assert!(named.contains(&name.as_str()), "--{name}");
        }
        for name in named {
            let of_acrn_dm = name == "config";
            assert!(
                of_acrn_dm || known.iter().any(|known| known == name),
                "--{name}"
            );
        }
    }
}

#[test]
fn book_and_manual_page_explain_every_command_and_no_other() {
    let manual = plain(CONTROL);
    let command = ControlArgs::command();
    let known: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    for name in &known {
        assert!(manual.contains(&format!("\n {name} ")), "{name}");
        let own_row = BOOK.contains(&format!("| `acrnctl {name}"));
        assert!(
            own_row || BOOK.contains(&format!(", `{name} NAME`")),
            "{name}"
        );
    }
    for row in BOOK
        .lines()
        .filter_map(|line| line.strip_prefix("| `acrnctl "))
    {
        let name = row.split([' ', '`']).next().unwrap();
        assert!(known.contains(&name), "{name}");
    }
}

#[test]
fn the_book_explains_every_state_and_its_examples_are_definitions() {
    use VmState::*;
    for state in [
        Stopped, Started, Paused, Stopping, Waiting, Failed, Invalid, Untracked,
    ] {
        assert!(BOOK.contains(&format!("`{}`", state.name())), "{state:?}");
        let name = serde_json::to_value(state).unwrap();
        assert_eq!(name, state.name());
    }
    let examples: Vec<&str> = BOOK.split("```toml\n").skip(1).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let text = example.split("```").next().unwrap();
        Definition::parse(text).unwrap();
    }
}

#[test]
fn the_description_has_the_fields_of_an_event() {
    let event = Event {
        number: 1,
        time: 2,
        vm: String::new(),
        event: String::new(),
        detail: String::new(),
    };
    let description: serde_json::Value = serde_json::from_str(acrn_manager::api::OPENAPI).unwrap();
    let described = &description["components"]["schemas"]["Event"]["properties"];
    let fields = serde_json::to_value(event).unwrap();
    let names = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(described), names(&fields));
}

#[test]
fn the_life_cycle_managers_examples_and_requests_are_real() {
    let mut examples = 0;
    for example in LIFE_BOOK.split("```text\nVM_TYPE").skip(1) {
        let text = format!("VM_TYPE{}", example.split("```").next().unwrap());
        Config::parse(&text).unwrap();
        examples += 1;
    }
    assert_eq!(examples, 2);
    let requests = LIFE_BOOK.split("## Requests").nth(1).unwrap();
    let rows = requests.lines().filter_map(|line| line.strip_prefix("| `"));
    let names: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(names.len(), 5);
    for name in names {
        assert!(Request::parse(name).is_some(), "{name}");
        let bare = name.trim_end_matches("NAME");
        assert!(plain(LIFE).contains(bare), "{name}");
    }
}
