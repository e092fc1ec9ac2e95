//! The command line.

use clap::{Args as Group, Parser, Subcommand};
use std::path::PathBuf;

/// Validates scenarios of the ACRN hypervisor and builds the configuration that it boots with.
///
/// A board file says what a machine has; acrn-board-inspector writes it. A scenario file says which VMs
/// share the machine, and how. Out of both, "build" makes the file that the boot loader passes to the
/// hypervisor as the module with the tag acrn_config.
///
/// Exit status: 0 when all is well, 1 when an input is not in order, 2 when the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "acrn-config", version, max_term_width = 100)]
pub struct Args {
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A board and a scenario.
#[derive(Clone, Debug, Group)]
pub struct Files {
    /// Board file (XML).
    pub board: PathBuf,
    /// Scenario file (XML).
    pub scenario: PathBuf,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what a board file, scenario file or configuration says, in short.
    Show {
        /// The file.
        file: PathBuf,
    },
    /// Explain the elements of a scenario file: what they do, values, defaults, for which VMs.
    Elements {
        /// Only this element and those below it, such as hv/FEATURES or vm/memory.
        path: Option<String>,
        /// Explain the elements of a board file.
        #[arg(long)]
        board: bool,
    },
    /// List the rules that a scenario is judged by.
    Rules,
    /// Say everything that is wrong with a scenario on a board: file and line, the rule, what to do.
    Validate {
        /// The files.
        #[command(flatten)]
        files: Files,
    },
    /// Bring a scenario of an older ACRN release up to date, and say what was changed.
    Migrate {
        /// Scenario file (XML).
        scenario: PathBuf,
        /// Launch file (XML) that belongs to it, of ACRN 2.x.
        #[arg(long, value_name = "FILE")]
        launch: Option<PathBuf>,
        /// Where to write the result; without it, it is printed.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show what is decided where the scenario leaves it open, and why.
    Allocate {
        /// The files.
        #[command(flatten)]
        files: Files,
    },
    /// Build the configuration that the hypervisor boots with.
    Build {
        /// The files.
        #[command(flatten)]
        files: Files,
        /// Where to write it.
        #[arg(short, long, value_name = "FILE", default_value = "acrn.cfg")]
        output: PathBuf,
    },
    /// Write a launch script and a definition for acrnd for each post-launched VM.
    Launch {
        /// The files.
        #[command(flatten)]
        files: Files,
        /// Where to write them.
        #[arg(short, long, value_name = "DIRECTORY", default_value = ".")]
        directory: PathBuf,
        /// Directory of the Service VM in which the scripts will be.
        #[arg(long, value_name = "DIRECTORY", default_value = "/opt/acrn")]
        installed_in: String,
    },
    /// Make a Debian package of a scenario, which puts it in force where it is installed.
    Package {
        /// The files.
        #[command(flatten)]
        files: Files,
        /// Where to write it.
        #[arg(short, long, value_name = "DIRECTORY", default_value = ".")]
        directory: PathBuf,
        /// Its version; without it, one that is newer each second.
        #[arg(long, value_name = "VERSION")]
        package_version: Option<String>,
    },
    /// Put a scenario in force on this machine, from the next boot on; what was in force before stays in the
    /// boot menu.
    Apply {
        /// Scenario file (XML), or a configuration that "build" wrote.
        #[arg(required_unless_present_any = ["previous", "none"])]
        file: Option<PathBuf>,
        /// Board file (XML); without it, that of the configuration in force, or this machine as
        /// acrn-board-inspector sees it.
        #[arg(long, value_name = "FILE", requires = "file")]
        board: Option<PathBuf>,
        /// Go back to what was in force before.
        #[arg(long, conflicts_with_all = ["file", "none"])]
        previous: bool,
        /// Go back to a Service VM alone.
        #[arg(long, conflicts_with = "file")]
        none: bool,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Show everything in a configuration.
    Inspect {
        /// What "build" wrote.
        config: PathBuf,
    },
    /// Show what differs between two scenarios, two boards or two configurations.
    Diff {
        /// The first file.
        first: PathBuf,
        /// The second file.
        second: PathBuf,
    },
    /// Write a board and a scenario to begin with; without a name, list what there is.
    Preset {
        /// Name of the preset.
        name: Option<String>,
        /// Where to write board.xml and NAME.xml.
        #[arg(short, long, value_name = "DIRECTORY", default_value = ".")]
        directory: PathBuf,
    },
}
