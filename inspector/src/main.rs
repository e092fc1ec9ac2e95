//! The board inspector.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acrn_inspector::cli::Args;
use acrn_inspector::run::{Outcome, run};
use clap::Parser;

fn main() -> ExitCode {
    let Outcome {
        text,
        remarks,
        file,
        good,
    } = run(&Args::parse());
    let written = match file {
        Some((path, contents)) => write(path, &contents),
        None => Ok(()),
    };
    eprint!("{remarks}");
    let printed = io::stdout().write_all(text.as_bytes());
    match written.and(printed) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("acrn-board-inspector: {error}");
            ExitCode::FAILURE
        }
        _ if good => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn write(path: PathBuf, contents: &str) -> io::Result<()> {
    if path == Path::new("-") {
        return io::stdout().write_all(contents.as_bytes());
    }
    std::fs::write(&path, contents).map_err(|error| {
        let path = path.display();
        io::Error::other(format!("{path}: {error}; choose another place with --out"))
    })
}
