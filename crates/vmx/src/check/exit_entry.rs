//! VM-exit and VM-entry control fields, with the event to inject (SDM volume 3C, 27.2.1.2 and
//! 27.2.1.3).

use super::context::{CR0_PE, Checker, Verdict};
use super::execution::allowed;
use crate::exit::{EVENT_ERROR_CODE, EVENT_VALID, event};
use crate::{Entry, Exits, Field, Pin, Primary, Secondary};

pub(super) fn check(checker: &Checker<'_>) -> Verdict {
    exit(&checker.section("27.2.1.2"))?;
    entry(&checker.section("27.2.1.3"))
}

fn exit(c: &Checker<'_>) -> Verdict {
    allowed(c, Field::ExitControls, &c.processor.capabilities.exit)?;
    c.agree(
        c.pin.contains(Pin::PREEMPTION_TIMER) || !c.exit.contains(Exits::SAVE_PREEMPTION_TIMER),
        Field::ExitControls,
        Field::PinControls,
        "saving the VMX-preemption timer needs the timer",
    )?;
    c.msr_list(Field::ExitMsrStoreCount, Field::ExitMsrStoreAddress)?;
    c.msr_list(Field::ExitMsrLoadCount, Field::ExitMsrLoadAddress)
}

fn entry(c: &Checker<'_>) -> Verdict {
    allowed(c, Field::EntryControls, &c.processor.capabilities.entry)?;
    injection(c)?;
    c.msr_list(Field::EntryMsrLoadCount, Field::EntryMsrLoadAddress)?;
    c.ensure(
        !c.entry.intersects(Entry::SMM | Entry::DUAL_MONITOR),
        Field::EntryControls,
        "controls of system-management mode outside of it",
    )
}

/// Exceptions that push an error code.
const WITH_ERROR_CODE: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17;

/// "Other event": a pending MTF exit.
const OTHER_EVENT: u32 = 7 << 8;

/// The event that [`Field::EntryInterruptionInfo`] describes.
fn injection(c: &Checker<'_>) -> Verdict {
    const FIELD: Field = Field::EntryInterruptionInfo;
    let info = c.get(FIELD) as u32;
    if info & EVENT_VALID == 0 {
        return Ok(());
    }
    let (vector, kind) = (info & 0xff, info & event::KIND);
    c.ensure(kind != 1 << 8, FIELD, "a reserved kind of event")?;
    let monitor_trap = c.processor.capabilities.primary.may & Primary::MONITOR_TRAP.bits() != 0;
    c.ensure(
        kind != OTHER_EVENT || monitor_trap,
        FIELD,
        "a monitor trap flag that the processor has not",
    )?;
    let fits = match kind {
        event::NMI => vector == 2,
        event::HARDWARE_EXCEPTION => vector <= 31,
        OTHER_EVENT => vector == 0,
        _ => true,
    };
    c.ensure(fits, FIELD, "a vector that this kind of event has not")?;
    error_code(c, info)?;
    c.clear(FIELD, 0x7fff_f000, "reserved bits are set")?;
    let software = matches!(
        kind,
        event::SOFTWARE_INTERRUPT
            | event::PRIVILEGED_SOFTWARE_EXCEPTION
            | event::SOFTWARE_EXCEPTION
    );
    let least = u64::from(!c.processor.capabilities.zero_length_injection);
    let length = c.get(Field::EntryInstructionLength);
    c.agree(
        !software || (least..=15).contains(&length),
        Field::EntryInstructionLength,
        FIELD,
        "no instruction that raises an event has this length",
    )
}

fn error_code(c: &Checker<'_>, info: u32) -> Verdict {
    const FIELD: Field = Field::EntryInterruptionInfo;
    let (vector, kind) = (info & 0xff, info & event::KIND);
    let delivers = info & EVENT_ERROR_CODE != 0;
    let unrestricted = c.secondary.contains(Secondary::UNRESTRICTED_GUEST);
    let protected = c.get(Field::GuestCr0) & CR0_PE != 0;
    c.agree(
        !delivers || !unrestricted || protected,
        FIELD,
        Field::GuestCr0,
        "an error code in real-address mode",
    )?;
    let exception = kind == event::HARDWARE_EXCEPTION;
    c.ensure(
        !delivers || exception,
        FIELD,
        "an error code with an event that has none",
    )?;
    // Where the processor leaves it to software, each exception may come with one or without.
    let strict = !c.processor.capabilities.any_error_code;
    if exception && strict && (!unrestricted || protected) {
        let has_code = WITH_ERROR_CODE >> vector & 1 != 0;
        c.ensure(
            delivers || !has_code,
            FIELD,
            "no error code for an exception that has one",
        )?;
        c.ensure(
            !delivers || has_code,
            FIELD,
            "an error code for an exception that has none",
        )?;
    }
    match delivers {
        true => c.clear(
            Field::EntryExceptionErrorCode,
            0xffff_0000,
            "an error code has 16 bits",
        ),
        false => Ok(()),
    }
}
