//! Programs that do the work, with a line of progress while they take their time.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::ImageError;

/// Lines kept for an error.
const KEPT: usize = 20;

/// Debian's packages of the programs.
const PACKAGES: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    ("qemu-img", "qemu-utils"),
    ("sfdisk", "fdisk"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
    ("mformat", "mtools"),
    ("mcopy", "mtools"),
    ("mmd", "mtools"),
];

/// Runs a program to its end; returns what it printed.
pub(crate) fn run(step: &str, command: &mut Command) -> Result<String, ImageError> {
    run_with(step, command, None)
}

/// The same, with text for its standard input.
pub(crate) fn run_with(
    step: &str,
    command: &mut Command,
    input: Option<&str>,
) -> Result<String, ImageError> {
    let (status, lines) = execute(step, command, input)?;
    if status.success() {
        return Ok(lines.join("\n"));
    }
    let from = lines.len().saturating_sub(KEPT);
    Err(ImageError::Failed {
        program: name(command),
        status: status.to_string(),
        said: lines[from..].join("\n"),
    })
}

/// Runs a program to its end, whatever its status.
pub(crate) fn execute(
    step: &str,
    command: &mut Command,
    input: Option<&str>,
) -> Result<(std::process::ExitStatus, Vec<String>), ImageError> {
    let program = name(command);
    // Tools of the administrator are not in everybody's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => missing(&program),
        _ => ImageError::Io {
            path: program.clone(),
            source,
        },
    };
    let mut child = command.spawn().map_err(failed)?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        use std::io::Write as _;
        stdin.write_all(text.as_bytes()).map_err(failed)?;
    }
    let (sender, lines) = mpsc::channel();
    let streams: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
    }
    drop(sender);
    let lines = collect(step, &lines);
    let status = child.wait().map_err(failed)?;
    Ok((status, lines))
}

/// All lines, while those that wait see how it goes.
fn collect(step: &str, source: &mpsc::Receiver<String>) -> Vec<String> {
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut lines: Vec<String> = Vec::new();
    let mut next = Duration::from_secs(2);
    let mut shown = false;
    loop {
        match source.recv_timeout(next.saturating_sub(start.elapsed())) {
            Ok(line) => lines.push(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let seconds = start.elapsed().as_secs();
                let last = lines.last().map_or("", String::as_str);
                if terminal {
                    eprint!("\r\x1b[K{step}, {seconds} s: {last:.60}");
                    next = start.elapsed() + Duration::from_secs(1);
                } else {
                    eprintln!("{step}, {seconds} s: {last}");
                    next = start.elapsed()
                        + (next / 2).clamp(Duration::from_secs(2), Duration::from_secs(15));
                }
                shown = true;
            }
        }
    }
    if terminal && shown {
        eprint!("\r\x1b[K");
    }
    lines
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn missing(program: &str) -> ImageError {
    let package = PACKAGES.iter().find(|(name, _)| *name == program);
    ImageError::Missing {
        program: program.to_owned(),
        package: package.map_or("coreutils", |(_, package)| package),
    }
}

/// A program with these words.
pub(crate) fn program<S: AsRef<OsStr>>(name: &str, words: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(name);
    command.args(words);
    command
}
