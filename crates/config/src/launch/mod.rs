//! How post-launched VMs are started: a launch script for each, and its definition for `acrnd`.
//!
//! [`guest`] says what a VM is for `acrn-dm` and what it needs of the Service VM; [`script`] and
//! [`definition`] write that down in two ways. The script checks what it needs first, and puts back
//! whatever it has changed on every way out.

mod definition;
mod guest;
mod quote;
mod script;
mod serial;

use crate::allocate::Plan;
use crate::{Board, Scenario};
use acrn_config_blob::LoadOrder;
use guest::Guest;

/// How one VM is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The VM's number, counted from the Service VM's.
    pub id: usize,
    /// Its name.
    pub vm: String,
    /// The launch script.
    pub script: String,
    /// The definition for `acrnd`.
    pub definition: String,
}

/// Why a VM cannot be started in this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// More devices than places.
    #[error("VM {vm} has more devices than there are places on its PCI bus: remove some")]
    NoSlot {
        /// The VM.
        vm: String,
    },
    /// Words that are none.
    #[error(
        "VM {vm}: customized_parameters has a quote that does not end: {text}; close it, or write \
         a backslash before it"
    )]
    Quote {
        /// The VM.
        vm: String,
        /// The parameters.
        text: String,
    },
    /// A CPU that the board does not have.
    #[error("VM {vm} has CPU {cpu}, which the board file does not have: choose another")]
    Cpu {
        /// The VM.
        vm: String,
        /// The CPU.
        cpu: i64,
    },
}

impl Launch {
    /// File name of the script, as ACRN has it.
    pub fn script_name(&self) -> String {
        format!("launch_user_vm_id{}.sh", self.id)
    }

    /// File name of the definition.
    pub fn definition_name(&self) -> String {
        format!("{}.toml", self.vm)
    }
}

/// How each post-launched VM of a valid scenario is started. The scripts will be in `directory` of the
/// Service VM.
///
/// # Errors
/// The first VM that cannot.
pub fn launch(
    board: &Board,
    scenario: &Scenario,
    plan: &Plan,
    directory: &str,
) -> Result<Vec<Launch>, LaunchError> {
    let service = scenario.vms_of(LoadOrder::Service).next();
    let base = service.map_or(0, |(index, _)| index);
    let mut all = Vec::new();
    for (index, vm) in scenario.vms_of(LoadOrder::PostLaunched) {
        let guest = Guest::new(board, scenario, plan, index, vm)?;
        let mut launch = Launch {
            id: index.saturating_sub(base),
            vm: vm.name.clone(),
            script: script::script(&guest),
            definition: String::new(),
        };
        let path = format!(
            "{}/{}",
            directory.trim_end_matches('/'),
            launch.script_name()
        );
        launch.definition = definition::definition(&guest, &path);
        all.push(launch);
    }
    Ok(all)
}

/// `/etc/serial.conf` of the Service VM: its lines to other VMs at ports that Linux does not look for.
/// Nothing where there are none.
pub fn serial_conf(scenario: &Scenario, plan: &Plan) -> Option<String> {
    let (index, _) = scenario.vms_of(LoadOrder::Service).next()?;
    serial::serial_conf(scenario, &plan.vms.get(index)?.vuarts)
}

#[cfg(test)]
mod tests;
