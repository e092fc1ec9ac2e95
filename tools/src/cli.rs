//! The command lines of both programs.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::log::Severity;

const STATUS: &str = "Exit status: 0 done, 1 refused or failed, 2 wrong command line.";

/// acrnlog, the hypervisor's log.
#[derive(Parser, Debug)]
#[command(name = "acrnlog", version, after_help = STATUS)]
pub struct LogArgs {
    /// Go on with what the hypervisor says from now on.
    #[arg(short, long)]
    pub follow: bool,
    /// Lines up to this severity.
    #[arg(short, long, value_name = "LEVEL", default_value = "debug")]
    pub severity: Severity,
    /// Lines of these CPUs only.
    #[arg(short = 'a', long, value_name = "CPU,...", value_delimiter = ',')]
    pub cpus: Vec<u16>,
    /// Milliseconds between two looks.
    #[arg(short = 't', long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub interval: u64,
    /// Print a JSON object for each line.
    #[arg(long)]
    pub json: bool,
    /// Print a completion script for a shell.
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completion: Option<Shell>,
}

/// acrntrace, what the hypervisor does.
#[derive(Parser, Debug)]
#[command(name = "acrntrace", version, after_help = STATUS)]
pub struct TraceArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TraceCommand,
}

/// The commands of acrntrace.
#[derive(Subcommand, Debug)]
pub enum TraceCommand {
    /// Write a trace to a file, until Ctrl-C or for some time.
    Record(Record),
    /// Count: exits by reason, and what CPUs and vCPUs spend their time on.
    Report {
        /// The trace.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a picture for Perfetto (https://ui.perfetto.dev) or chrome://tracing.
    Convert {
        /// The trace.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Where to write the picture.
        #[arg(short, long, value_name = "FILE", default_value = "acrntrace.json")]
        output: PathBuf,
    },
    /// Print each record.
    Show {
        /// The trace.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Print a JSON object for each.
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// Options of `acrntrace record`.
#[derive(Args, Debug)]
pub struct Record {
    /// Where to write the trace.
    #[arg(short, long, value_name = "FILE", default_value = "acrntrace.dat")]
    pub output: PathBuf,
    /// End after so many seconds.
    #[arg(short = 't', long, value_name = "SECONDS")]
    pub time: Option<u64>,
    /// Milliseconds between two looks.
    #[arg(short, long, value_name = "MS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub interval: u64,
    /// Trace these CPUs only.
    #[arg(short = 'a', long, value_name = "CPU,...", value_delimiter = ',')]
    pub cpus: Vec<u16>,
    /// Size of each CPU's ring in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(4..=4096))]
    pub ring: u64,
}
