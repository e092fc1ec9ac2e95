//! Sends one command to a running `acrn-dm` through its control socket and prints the
//! answer: `vm-command NAME status|pause|resume|reset|stop|destroy`.
//!
//! Exit status: 0 when the command was carried out, 1 when it was refused or nobody answers.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Where `acrn-dm` makes a socket for each VM, called `NAME.monitor.PID.socket`.
const DIRECTORY: &str = "/run/acrn/mngr";
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, command] = arguments.as_slice() else {
        eprintln!("usage: vm-command NAME status|pause|resume|reset|stop|destroy");
        return ExitCode::from(2);
    };
    match send(Path::new(DIRECTORY), name, command) {
        Ok(answer) => {
            println!("{answer}");
            if answer.contains("\"ack\":0") {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("vm-command: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn send(directory: &Path, name: &str, command: &str) -> Result<String> {
    let socket = socket_of(directory, name)?;
    let mut stream = UnixStream::connect(&socket)
        .with_context(|| format!("nobody listens at {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{{\"command\":\"{command}\"}}")?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .context("no answer")?;
    Ok(answer.trim_end().to_owned())
}

fn socket_of(directory: &Path, name: &str) -> Result<PathBuf> {
    let prefix = format!("{name}.monitor.");
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if file.starts_with(&prefix) && file.ends_with(".socket") {
            return Ok(entry.path());
        }
    }
    bail!("no VM called {name} runs")
}
