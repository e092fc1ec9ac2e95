//! Reading guest memory as an instruction of the guest would: through its page tables, then the
//! nested ones.

use crate::vcpu::{Local, Vcpu};
use crate::virt::SegmentName;
use crate::vm::Vm;
use crate::{arch::cpu, memory};
use acrn_abi::{Gpa, Gva, PAGE_SIZE};
use acrn_emulate::paging::{Access, GuestPhysical, WalkContext, WalkError};
use acrn_emulate::{Mode, Segment};

/// A VM's memory for the page walker.
pub struct Tables<'a>(pub &'a Vm);

impl GuestPhysical for Tables<'_> {
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        memory::load_guest_u64(self.0.translate(gpa)?)
    }
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        memory::load_guest_u32(self.0.translate(gpa)?)
    }
}

/// Operating mode of the code that runs.
pub fn mode(local: &Local) -> Mode {
    let cs = local.virt.segment(SegmentName::Cs);
    let control = local.virt.control();
    if control.efer & cpu::efer::LMA != 0 && cs.access & 1 << 13 != 0 {
        Mode::Bits64
    } else if cs.access & 1 << 14 != 0 && control.cr0 & 1 != 0 {
        Mode::Bits32
    } else {
        Mode::Bits16
    }
}

/// The state that decides how a linear address is translated.
pub fn context(local: &Local) -> WalkContext {
    let control = local.virt.control();
    WalkContext {
        cr0: control.cr0,
        cr3: control.cr3,
        cr4: control.cr4,
        efer: control.efer,
        cpl: control.cpl,
        rflags: local.registers.rflags,
        physical_bits: cpu::physical_address_bits() as u8,
    }
}

/// Guest physical address of a linear one.
pub fn translate(vm: &Vm, local: &Local, gva: Gva, access: Access) -> Result<Gpa, WalkError> {
    context(local)
        .translate(&Tables(vm), gva, access)
        .map(|t| t.gpa)
}

/// Fetches the bytes at the guest's RIP; fewer than 15 where memory ends. Returns their number.
pub fn instruction(vcpu: &Vcpu, local: &Local, buffer: &mut [u8; 15]) -> usize {
    let fetched = local.virt.fetched();
    if !fetched.is_empty() {
        buffer[..fetched.len()].copy_from_slice(fetched);
        return fetched.len();
    }
    let base = match mode(local) {
        Mode::Bits64 => 0,
        _ => local.virt.segment_base(SegmentName::Cs),
    };
    let start = Gva(base.wrapping_add(local.registers.rip));
    let mut done = 0;
    while done < buffer.len() {
        let at = Gva(start.0.wrapping_add(done as u64));
        let Ok(gpa) = translate(vcpu.vm(), local, at, Access::Execute) else {
            break;
        };
        let Some(hpa) = vcpu.vm().translate(gpa) else {
            break;
        };
        let here = ((PAGE_SIZE - at.page_offset()) as usize).min(buffer.len() - done);
        if !memory::read_guest(hpa, &mut buffer[done..done + here]) {
            break;
        }
        done += here;
    }
    done
}

/// The guest's registers as the emulator wants them.
pub struct View<'a>(pub &'a mut Local);

impl acrn_emulate::Registers for View<'_> {
    #[inline]
    fn gpr(&self, n: u8) -> u64 {
        self.0.registers.gpr[usize::from(n & 15)]
    }
    #[inline]
    fn set_gpr(&mut self, n: u8, value: u64) {
        self.0.registers.gpr[usize::from(n & 15)] = value;
    }
    fn rip(&self) -> u64 {
        self.0.registers.rip
    }
    fn rflags(&self) -> u64 {
        self.0.registers.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.0.registers.rflags = value;
    }
    fn segment_base(&self, segment: Segment) -> u64 {
        self.0.virt.segment_base(match segment {
            Segment::Es => SegmentName::Es,
            Segment::Cs => SegmentName::Cs,
            Segment::Ss => SegmentName::Ss,
            Segment::Ds => SegmentName::Ds,
            Segment::Fs => SegmentName::Fs,
            Segment::Gs => SegmentName::Gs,
        })
    }
}
