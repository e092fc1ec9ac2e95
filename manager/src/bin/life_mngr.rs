//! The life-cycle manager of Service VM and User VMs.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use acrn_manager::life_mngr::cli::{Args, Command};
use acrn_manager::life_mngr::daemon::{self, LifeError};
use clap::{CommandFactory, Parser};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("life_mngr: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), LifeError> {
    let text = match &args.command {
        None => return daemon::serve(&args).await,
        Some(Command::Request { text }) => {
            let reply = daemon::request(&args.socket, text).await?;
            format!("{reply}\n").into_bytes()
        }
        Some(Command::Completion { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "life_mngr", &mut script);
            script
        }
    };
    Ok(std::io::stdout().write_all(&text)?)
}
