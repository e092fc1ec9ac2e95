//! The book and the manual page name what the command line has, and nothing else.

use acrn_dm::cli::args::Args;
use acrn_dm::exit::ExitCode;
use clap::CommandFactory;

const BOOK: &str = include_str!("../../docs/src/acrn-dm.md");
const MANUAL: &str = include_str!("../../docs/man/acrn-dm.8");

/// Long names with their aliases, and whether `--help` shows the option.
fn options() -> Vec<(String, bool)> {
    let mut command = Args::command();
    command.build();
    let mut found = Vec::new();
    for argument in command.get_arguments() {
        let shown = !argument.is_hide_set();
        let names = argument.get_long_and_visible_aliases().unwrap_or_default();
        found.extend(names.into_iter().map(|name| (name.to_owned(), shown)));
    }
    found
}

/// The words of a text that begin with two dashes.
fn long_options(text: &str) -> impl Iterator<Item = &str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.split(move |c| !part(c))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
}

#[test]
fn the_book_names_every_option() {
    for (name, _) in options() {
        assert!(BOOK.contains(&format!("--{name}")), "--{name}");
    }
}

#[test]
fn every_option_of_the_book_exists() {
    let known = options();
    for name in long_options(BOOK) {
        assert!(known.iter().any(|(known, _)| known == name), "--{name}");
    }
}

#[test]
fn the_manual_page_names_what_help_shows_and_nothing_else() {
    let manual = MANUAL
        .replace("\\-", "-")
        .replace("\\fB", " ")
        .replace("\\fR", " ");
    let known = options();
    for name in long_options(&manual) {
        assert!(known.iter().any(|(known, _)| known == name), "--{name}");
    }
    for (name, shown) in &known {
        let spelling_of_another = name == "dry_run" || name == "no_sandbox";
        if *shown && !spelling_of_another {
            assert!(long_options(&manual).any(|found| found == name), "--{name}");
        }
    }
}

#[test]
fn the_book_explains_every_exit_code() {
    use ExitCode::*;
    let codes = [
        Success,
        Internal,
        Usage,
        Unsupported,
        ConfigFile,
        KernelMissing,
        RamdiskMissing,
        KernelBad,
        DoesNotFit,
        NoHsm,
        NoPermission,
        NoMemory,
        NameInUse,
        Device,
        Hypervisor,
        Forced,
        DebugExit,
    ];
    for code in codes {
        let row = format!("\n| {} ", code.number());
        assert!(BOOK.contains(&row), "{code:?}");
    }
}
