//! Each check of 27.2.1, broken.

use super::super::execution::{NEED_ONE, TOO_MANY};
use super::*;

const EXECUTION: &str = "27.2.1.1";
const EXIT: &str = "27.2.1.2";
const ENTRY: &str = "27.2.1.3";
const UNALIGNED: &str = "the address is not aligned";
const TOO_WIDE: &str = "the address is wider than the processor's physical addresses";

/// Breaks a valid VMCS of a 64-bit guest and says what has to be found.
#[track_caller]
fn broken(field: Field, reason: &str, section: &str, change: impl Fn(&mut Fields)) {
    let mut f = long_mode();
    change(&mut f);
    fails(&f, field, reason, section);
}

#[test]
fn control_words_keep_to_the_capability_msrs() {
    for (field, section, missing, absent) in [
        (Field::PinControls, EXECUTION, 2, None),
        (Field::PrimaryControls, EXECUTION, 2, None),
        (Field::SecondaryControls, EXECUTION, 0, Some(1u64 << 31)),
        (Field::ExitControls, EXIT, 1, None),
        (Field::EntryControls, ENTRY, 1, Some(1 << 31)),
    ] {
        if missing != 0 {
            broken(field, NEED_ONE, section, |f| {
                f.take(field, missing);
            });
        }
        if let Some(bit) = absent {
            broken(field, TOO_MANY, section, |f| {
                f.add(field, bit);
            });
        }
    }
    // Nothing is absent from the others of the full processor.
    for (field, bit, section) in [
        (Field::PinControls, 1 << 31, EXECUTION),
        (Field::PrimaryControls, 1 << 2, EXECUTION),
        (Field::ExitControls, 1 << 31, EXIT),
    ] {
        let mut c = capabilities();
        c.pin.may &= !(1 << 31);
        c.primary.may &= !(1 << 2);
        c.exit.may &= !(1 << 31);
        let mut f = long_mode();
        f.add(field, bit);
        let failed = check_with(&f, &c).unwrap();
        assert_eq!(
            (failed.field, failed.reason, failed.section),
            (field, TOO_MANY, section)
        );
    }
}

#[test]
fn there_are_as_many_cr3_targets_as_the_processor_has() {
    let field = Field::Cr3TargetCount;
    assert_eq!(check(long_mode().set(field, 4)), None);
    let reason = "more CR3 targets than the processor has";
    broken(field, reason, EXECUTION, |f| {
        f.set(field, 5);
    });
}

#[test]
fn addresses_of_structures_are_aligned_and_in_memory() {
    type Enable = fn(&mut Fields);
    let cases: &[(Field, u64, Enable)] = &[
        (Field::IoBitmapA, 0x800, |_| {}),
        (Field::IoBitmapB, 1, |_| {}),
        (Field::MsrBitmap, 0x10, |_| {}),
        (Field::VirtualApicAddress, 0x100, |_| {}),
        (Field::ApicAccessAddress, 0x10, |f| {
            f.secondary(Secondary::APIC_ACCESSES);
        }),
        (Field::PostedInterruptDescriptor, 0x20, posted),
        (Field::PmlAddress, 0x200, |f| {
            f.secondary(Secondary::PML);
        }),
        (Field::VmreadBitmap, 0x200, |f| {
            f.secondary(Secondary::VMCS_SHADOWING);
        }),
        (Field::VmwriteBitmap, 0x200, |f| {
            f.secondary(Secondary::VMCS_SHADOWING);
        }),
        (Field::VeInformationAddress, 0x200, |f| {
            f.secondary(Secondary::EPT_VIOLATION_VE);
        }),
        (Field::EptpListAddress, 0x200, |f| {
            f.secondary(Secondary::VM_FUNCTIONS);
            f.set(Field::VmFunctionControls, 1);
        }),
    ];
    for (field, bits, enable) in cases {
        let mut f = long_mode();
        enable(&mut f);
        assert_eq!(check(&f), None, "{field}");
        fails(f.clone().add(*field, *bits), *field, UNALIGNED, EXECUTION);
        fails(f.add(*field, 1 << 40), *field, TOO_WIDE, EXECUTION);
    }
}

#[test]
fn old_processors_have_structures_below_4_gib() {
    let mut c = capabilities();
    c.narrow_addresses = true;
    let mut f = long_mode();
    f.set(Field::MsrBitmap, 1 << 32);
    assert_eq!(check(&f), None);
    assert_eq!(check_with(&f, &c).unwrap().field, Field::MsrBitmap);
}

#[test]
fn what_needs_the_tpr_shadow_has_it() {
    for control in [
        Secondary::X2APIC_MODE,
        Secondary::APIC_REGISTERS,
        Secondary::INTERRUPT_DELIVERY,
    ] {
        broken(
            Field::SecondaryControls,
            "virtual x2APIC mode, APIC registers and interrupt delivery need the TPR shadow",
            EXECUTION,
            |f| {
                f.take(Field::PrimaryControls, Primary::TPR_SHADOW.bits().into());
                f.secondary(control);
            },
        );
    }
}

#[test]
fn the_tpr_threshold_is_a_priority_and_not_above_the_virtual_one() {
    let field = Field::TprThreshold;
    let reason = "bits above the four of a priority are set";
    broken(field, reason, EXECUTION, |f| {
        f.set(field, 0x10);
    });
    let mut f = long_mode();
    f.set(field, 5);
    assert_eq!(check(&f), None, "nobody knows the virtual priority");
    f.priority = Some(0x50);
    assert_eq!(check(&f), None);
    f.priority = Some(0x4f);
    let reason = "the threshold is above the virtual task priority";
    fails(&f, field, reason, EXECUTION);
    // Where interrupts are delivered virtually there is no threshold.
    f.secondary(Secondary::INTERRUPT_DELIVERY);
    assert_eq!(check(&f), None);
}

#[test]
fn virtual_nmis_and_their_window_need_nmi_exiting() {
    broken(
        Field::PinControls,
        "virtual NMIs need NMI exiting",
        EXECUTION,
        |f| {
            f.take(Field::PinControls, Pin::NMI.bits().into());
        },
    );
    broken(
        Field::PrimaryControls,
        "NMI-window exiting needs virtual NMIs",
        EXECUTION,
        |f| {
            f.take(Field::PinControls, Pin::VIRTUAL_NMIS.bits().into());
            f.primary(Primary::NMI_WINDOW);
        },
    );
}

#[test]
fn the_apic_is_virtualized_in_one_mode_only() {
    broken(
        Field::SecondaryControls,
        "APIC accesses and x2APIC mode are virtualized at once",
        EXECUTION,
        |f| {
            f.secondary(Secondary::APIC_ACCESSES | Secondary::X2APIC_MODE);
        },
    );
    broken(
        Field::SecondaryControls,
        "virtual-interrupt delivery needs external-interrupt exiting",
        EXECUTION,
        |f| {
            f.secondary(Secondary::INTERRUPT_DELIVERY);
            f.take(Field::PinControls, Pin::EXTERNAL_INTERRUPT.bits().into());
        },
    );
}

fn posted(f: &mut Fields) {
    f.add(Field::PinControls, Pin::POSTED_INTERRUPTS.bits().into())
        .secondary(Secondary::INTERRUPT_DELIVERY)
        .exit(Exits::ACKNOWLEDGE_INTERRUPT)
        .set(Field::PostedInterruptVector, 0xf2)
        .set(Field::PostedInterruptDescriptor, 0x1040);
}

#[test]
fn posted_interrupts_have_what_they_need() {
    broken(
        Field::PinControls,
        "posted interrupts need virtual-interrupt delivery",
        EXECUTION,
        |f| {
            posted(f);
            f.without(Secondary::INTERRUPT_DELIVERY);
        },
    );
    broken(
        Field::PinControls,
        "posted interrupts need \"acknowledge interrupt on exit\"",
        EXECUTION,
        |f| {
            posted(f);
            f.take(
                Field::ExitControls,
                Exits::ACKNOWLEDGE_INTERRUPT.bits().into(),
            );
        },
    );
    broken(
        Field::PostedInterruptVector,
        "a vector has only eight bits",
        EXECUTION,
        |f| {
            posted(f);
            f.set(Field::PostedInterruptVector, 0x100);
        },
    );
}

#[test]
fn a_vpid_is_not_0() {
    broken(Field::Vpid, "VPID 0 is the host's", EXECUTION, |f| {
        f.set(Field::Vpid, 0);
    });
}

#[test]
fn what_needs_ept_has_it() {
    for (control, reason) in [
        (
            Secondary::UNRESTRICTED_GUEST,
            "an unrestricted guest needs EPT",
        ),
        (
            Secondary::MODE_BASED_EXECUTE,
            "mode-based execute control needs EPT",
        ),
        (Secondary::PML, "page-modification logging needs EPT"),
    ] {
        broken(Field::SecondaryControls, reason, EXECUTION, |f| {
            f.without(Secondary::EPT | Secondary::UNRESTRICTED_GUEST)
                .secondary(control);
        });
    }
    broken(
        Field::VmFunctionControls,
        "EPTP switching needs EPT",
        EXECUTION,
        |f| {
            f.without(Secondary::EPT | Secondary::UNRESTRICTED_GUEST)
                .secondary(Secondary::VM_FUNCTIONS)
                .set(Field::VmFunctionControls, 1);
        },
    );
}

#[test]
fn an_ept_pointer_has_a_type_a_depth_and_nothing_else() {
    const FIELD: Field = Field::EptPointer;
    for (value, reason) in [
        (0x5000 | 3 << 3 | 1, "a memory type the processor has not"),
        (0x5000 | 2 << 3 | 6, "a page walk the processor cannot do"),
        (0x5000 | 5 << 3 | 6, "a page walk the processor cannot do"),
        (0x5000 | 3 << 3 | 6 | 1 << 7, "reserved bits are set"),
        (0x5000 | 3 << 3 | 6 | 1 << 40, "reserved bits are set"),
    ] {
        broken(FIELD, reason, EXECUTION, |f| {
            f.set(FIELD, value);
        });
    }
    for good in [3 << 3, 4 << 3 | 6, 3 << 3 | 6 | 1 << 6] {
        assert_eq!(check(long_mode().set(FIELD, 0x5000 | good)), None);
    }
    // What the capability MSR does not have.
    let mut c = capabilities();
    c.ept_vpid = 1 << 6 | 1 << 14;
    for (value, reason) in [
        (3 << 3, "a memory type the processor has not"),
        (4 << 3 | 6, "a page walk the processor cannot do"),
        (
            3 << 3 | 6 | 1 << 6,
            "accessed and dirty flags the processor has not",
        ),
    ] {
        let mut f = long_mode();
        f.set(FIELD, 0x5000 | value);
        assert_eq!(check_with(&f, &c).unwrap().reason, reason);
    }
}

#[test]
fn a_scaled_tsc_does_not_stand() {
    let mut f = long_mode();
    f.secondary(Secondary::TSC_SCALING)
        .set(Field::TscMultiplier, 1 << 48);
    assert_eq!(check(&f), None);
    f.set(Field::TscMultiplier, 0);
    let reason = "the multiplier is 0";
    fails(&f, Field::TscMultiplier, reason, EXECUTION);
}

#[test]
fn the_preemption_timer_is_saved_only_when_there_is_one() {
    broken(
        Field::ExitControls,
        "saving the VMX-preemption timer needs the timer",
        EXIT,
        |f| {
            f.exit(Exits::SAVE_PREEMPTION_TIMER);
        },
    );
}

#[test]
fn lists_of_msrs_are_aligned_and_end_in_memory() {
    for (count, address, section) in [
        (Field::ExitMsrStoreCount, Field::ExitMsrStoreAddress, EXIT),
        (Field::ExitMsrLoadCount, Field::ExitMsrLoadAddress, EXIT),
        (Field::EntryMsrLoadCount, Field::EntryMsrLoadAddress, ENTRY),
    ] {
        let mut f = long_mode();
        f.set(address, 8);
        assert_eq!(check(&f), None, "no list, no address");
        f.set(count, 2);
        fails(&f, address, UNALIGNED, section);
        f.set(address, 1 << 40);
        fails(&f, address, TOO_WIDE, section);
        f.set(address, (1 << 40) - 32);
        assert_eq!(check(&f), None);
        f.set(address, (1 << 40) - 16);
        fails(&f, address, "the list ends beyond memory", section);
    }
}

#[test]
fn controls_of_system_management_mode_are_0() {
    for control in [Entry::SMM, Entry::DUAL_MONITOR] {
        broken(
            Field::EntryControls,
            "controls of system-management mode outside of it",
            ENTRY,
            |f| {
                f.entry(control);
            },
        );
    }
}

const INFO: Field = Field::EntryInterruptionInfo;

#[test]
fn an_injected_event_has_a_kind_and_a_vector_of_that_kind() {
    for (event, reason) in [
        (1 << 8 | 3, "a reserved kind of event"),
        (2 << 8 | 3, "a vector that this kind of event has not"),
        (3 << 8 | 32, "a vector that this kind of event has not"),
        (7 << 8 | 1, "a vector that this kind of event has not"),
        (3 << 8 | 6 | 1 << 12, "reserved bits are set"),
        (3 << 8 | 6 | 1 << 30, "reserved bits are set"),
    ] {
        broken(INFO, reason, ENTRY, |f| {
            f.event(event);
        });
    }
    for good in [2 << 8 | 2, 3 << 8 | 6, 7 << 8] {
        assert_eq!(check(long_mode().event(good)), None, "{good:#x}");
    }
    let mut c = capabilities();
    c.primary.may &= !Primary::MONITOR_TRAP.bits();
    let failed = check_with(long_mode().event(7 << 8), &c).unwrap();
    assert_eq!(
        failed.reason,
        "a monitor trap flag that the processor has not"
    );
}

#[test]
fn an_error_code_goes_with_the_exceptions_that_have_one() {
    for (event, reason) in [
        (3 << 8 | 13, "no error code for an exception that has one"),
        (
            3 << 8 | 6 | 1 << 11,
            "an error code for an exception that has none",
        ),
        (
            2 << 8 | 2 | 1 << 11,
            "an error code with an event that has none",
        ),
    ] {
        broken(INFO, reason, ENTRY, |f| {
            f.event(event);
        });
    }
    for vector in [8, 10, 11, 12, 13, 14, 17] {
        let mut f = long_mode();
        f.event(3 << 8 | vector | 1 << 11);
        assert_eq!(check(&f), None, "vector {vector}");
    }
    let mut c = capabilities();
    c.any_error_code = true;
    assert_eq!(check_with(long_mode().event(3 << 8 | 13), &c), None);
    let mut f = real_mode();
    f.event(3 << 8 | 13);
    assert_eq!(check(&f), None, "none in real-address mode");
    f.event(3 << 8 | 13 | 1 << 11);
    fails(&f, INFO, "an error code in real-address mode", ENTRY);
    broken(
        Field::EntryExceptionErrorCode,
        "an error code has 16 bits",
        ENTRY,
        |f| {
            f.event(3 << 8 | 13 | 1 << 11)
                .set(Field::EntryExceptionErrorCode, 0x1_0000);
        },
    );
}

#[test]
fn software_events_have_the_length_of_an_instruction() {
    const FIELD: Field = Field::EntryInstructionLength;
    let reason = "no instruction that raises an event has this length";
    for kind in [4 << 8 | 0x80, 5 << 8 | 1, 6 << 8 | 3] {
        for length in [0, 16] {
            broken(FIELD, reason, ENTRY, |f| {
                f.event(kind).set(FIELD, length);
            });
        }
        assert_eq!(check(long_mode().event(kind).set(FIELD, 2)), None);
    }
    let mut c = capabilities();
    c.zero_length_injection = true;
    assert_eq!(check_with(long_mode().event(6 << 8 | 3), &c), None);
}
