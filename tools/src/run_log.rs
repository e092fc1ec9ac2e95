//! What `acrnlog` does.

use std::io::{self, Write};
use std::time::Duration;

use acrn_abi::sbuf::{LOG_ELEMENT, id};
use acrn_trace::line::Lines;

use crate::cli::LogArgs;
use crate::log::{Entry, Merger};
use crate::observer::{Observer, ObserverError, Wanted};
use crate::rotate::{RotateError, Rotating};
use crate::wait::End;

/// Size of each CPU's ring: some hundred lines between two looks, and all that the hypervisor keeps.
const RING_KIB: usize = 64;

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing to read.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// The file cannot be written.
    #[error("{0}; choose another place with --output, or make room")]
    Files(#[from] RotateError),
    /// The system's.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Prints the log.
///
/// # Errors
/// [`LogError`]. That nobody reads the output is none.
pub fn run(args: &LogArgs) -> Result<(), LogError> {
    let end = End::new(None)?;
    let out = Out::open(args)?;
    let mut source = Source::new(&args.cpus)?;
    let mut merger = Merger::default();
    let mut print = Printer { args, out };
    let interval = Duration::from_millis(args.interval);
    loop {
        let ends = !args.follow || end.wait(interval)?;
        let settled = merger.look(source.look());
        let rest = if ends { merger.finish() } else { Vec::new() };
        match print.all(settled.iter().chain(&rest)) {
            Err(LogError::System(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(());
            }
            result => result?,
        }
        if ends {
            return Ok(());
        }
    }
}

/// Lines of several CPUs.
struct Source {
    observer: Observer,
    lines: Vec<Lines>,
    lost: Vec<u32>,
}

impl Source {
    fn new(cpus: &[u16]) -> Result<Self, ObserverError> {
        let observer = Observer::new(&Wanted {
            name: "acrnlog",
            ring: id::LOG,
            element: LOG_ELEMENT,
            kib: RING_KIB,
            cpus,
        })?;
        let count = observer.cpus().len();
        Ok(Self {
            observer,
            lines: vec![Lines::default(); count],
            lost: vec![0; count],
        })
    }

    /// What has come since the last look. Lines that are none of ours, and lost ones, are reported.
    fn look(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (index, lines) in self.lines.iter_mut().enumerate() {
            self.observer
                .drain(index, &mut [0; LOG_ELEMENT], |element| {
                    let Some(line) = lines.push(element) else {
                        return;
                    };
                    let line = String::from_utf8_lossy(&line);
                    match line.parse() {
                        Ok(entry) => entries.push(entry),
                        // The oldest line that is kept has lost its begin.
                        Err(_) => eprintln!("acrnlog: not understood: {line:?}"),
                    }
                });
            let lost = self.observer.lost(index);
            let more = lost.wrapping_sub(self.lost[index]);
            if more > 0 {
                eprintln!("acrnlog: {more} lines were lost; look more often with --interval");
            }
            self.lost[index] = lost;
        }
        entries
    }
}

/// Where lines go to.
enum Out {
    Standard(io::Stdout),
    Files(Rotating),
}

impl Out {
    fn open(args: &LogArgs) -> Result<Self, RotateError> {
        Ok(match args.files() {
            Some((path, files, size)) => Self::Files(Rotating::open(&path, files, size)?),
            None => Self::Standard(io::stdout()),
        })
    }

    fn line(&mut self, line: &str) -> Result<(), LogError> {
        match self {
            Self::Standard(out) => writeln!(out, "{line}")?,
            Self::Files(files) => files.line(line)?,
        }
        Ok(())
    }
}

struct Printer<'a> {
    args: &'a LogArgs,
    out: Out,
}

impl Printer<'_> {
    fn all<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) -> Result<(), LogError> {
        for entry in entries {
            if !self.is_wanted(entry) {
                continue;
            }
            let line = match self.args.json {
                true => serde_json::to_string(entry).map_err(io::Error::from)?,
                false => entry.to_string(),
            };
            self.out.line(&line)?;
        }
        Ok(())
    }

    /// The log of before has lines of all CPUs.
    fn is_wanted(&self, entry: &Entry) -> bool {
        let cpus = &self.args.cpus;
        entry.severity <= self.args.severity && (cpus.is_empty() || cpus.contains(&entry.cpu))
    }
}
