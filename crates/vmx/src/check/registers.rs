//! Guest control registers, debug registers and MSRs (SDM volume 3C, 27.3.1.1).

use super::context::{
    CR0_PE, CR0_PG, CR0_WP, CR4_CET, CR4_PAE, CR4_PCIDE, Checker, EFER_LMA, EFER_LME, Verdict,
};
use crate::{Entry, Field, Secondary};

/// NW and CD of CR0, which are never checked.
const CR0_CACHING: u64 = 1 << 29 | 1 << 30;

pub(super) fn check(checker: &Checker<'_>) -> Verdict {
    let c = checker.section("27.3.1.1");
    control_registers(&c)?;
    debug(&c)?;
    c.canonical(Field::GuestSysenterEsp)?;
    c.canonical(Field::GuestSysenterEip)?;
    msrs(&c)
}

fn control_registers(c: &Checker<'_>) -> Verdict {
    let capabilities = c.processor.capabilities;
    let free = match c.secondary.contains(Secondary::UNRESTRICTED_GUEST) {
        true => CR0_PE | CR0_PG,
        false => 0,
    };
    let [needed, possible] = capabilities.cr0_fixed;
    c.fixed_bits(
        Field::GuestCr0,
        [needed, possible | CR0_CACHING],
        free | CR0_CACHING,
    )?;
    let (cr0, cr4) = (c.get(Field::GuestCr0), c.get(Field::GuestCr4));
    c.ensure(
        cr0 & CR0_PG == 0 || cr0 & CR0_PE != 0,
        Field::GuestCr0,
        "paging without protection",
    )?;
    c.fixed_bits(Field::GuestCr4, capabilities.cr4_fixed, 0)?;
    c.agree(
        cr4 & CR4_CET == 0 || cr0 & CR0_WP != 0,
        Field::GuestCr4,
        Field::GuestCr0,
        "CET needs CR0.WP",
    )?;
    if c.entry.contains(Entry::IA32E_GUEST) {
        c.agree(
            cr0 & CR0_PG != 0,
            Field::GuestCr0,
            Field::EntryControls,
            "an IA-32e mode guest without paging",
        )?;
        c.agree(
            cr4 & CR4_PAE != 0,
            Field::GuestCr4,
            Field::EntryControls,
            "an IA-32e mode guest without PAE",
        )?;
    } else {
        c.agree(
            cr4 & CR4_PCIDE == 0,
            Field::GuestCr4,
            Field::EntryControls,
            "PCIDE outside of IA-32e mode",
        )?;
    }
    c.clear(
        Field::GuestCr3,
        c.beyond_width(),
        "the address is wider than the processor's physical addresses",
    )
}

fn debug(c: &Checker<'_>) -> Verdict {
    if !c.entry.contains(Entry::LOAD_DEBUG) {
        return Ok(());
    }
    c.clear(
        Field::GuestDebugControl,
        !c.processor.debug_control,
        "reserved bits are set",
    )?;
    c.clear(Field::GuestDr7, !0xffff_ffff, "bits above 31 are set")
}

fn msrs(c: &Checker<'_>) -> Verdict {
    if c.entry.contains(Entry::LOAD_PERF_GLOBAL) {
        c.clear(
            Field::GuestPerfGlobal,
            !c.processor.perf_global,
            "reserved bits are set",
        )?;
    }
    if c.entry.contains(Entry::LOAD_PAT) {
        c.pat(Field::GuestPat)?;
    }
    if c.entry.contains(Entry::LOAD_EFER) {
        efer(c)?;
    }
    if c.entry.contains(Entry::LOAD_BNDCFGS) {
        c.clear(Field::GuestBndcfgs, 0xffc, "reserved bits are set")?;
        c.ensure(
            c.is_canonical(c.get(Field::GuestBndcfgs) & !0xfff),
            Field::GuestBndcfgs,
            "the address is not canonical",
        )?;
    }
    Ok(())
}

fn efer(c: &Checker<'_>) -> Verdict {
    c.clear(Field::GuestEfer, !c.processor.efer, "reserved bits are set")?;
    let value = c.get(Field::GuestEfer);
    let active = value & EFER_LMA != 0;
    c.agree(
        active == c.entry.contains(Entry::IA32E_GUEST),
        Field::GuestEfer,
        Field::EntryControls,
        "LMA is not as \"IA-32e mode guest\" says",
    )?;
    let paging = c.get(Field::GuestCr0) & CR0_PG != 0;
    c.agree(
        !paging || active == (value & EFER_LME != 0),
        Field::GuestEfer,
        Field::GuestCr0,
        "LMA and LME differ while paging is on",
    )
}
