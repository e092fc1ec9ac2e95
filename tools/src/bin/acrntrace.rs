//! What the hypervisor does.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use acrn_tools::cli::TraceArgs;
use acrn_tools::run_trace;
use clap::Parser;

fn main() -> ExitCode {
    match run_trace::run(&TraceArgs::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("acrntrace: {error}");
            ExitCode::FAILURE
        }
    }
}
