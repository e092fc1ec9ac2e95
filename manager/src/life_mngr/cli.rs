//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// life_mngr, the life-cycle manager of Service VM and User VMs.
#[derive(Parser, Debug)]
#[command(
    name = "life_mngr",
    version,
    after_help = "Exit status: 0 done, 1 refused or failed, 2 wrong command line."
)]
pub struct Args {
    /// Configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/life_mngr/life_mngr.conf"
    )]
    pub config: PathBuf,
    /// Control socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/var/lib/life_mngr/monitor.sock"
    )]
    pub socket: PathBuf,
    /// Program that switches this machine off.
    #[arg(long, value_name = "PROGRAM", default_value = "poweroff")]
    pub poweroff: PathBuf,
    /// Program that starts this machine anew.
    #[arg(long, value_name = "PROGRAM", default_value = "reboot")]
    pub reboot: PathBuf,
    /// What it does instead of being the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `life_mngr` can be besides the daemon.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Ask the daemon: req_sys_shutdown, req_sys_reboot, user_vm_shutdown:NAME,
    /// user_vm_reboot:NAME or guests_shutdown.
    Request {
        /// The request.
        text: String,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}
