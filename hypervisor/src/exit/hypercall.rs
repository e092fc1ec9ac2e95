//! Hypercalls.

use super::Next;
use crate::vcpu::{Local, Vcpu};
use crate::virt::exception;

/// VMCALL or VMMCALL.
pub fn handle(_vcpu: &'static Vcpu, local: &mut Local) -> Next {
    super::inject(local, exception::UD, None)
}
