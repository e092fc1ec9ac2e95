//! The command lines of both programs. Their comments are what `--help` prints.
#![allow(rustdoc::bare_urls)]

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
    /// Add the lines to a file, and keep older ones as FILE.1, FILE.2 and so on.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Files that are kept, with --output or in /var/log/acrnlog.
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub files: Option<u32>,
    /// KiB of each of these files at most.
    #[arg(short, long, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub size: Option<u64>,
    /// Lines up to this severity.
    #[arg(long, value_name = "LEVEL", default_value = "debug")]
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

impl LogArgs {
    /// The file to write, how many there may be, and how many bytes each has; `None` for standard output. ACRN's
    /// `-n` and `-s` alone mean ACRN's directory, and one of them means ACRN's value for the other.
    pub fn files(&self) -> Option<(PathBuf, u32, u64)> {
        const FILE: &str = "/var/log/acrnlog/acrn.log";
        let chosen = self.files.is_some() || self.size.is_some();
        let default = chosen.then(|| PathBuf::from(FILE));
        let path = self.output.clone().or(default)?;
        Some((
            path,
            self.files.unwrap_or(4),
            self.size.unwrap_or(1024) << 10,
        ))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn files(words: &[&str]) -> Option<(PathBuf, u32, u64)> {
        let words = ["acrnlog"].iter().chain(words);
        LogArgs::try_parse_from(words).unwrap().files()
    }

    #[test]
    fn acrns_options_choose_files_and_others_standard_output() {
        assert_eq!(files(&["-f", "-t", "200"]), None);
        let of = |path: &str, count, kib: u64| Some((PathBuf::from(path), count, kib << 10));
        assert_eq!(files(&["-o", "log"]), of("log", 4, 1024));
        let own = "/var/log/acrnlog/acrn.log";
        assert_eq!(files(&["-n", "8"]), of(own, 8, 1024));
        assert_eq!(files(&["-s", "64"]), of(own, 4, 64));
        assert_eq!(files(&["-o", "log", "-n", "2", "-s", "1"]), of("log", 2, 1));
    }

    #[test]
    fn no_files_and_files_of_nothing_are_refused() {
        for words in [["acrnlog", "-n", "0"], ["acrnlog", "-s", "0"]] {
            assert!(LogArgs::try_parse_from(words).is_err());
        }
    }
}
