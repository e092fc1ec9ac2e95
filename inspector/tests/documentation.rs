//! The book and the manual page name what the command line has, and nothing else.

use acrn_inspector::cli::Args;
use clap::CommandFactory;

const BOOK: &str = include_str!("../../docs/src/inspector.md");
const MANUAL: &str = include_str!("../../docs/man/acrn-board-inspector.8");

/// The words of a text that begin with two dashes.
fn long_options(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(move |c| !part(c))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()) && *name != "release")
}

#[test]
fn book_and_manual_page_name_every_option_and_no_other() {
    let mut command = Args::command();
    command.build();
    let known: Vec<&str> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .collect();
    let manual = MANUAL
        .replace("\\-", "-")
        .replace("\\fB", " ")
        .replace("\\fR", " ");
    for name in &known {
        assert!(
            long_options(&manual).any(|named| named == *name),
            "--{name}"
        );
        let usual = ["help", "version"].contains(name);
        assert!(
            usual || long_options(BOOK).any(|named| named == *name),
            "--{name}"
        );
    }
    for name in long_options(&manual).chain(long_options(BOOK)) {
        assert!(known.contains(&name), "--{name}");
    }
}
