//! The book and the manual page name the options that there are, and no others.

use acrn_configurator::cli::Args;
use clap::CommandFactory;

const BOOK: &str = include_str!("../../docs/src/configurator.md");
const MANUAL: &str = include_str!("../../docs/man/acrn-configurator.1");

fn options() -> Vec<String> {
    let command = Args::command();
    let arguments = command.get_arguments();
    let names = arguments.filter_map(|argument| argument.get_long());
    names.map(str::to_owned).collect()
}

/// The words that begin with two dashes, but for those of other programs and of every program.
fn long_options(text: &str) -> Vec<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let words = text.split(move |c| !part(c));
    let names = words.filter_map(|word| word.strip_prefix("--"));
    let is_option = |name: &&str| name.starts_with(|c: char| c.is_ascii_alphabetic());
    let others = ["release", "help", "version"];
    names
        .filter(is_option)
        .filter(|name| !others.contains(name))
        .collect()
}

#[test]
fn book_and_manual_page_name_every_option_and_no_other() {
    let known = options();
    let manual = MANUAL
        .replace("\\-", "-")
        .replace("\\fB", " ")
        .replace("\\fR", " ");
    for text in [BOOK, manual.as_str()] {
        let named = long_options(text);
        for option in &known {
            assert!(named.contains(&option.as_str()), "--{option} is missing");
        }
        for name in named {
            assert!(
                known.iter().any(|option| option == name),
                "--{name} does not exist"
            );
        }
    }
}
