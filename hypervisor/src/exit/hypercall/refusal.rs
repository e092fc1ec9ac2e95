//! Why a hypercall is refused, and the error number that says so to Linux.

use crate::inter_vm;
use acrn_abi::hypercall::Errno;
use acrn_abi::{Gpa, VmId};
use acrn_lifecycle::validate::{
    BadCall, BadCreation, BadRegion, BadRegisters, BadRingRequest, BadVdev,
};
use acrn_lifecycle::{Reason, Refused};
use acrn_memory::{MapError, OwnerError};
use acrn_trace::BadRing;
use core::fmt;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// The registers make no request.
    Call(BadCall),
    /// The description of a VM.
    Creation(BadCreation),
    /// A change of memory.
    Region(BadRegion),
    /// A state of a vCPU.
    Registers(BadRegisters),
    /// The description of a device.
    Vdev(BadVdev),
    /// A ring.
    RingRequest(BadRingRequest),
    /// The header of a ring.
    Ring(BadRing),
    /// The VM's state or rank.
    State(Refused),
    /// Pages that are not the Service VM's to give.
    Owner(OwnerError),
    /// Nested tables.
    Map(MapError),
    /// The parameter block is where the Service VM has no memory.
    Unmapped(Gpa),
    /// No User VM has this number.
    NoVm(VmId),
    /// A device that leads to another VM.
    InterVm(inter_vm::Refused),
    /// Something else.
    Other(Errno, &'static str),
}

impl Refusal {
    /// A refusal with a reason for the log.
    pub const fn new(errno: Errno, reason: &'static str) -> Self {
        Self::Other(errno, reason)
    }

    /// What the caller is told.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Call(e) => e.errno(),
            Self::Creation(e) => e.errno(),
            Self::Region(e) => e.errno(),
            Self::Registers(e) => e.errno(),
            Self::Vdev(e) => e.errno(),
            Self::RingRequest(e) => e.errno(),
            Self::State(refused) => match refused.reason {
                Reason::Severity | Reason::Caller => Errno::EACCES,
                Reason::State | Reason::NotReady => Errno::EINVAL,
            },
            Self::Owner(OwnerError::NotAllowed { .. } | OwnerError::Outside { .. }) => {
                Errno::EACCES
            }
            Self::Map(MapError::OutOfFrames { .. }) => Errno::ENOMEM,
            Self::Ring(_) | Self::Owner(_) | Self::Map(_) | Self::NoVm(_) => Errno::EINVAL,
            Self::InterVm(inter_vm::Refused::NoLine(_) | inter_vm::Refused::NoRegion) => {
                Errno::ENODEV
            }
            Self::InterVm(inter_vm::Refused::Bus(_) | inter_vm::Refused::Connected(_)) => {
                Errno::EBUSY
            }
            Self::Unmapped(_) => Errno::EFAULT,
            Self::Other(errno, _) => *errno,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(e) => e.fmt(f),
            Self::Creation(e) => e.fmt(f),
            Self::Region(e) => e.fmt(f),
            Self::Registers(e) => e.fmt(f),
            Self::Vdev(e) => e.fmt(f),
            Self::RingRequest(e) => e.fmt(f),
            Self::Ring(e) => e.fmt(f),
            Self::State(e) => e.fmt(f),
            Self::Owner(e) => e.fmt(f),
            Self::Map(e) => e.fmt(f),
            Self::InterVm(e) => e.fmt(f),
            Self::Unmapped(gpa) => write!(f, "the Service VM has no memory at {gpa}"),
            Self::NoVm(id) => write!(f, "there is no User VM {id}"),
            Self::Other(_, reason) => f.write_str(reason),
        }
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident;)*) => {
        $(impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from! {
    BadCall => Call;
    BadCreation => Creation;
    BadRegion => Region;
    BadRegisters => Registers;
    BadVdev => Vdev;
    BadRingRequest => RingRequest;
    BadRing => Ring;
    Refused => State;
    OwnerError => Owner;
    MapError => Map;
    inter_vm::Refused => InterVm;
}
