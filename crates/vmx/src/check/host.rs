//! Host state (SDM volume 3C, 27.2.2 to 27.2.4).

use super::context::{CR0_WP, CR4_CET, CR4_PAE, Checker, EFER_LMA, EFER_LME, Verdict};
use crate::{Exits, Field};

pub(super) fn check(checker: &Checker<'_>) -> Verdict {
    registers(&checker.section("27.2.2"))?;
    segments(&checker.section("27.2.3"))?;
    address_space(&checker.section("27.2.4"))
}

fn registers(c: &Checker<'_>) -> Verdict {
    let capabilities = c.processor.capabilities;
    c.fixed_bits(Field::HostCr0, capabilities.cr0_fixed, 0)?;
    c.fixed_bits(Field::HostCr4, capabilities.cr4_fixed, 0)?;
    let protects = c.get(Field::HostCr0) & CR0_WP != 0;
    c.agree(
        protects || c.get(Field::HostCr4) & CR4_CET == 0,
        Field::HostCr4,
        Field::HostCr0,
        "CET needs CR0.WP",
    )?;
    c.clear(
        Field::HostCr3,
        c.beyond_width(),
        "the address is wider than the processor's physical addresses",
    )?;
    c.canonical(Field::HostSysenterEsp)?;
    c.canonical(Field::HostSysenterEip)?;
    if c.exit.contains(Exits::LOAD_PERF_GLOBAL) {
        c.clear(
            Field::HostPerfGlobal,
            !c.processor.perf_global,
            "reserved bits are set",
        )?;
    }
    if c.exit.contains(Exits::LOAD_PAT) {
        c.pat(Field::HostPat)?;
    }
    if c.exit.contains(Exits::LOAD_EFER) {
        c.clear(Field::HostEfer, !c.processor.efer, "reserved bits are set")?;
        let wanted = match c.exit.contains(Exits::HOST_64) {
            true => EFER_LMA | EFER_LME,
            false => 0,
        };
        c.agree(
            c.get(Field::HostEfer) & (EFER_LMA | EFER_LME) == wanted,
            Field::HostEfer,
            Field::ExitControls,
            "LMA and LME are not as \"host address-space size\" says",
        )?;
    }
    Ok(())
}

fn segments(c: &Checker<'_>) -> Verdict {
    for field in [
        Field::HostCsSelector,
        Field::HostSsSelector,
        Field::HostDsSelector,
        Field::HostEsSelector,
        Field::HostFsSelector,
        Field::HostGsSelector,
        Field::HostTrSelector,
    ] {
        c.clear(field, 7, "a selector with TI or a privilege level")?;
    }
    for field in [Field::HostCsSelector, Field::HostTrSelector] {
        c.ensure(c.get(field) != 0, field, "a null selector")?;
    }
    c.agree(
        c.exit.contains(Exits::HOST_64) || c.get(Field::HostSsSelector) != 0,
        Field::HostSsSelector,
        Field::ExitControls,
        "a null selector for a 32-bit host",
    )?;
    for field in [
        Field::HostFsBase,
        Field::HostGsBase,
        Field::HostGdtrBase,
        Field::HostIdtrBase,
        Field::HostTrBase,
    ] {
        c.canonical(field)?;
    }
    Ok(())
}

/// The processor is in 64-bit mode while this is asked, so the rules for 32-bit hosts never apply.
fn address_space(c: &Checker<'_>) -> Verdict {
    c.ensure(
        c.exit.contains(Exits::HOST_64),
        Field::ExitControls,
        "\"host address-space size\" is 0 for a host in 64-bit mode",
    )?;
    c.ensure(
        c.get(Field::HostCr4) & CR4_PAE != 0,
        Field::HostCr4,
        "a 64-bit host needs PAE",
    )?;
    c.canonical(Field::HostRip)
}
