//! VM-execution control fields (SDM volume 3C, 27.2.1.1).

use super::context::{Checker, Verdict};
use crate::{ControlMsr, Field, Pin, Primary, Secondary};

pub(super) const NEED_ONE: &str = "a control is 0 that has to be 1";
pub(super) const TOO_MANY: &str = "a control is 1 that the processor does not have";

pub(super) fn check(checker: &Checker<'_>) -> Verdict {
    let c = checker.section("27.2.1.1");
    reserved(&c)?;
    let most = u64::from(c.processor.capabilities.cr3_targets);
    c.ensure(
        c.get(Field::Cr3TargetCount) <= most,
        Field::Cr3TargetCount,
        "more CR3 targets than the processor has",
    )?;
    if c.primary.contains(Primary::IO_BITMAPS) {
        c.address(Field::IoBitmapA, 4096)?;
        c.address(Field::IoBitmapB, 4096)?;
    }
    if c.primary.contains(Primary::MSR_BITMAPS) {
        c.address(Field::MsrBitmap, 4096)?;
    }
    task_priority(&c)?;
    nmi(&c)?;
    apic(&c)?;
    posted_interrupts(&c)?;
    if c.secondary.contains(Secondary::VPID) {
        c.ensure(c.get(Field::Vpid) != 0, Field::Vpid, "VPID 0 is the host's")?;
    }
    extended_page_tables(&c)?;
    others(&c)
}

/// Whether a word of controls is one that the processor takes.
pub(super) fn allowed(c: &Checker<'_>, field: Field, msr: &ControlMsr) -> Verdict {
    let value = c.get(field) as u32;
    c.ensure(value & msr.must == msr.must, field, NEED_ONE)?;
    c.ensure(value & !msr.may == 0, field, TOO_MANY)
}

fn reserved(c: &Checker<'_>) -> Verdict {
    let capabilities = c.processor.capabilities;
    allowed(c, Field::PinControls, &capabilities.pin)?;
    allowed(c, Field::PrimaryControls, &capabilities.primary)?;
    match c.primary.contains(Primary::SECONDARY) {
        true => allowed(c, Field::SecondaryControls, &capabilities.secondary),
        false => Ok(()),
    }
}

fn task_priority(c: &Checker<'_>) -> Verdict {
    const NEEDS: Secondary = Secondary::X2APIC_MODE
        .union(Secondary::APIC_REGISTERS)
        .union(Secondary::INTERRUPT_DELIVERY);
    if !c.primary.contains(Primary::TPR_SHADOW) {
        return c.agree(
            !c.secondary.intersects(NEEDS),
            Field::SecondaryControls,
            Field::PrimaryControls,
            "virtual x2APIC mode, APIC registers and interrupt delivery need the TPR shadow",
        );
    }
    c.address(Field::VirtualApicAddress, 4096)?;
    if c.secondary.contains(Secondary::INTERRUPT_DELIVERY) {
        return Ok(());
    }
    c.clear(
        Field::TprThreshold,
        !0xf,
        "bits above the four of a priority are set",
    )?;
    if c.secondary.contains(Secondary::APIC_ACCESSES) {
        return Ok(());
    }
    let shadow = c.virtual_task_priority();
    let threshold = c.get(Field::TprThreshold);
    c.ensure(
        shadow.is_none_or(|priority| threshold <= u64::from(priority >> 4)),
        Field::TprThreshold,
        "the threshold is above the virtual task priority",
    )
}

fn nmi(c: &Checker<'_>) -> Verdict {
    let has_virtual = c.pin.contains(Pin::VIRTUAL_NMIS);
    c.ensure(
        !has_virtual || c.pin.contains(Pin::NMI),
        Field::PinControls,
        "virtual NMIs need NMI exiting",
    )?;
    c.agree(
        has_virtual || !c.primary.contains(Primary::NMI_WINDOW),
        Field::PrimaryControls,
        Field::PinControls,
        "NMI-window exiting needs virtual NMIs",
    )
}

fn apic(c: &Checker<'_>) -> Verdict {
    if c.secondary.contains(Secondary::APIC_ACCESSES) {
        c.address(Field::ApicAccessAddress, 4096)?;
        c.ensure(
            !c.secondary.contains(Secondary::X2APIC_MODE),
            Field::SecondaryControls,
            "APIC accesses and x2APIC mode are virtualized at once",
        )?;
    }
    let delivers = c.secondary.contains(Secondary::INTERRUPT_DELIVERY);
    c.agree(
        !delivers || c.pin.contains(Pin::EXTERNAL_INTERRUPT),
        Field::SecondaryControls,
        Field::PinControls,
        "virtual-interrupt delivery needs external-interrupt exiting",
    )
}

fn posted_interrupts(c: &Checker<'_>) -> Verdict {
    if !c.pin.contains(Pin::POSTED_INTERRUPTS) {
        return Ok(());
    }
    c.agree(
        c.secondary.contains(Secondary::INTERRUPT_DELIVERY),
        Field::PinControls,
        Field::SecondaryControls,
        "posted interrupts need virtual-interrupt delivery",
    )?;
    c.agree(
        c.exit.contains(crate::Exits::ACKNOWLEDGE_INTERRUPT),
        Field::PinControls,
        Field::ExitControls,
        "posted interrupts need \"acknowledge interrupt on exit\"",
    )?;
    c.clear(
        Field::PostedInterruptVector,
        !0xff,
        "a vector has only eight bits",
    )?;
    c.address(Field::PostedInterruptDescriptor, 64)
}

fn extended_page_tables(c: &Checker<'_>) -> Verdict {
    let needs = [
        (
            Secondary::UNRESTRICTED_GUEST,
            "an unrestricted guest needs EPT",
        ),
        (
            Secondary::MODE_BASED_EXECUTE,
            "mode-based execute control needs EPT",
        ),
        (Secondary::PML, "page-modification logging needs EPT"),
    ];
    let enabled = c.secondary.contains(Secondary::EPT);
    for (control, reason) in needs {
        let holds = enabled || !c.secondary.contains(control);
        c.ensure(holds, Field::SecondaryControls, reason)?;
    }
    if c.secondary.contains(Secondary::PML) {
        c.address(Field::PmlAddress, 4096)?;
    }
    match enabled {
        true => ept_pointer(c),
        false => Ok(()),
    }
}

fn ept_pointer(c: &Checker<'_>) -> Verdict {
    const FIELD: Field = Field::EptPointer;
    let capabilities = c.processor.capabilities.ept_vpid;
    let value = c.get(FIELD);
    let type_known = match value & 7 {
        0 => capabilities >> 8 & 1 != 0,
        6 => capabilities >> 14 & 1 != 0,
        _ => false,
    };
    c.ensure(type_known, FIELD, "a memory type the processor has not")?;
    let depth_known = match value >> 3 & 7 {
        3 => capabilities >> 6 & 1 != 0,
        4 => capabilities >> 7 & 1 != 0,
        _ => false,
    };
    c.ensure(depth_known, FIELD, "a page walk the processor cannot do")?;
    c.ensure(
        value >> 6 & 1 == 0 || capabilities >> 21 & 1 != 0,
        FIELD,
        "accessed and dirty flags the processor has not",
    )?;
    c.clear(FIELD, 0xf80 | c.beyond_width(), "reserved bits are set")
}

fn others(c: &Checker<'_>) -> Verdict {
    if c.secondary.contains(Secondary::VMCS_SHADOWING) {
        c.address(Field::VmreadBitmap, 4096)?;
        c.address(Field::VmwriteBitmap, 4096)?;
    }
    if c.secondary.contains(Secondary::EPT_VIOLATION_VE) {
        c.address(Field::VeInformationAddress, 4096)?;
    }
    if c.secondary.contains(Secondary::TSC_SCALING) {
        c.ensure(
            c.get(Field::TscMultiplier) != 0,
            Field::TscMultiplier,
            "the multiplier is 0",
        )?;
    }
    if c.secondary.contains(Secondary::VM_FUNCTIONS) && c.get(Field::VmFunctionControls) & 1 != 0 {
        c.agree(
            c.secondary.contains(Secondary::EPT),
            Field::VmFunctionControls,
            Field::SecondaryControls,
            "EPTP switching needs EPT",
        )?;
        c.address(Field::EptpListAddress, 4096)?;
    }
    Ok(())
}
