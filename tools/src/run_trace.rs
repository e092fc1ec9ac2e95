//! What `acrntrace` does.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use acrn_abi::sbuf::{TraceEntry, id};
use clap::CommandFactory;
use zerocopy::{FromBytes, IntoBytes};

use crate::capture::{self, BadCapture, Capture};
use crate::cli::{Record, TraceArgs, TraceCommand};
use crate::observer::{Observer, ObserverError, Wanted};
use crate::report::Report;
use crate::wait::End;
use crate::{chrome, clock, show};

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No hypervisor.
    #[error("this is no VM of an ACRN hypervisor: its CPUID leaves are not there")]
    NoHypervisor,
    /// Nothing to trace.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// A file that is no trace.
    #[error("{path}: {source}")]
    Capture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BadCapture,
    },
    /// A file that cannot be opened or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system's.
    #[error("{0}")]
    System(#[from] io::Error),
}

fn on(path: &Path) -> impl Fn(io::Error) -> TraceError + '_ {
    |source| TraceError::File {
        path: path.to_owned(),
        source,
    }
}

/// Carries a command out.
///
/// # Errors
/// [`TraceError`]. That nobody reads the output is none.
pub fn run(args: &TraceArgs) -> Result<(), TraceError> {
    match &args.command {
        TraceCommand::Record(options) => record(options),
        TraceCommand::Report { file, json } => {
            let report = Report::new(&load(file)?);
            print(|out| match json {
                true => {
                    serde_json::to_writer_pretty(&mut *out, &report)?;
                    writeln!(out)
                }
                false => write!(out, "{report}"),
            })
        }
        TraceCommand::Convert { file, output } => {
            let trace = load(file)?;
            let mut to = BufWriter::new(File::create(output).map_err(on(output))?);
            let written = chrome::write(&trace, &mut to).and_then(|()| to.flush());
            written.map_err(on(output))
        }
        TraceCommand::Show { file, json } => {
            let trace = load(file)?;
            print(|out| {
                trace.records.iter().try_for_each(|record| match json {
                    true => writeln!(out, "{}", show::json(&trace, record)),
                    false => writeln!(out, "{}", show::line(&trace, record)),
                })
            })
        }
        TraceCommand::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut TraceArgs::command(), "acrntrace", &mut text);
            print(|out| out.write_all(&text))
        }
    }
}

fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), TraceError> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn load(path: &Path) -> Result<Capture, TraceError> {
    let mut file = File::open(path).map_err(on(path))?;
    Capture::read(&mut file).map_err(|source| TraceError::Capture {
        path: path.to_owned(),
        source,
    })
}

fn record(options: &Record) -> Result<(), TraceError> {
    let tsc_khz = clock::tsc_khz().ok_or(TraceError::NoHypervisor)?;
    let end = End::new(options.time.map(Duration::from_secs))?;
    let path = &options.output;
    let mut to = BufWriter::new(File::create(path).map_err(on(path))?);
    let mut rings = Rings {
        observer: Observer::new(&Wanted {
            name: "acrntrace",
            ring: id::TRACE,
            element: size_of::<TraceEntry>(),
            kib: options.ring as usize,
            cpus: &options.cpus,
        })?,
        lost: Vec::new(),
        records: 0,
    };
    let cpus = rings.observer.cpus().len();
    rings.lost = vec![0; cpus];
    capture::begin(&mut to, tsc_khz, cpus).map_err(on(path))?;
    let interval = Duration::from_millis(options.interval);
    loop {
        let ends = end.wait(interval)?;
        rings.look(&mut to).map_err(on(path))?;
        if ends {
            break;
        }
    }
    to.flush().map_err(on(path))?;
    let lost: u64 = rings.lost.iter().map(|&count| u64::from(count)).sum();
    eprintln!(
        "acrntrace: {} records of {cpus} CPUs in {}, {lost} lost",
        rings.records,
        path.display()
    );
    Ok(())
}

struct Rings {
    observer: Observer,
    lost: Vec<u32>,
    records: u64,
}

impl Rings {
    /// Writes what has come since the last look, and how much was lost on the way.
    fn look(&mut self, to: &mut impl Write) -> io::Result<()> {
        let cpus: Vec<u16> = self.observer.cpus().collect();
        for (index, cpu) in cpus.into_iter().enumerate() {
            let mut last = TraceEntry::default();
            let mut result = Ok(());
            let element = &mut [0; size_of::<TraceEntry>()];
            self.observer.drain(index, element, |entry| {
                self.records += 1;
                last = TraceEntry::read_from_bytes(entry).unwrap_or(last);
                if result.is_ok() {
                    result = to.write_all(entry);
                }
            });
            result?;
            let lost = self.observer.lost(index);
            let more = lost.wrapping_sub(self.lost[index]);
            if more > 0 {
                // Full is full until the next look: what was lost came last.
                to.write_all(capture::lost(cpu, last.tsc, more).as_bytes())?;
            }
            self.lost[index] = lost;
        }
        Ok(())
    }
}
