//! The Service VM kernel's ACRN driver: what the Device Model asks of it.
//!
//! [`Hsm`] has one method per ioctl that is used; [`device`] is the real one, `fake` stands in
//! for it in tests. [`sinks`] gives devices their share of it: interrupts and doorbells.
//! [`page`] is the page of I/O requests shared with kernel and hypervisor.

pub mod absent;
pub mod device;
#[cfg(test)]
pub mod fake;
pub mod page;
pub mod sinks;

use std::io;

use acrn_abi::hsm::{IoEventFd, IrqFd, VmMemmap};
use acrn_abi::hypercall::{IrqLine, MsiEntry, VcpuRegs, Vdev, VmCreation};

use crate::exit::ExitCode;

/// One VM as the driver offers it. All methods may be called from any thread.
pub trait Hsm: Send + Sync {
    /// Creates the VM; `vmid` and `vcpu_num` are filled in.
    ///
    /// # Errors
    /// What the driver reports, as for all methods.
    fn create_vm(&self, creation: &mut VmCreation) -> io::Result<()>;
    /// Ends the VM.
    ///
    /// # Errors
    /// The driver's.
    fn destroy_vm(&self) -> io::Result<()>;
    /// Starts the VM, or lets it go on after a pause.
    ///
    /// # Errors
    /// The driver's.
    fn start_vm(&self) -> io::Result<()>;
    /// Stops all vCPUs.
    ///
    /// # Errors
    /// The driver's.
    fn pause_vm(&self) -> io::Result<()>;
    /// Puts the paused VM back to its state after creation.
    ///
    /// # Errors
    /// The driver's.
    fn reset_vm(&self) -> io::Result<()>;
    /// Sets the start state of a vCPU.
    ///
    /// # Errors
    /// The driver's.
    fn set_vcpu_regs(&self, regs: &VcpuRegs) -> io::Result<()>;
    /// Maps memory into the VM.
    ///
    /// # Errors
    /// The driver's.
    fn set_memory(&self, segment: &VmMemmap) -> io::Result<()>;
    /// Sends a message-signalled interrupt.
    ///
    /// # Errors
    /// The driver's.
    fn inject_msi(&self, msi: &MsiEntry) -> io::Result<()>;
    /// Changes an interrupt line.
    ///
    /// # Errors
    /// The driver's.
    fn set_irq_line(&self, line: IrqLine) -> io::Result<()>;
    /// Becomes the one who answers I/O requests.
    ///
    /// # Errors
    /// The driver's.
    fn create_request_client(&self) -> io::Result<()>;
    /// Sleeps until there is an unanswered request or somebody calls [`Hsm::wake`]. At once
    /// when there is one already, being worked on or not.
    ///
    /// # Errors
    /// The VM is gone.
    fn wait_request(&self) -> io::Result<()>;
    /// Wakes the thread in [`Hsm::wait_request`]. May be too early to have an effect: repeat
    /// until it has.
    fn wake(&self);
    /// The request of a vCPU is answered; its slot holds the result.
    ///
    /// # Errors
    /// The driver's.
    fn finish_request(&self, vcpu: u16) -> io::Result<()>;
    /// Completes all requests of a paused VM without an answer.
    ///
    /// # Errors
    /// The driver's.
    fn clear_requests(&self) -> io::Result<()>;
    /// Lets the hypervisor provide a device.
    ///
    /// # Errors
    /// The driver's.
    fn create_vdev(&self, vdev: &Vdev) -> io::Result<()>;
    /// Binds or unbinds a doorbell.
    ///
    /// # Errors
    /// The driver's.
    fn io_event_fd(&self, event: &IoEventFd) -> io::Result<()>;
    /// Binds or unbinds an interrupt descriptor.
    ///
    /// # Errors
    /// The driver's.
    fn irq_fd(&self, irq: &IrqFd) -> io::Result<()>;
}

/// What went wrong between Device Model and hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum HsmError {
    /// No driver.
    #[error(
        "there is no {path}: run this in the Service VM of a machine started with the ACRN \
         hypervisor, with a kernel that has CONFIG_ACRN_HSM"
    )]
    Missing {
        /// Path of the device.
        path: &'static str,
    },
    /// No permission.
    #[error("{path} may not be opened: run acrn-dm as root")]
    Permission {
        /// Path of the device.
        path: &'static str,
    },
    /// Opening fails otherwise.
    #[error("{path} cannot be opened: {source}; check that no other program holds it")]
    Open {
        /// Path of the device.
        path: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// An operation was refused.
    #[error("the hypervisor refused to {action}: {source}; {remedy}")]
    Refused {
        /// What was tried, such as "create the VM".
        action: &'static str,
        /// What the driver said.
        source: io::Error,
        /// What may help.
        remedy: &'static str,
    },
}

impl HsmError {
    /// A function that wraps a driver's error for `map_err`.
    pub fn refused(
        action: &'static str,
        remedy: &'static str,
    ) -> impl FnOnce(io::Error) -> HsmError {
        move |source| HsmError::Refused {
            action,
            source,
            remedy,
        }
    }

    /// The exit code for it.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Missing { .. } | Self::Open { .. } => ExitCode::NoHsm,
            Self::Permission { .. } => ExitCode::NoPermission,
            Self::Refused { .. } => ExitCode::Hypervisor,
        }
    }
}
