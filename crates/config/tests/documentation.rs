//! The book and the manual page name what the command line has, and nothing else.

use acrn_config::cli::args::Args;
use acrn_config::model::Item;
use acrn_config::{Scenario, presets};
use clap::{Command, CommandFactory};

const BOOK: &str = include_str!("../../../docs/src/configuration.md");
const MANUAL: &str = include_str!("../../../docs/man/acrn-config.1");

fn program() -> Command {
    let mut command = Args::command();
    command.build();
    command
}

fn commands() -> Vec<String> {
    let program = program();
    let names = program
        .get_subcommands()
        .map(|command| command.get_name().to_owned());
    names.filter(|name| name != "help").collect()
}

/// Long names of all options of all commands.
fn options() -> Vec<String> {
    let program = program();
    let all = program
        .get_subcommands()
        .flat_map(Command::get_arguments)
        .chain(program.get_arguments());
    all.filter_map(|argument| argument.get_long())
        .map(str::to_owned)
        .collect()
}

/// The words of a text that begin with two dashes.
fn long_options(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.split(move |c| !part(c))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()) && *name != "release")
}

fn manual() -> String {
    MANUAL
        .replace("\\-", "-")
        .replace("\\fB", " ")
        .replace("\\fR", " ")
        .replace("\\fI", " ")
}

#[test]
fn book_and_manual_page_name_every_option_and_no_other() {
    let known = options();
    for text in [BOOK.to_owned(), manual()] {
        for name in &known {
            assert!(
                long_options(&text).any(|found| found == name),
                "--{name} is missing"
            );
        }
        for name in long_options(&text) {
            assert!(
                known.iter().any(|known| known == name),
                "--{name} does not exist"
            );
        }
    }
}

#[test]
fn book_and_manual_page_name_every_command_and_no_other() {
    let known = commands();
    let rows = BOOK
        .lines()
        .skip_while(|line| *line != "| command | does |")
        .skip(2);
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), known.len());
    for name in &known {
        assert!(
            rows.iter()
                .any(|row| row.starts_with(&format!("| `{name}"))),
            "{name}"
        );
        assert!(manual().contains(&format!("\n {name}")), "{name}");
    }
}

#[test]
fn the_book_names_every_preset() {
    for preset in presets::PRESETS {
        assert!(
            BOOK.contains(&format!("\n| `{}` |", preset.name)),
            "{}",
            preset.name
        );
    }
}

#[test]
fn the_book_names_every_extension() {
    fn check(items: &[Item], path: &str) {
        for item in items {
            let path = format!("{path}/{}", item.name);
            if item.ours {
                let named = BOOK.contains(&format!("`{}`", item.name));
                let within = BOOK
                    .lines()
                    .any(|line| line.starts_with(&format!("| `{}", &path[1..])));
                assert!(named || within || item.name == "CPU_SCHEDULERS", "{path}");
            }
            check(item.children(), &path);
        }
    }
    check(Scenario::schema(), "");
}
