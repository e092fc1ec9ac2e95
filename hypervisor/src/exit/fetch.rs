//! Reading guest memory as an instruction of the guest would: through its page tables, then the
//! nested ones.
//!
//! Fetching the instruction behind an exit is the dearest part of many exits, so the last walks
//! of each vCPU are kept (`Walks`). A kept walk is no promise that the guest's tables are still
//! the same: it lists the entries that were read and their values, and counts only while memory
//! holds just these values. What it takes for granted is the way through the nested tables, as a
//! processor's TLB does, and so it is dropped whenever that is flushed.

use crate::memory::{self, CheckedAddress, LAST_FETCH};
use crate::vcpu::{Local, Vcpu};
use crate::virt::SegmentName;
use crate::vm::Vm;
use crate::{arch::cpu, virt::ControlState};
use acrn_abi::{Gpa, Gva, PAGE_SIZE};
use acrn_emulate::paging::{Access, GuestPhysical, WalkContext, WalkError};
use acrn_emulate::{Mode, Segment};
use arrayvec::ArrayVec;
use core::cell::RefCell;
use core::sync::atomic::Ordering;

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
#[inline]
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

/// Bytes that [`instruction`] fetches at most.
pub const LENGTH: usize = 15;

/// Fetches the bytes at the guest's RIP; fewer than 15 where memory ends. Returns their number.
pub fn instruction(vcpu: &Vcpu, local: &mut Local, buffer: &mut [u8; LENGTH]) -> usize {
    let fetched = local.virt.fetched();
    if !fetched.is_empty() {
        buffer[..fetched.len()].copy_from_slice(fetched);
        return fetched.len();
    }
    let control = local.virt.control();
    let long = cpu::efer::LMA | cpu::efer::LME;
    let base = match control.efer & long == long && mode(local) == Mode::Bits64 {
        true => 0,
        false => local.virt.segment_base(SegmentName::Cs),
    };
    let start = Gva(base.wrapping_add(local.registers.rip));
    if control.efer & long == long && start.page_offset() <= LAST_FETCH {
        let generation = vcpu.shared.generation.load(Ordering::Relaxed);
        let key = Key::new(start, &control, generation);
        let at = start.page_offset();
        if local.walks.fetch(&key, at, buffer) || walk(vcpu, local, key, start, buffer) {
            return LENGTH;
        }
    }
    piecewise(vcpu, local, start, buffer)
}

/// Walks the guest's tables for a fetch that stays in one page, and keeps the walk. `false` when
/// the page is not there, or is no memory.
#[cold]
fn walk(vcpu: &Vcpu, local: &mut Local, key: Key, start: Gva, buffer: &mut [u8; LENGTH]) -> bool {
    let tables = Recorder {
        vm: vcpu.vm(),
        read: RefCell::new(ArrayVec::new()),
    };
    let found = context(local).translate(&tables, start, Access::Execute);
    let page = found
        .ok()
        .and_then(|found| vcpu.vm().translate(found.gpa.align_down(PAGE_SIZE)))
        .and_then(CheckedAddress::page);
    let Some(page) = page else { return false };
    let walk = Walk {
        key,
        page,
        read: tables.read.into_inner(),
    };
    local.walks.keep(walk);
    local.walks.fetch(&key, start.page_offset(), buffer)
}

/// The same page by page, for whatever is not common.
#[cold]
fn piecewise(vcpu: &Vcpu, local: &Local, start: Gva, buffer: &mut [u8; LENGTH]) -> usize {
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

/// Entries that a walk of 5 levels reads.
const LEVELS: usize = 5;

/// Whether a kept walk is the one that is wanted: the page, and everything that decides how its
/// address is translated for a fetch (SDM 3A, 4.6), and the vCPU's life.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    page: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    generation: u32,
    cpl: u8,
}

impl Key {
    /// No page begins with this address.
    const NONE: Self = Self {
        page: 1,
        cr0: 0,
        cr3: 0,
        cr4: 0,
        efer: 0,
        generation: 0,
        cpl: 0,
    };

    #[inline]
    fn new(start: Gva, control: &ControlState, generation: u32) -> Self {
        Self {
            page: start.align_down(PAGE_SIZE).0,
            cr0: control.cr0,
            cr3: control.cr3,
            cr4: control.cr4,
            efer: control.efer,
            generation,
            cpl: control.cpl,
        }
    }
}

/// One walk in long mode, with what it read on its way.
struct Walk {
    key: Key,
    page: CheckedAddress,
    read: ArrayVec<(CheckedAddress, u64), LEVELS>,
}

/// The last walks of a vCPU. See the module.
pub struct Walks {
    kept: [Walk; Self::COUNT],
}

impl Walks {
    /// Drivers touch their devices from few pages of code.
    const COUNT: usize = 4;

    /// None.
    pub const fn new() -> Self {
        Self {
            kept: [const {
                Walk {
                    key: Key::NONE,
                    page: CheckedAddress::NONE,
                    read: ArrayVec::new_const(),
                }
            }; Self::COUNT],
        }
    }

    /// Forgets all, when the nested tables' translations are flushed.
    pub fn clear(&mut self) {
        for walk in &mut self.kept {
            walk.key = Key::NONE;
        }
    }

    #[inline]
    const fn place(key: &Key) -> usize {
        (key.page / PAGE_SIZE) as usize % Self::COUNT
    }

    fn keep(&mut self, walk: Walk) {
        let place = Self::place(&walk.key);
        self.kept[place] = walk;
    }

    /// Fetches `buffer` at an offset, at most [`LAST_FETCH`], of the page; `false` when there is
    /// no walk of it or the guest has changed an entry since.
    #[inline]
    fn fetch(&self, key: &Key, offset: u64, buffer: &mut [u8; LENGTH]) -> bool {
        let walk = &self.kept[Self::place(key)];
        walk.key == *key && memory::fetch_if_unchanged(&walk.read, walk.page, offset, buffer)
    }
}

/// A VM's memory for the page walker, which keeps what was read.
struct Recorder<'a> {
    vm: &'a Vm,
    read: RefCell<ArrayVec<(CheckedAddress, u64), LEVELS>>,
}

impl GuestPhysical for Recorder<'_> {
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        let at = CheckedAddress::word(self.vm.translate(gpa)?)?;
        let value = memory::load_checked(at);
        // More entries than there are levels do not happen; such a walk would fail.
        self.read.borrow_mut().try_push((at, value)).ok()?;
        Some(value)
    }
    /// Not in long mode.
    fn read_u32(&self, _: Gpa) -> Option<u32> {
        None
    }
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
