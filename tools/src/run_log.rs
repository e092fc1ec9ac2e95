//! What `acrnlog` does.

use std::io::{self, Write};
use std::time::Duration;

use acrn_abi::sbuf::{LOG_ELEMENT, id};
use acrn_trace::line::Lines;

use crate::cli::LogArgs;
use crate::log::{Entry, Merger};
use crate::observer::{Observer, ObserverError, Wanted};
use crate::wait::End;

/// Size of each CPU's ring: some hundred lines between two looks, and all that the hypervisor keeps.
const RING_KIB: usize = 64;

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing to read.
    #[error(transparent)]
    Observer(#[from] ObserverError),
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
    let mut source = Source::new(&args.cpus)?;
    let mut merger = Merger::default();
    let mut print = Printer { args };
    let interval = Duration::from_millis(args.interval);
    loop {
        let ends = !args.follow || end.wait(interval)?;
        let settled = merger.look(source.look());
        let rest = if ends { merger.finish() } else { Vec::new() };
        match print.all(settled.iter().chain(&rest)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
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

struct Printer<'a> {
    args: &'a LogArgs,
}

impl Printer<'_> {
    fn all<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for entry in entries.filter(|entry| self.is_wanted(entry)) {
            if self.args.json {
                serde_json::to_writer(&mut out, entry)?;
                writeln!(out)?;
            } else {
                writeln!(out, "{entry}")?;
            }
        }
        out.flush()
    }

    /// The log of before has lines of all CPUs.
    fn is_wanted(&self, entry: &Entry) -> bool {
        let cpus = &self.args.cpus;
        entry.severity <= self.args.severity && (cpus.is_empty() || cpus.contains(&entry.cpu))
    }
}
