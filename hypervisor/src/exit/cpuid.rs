//! CPUID: what `acrn_vdev::cpuid` makes of this processor for a vCPU.

use super::Next;
use crate::arch::{cpu, tsc};
use crate::vcpu::{Local, Vcpu};
use crate::virt::gpr;
use acrn_vdev::cpuid::{Guest, answer};
use core::arch::x86_64::CpuidResult;

struct Asking<'a> {
    vcpu: &'a Vcpu,
    local: &'a Local,
}

impl Guest for Asking<'_> {
    fn host(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        cpu::cpuid(leaf, subleaf)
    }
    fn apic_id(&self) -> u32 {
        self.local.lapic.id()
    }
    fn cpus(&self) -> u32 {
        self.vcpu.vm().vcpu_count() as u32
    }
    fn cr4(&self) -> u64 {
        self.local.virt.cr4()
    }
    fn owns_apic(&self) -> bool {
        self.vcpu.vm().owns_apics()
    }
    fn is_service(&self) -> bool {
        self.vcpu.vm().is_service()
    }
    fn tsc_khz(&self) -> u32 {
        tsc::khz() as u32
    }
}

/// CPUID.
#[inline]
pub fn handle(vcpu: &Vcpu, local: &mut Local) -> Next {
    let leaf = local.registers.gpr[gpr::RAX] as u32;
    let subleaf = local.registers.gpr[gpr::RCX] as u32;
    let r = answer(&Asking { vcpu, local }, leaf, subleaf);
    let g = &mut local.registers.gpr;
    g[gpr::RAX] = r.eax.into();
    g[gpr::RBX] = r.ebx.into();
    g[gpr::RCX] = r.ecx.into();
    g[gpr::RDX] = r.edx.into();
    local.virt.advance(&mut local.registers, 2);
    Next::Continue
}
