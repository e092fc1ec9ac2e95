//! MSRs as guests see them. What [`PASS_THROUGH`] names is the processor's own, switched with
//! the vCPU; the rest is answered here or faults.

use super::{Next, general_protection};
use crate::arch::cpu::{self, efer, msr};
use crate::vcpu::{Local, Vcpu, guest_tsc};
use crate::virt::gpr;
use crate::{irq, lapic_passthrough, run};
use acrn_vdev::lapic::GpFault;

/// Read and written without an exit.
pub const PASS_THROUGH: [u32; 11] = [
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
    msr::TSC_AUX,
];

/// Values that are kept for a guest and have no effect outside of it.
pub struct Kept {
    mtrr_def_type: u64,
    mtrr_fixed: [u64; 11],
    misc_enable: u64,
    tsc_adjust: u64,
}

impl Kept {
    /// After power-up: memory types as firmware leaves them, write-back but for the VGA hole.
    pub const fn new() -> Self {
        const WB: u64 = 0x0606_0606_0606_0606;
        Self {
            mtrr_def_type: 0xc06,
            mtrr_fixed: [WB, WB, 0, WB, WB, WB, WB, WB, WB, WB, WB],
            misc_enable: 1,
            tsc_adjust: 0,
        }
    }

    fn fixed(&mut self, index: u32) -> Option<&mut u64> {
        let slot = match index {
            msr::MTRR_FIX_64K => 0,
            0x258..=0x259 => index - 0x258 + 1,
            0x268..=0x26f => index - 0x268 + 3,
            _ => return None,
        };
        self.mtrr_fixed.get_mut(slot as usize)
    }
}

/// RDMSR and WRMSR.
#[inline]
pub fn handle(vcpu: &'static Vcpu, local: &mut Local, write: bool) -> Next {
    let index = local.registers.gpr[gpr::RCX] as u32;
    let done = if write {
        let g = &local.registers.gpr;
        let value = g[gpr::RDX] << 32 | g[gpr::RAX] & 0xffff_ffff;
        write_msr(vcpu, local, index, value)
    } else {
        read_msr(vcpu, local, index).map(|value| {
            local.registers.gpr[gpr::RAX] = value & 0xffff_ffff;
            local.registers.gpr[gpr::RDX] = value >> 32;
        })
    };
    match done {
        Ok(()) => {
            local.virt.advance(&mut local.registers, 2);
            Next::Continue
        }
        Err(GpFault) => general_protection(local),
    }
}

fn read_msr(vcpu: &Vcpu, local: &mut Local, index: u32) -> Result<u64, GpFault> {
    match index {
        msr::APIC_BASE | msr::TSC_DEADLINE | 0x800..=0x8ff => {
            if local.virt.has_apic() && index == msr::TSC_DEADLINE {
                return Ok(lapic_passthrough::deadline(local));
            }
            let now = guest_tsc(local);
            local.lapic.read_msr(index, now)
        }
        msr::TSC => Ok(guest_tsc(local)),
        msr::EFER => Ok(local.virt.control().efer),
        msr::PAT => Ok(local.virt.pat()),
        msr::TSC_ADJUST => Ok(local.msrs.tsc_adjust),
        // Fixed ranges and write combining, no variable ranges.
        msr::MTRR_CAP => Ok(0x500),
        msr::MTRR_DEF_TYPE => Ok(local.msrs.mtrr_def_type),
        0x250..=0x26f => local.msrs.fixed(index).map(|v| *v).ok_or(GpFault),
        msr::MISC_ENABLE => Ok(local.msrs.misc_enable),
        // No machine-check banks, no feature control but "locked", an unnamed microcode.
        msr::MCG_CAP | msr::MCG_STATUS | msr::UCODE_REV => Ok(0),
        msr::FEATURE_CONTROL => Ok(1),
        // TSC counts at the rated frequency.
        msr::HWCR => Ok(1 << 24),
        msr::SYSCFG => Ok(0),
        _ => refuse(vcpu, local, index, None),
    }
}

fn write_msr(
    vcpu: &'static Vcpu,
    local: &mut Local,
    index: u32,
    value: u64,
) -> Result<(), GpFault> {
    match index {
        msr::X2APIC_ICR
            if local
                .lapic
                .plain_ipi(value)
                .is_some_and(|(vector, id)| irq::send_plain(vcpu, vector, id)) =>
        {
            Ok(())
        }
        msr::APIC_BASE | msr::TSC_DEADLINE | 0x800..=0x8ff => {
            if local.virt.has_apic() {
                return lapic_passthrough::write_msr(vcpu, local, index, value);
            }
            let now = guest_tsc(local);
            let action = local.lapic.write_msr(index, value, now)?;
            irq::act(vcpu, local, action);
            Ok(())
        }
        msr::TSC => {
            let now = cpu::rdtsc();
            move_tsc(vcpu, local, value.wrapping_sub(now));
            Ok(())
        }
        msr::TSC_ADJUST => {
            let change = value.wrapping_sub(local.msrs.tsc_adjust);
            let offset = local.virt.tsc_offset().wrapping_add(change);
            move_tsc(vcpu, local, offset);
            Ok(())
        }
        msr::EFER => write_efer(local, value),
        msr::PAT => {
            let valid = value
                .to_le_bytes()
                .iter()
                .all(|t| matches!(t, 0 | 1 | 4..=7));
            if !valid {
                return Err(GpFault);
            }
            local.virt.set_pat(value);
            Ok(())
        }
        msr::MTRR_DEF_TYPE => {
            if value & !0xcff != 0 || !is_mtrr_type(value as u8) {
                return Err(GpFault);
            }
            local.msrs.mtrr_def_type = value;
            Ok(())
        }
        0x250..=0x26f => {
            if !value.to_le_bytes().iter().all(|t| is_mtrr_type(*t)) {
                return Err(GpFault);
            }
            *local.msrs.fixed(index).ok_or(GpFault)? = value;
            Ok(())
        }
        msr::MISC_ENABLE => {
            local.msrs.misc_enable = value & 1;
            Ok(())
        }
        // The guest may ask; nothing happens.
        msr::UCODE_LOAD | msr::UCODE_REV | msr::MCG_STATUS | msr::HWCR | msr::SYSCFG => Ok(()),
        _ => refuse(vcpu, local, index, Some(value)).map(|_| ()),
    }
}

fn is_mtrr_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

#[cold]
fn move_tsc(vcpu: &Vcpu, local: &mut Local, offset: u64) {
    let change = offset.wrapping_sub(local.virt.tsc_offset());
    // A deadline is a value of the guest's TSC.
    let deadline = local
        .virt
        .has_apic()
        .then(|| lapic_passthrough::deadline(local));
    local.virt.set_tsc_offset(offset);
    if let Some(deadline) = deadline {
        lapic_passthrough::write_deadline(local, deadline);
    }
    local.lapic.move_tsc(change);
    local.msrs.tsc_adjust = local.msrs.tsc_adjust.wrapping_add(change);
    run::deadline_changed(vcpu, local);
}

#[cold]
fn write_efer(local: &mut Local, value: u64) -> Result<(), GpFault> {
    let control = local.virt.control();
    let allowed = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    let changes_lme = (value ^ control.efer) & efer::LME != 0;
    if value & !allowed != 0 || changes_lme && control.cr0 & cpu::cr0::PG != 0 {
        return Err(GpFault);
    }
    local.virt.set_efer(value);
    Ok(())
}

#[cold]
fn refuse(vcpu: &Vcpu, local: &Local, index: u32, value: Option<u64>) -> Result<u64, GpFault> {
    if crate::log::limited() {
        match value {
            Some(v) => crate::debug!(
                "vm{} vcpu{} rip {:#x}: WRMSR {index:#x} <- {v:#x} refused",
                vcpu.vm_id(),
                vcpu.id,
                local.registers.rip
            ),
            None => crate::debug!(
                "vm{} vcpu{} rip {:#x}: RDMSR {index:#x} refused",
                vcpu.vm_id(),
                vcpu.id,
                local.registers.rip
            ),
        }
    }
    Err(GpFault)
}
