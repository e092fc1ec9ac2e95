//! The hypervisor's log.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use acrn_tools::cli::LogArgs;
use acrn_tools::run_log;
use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let args = LogArgs::parse();
    if let Some(shell) = args.completion {
        let mut command = LogArgs::command();
        clap_complete::generate(shell, &mut command, "acrnlog", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    match run_log::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("acrnlog: {error}");
            ExitCode::FAILURE
        }
    }
}
