//! Size of the hypervisor: lines of code, unsafe blocks, image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::layout::Layout;

/// Lines that are neither blank nor comment nor test, and unsafe blocks among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Code {
    /// Lines of code.
    pub lines: usize,
    /// `unsafe { … }`.
    pub unsafe_blocks: usize,
    /// Lines of tests, which are not among `lines`.
    pub test_lines: usize,
}

impl Code {
    fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.unsafe_blocks += other.unsafe_blocks;
        self.test_lines += other.test_lines;
    }
}

/// The hypervisor's own code and that of each crate of this repository that it links.
///
/// # Errors
/// A source file cannot be read.
pub fn code(layout: &Layout) -> Result<Vec<(String, Code)>> {
    let manifest = layout.source("hypervisor/Cargo.toml");
    let manifest: toml::Table = fs::read_to_string(&manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?
        .parse()?;
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    let mut parts = vec![("hypervisor".to_owned(), layout.source("hypervisor/src"))];
    for name in dependencies.into_iter().flat_map(toml::Table::keys) {
        if let Some(short) = name.strip_prefix("acrn-") {
            let path = layout.source(&format!("crates/{short}/src"));
            parts.push((format!("crates/{short}"), path));
        }
    }
    parts
        .into_iter()
        .map(|(name, path)| Ok((name, of_directory(&path)?)))
        .collect()
}

fn of_directory(base: &Path) -> Result<Code> {
    let mut total = Code::default();
    let mut pending = vec![base.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let mut code = of_text(&fs::read_to_string(&path)?);
                if is_test(path.strip_prefix(base)?) {
                    code = Code {
                        test_lines: code.lines + code.test_lines,
                        ..Code::default()
                    };
                }
                total.add(code);
            }
        }
    }
    Ok(total)
}

/// Whether a file is only compiled for tests, going by the names used in this repository.
fn is_test(path: &Path) -> bool {
    path.iter()
        .map(|part| PathBuf::from(part).with_extension(""))
        .any(|part| {
            let part = part.to_string_lossy();
            part == "tests" || part == "testing" || part.ends_with("_tests")
        })
}

fn of_text(text: &str) -> Code {
    let mut code = Code::default();
    let mut in_tests = false;
    let mut test_next = false;
    let mut comment = false;
    for line in text.lines() {
        let line = line.trim();
        if comment {
            comment = !line.contains("*/");
            continue;
        }
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        if line.starts_with("/*") {
            comment = !line.contains("*/");
            continue;
        }
        // A module of tests is the last thing in a file; `mod tests;` is one line.
        in_tests |= test_next && line.starts_with("mod ") && line.ends_with('{');
        if in_tests || line == "#[cfg(test)]" || test_next {
            code.test_lines += 1;
        } else {
            code.lines += 1;
            code.unsafe_blocks += line.matches("unsafe {").count();
        }
        test_next = line == "#[cfg(test)]" || test_next && line.starts_with("#[");
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_are_no_code() {
        let text = "//! Head.\n\nfn f() {\n    // why\n    unsafe { g() }\n}\n/* a\nb */\n\
            #[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
        let expected = Code {
            lines: 3,
            unsafe_blocks: 1,
            test_lines: 4,
        };
        assert_eq!(of_text(text), expected);
    }

    #[test]
    fn code_after_a_line_for_tests_counts() {
        assert_eq!(of_text("#[cfg(test)]\nmod tests;\nfn f() {}\n").lines, 1);
        assert_eq!(
            of_text("#[cfg(test)]\n#[path = \"x\"]\nmod t;\nfn f() {}\n").lines,
            1
        );
    }

    #[test]
    fn files_of_tests_are_known_by_name() {
        assert!(is_test(Path::new("src/tests/a.rs")));
        assert!(is_test(Path::new("src/bzimage_tests.rs")));
        assert!(!is_test(Path::new("src/latest.rs")));
    }
}
