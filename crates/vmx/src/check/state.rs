//! The rest of the guest: descriptor tables, RIP and RFLAGS, what blocks events, and page-directory
//! pointers (SDM volume 3C, 27.3.1.3 to 27.3.1.6).

use super::context::{CR0_PE, CR0_PG, CR4_PAE, Checker, RFLAGS_IF, RFLAGS_TF, RFLAGS_VM, Verdict};
use crate::exit::{EVENT_VALID, event};
use crate::{Entry, Field, Pin, Secondary};

pub(super) fn check(checker: &Checker<'_>) -> Verdict {
    tables(&checker.section("27.3.1.3"))?;
    instruction_pointer(&checker.section("27.3.1.4"))?;
    flags(&checker.section("27.3.1.4"))?;
    let c = checker.section("27.3.1.5");
    activity(&c)?;
    interruptibility(&c)?;
    pending_debug(&c)?;
    link(&c)?;
    directory_pointers(&checker.section("27.3.1.6"))
}

fn tables(c: &Checker<'_>) -> Verdict {
    for (base, limit) in [
        (Field::GuestGdtrBase, Field::GuestGdtrLimit),
        (Field::GuestIdtrBase, Field::GuestIdtrLimit),
    ] {
        c.canonical(base)?;
        c.clear(limit, !0xffff, "bits above 15 are set")?;
    }
    Ok(())
}

fn instruction_pointer(c: &Checker<'_>) -> Verdict {
    const FIELD: Field = Field::GuestRip;
    let long = c.entry.contains(Entry::IA32E_GUEST) && c.get(Field::GuestCsAccess) & 1 << 13 != 0;
    let value = c.get(FIELD);
    if !long {
        return c.agree(
            value >> 32 == 0,
            FIELD,
            Field::GuestCsAccess,
            "bits above 31 are set outside of 64-bit mode",
        );
    }
    // The first byte behind the lower half is in order: the fault comes with the fetch.
    let upper = value >> c.processor.linear_bits.min(63);
    let ones = u64::MAX >> c.processor.linear_bits.min(63);
    c.ensure(
        upper == 0 || upper == ones,
        FIELD,
        "bits above the width of linear addresses differ",
    )
}

/// The event to be injected, when there is one.
fn injected(c: &Checker<'_>) -> Option<(u32, u32)> {
    let info = c.get(Field::EntryInterruptionInfo) as u32;
    (info & EVENT_VALID != 0).then_some((info & event::KIND, info & 0xff))
}

fn injects_external(c: &Checker<'_>) -> bool {
    matches!(injected(c), Some((event::EXTERNAL, _)))
}

fn flags(c: &Checker<'_>) -> Verdict {
    const FIELD: Field = Field::GuestRflags;
    c.clear(FIELD, !0x3f_7fd7, "reserved bits are set")?;
    let value = c.get(FIELD);
    c.ensure(value & 2 != 0, FIELD, "reserved bit 1 is 0")?;
    c.agree(
        value & RFLAGS_VM == 0 || !c.entry.contains(Entry::IA32E_GUEST),
        FIELD,
        Field::EntryControls,
        "virtual-8086 mode in IA-32e mode",
    )?;
    c.agree(
        value & RFLAGS_VM == 0 || c.get(Field::GuestCr0) & CR0_PE != 0,
        FIELD,
        Field::GuestCr0,
        "virtual-8086 mode without protection",
    )?;
    c.agree(
        value & RFLAGS_IF != 0 || !injects_external(c),
        FIELD,
        Field::EntryInterruptionInfo,
        "IF is 0, but an external interrupt is injected",
    )
}

/// Blocking by STI, MOV SS, SMI and NMI, and "enclave interruption".
const BY_STI: u64 = 1 << 0;
const BY_MOV_SS: u64 = 1 << 1;
const BY_SMI: u64 = 1 << 2;
const BY_NMI: u64 = 1 << 3;
const ENCLAVE: u64 = 1 << 4;

const HLT: u64 = 1;
const SHUTDOWN: u64 = 2;
const WAIT_FOR_SIPI: u64 = 3;

fn activity(c: &Checker<'_>) -> Verdict {
    const FIELD: Field = Field::GuestActivity;
    let state = c.get(FIELD);
    let supported = match state {
        0 => true,
        1..=3 => c.processor.capabilities.activity_states >> (state - 1) & 1 != 0,
        _ => false,
    };
    c.ensure(supported, FIELD, "a state that the processor has not")?;
    c.agree(
        state != HLT || c.get(Field::GuestSsAccess) >> 5 & 3 == 0,
        FIELD,
        Field::GuestSsAccess,
        "halted above privilege level 0",
    )?;
    let shadow = c.get(Field::GuestInterruptibility) & (BY_STI | BY_MOV_SS) != 0;
    c.agree(
        state == 0 || !shadow,
        FIELD,
        Field::GuestInterruptibility,
        "not active behind STI or MOV SS",
    )?;
    let Some((kind, vector)) = injected(c) else {
        return Ok(());
    };
    const OTHER_EVENT: u32 = 7 << 8;
    let wakes = match state {
        HLT => match kind {
            event::EXTERNAL | event::NMI => true,
            event::HARDWARE_EXCEPTION => matches!(vector, 1 | 18),
            OTHER_EVENT => vector == 0,
            _ => false,
        },
        SHUTDOWN => kind == event::NMI || kind == event::HARDWARE_EXCEPTION && vector == 18,
        WAIT_FOR_SIPI => false,
        _ => true,
    };
    c.agree(
        wakes,
        FIELD,
        Field::EntryInterruptionInfo,
        "the event to be injected does not happen in this state",
    )
}

fn interruptibility(c: &Checker<'_>) -> Verdict {
    const FIELD: Field = Field::GuestInterruptibility;
    c.clear(FIELD, !0x1f, "reserved bits are set")?;
    let state = c.get(FIELD);
    c.ensure(
        state & (BY_STI | BY_MOV_SS) != BY_STI | BY_MOV_SS,
        FIELD,
        "blocking both by STI and by MOV SS",
    )?;
    c.agree(
        state & BY_STI == 0 || c.get(Field::GuestRflags) & RFLAGS_IF != 0,
        FIELD,
        Field::GuestRflags,
        "blocking by STI, but IF is 0",
    )?;
    c.agree(
        state & (BY_STI | BY_MOV_SS) == 0 || !injects_external(c),
        FIELD,
        Field::EntryInterruptionInfo,
        "an external interrupt behind STI or MOV SS",
    )?;
    let nmi = matches!(injected(c), Some((event::NMI, _)));
    c.agree(
        !nmi || state & BY_MOV_SS == 0,
        FIELD,
        Field::EntryInterruptionInfo,
        "an NMI behind MOV SS",
    )?;
    c.ensure(
        state & BY_SMI == 0,
        FIELD,
        "blocking by SMI outside of system-management mode",
    )?;
    c.agree(
        !nmi || !c.pin.contains(Pin::VIRTUAL_NMIS) || state & BY_NMI == 0,
        FIELD,
        Field::EntryInterruptionInfo,
        "an NMI while NMIs are blocked",
    )?;
    c.ensure(
        state & ENCLAVE == 0 || state & BY_MOV_SS == 0,
        FIELD,
        "an interrupted enclave behind MOV SS",
    )
}

fn pending_debug(c: &Checker<'_>) -> Verdict {
    const FIELD: Field = Field::GuestPendingDebug;
    const SINGLE_STEP: u64 = 1 << 14;
    // BTF of DEBUGCTL: TF traps on branches.
    const ON_BRANCHES: u64 = 1 << 1;
    const TRANSACTION: u64 = 1 << 16;
    // B3 to B0, bus lock, enabled breakpoint, BS, RTM.
    const KNOWN: u64 = 0xf | 1 << 11 | 1 << 12 | SINGLE_STEP | TRANSACTION;
    c.clear(FIELD, !KNOWN, "reserved bits are set")?;
    let value = c.get(FIELD);
    let shadow = c.get(Field::GuestInterruptibility) & (BY_STI | BY_MOV_SS) != 0;
    if shadow || c.get(Field::GuestActivity) == HLT {
        let traps = c.get(Field::GuestRflags) & RFLAGS_TF != 0
            && c.get(Field::GuestDebugControl) & ON_BRANCHES == 0;
        c.agree(
            traps == (value & SINGLE_STEP != 0),
            FIELD,
            Field::GuestRflags,
            "BS is not as TF says while events are blocked or the guest is halted",
        )?;
    }
    c.ensure(
        value & TRANSACTION == 0 || value & (KNOWN & !TRANSACTION) == 1 << 12,
        FIELD,
        "RTM needs the enabled breakpoint and nothing else",
    )?;
    c.agree(
        value & TRANSACTION == 0 || c.get(Field::GuestInterruptibility) & BY_MOV_SS == 0,
        FIELD,
        Field::GuestInterruptibility,
        "RTM behind MOV SS",
    )
}

fn link(c: &Checker<'_>) -> Verdict {
    match c.get(Field::VmcsLinkPointer) {
        u64::MAX => Ok(()),
        _ => c.address(Field::VmcsLinkPointer, 4096),
    }
}

/// With EPT the four entries of PAE paging are fields of the VMCS.
fn directory_pointers(c: &Checker<'_>) -> Verdict {
    let pae = c.get(Field::GuestCr0) & CR0_PG != 0
        && c.get(Field::GuestCr4) & CR4_PAE != 0
        && !c.entry.contains(Entry::IA32E_GUEST);
    if !pae || !c.secondary.contains(Secondary::EPT) {
        return Ok(());
    }
    for field in [
        Field::GuestPdpte0,
        Field::GuestPdpte1,
        Field::GuestPdpte2,
        Field::GuestPdpte3,
    ] {
        if c.get(field) & 1 != 0 {
            c.clear(field, 0x1e6 | c.beyond_width(), "reserved bits are set")?;
        }
    }
    Ok(())
}
