//! The program `acrn-config`.
//!
//! [`args`] is the command line; each command is a function of its arguments that returns an
//! [`Output`], which is printed as text or, with `--json`, for programs.

pub mod args;
mod commands;
mod deploy;
mod show;

use args::{Args, Command};
use clap::Parser;
use serde_json::Value;
use std::process::ExitCode;

/// What a command has to say.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// For people.
    pub text: String,
    /// For people too, and not part of the result: goes to standard error.
    pub remarks: String,
    /// For programs.
    pub json: Value,
    /// Whether the input was in order.
    pub ok: bool,
}

/// Exit status when the input is not in order. A wrong command line is 2, as clap has it.
const INVALID: u8 = 1;

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let output = run(&args.command);
    if args.json {
        print(&format!("{:#}\n", output.json));
    } else {
        print(&output.text);
        eprint!("{}", output.remarks);
    }
    if output.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INVALID)
    }
}

/// Prints, and is content when nobody listens any more, as in a pipe to `head`.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Carries a command out.
pub fn run(command: &Command) -> Output {
    let result = match command {
        Command::Show { file } => show::show(file),
        Command::Elements { path, board } => Ok(show::elements(path.as_deref(), *board)),
        Command::Rules => Ok(show::rules()),
        Command::Validate { files } => commands::validate(files),
        Command::Migrate {
            scenario,
            launch,
            output,
        } => commands::migrate(scenario, launch.as_deref(), output.as_deref()),
        Command::Allocate { files } => commands::allocate(files),
        Command::Build { files, output } => commands::build(files, output),
        Command::Launch {
            files,
            directory,
            installed_in,
        } => commands::launch(files, directory, installed_in),
        Command::Package {
            files,
            directory,
            package_version,
        } => deploy::package(files, directory, package_version.as_deref()),
        Command::Apply {
            file,
            board,
            previous,
            none: _,
        } => deploy::apply(file.as_deref(), board.as_deref(), *previous),
        Command::Completion { shell } => Ok(commands::completion(*shell)),
        Command::Inspect { config } => commands::inspect(config),
        Command::Diff { first, second } => commands::diff(first, second),
        Command::Preset { name, directory } => commands::preset(name.as_deref(), directory),
    };
    result.unwrap_or_else(|error| Output::failure(&error))
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be looked at.
    #[error(transparent)]
    Load(#[from] crate::LoadError),
    /// A file cannot be read or written.
    #[error("{file}: {source}; check the path and its permissions")]
    Io {
        /// Name of the file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The files are in the wrong order.
    #[error(
        "{second} is a board file and {first} is none; name the board first, then the scenario"
    )]
    Swapped {
        /// Where the board was expected.
        first: String,
        /// Where the scenario was expected.
        second: String,
    },
    /// A binary configuration is not one.
    #[error("{file}: {source}")]
    Config {
        /// Name of the file.
        file: String,
        /// Why.
        source: Box<acrn_config_blob::Error>,
    },
    /// A VM cannot be started by a script.
    #[error(transparent)]
    Launch(#[from] crate::launch::LaunchError),
    /// A scenario cannot be put in force.
    #[error(transparent)]
    Apply(#[from] crate::deploy::ApplyError),
    /// A package cannot be made.
    #[error(transparent)]
    Package(#[from] crate::deploy::PackageError),
    /// There is no such preset.
    #[error("there is no preset {0}; acrn-config preset lists them")]
    NoPreset(String),
    /// A file would be overwritten.
    #[error("{0} is there already; choose another directory with --directory")]
    Exists(String),
}

impl Output {
    fn failure(error: &Error) -> Self {
        Self {
            remarks: format!("error: {error}\n"),
            json: serde_json::json!({ "error": error.to_string() }),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
