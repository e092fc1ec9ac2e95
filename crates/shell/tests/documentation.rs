//! The book's table of commands is the shell's list.

use acrn_shell::COMMANDS;

const BOOK: &str = include_str!("../../../docs/src/shell.md");

/// First column of the rows that begin like a command.
fn rows() -> impl Iterator<Item = &'static str> {
    let table = BOOK.split("## Reasons").next().unwrap_or(BOOK);
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
}

#[test]
fn every_command_has_a_row_with_its_arguments() {
    for help in COMMANDS {
        let usage = format!("{} {}", help.name, help.args);
        assert!(rows().any(|row| row == usage.trim_end()), "{usage}");
    }
}

#[test]
fn every_row_is_a_command() {
    for row in rows() {
        let name = row.split(' ').next().unwrap_or(row);
        assert!(COMMANDS.iter().any(|help| help.name == name), "{row}");
    }
}
