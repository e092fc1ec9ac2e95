//! Sends one command to a running `acrn-dm` through its control socket and prints the
//! answer: `vm-command NAME status|pause|resume|reset|stop|destroy`, or
//! `vm-command NAME blkrescan SLOT,PATH`.
//!
//! `vm-command --talk PLACE TEXT` writes a line to the other end of a serial port or console, a
//! TCP port of this host, a Unix socket or a terminal, and prints the line that comes back.
//!
//! Exit status: 0 when the command was carried out, 1 when it was refused or nobody answers.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Where `acrn-dm` makes a socket for each VM, called `NAME.monitor.PID.socket`.
const DIRECTORY: &str = "/run/acrn/mngr";
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["--talk", place, text] => talk(place, text).map(|answer| (answer, true)),
        [name, command, device @ ..] if device.len() < 2 => {
            let device = device.first().copied().unwrap_or_default();
            send(Path::new(DIRECTORY), name, command, device).map(|answer| {
                let done = answer.contains("\"ack\":0");
                (answer, done)
            })
        }
        _ => {
            eprintln!("usage: vm-command NAME status|pause|resume|reset|stop|destroy");
            eprintln!("       vm-command NAME blkrescan SLOT,PATH");
            eprintln!("       vm-command --talk PORT|PATH TEXT");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok((answer, done)) => {
            println!("{answer}");
            if done {
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

fn send(directory: &Path, name: &str, command: &str, device: &str) -> Result<String> {
    let socket = socket_of(directory, name)?;
    let mut stream = UnixStream::connect(&socket)
        .with_context(|| format!("nobody listens at {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(
        stream,
        "{{\"command\":\"{command}\",\"device\":\"{device}\"}}"
    )?;
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

/// Reads in a thread of its own: a terminal knows no time limit.
fn talk(place: &str, text: &str) -> Result<String> {
    let (mut writer, reader) = open(place).with_context(|| format!("cannot open {place}"))?;
    writeln!(writer, "{text}")?;
    let (sender, answer) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let result = BufReader::new(reader).read_line(&mut line);
        let _ = sender.send(result.map(|_| line));
    });
    let line = answer
        .recv_timeout(PATIENCE)
        .context("nothing comes back")??;
    Ok(line.trim_end().to_owned())
}

type Ends = (Box<dyn Write>, Box<dyn Read + Send>);

fn open(place: &str) -> std::io::Result<Ends> {
    if let Ok(port) = place.parse::<u16>() {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        return Ok((Box::new(stream.try_clone()?), Box::new(stream)));
    }
    if fs::metadata(place)?.file_type().is_socket() {
        let stream = UnixStream::connect(place)?;
        return Ok((Box::new(stream.try_clone()?), Box::new(stream)));
    }
    let file = fs::OpenOptions::new().read(true).write(true).open(place)?;
    Ok((Box::new(file.try_clone()?), Box::new(file)))
}
