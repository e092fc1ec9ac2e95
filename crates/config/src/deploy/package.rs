//! A scenario as a Debian package, which puts itself in force where it is installed.

use acrn_deb::{Control, Package};

use super::ApplyError;
use crate::launch::launch;
use crate::{BoardFile, Finding, ScenarioFile};

const NAME: &str = "acrn-scenario";
const DIRECTORY: &str = "/usr/share/acrn/scenario";
const COPYRIGHT: &str = "The files of this package are settings of a machine. Their copyright is that of whoever\n\
    wrote the scenario; they were packed by acrn-config.\n";

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The scenario cannot be put in force anywhere.
    #[error(transparent)]
    Scenario(#[from] ApplyError),
    /// The version is none that Debian knows.
    #[error(
        "{0:?} is no version of a Debian package; begin with a digit and use letters, digits, . + ~ and -"
    )]
    Version(String),
    /// The format cannot hold it.
    #[error(transparent)]
    Deb(#[from] acrn_deb::DebError),
}

/// A version for a package of that time, in seconds since 1970: it replaces those of earlier times.
pub fn version_at(time: u64) -> String {
    format!("{}+{time}", env!("CARGO_PKG_VERSION"))
}

/// The package of a scenario for a board, which needs the hypervisor's and the tools' packages, and the
/// warnings and notes about the scenario. Its version decides which of two replaces the other; `time`, in
/// seconds since 1970, is that of its files.
///
/// # Errors
/// Everything that is wrong with the scenario, or a version that is none.
pub fn package(
    board: &BoardFile,
    scenario: &ScenarioFile,
    version: &str,
    time: u64,
) -> Result<(String, Vec<u8>, Vec<Finding>), PackageError> {
    let good = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c);
    if !version.starts_with(|c: char| c.is_ascii_digit()) || !version.chars().all(good) {
        return Err(PackageError::Version(version.to_owned()));
    }
    let built = crate::build(board, scenario).map_err(ApplyError::Findings)?;
    launch(&board.model, &scenario.model, &built.plan, "").map_err(ApplyError::Launch)?;
    let mut package = Package::new(control(board, scenario, version));
    for (name, document) in [
        ("board.xml", &board.document),
        ("scenario.xml", &scenario.document),
    ] {
        package.file(&format!("{DIRECTORY}/{name}"), 0o644, document.to_string());
    }
    package.documentation(COPYRIGHT, &changelog(version));
    package.script(
        "postinst",
        &script(
            "configure",
            &format!("--board {DIRECTORY}/board.xml {DIRECTORY}/scenario.xml"),
        ),
    );
    package.script("prerm", &script("remove", "--none"));
    Ok((package.file_name(), package.build(time)?, built.findings))
}

fn control(board: &BoardFile, scenario: &ScenarioFile, version: &str) -> Control {
    let names: Vec<&str> = scenario
        .model
        .vms
        .iter()
        .map(|vm| vm.name.as_str())
        .collect();
    let board = board.model.name.as_deref().unwrap_or("a board");
    Control {
        name: NAME.to_owned(),
        version: version.to_owned(),
        architecture: "all".to_owned(),
        section: "admin".to_owned(),
        relations: vec![("Depends", "acrn-hypervisor, acrn-tools".to_owned())],
        summary: "scenario of this machine for the ACRN hypervisor".to_owned(),
        description: vec![
            format!("Made for the board {board}, with the VMs {}.", names.join(", ")),
            "Installing it puts the scenario in force at the next boot; removing it leaves a Service VM alone. \
             What was in force before stays in the boot menu."
                .to_owned(),
        ],
    }
}

fn changelog(version: &str) -> String {
    format!(
        "{NAME} ({version}) stable; urgency=medium\n\n  * Packed by acrn-config.\n\n \
         -- {} Thu, 01 Jan 2026 00:00:00 +0000\n",
        acrn_deb::MAINTAINER
    )
}

/// A script of the package that does one thing when it is asked for one.
fn script(when: &str, arguments: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\n\nif [ \"$1\" = {when} ]; then\n    acrn-config apply {arguments}\nfi\n"
    )
}
