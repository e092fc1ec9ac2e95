//! The new task's segment registers: checks in the order local table, code, stack, data (SDM volume
//! 3A, table 8-1, whose order is that of one family of processors).

use super::descriptor::{self, BIG, Descriptor, Place, UNUSABLE};
use super::linear::{GuestMemory, Linear};
use super::tss::Image;
use super::{EFLAGS_VM, Fault, SegmentRegister, State, Stop, segment, segment_fault, vector};

/// Index of ESP.
const ESP: usize = 4;
/// Rights of a segment in virtual-8086 mode.
const RIGHTS_8086: u32 = 0xf3;
/// Present code of 32 bits at privilege level 3 that can be read and has been accessed.
const USER_CODE: u32 = 0xc0fb;
const PRIVILEGE_3: u32 = 3 << 5;

/// Loads all selectors, and in virtual-8086 mode the segments.
///
/// A register whose descriptor is not loaded yet is unusable. Until code and stack are loaded, both,
/// the privilege level is 3: a fault on the way then finds a stack, that of its handler's level in the
/// new TSS.
pub fn selectors(state: &mut State, image: &Image) {
    let is_8086 = state.eflags & EFLAGS_VM != 0;
    for (register, selector) in state.segments.iter_mut().zip(image.selectors) {
        *register = match is_8086 {
            true => SegmentRegister {
                selector,
                access: RIGHTS_8086,
                limit: 0xffff,
                base: u64::from(selector) << 4,
            },
            false => SegmentRegister {
                selector,
                access: UNUSABLE | PRIVILEGE_3,
                limit: 0,
                base: 0,
            },
        };
    }
    if !is_8086 {
        let code = &mut state.segments[segment::CS];
        (code.access, code.limit) = (USER_CODE, u32::MAX);
    }
    state.segments[segment::LDTR] = SegmentRegister {
        selector: image.ldt,
        access: UNUSABLE,
        limit: 0,
        base: 0,
    };
}

/// LDTR.
pub fn local_table<M: GuestMemory>(
    state: &mut State,
    linear: &Linear<'_, M>,
    external: u32,
) -> Result<(), Stop> {
    let selector = state.segments[segment::LDTR].selector;
    if is_null(selector) {
        return Ok(());
    }
    let invalid = || segment_fault(vector::INVALID_TSS, selector, external);
    let place = Place::in_gdt(state, selector).ok_or_else(invalid)?;
    let descriptor = place.read(linear)?;
    if !descriptor.is_local_table() || !descriptor.is_present() {
        return Err(invalid());
    }
    state.segments[segment::LDTR] = descriptor.register(selector);
    Ok(())
}

/// CS and SS, and with them the privilege level.
pub fn code_and_stack<M: GuestMemory>(
    state: &mut State,
    linear: &Linear<'_, M>,
    external: u32,
) -> Result<(), Stop> {
    let code = code(state, linear, external)?;
    let stack = stack(state, linear, external)?;
    state.segments[segment::CS] = code;
    state.segments[segment::SS] = stack;
    Ok(())
}

fn code<M: GuestMemory>(
    state: &State,
    linear: &Linear<'_, M>,
    external: u32,
) -> Result<SegmentRegister, Stop> {
    let selector = state.segments[segment::CS].selector;
    let level = level(selector);
    let (place, descriptor) = find(state, linear, selector, external)?;
    let suits = descriptor.is_code()
        && match descriptor.is_conforming() {
            true => descriptor.privilege() <= level,
            false => descriptor.privilege() == level,
        };
    if !suits {
        return Err(segment_fault(vector::INVALID_TSS, selector, external));
    }
    if !descriptor.is_present() {
        return Err(segment_fault(vector::NOT_PRESENT, selector, external));
    }
    accessed(place, descriptor, selector, linear)
}

fn stack<M: GuestMemory>(
    state: &State,
    linear: &Linear<'_, M>,
    external: u32,
) -> Result<SegmentRegister, Stop> {
    let selector = state.segments[segment::SS].selector;
    let cpl = level(state.segments[segment::CS].selector);
    let (place, descriptor) = find(state, linear, selector, external)?;
    let suits =
        descriptor.is_writable_data() && descriptor.privilege() == cpl && level(selector) == cpl;
    if !suits {
        return Err(segment_fault(vector::INVALID_TSS, selector, external));
    }
    if !descriptor.is_present() {
        return Err(segment_fault(vector::STACK, selector, external));
    }
    accessed(place, descriptor, selector, linear)
}

/// DS, ES, FS and GS.
pub fn data<M: GuestMemory>(
    state: &mut State,
    linear: &Linear<'_, M>,
    external: u32,
) -> Result<(), Stop> {
    let cpl = level(state.segments[segment::CS].selector);
    for number in [segment::DS, segment::ES, segment::FS, segment::GS] {
        let selector = state.segments[number].selector;
        if is_null(selector) {
            continue;
        }
        let (place, descriptor) = find(state, linear, selector, external)?;
        let allowed = descriptor.is_conforming()
            || descriptor.privilege() >= cpl && descriptor.privilege() >= level(selector);
        if !descriptor.is_readable() || !allowed {
            return Err(segment_fault(vector::INVALID_TSS, selector, external));
        }
        if !descriptor.is_present() {
            return Err(segment_fault(vector::NOT_PRESENT, selector, external));
        }
        state.segments[number] = accessed(place, descriptor, selector, linear)?;
    }
    Ok(())
}

/// The descriptor of a segment that must not be null.
fn find<M: GuestMemory>(
    state: &State,
    linear: &Linear<'_, M>,
    selector: u16,
    external: u32,
) -> Result<(Place, Descriptor), Stop> {
    let place = Place::find(state, selector).filter(|_| !is_null(selector));
    let place = place.ok_or_else(|| segment_fault(vector::INVALID_TSS, selector, external))?;
    Ok((place, place.read(linear)?))
}

/// Marks a code or data segment as accessed, in the table too.
fn accessed<M: GuestMemory>(
    place: Place,
    descriptor: Descriptor,
    selector: u16,
    linear: &Linear<'_, M>,
) -> Result<SegmentRegister, Stop> {
    let mut register = descriptor.register(selector);
    if register.access & u32::from(descriptor::ACCESSED) == 0 {
        place.change_rights(linear, |rights| rights | descriptor::ACCESSED)?;
        register.access |= u32::from(descriptor::ACCESSED);
    }
    Ok(register)
}

/// Pushes an exception's error code on the new task's stack.
pub fn push<M: GuestMemory>(
    state: &mut State,
    linear: &Linear<'_, M>,
    code: u32,
    is_wide: bool,
    external: u32,
) -> Result<(), Stop> {
    let stack = state.segments[segment::SS];
    let size: u32 = if is_wide { 4 } else { 2 };
    let mask = if stack.access & BIG != 0 { !0 } else { 0xffff };
    let top = state.gpr[ESP].wrapping_sub(size) & mask;
    if !is_within(&stack, top, size, mask) {
        return Err(Stop::Fault(Fault {
            vector: vector::STACK,
            error_code: Some(external),
            address: None,
        }));
    }
    let privilege = (stack.access >> 5 & 3) as u8;
    let bytes = code.to_le_bytes();
    let bytes = &bytes[..size as usize];
    linear.write_as((stack.base as u32).wrapping_add(top), bytes, privilege)?;
    state.gpr[ESP] = state.gpr[ESP] & !mask | top;
    Ok(())
}

/// Whether an operand is within a data segment, which may expand downwards.
fn is_within(segment: &SegmentRegister, offset: u32, size: u32, highest: u32) -> bool {
    let Some(last) = offset.checked_add(size - 1) else {
        return false;
    };
    match segment.access & 0xc {
        4 => offset > segment.limit && last <= highest,
        _ => last <= segment.limit,
    }
}

const fn level(selector: u16) -> u8 {
    selector as u8 & 3
}

const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}
