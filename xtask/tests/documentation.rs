//! The documents agree with this program's options and with the tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All documents, relative to the top of the repository.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in ["", "docs/src"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = Path::new(directory).join(entry.unwrap().file_name());
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The words of a text that begin with two dashes.
fn long_options(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
        .map(str::to_owned)
        .collect()
}

fn subcommands() -> Vec<String> {
    let help = help(&[]);
    let list = help.split_once("Commands:").unwrap().1;
    let list = list.split("Options:").next().unwrap();
    list.lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// The part of the quick start between a heading and the next.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let rest = text.split_once(heading).unwrap().1;
    rest.split("\n## ").next().unwrap()
}

#[test]
fn the_quick_start_names_every_option_and_no_other() {
    let text = read("docs/src/quick-start.md");
    for (heading, command) in [
        ("## Options of `cargo xtask demo`", "demo"),
        ("## The second command", "test"),
        ("## The benchmark", "bench"),
    ] {
        let mut expected = long_options(&help(&[command]));
        expected.remove("help");
        let mut found = long_options(section(&text, heading));
        found.remove("workspace");
        assert_eq!(found, expected, "{command}");
    }
}

#[test]
fn commands_in_documents_exist_with_their_options() {
    let known = subcommands();
    for document in documents() {
        let text = read(document.to_str().unwrap());
        for use_of in text.split("cargo xtask ").skip(1) {
            let line = use_of.lines().next().unwrap_or("");
            let typed = line.split(['`', '#', ';', ')']).next().unwrap_or(line);
            let Some(name) = typed.split_whitespace().next() else {
                continue;
            };
            let name = name.trim_end_matches([',', '.', ':']);
            assert!(
                known.iter().any(|command| command == name),
                "{}: cargo xtask {line}",
                document.display()
            );
            let options = long_options(&help(&[name]));
            let given = long_options(typed);
            assert!(
                given.is_subset(&options),
                "{}: cargo xtask {line}",
                document.display()
            );
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for document in documents() {
        let text = read(document.to_str().unwrap());
        let folder = root().join(document.parent().unwrap());
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap_or("");
            let path = target.split('#').next().unwrap_or("");
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(
                folder.join(path).exists(),
                "{}: {target}",
                document.display()
            );
        }
    }
}

#[test]
fn every_chapter_is_in_the_books_summary() {
    let summary = read("docs/src/SUMMARY.md");
    for entry in fs::read_dir(root().join("docs/src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") && name != "SUMMARY.md" {
            assert!(summary.contains(&format!("({name})")), "{name}");
        }
    }
}

#[test]
fn included_files_and_anchors_exist() {
    for document in documents() {
        let text = read(document.to_str().unwrap());
        let folder = root().join(document.parent().unwrap());
        for include in text.split("{{#include ").skip(1) {
            let target = include.split("}}").next().unwrap_or("");
            let (path, anchor) = target.split_once(':').unwrap_or((target, ""));
            let file = fs::read_to_string(folder.join(path)).unwrap_or_default();
            assert!(
                file.contains(&format!("// ANCHOR: {anchor}\n")),
                "{}: {target}",
                document.display()
            );
        }
    }
}

/// The text of every Rust file below a directory.
fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn the_specification_names_tests_that_exist() {
    let text = read("SPECIFICATION.md");
    let mut known = String::new();
    let directories = [
        "configurator",
        "crates",
        "devicemodel",
        "guest/micro",
        "image",
        "inspector",
        "manager",
        "tests/robustness",
        "xtask/src/system",
    ];
    for directory in directories {
        sources(&root().join(directory), &mut known);
    }
    let quoted = text.split('`').skip(1).step_by(2);
    let is_name = |name: &&str| {
        name.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    // A lint, and words that are not tests.
    let others = ["undocumented_unsafe_blocks", "unsafe", "version"];
    for name in quoted.filter(is_name).filter(|name| !others.contains(name)) {
        let places = [
            format!("fn {name}("),
            format!("\"{name}\""),
            format!("mod {name};"),
        ];
        assert!(places.iter().any(|place| known.contains(place)), "{name}");
    }
}
