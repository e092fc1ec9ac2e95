//! The command for User VMs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use acrn_manager::cli::ControlArgs;
use acrn_manager::control;
use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match control::run(ControlArgs::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("acrnctl: {error}");
            ExitCode::from(error.status())
        }
    }
}
