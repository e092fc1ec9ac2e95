//! Hardware task switches (SDM volume 3A, chapter 8), for processors that leave them to the
//! hypervisor.
//!
//! [`switch`] does what CALL, JMP, IRET or a task gate of the IDT would have done: it judges the new
//! task's descriptor, saves the old task in its task-state segment (TSS), loads the new one, and says
//! which exception, if any, comes before the first instruction. The switch has a point of no return:
//!
//! * Before it come all checks of descriptors and task-state segments, for the pages too. What fails
//!   there is a fault of the old task, which goes on with nothing changed.
//! * Behind it come CR3, LDTR and the segment registers. What fails there is a fault of the new task,
//!   whose other registers are loaded already.
//!
//! Privilege levels of gates and of TSS descriptors are not looked at: processors check them before
//! they leave the switch to anybody. Busy and accessed bits are set by plain reads and writes, not by
//! locked ones, and no accessed or dirty bits in page tables.
//!
//! The guest's memory may change while it is read. Nothing here panics, and the number of accesses
//! is bounded.

mod descriptor;
mod fault;
mod linear;
mod load;
mod request;
mod tss;

use descriptor::{Descriptor, Place};
pub use fault::{Fault, Next, NoMemory, Outcome};
use fault::{Stop, segment_fault, vector, while_delivering};
pub use linear::GuestMemory;
use linear::Linear;
pub use request::{Event, EventKind, Request, Source};
use tss::{Format, Image};

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentRegister {
    /// Selector.
    pub selector: u16,
    /// Access rights as VMX has them (SDM volume 3C, 25.4.1); bit 16 unusable.
    pub access: u32,
    /// Limit in bytes.
    pub limit: u32,
    /// Linear base.
    pub base: u64,
}

/// Indexes into [`State::segments`].
pub mod segment {
    #![allow(missing_docs)]
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
    pub const LDTR: usize = 6;
    pub const TR: usize = 7;
}

/// What of a processor a task switch reads or changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// Width of guest physical addresses.
    pub physical_bits: u8,
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// EIP: of the old task, that of the instruction that switches, or which the event interrupts.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub gpr: [u32; 8],
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    pub segments: [SegmentRegister; 8],
    /// Base and limit of the GDT.
    pub gdt: (u64, u16),
}

const CR0_TS: u64 = 1 << 3;
const CR0_PG: u64 = 1 << 31;
const EFER_LMA: u64 = 1 << 10;
const EFLAGS_NT: u32 = 1 << 14;
const EFLAGS_VM: u32 = 1 << 17;
/// DR6: the T flag of a TSS has caused a debug exception.
const DR6_BT: u64 = 1 << 15;
/// DR7: breakpoints of the old task alone, and their exactness.
const DR7_LOCAL: u64 = 0x155;

/// Switches to another task.
///
/// # Errors
/// [`NoMemory`]; the state is of no use then.
pub fn switch(
    state: &mut State,
    request: &Request,
    memory: &impl GuestMemory,
) -> Result<Outcome, NoMemory> {
    let mut linear = Linear::new(state, memory);
    let left = leave(state, request, &linear);
    let switched = left.is_ok();
    let stop = left.and_then(|new| enter(state, request, &mut linear, &new));
    let next = match stop {
        Ok(next) => next,
        Err(Stop::Fault(fault)) => while_delivering(request.source, fault),
        Err(Stop::NoMemory(gpa)) => return Err(NoMemory(gpa)),
    };
    Ok(Outcome { switched, next })
}

/// The new task as it was found.
struct NewTask {
    descriptor: Descriptor,
    image: Image,
}

/// Everything up to the point of no return. It changes the guest's memory, and that at its end.
fn leave<M: GuestMemory>(
    state: &State,
    request: &Request,
    linear: &Linear<'_, M>,
) -> Result<NewTask, Stop> {
    let old = state.segments[segment::TR];
    let invalid_old =
        || segment_fault(vector::INVALID_TSS, old.selector, request.source.external());
    let (place, descriptor) = new_task(state, request, linear)?;
    linear.check_write(place.rights(), 1)?;
    let new = Format::of(descriptor.kind());
    linear.check_read(descriptor.base(), new.size())?;
    if request.source.nests() {
        linear.check_write(descriptor.base(), tss::LINK_SIZE)?;
    }
    let format = Format::of(old.access as u8);
    let (saved_from, saved) = format.saved();
    if old.limit < saved_from + saved - 1 {
        return Err(invalid_old());
    }
    let save_area = (old.base as u32).wrapping_add(saved_from);
    linear.check_write(save_area, saved)?;
    // A task that is left for good is no longer busy.
    let released = match request.source {
        Source::Jump | Source::Return => {
            let place = Place::in_gdt(state, old.selector).ok_or_else(invalid_old)?;
            linear.check_write(place.rights(), 1)?;
            Some(place)
        }
        Source::Call | Source::Gate(_) => None,
    };

    let mut flags = state.eflags;
    if matches!(request.source, Source::Return) {
        flags &= !EFLAGS_NT;
    }
    format.save(state, request.return_eip, flags, linear, save_area)?;
    let image = new.read(linear, descriptor.base())?;
    if request.source.nests() {
        linear.write(descriptor.base(), &old.selector.to_le_bytes())?;
    }
    if let Some(place) = released {
        place.change_rights(linear, |rights| rights & !descriptor::BUSY)?;
    }
    place.change_rights(linear, |rights| rights | descriptor::BUSY)?;
    Ok(NewTask { descriptor, image })
}

/// Finds and judges the descriptor of the new task.
fn new_task<M: GuestMemory>(
    state: &State,
    request: &Request,
    linear: &Linear<'_, M>,
) -> Result<(Place, Descriptor), Stop> {
    let fault = |vector| segment_fault(vector, request.selector, request.source.external());
    let returns = matches!(request.source, Source::Return);
    let wrong = match returns {
        true => vector::INVALID_TSS,
        false => vector::PROTECTION,
    };
    let place = Place::in_gdt(state, request.selector).filter(|_| request.selector & !3 != 0);
    let place = place.ok_or_else(|| fault(wrong))?;
    let descriptor = place.read(linear)?;
    let busy = match descriptor.task() {
        // There are no task switches in long mode.
        Some(busy) if state.efer & EFER_LMA == 0 => busy,
        _ => return Err(fault(wrong)),
    };
    if busy != returns {
        return Err(fault(wrong));
    }
    if !descriptor.is_present() {
        return Err(fault(vector::NOT_PRESENT));
    }
    if descriptor.limit() < Format::of(descriptor.kind()).size() - 1 {
        return Err(fault(vector::INVALID_TSS));
    }
    Ok((place, descriptor))
}

/// Everything behind the point of no return.
fn enter<M: GuestMemory>(
    state: &mut State,
    request: &Request,
    linear: &mut Linear<'_, M>,
    new: &NewTask,
) -> Result<Next, Stop> {
    let external = request.source.external();
    let image = &new.image;
    state.cr0 |= CR0_TS;
    state.dr7 &= !DR7_LOCAL;
    state.segments[segment::TR] = new.descriptor.busy_register(request.selector);
    state.gpr = image.gpr;
    state.eip = image.eip;
    state.eflags = image.eflags;
    if request.source.nests() {
        state.eflags |= EFLAGS_NT;
    }
    load::selectors(state, image);
    if let Some(cr3) = image.cr3
        && state.cr0 & CR0_PG != 0
    {
        linear.load_cr3(cr3)?;
        state.cr3 = cr3;
    }
    load::local_table(state, linear, external)?;
    if state.eflags & EFLAGS_VM == 0 {
        load::code_and_stack(state, linear, external)?;
        load::data(state, linear, external)?;
    }
    if let Some(code) = request.source.error_code() {
        load::push(state, linear, code, image.is_wide, external)?;
    }
    if image.traps {
        state.dr6 |= DR6_BT;
        return Ok(Next::Raise(Fault {
            vector: vector::DEBUG,
            error_code: None,
            address: None,
        }));
    }
    Ok(Next::Run)
}
