//! What goes over the socket, as both programs know it.

use serde::{Deserialize, Serialize};

use crate::definition::Restart;

/// What a VM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Nothing.
    Stopped,
    /// It runs.
    Started,
    /// It exists, and its CPUs stand still.
    Paused,
    /// Its guest has suspended to RAM.
    Suspended,
    /// It was asked to end.
    Stopping,
    /// It has ended and will be started again.
    Waiting,
    /// It has ended with an error.
    Failed,
    /// Its definition cannot be used.
    Invalid,
    /// It runs, and somebody else has started it.
    Untracked,
}

impl VmState {
    /// Its name, as JSON has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Started => "started",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Stopping => "stopping",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Untracked => "untracked",
        }
    }
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// Name.
    pub name: String,
    /// What it does.
    pub state: VmState,
    /// Process group of everything that belongs to it, while it has processes.
    pub group: Option<i32>,
    /// Started with the Service VM.
    pub autostart: bool,
    /// When it is started again.
    pub restart: Restart,
    /// How often that has happened since it was started.
    pub restarts: u32,
    /// Exit status of its last process, where that is known.
    pub exit_status: Option<i32>,
    /// What is wrong with its definition.
    pub error: Option<String>,
    /// The other end of its first serial port, in the words of `acrn-dm -l`.
    pub console: Option<String>,
}

/// Figures of a running VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Name.
    pub name: String,
    /// Process id of `acrn-dm`.
    pub pid: i32,
    /// Number in the hypervisor, relative to the Service VM.
    pub vmid: u16,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Bytes of RAM of the guest.
    pub memory: u64,
    /// That RAM is made of huge pages.
    pub huge_pages: bool,
    /// Milliseconds that `acrn-dm` has run on CPUs of the Service VM.
    pub dm_cpu_ms: u64,
    /// Threads of `acrn-dm`.
    pub dm_threads: u64,
    /// Restarts since it was started.
    pub restarts: u32,
}

/// A VM to add.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVm {
    /// Name.
    pub name: String,
    /// The text of its definition.
    pub definition: String,
}

/// Why a request was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// A sentence.
    pub error: String,
}
