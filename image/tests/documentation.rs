//! The book and the manual page name what the command line has, and nothing else.

use acrn_image::cli::Args;
use clap::{Command, CommandFactory};

const BOOK: &str = include_str!("../../docs/src/images.md");
const MANUAL: &str = include_str!("../../docs/man/acrn-image.1");

fn program() -> Command {
    let mut command = Args::command();
    command.build();
    command
}

fn manual() -> String {
    ["\\fB", "\\fR", "\\fI"]
        .iter()
        .fold(MANUAL.replace("\\-", "-"), |text, font| {
            text.replace(font, " ")
        })
}

/// The words of a text that begin with two dashes.
fn long_options(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
}

#[test]
fn the_manual_page_names_every_option_and_no_other() {
    let program = program();
    let below = program.get_subcommands().flat_map(Command::get_arguments);
    let all = below.chain(program.get_arguments());
    let known: Vec<&str> = all.filter_map(|argument| argument.get_long()).collect();
    let text = manual();
    let named: Vec<&str> = long_options(&text).collect();
    for name in &known {
        assert!(named.contains(name), "--{name}");
    }
    for name in named {
        assert!(known.contains(&name), "--{name}");
    }
}

#[test]
fn book_and_manual_page_explain_every_command() {
    let program = program();
    for command in program
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
    {
        let name = command.get_name();
        assert!(manual().contains(&format!("\n {name} ")), "{name}");
        assert!(BOOK.contains(&format!("| `{name} ")), "{name}");
    }
}

#[test]
fn the_commands_of_the_book_can_be_typed() {
    let blocks = BOOK
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let lines: Vec<&str> = blocks.flat_map(str::lines).collect();
    let ours: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.starts_with("acrn-image "))
        .collect();
    assert!(ours.len() >= 5, "{ours:?}");
    for line in ours {
        let words = line.split('#').next().unwrap().split_whitespace();
        let parsed = program().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}
