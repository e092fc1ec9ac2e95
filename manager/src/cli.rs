//! The command lines of both programs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// acrnd, the daemon that owns the User VMs.
#[derive(Parser, Debug)]
#[command(name = "acrnd", version, args_conflicts_with_subcommands = true)]
pub struct DaemonArgs {
    /// Directory of the VMs' definitions.
    #[arg(long, value_name = "DIR", default_value = crate::DEFINITIONS)]
    pub definitions: PathBuf,
    /// Directory of sockets and of what must outlive the daemon, but not the machine.
    #[arg(long, value_name = "DIR", default_value = "/run/acrn")]
    pub run: PathBuf,
    /// Directory of the VMs' logs.
    #[arg(long, value_name = "DIR", default_value = "/var/log/acrn")]
    pub logs: PathBuf,
    /// The Device Model.
    #[arg(long, value_name = "PROGRAM", default_value = "acrn-dm")]
    pub dm: PathBuf,
    /// What it does instead of being the daemon.
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What `acrnd` can be besides the daemon.
#[derive(Subcommand, Debug)]
pub enum Role {
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Runs one VM and notes its exit status; acrnd starts itself so.
    #[command(hide = true)]
    Keep {
        /// Where to note it.
        directory: PathBuf,
        /// What to run.
        program: OsString,
        /// Its words.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// acrnctl, the command for User VMs.
#[derive(Parser, Debug)]
#[command(
    name = "acrnctl",
    version,
    after_help = "Exit status: 0 done, 1 refused or failed, 2 wrong command line, 3 no acrnd, \
                  4 no such VM, 5 not in this state."
)]
pub struct ControlArgs {
    /// Socket of acrnd.
    #[arg(long, global = true, value_name = "PATH", default_value = crate::SOCKET)]
    pub socket: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// List the VMs in the order in which they start.
    List,
    /// Add a VM: a definition (.toml) or a launch script with its words.
    Add {
        /// The definition or script.
        file: PathBuf,
        /// Name, unless that of the file.
        #[arg(long)]
        name: Option<String>,
        /// Words for the script.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Delete a VM that has stopped, with its definition.
    Del {
        /// The VM.
        name: String,
    },
    /// Start a VM.
    Start {
        /// The VM.
        name: String,
    },
    /// Press the power button of VMs and wait until they have stopped.
    Stop {
        /// Switch off at once.
        #[arg(short, long)]
        force: bool,
        /// All VMs that run.
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// Do not wait.
        #[arg(long)]
        no_wait: bool,
        /// The VMs.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
    },
    /// Restart the guest.
    Reset {
        /// The VM.
        name: String,
    },
    /// Put a medium into a drive that was started with nodisk.
    Blkrescan {
        /// The VM.
        name: String,
        /// SLOT,PATH
        device: String,
    },
    /// Stop the CPUs of a VM.
    Pause {
        /// The VM.
        name: String,
    },
    /// Press the sleep button of a VM and wait until its guest has suspended to RAM.
    Suspend {
        /// The VM.
        name: String,
        /// Do not wait.
        #[arg(long)]
        no_wait: bool,
    },
    /// Let the CPUs of a paused VM go on, or wake a suspended one.
    Resume {
        /// The VM.
        name: String,
    },
    /// Connect the terminal to the first serial port of a VM; Ctrl-] leaves.
    Console {
        /// The VM.
        name: String,
    },
    /// Show figures of a running VM.
    Stats {
        /// The VM.
        name: String,
    },
    /// Show what has happened.
    Events {
        /// Stay, and show what happens.
        #[arg(short, long)]
        follow: bool,
    },
    /// Show the end of what the processes of a VM have printed.
    Logs {
        /// The VM.
        name: String,
        /// Stay, and show what is printed.
        #[arg(short, long)]
        follow: bool,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}
