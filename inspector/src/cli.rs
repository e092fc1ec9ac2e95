//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Writes down what this machine has, as a board file for acrn-config and for ACRN's tools; or says whether
/// acrn-rs will run on it.
///
/// Run it as root: Linux shows addresses and ACPI tables to nobody else.
#[derive(Debug, Parser)]
#[command(
    name = "acrn-board-inspector",
    version,
    after_help = "Exit status: 0 done, 1 a file cannot be written, or with --doctor: the hypervisor will not run; \
                  2 wrong command line."
)]
pub struct Args {
    /// Name of the board; NAME.xml is written unless --out says otherwise. The word doctor stands for --doctor.
    #[arg(required_unless_present_any = ["doctor", "completion"])]
    pub name: Option<String>,
    /// The board file to write; - prints it.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Say whether acrn-rs will run on this machine and what each kind of VM needs; write nothing.
    #[arg(long)]
    pub doctor: bool,
    /// Print the summary or the diagnosis as JSON.
    #[arg(long)]
    pub json: bool,
    /// A folder with disk images, which the board file lists beside the disks.
    #[arg(long, value_name = "DIRECTORY")]
    pub images: Vec<String>,
    /// Inspect a machine whose /sys and /proc were copied to this directory.
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    pub root: PathBuf,
    /// Print a completion script for a shell.
    #[arg(long, value_name = "SHELL")]
    pub completion: Option<clap_complete::Shell>,
}

impl Args {
    /// Whether a diagnosis is wanted and no board file.
    pub fn is_doctor(&self) -> bool {
        self.doctor || self.name.as_deref() == Some("doctor") && self.out.is_none()
    }
}
