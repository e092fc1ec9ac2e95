//! The clock of trace entries.

use std::arch::x86_64::__cpuid;

use acrn_abi::cpuid::{LEAF_SIGNATURE, LEAF_TIMING, SIGNATURE_REGISTER};

/// Rate of the TSC in kHz as the hypervisor says; `None` where there is none.
pub fn tsc_khz() -> Option<u64> {
    let first = __cpuid(LEAF_SIGNATURE);
    if [first.ebx, first.ecx, first.edx] != [SIGNATURE_REGISTER; 3] {
        return None;
    }
    let khz = __cpuid(LEAF_TIMING).eax;
    (khz != 0).then_some(khz.into())
}
