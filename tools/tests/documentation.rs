//! The book and the manual pages name what the command lines have, and nothing else.

use acrn_tools::cli::{LogArgs, TraceArgs};
use clap::{Command, CommandFactory};

const BOOK: &str = include_str!("../../docs/src/tracing.md");
const LOG: &str = include_str!("../../docs/man/acrnlog.1");
const TRACE: &str = include_str!("../../docs/man/acrntrace.1");

fn plain(manual: &str) -> String {
    ["\\fB", "\\fR", "\\fI"]
        .iter()
        .fold(manual.replace("\\-", "-"), |text, font| {
            text.replace(font, "")
        })
}

/// The long options of a command and of those below it, without what each command has.
fn options(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|a| a.get_long());
    let mut all: Vec<String> = own
        .filter(|name| !matches!(*name, "help" | "version"))
        .map(str::to_owned)
        .collect();
    for below in command.get_subcommands().filter(|c| c.get_name() != "help") {
        all.extend(options(below));
    }
    all
}

fn long_options(text: &str) -> Vec<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(|c| !part(c))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
        .collect()
}

#[test]
fn the_manual_pages_and_the_book_name_every_option_and_no_other() {
    let mut everything = Vec::new();
    for (manual, mut command) in [
        (plain(LOG), LogArgs::command()),
        (plain(TRACE), TraceArgs::command()),
    ] {
        command.build();
        let known = options(&command);
        let named = long_options(&manual);
        for name in &known {
            assert!(named.contains(&name.as_str()), "--{name}");
            assert!(BOOK.contains(&format!("--{name}")), "--{name} in the book");
        }
        for name in named {
            assert!(known.iter().any(|known| known == name), "--{name}");
        }
        everything.extend(known);
    }
    for name in long_options(BOOK) {
        assert!(everything.iter().any(|known| known == name), "--{name}");
    }
}

#[test]
fn the_manual_page_and_the_book_name_every_command() {
    let command = TraceArgs::command();
    for name in command.get_subcommands().map(Command::get_name) {
        assert!(BOOK.contains(&format!("| `acrntrace {name}")), "{name}");
        assert!(plain(TRACE).contains(&format!("\n{name}")), "{name}");
    }
}
