//! Control registers of a guest: which bits are its own, and the writes that exit.
//!
//! Of CR0 the hypervisor keeps what VMX operation fixes, and the cache bits, which an exit would
//! leave in force for the host; of CR4 all bits but those of features that guests may use.

use super::instruction::{self, read};
use super::{MACHINE, VmxCpu};
use crate::arch::cpu::{cr0, cr4, efer, physical_address_bits};
use crate::virt::{ControlState, NotAllowed, Registers};
use acrn_abi::Gpa;
use acrn_emulate::paging::{GuestPhysical, WalkContext};
use acrn_vmx::{Capabilities, Field};

/// CR4: VME to OSXMMEXCPT, UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP, PKE. CPUID hides PCIDs.
const OWN_CR4: u64 = 0x7ff | 1 << 11 | 1 << 16 | cr4::OSXSAVE | cr4::SMEP | cr4::SMAP | 1 << 22;

/// Bits of CR0 and CR4 that a guest does not change without an exit.
pub fn masks(caps: &Capabilities) -> [u64; 2] {
    let [must0, may0] = caps.cr0_fixed;
    let [must4, may4] = caps.cr4_fixed;
    [
        must0 & !(cr0::PE | cr0::PG) | !may0 | cr0::CD | cr0::NW,
        must4 | !(may4 & OWN_CR4),
    ]
}

/// The top-level entries of PAE paging; none are present in another mode.
fn pdptes(control: &ControlState, memory: &impl Fn(Gpa) -> Option<u64>) -> [u64; 4] {
    let pae =
        control.cr0 & cr0::PG != 0 && control.cr4 & cr4::PAE != 0 && control.efer & efer::LMA == 0;
    let table = control.cr3 & 0xffff_ffe0;
    core::array::from_fn(|index| match pae {
        true => memory(Gpa(table + index as u64 * 8)).unwrap_or(0),
        false => 0,
    })
}

/// Whether the processor takes the top-level entries that a change of CR0 or CR3 brings.
fn has_valid_pdptes(control: &ControlState, memory: &impl Fn(Gpa) -> Option<u64>) -> bool {
    let context = WalkContext {
        cr0: control.cr0,
        cr3: control.cr3,
        cr4: control.cr4,
        efer: control.efer,
        rflags: 0,
        cpl: control.cpl,
        physical_bits: physical_address_bits() as u8,
    };
    // What is nowhere reads as not present.
    context.has_valid_pointers(&Words(memory)) != Ok(false)
}

/// The guest's memory, by its words.
struct Words<'a, F>(&'a F);

impl<F: Fn(Gpa) -> Option<u64>> GuestPhysical for Words<'_, F> {
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        (self.0)(gpa)
    }
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        (self.0)(gpa).map(|word| word as u32)
    }
}

impl VmxCpu {
    pub(super) fn write_cr0(&mut self, value: u64) {
        let real = MACHINE
            .get()
            .map_or(value, |(caps, _)| caps.guest_cr0(value));
        // SAFETY: the guest's part.
        unsafe {
            instruction::write(Field::GuestCr0, real & !(cr0::CD | cr0::NW));
            instruction::write(Field::Cr0Shadow, value);
        }
    }

    pub(super) fn write_cr4(&mut self, value: u64) {
        let real = MACHINE
            .get()
            .map_or(value, |(caps, _)| caps.guest_cr4(value));
        // SAFETY: the guest's part.
        unsafe {
            instruction::write(Field::GuestCr4, real);
            instruction::write(Field::Cr4Shadow, value);
        }
    }

    /// With PAE paging the top-level entries are part of the VMCS.
    pub(super) fn load_pdptes(&mut self, memory: &impl Fn(Gpa) -> Option<u64>) {
        let fields = [
            Field::GuestPdpte0,
            Field::GuestPdpte1,
            Field::GuestPdpte2,
            Field::GuestPdpte3,
        ];
        for (field, entry) in fields.into_iter().zip(pdptes(&self.control(), memory)) {
            // SAFETY: the guest's part.
            unsafe { instruction::write(field, entry) };
        }
    }

    /// Carries out the access to a control register that the last exit was for.
    pub fn access_control_register(
        &mut self,
        registers: &mut Registers,
        memory: impl Fn(Gpa) -> Option<u64>,
    ) -> Result<(), NotAllowed> {
        let qualification = read(Field::ExitQualification);
        let operand = usize::from((qualification >> 8) as u8 & 15);
        let width = if self.is_64_bit() { !0 } else { 0xffff_ffff };
        let given = registers.gpr[operand] & width;
        match (qualification & 15, qualification >> 4 & 3) {
            (0, 0) => self.move_to_cr0(given, &memory)?,
            (3, 0) => {
                let new = ControlState {
                    cr3: given & !(1 << 63),
                    ..self.control()
                };
                if !has_valid_pdptes(&new, &memory) {
                    return Err(NotAllowed);
                }
                // SAFETY: the guest's part.
                unsafe { instruction::write(Field::GuestCr3, new.cr3) };
                self.load_pdptes(&memory);
                self.flush = true;
            }
            (3, 1) => registers.gpr[operand] = read(Field::GuestCr3),
            (8, 0) if given < 16 => self.virtual_apic.set_word(super::TPR, (given as u32) << 4),
            (8, 1) => {
                registers.gpr[operand] = u64::from(self.virtual_apic.word(super::TPR) >> 4 & 15);
            }
            // Every bit of CR4 that a guest may not change without an exit, it may not change.
            _ => return Err(NotAllowed),
        }
        self.advance(registers, 3);
        Ok(())
    }

    /// MOV to CR0 (SDM volume 2B), of which the processor has checked nothing.
    fn move_to_cr0(
        &mut self,
        value: u64,
        memory: &impl Fn(Gpa) -> Option<u64>,
    ) -> Result<(), NotAllowed> {
        const DEFINED: u64 = 0xe005_003f;
        let value = value & (DEFINED | !0xffff_ffff) | cr0::ET;
        let old = self.control();
        let paging = value & cr0::PG != 0;
        let starts = paging && old.cr0 & cr0::PG == 0;
        let stops = !paging && old.cr0 & cr0::PG != 0;
        let long = old.efer & efer::LME != 0;
        let refused = value >> 32 != 0
            || paging && value & cr0::PE == 0
            || value & cr0::NW != 0 && value & cr0::CD == 0
            || starts && long && old.cr4 & cr4::PAE == 0
            || starts && long && read(Field::GuestCsAccess) & 1 << 13 != 0
            || stops && (old.cr4 & cr4::PCIDE != 0 || self.is_64_bit());
        // Long mode becomes active with paging, and ends with it.
        let new = ControlState {
            cr0: value,
            efer: match paging && long {
                true => old.efer | efer::LMA,
                false => old.efer & !efer::LMA,
            },
            ..old
        };
        let reloads = starts || (value ^ old.cr0) & (cr0::CD | cr0::NW) != 0;
        if refused || reloads && !has_valid_pdptes(&new, memory) {
            return Err(NotAllowed);
        }
        self.write_cr0(value);
        if new.efer != old.efer {
            self.write_efer(new.efer);
        }
        if reloads || stops {
            self.load_pdptes(memory);
            self.flush = true;
        }
        Ok(())
    }
}
