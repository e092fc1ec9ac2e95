//! Segments and stack of the new task, and its faults.

use super::*;

/// The fault of a new task whose selector at an offset of its TSS is of a descriptor.
fn fault_of(offset: usize, selector: u16, descriptor: u64) -> (u8, u32) {
    let mut machine = Machine::new();
    machine.describe(SPARE, descriptor);
    machine.memory.put32(NEW + offset, selector.into());
    machine.faulted(Source::Call)
}

const LDT_OFFSET: usize = 0x60;
const CS_OFFSET: usize = 0x4c;
const SS_OFFSET: usize = 0x50;
const DS_OFFSET: usize = 0x54;

fn spare(access: u32) -> u64 {
    descriptor(0, 0xf_ffff, access)
}

#[test]
fn page_directory_pointers_of_the_new_task_are_checked() {
    for (pointer, valid) in [
        (0xb001, true),
        (0xb003, false),
        (0xb002, true),
        (0xb021, false),
    ] {
        let mut machine = Machine::new();
        machine.state.cr0 |= PG;
        machine.state.cr4 = PAE;
        machine.state.cr3 = 0xa000;
        for at in [0xa000, 0xa020] {
            machine.memory.put32(at, 0xb001);
        }
        machine.memory.put32(0xa028, pointer);
        machine.memory.put32(0xb000, 0x83);
        machine.memory.put32(NEW + 0x1c, 0xa020);
        if valid {
            assert_eq!(machine.switch_by(Source::Jump), RUNS);
            assert_eq!(machine.state.cr3, 0xa020);
        } else {
            assert_eq!(machine.faulted(Source::Jump), (13, 0), "{pointer:#x}");
            assert_eq!(machine.state.cr3, 0xa000);
        }
    }
}

#[test]
fn segments_are_found_through_the_new_tables() {
    let mut machine = Machine::new().with_paging();
    machine.memory.put32(NEW + 0x1c, 0xa000);
    machine.memory.put32(0xa000, 0xb007);
    // The new tables have another page in place of the GDT's, without descriptors.
    machine.memory.put32(0xb000 + (GDT >> 12) * 4, 0xc007);
    assert_eq!(machine.faulted(Source::Jump), (10, CODE.into()));
    assert_eq!(machine.state.cr3, 0xa000);
}

#[test]
fn a_wrong_local_table_is_a_fault_of_the_new_task() {
    for (selector, descriptor) in [
        (SPARE, spare(0x92)),
        (SPARE, spare(0x02)),
        (LOCAL | 4, 0),
        (0x80, 0),
    ] {
        let found = fault_of(LDT_OFFSET, selector, descriptor);
        assert_eq!(found, (10, u32::from(selector)));
    }
}

#[test]
fn a_wrong_code_segment_is_a_fault_of_the_new_task() {
    let code = u32::from(SPARE);
    assert_eq!(fault_of(CS_OFFSET, 0, 0), (10, 0), "null");
    assert_eq!(fault_of(CS_OFFSET, 0x80, 0), (10, 0x80), "beyond the limit");
    assert_eq!(fault_of(CS_OFFSET, 0xc, 0), (10, 0xc), "no local table");
    assert_eq!(
        fault_of(CS_OFFSET, SPARE, spare(0xc093)),
        (10, code),
        "data"
    );
    assert_eq!(
        fault_of(CS_OFFSET, SPARE, spare(0xc0fb)),
        (10, code),
        "another level"
    );
    assert_eq!(
        fault_of(CS_OFFSET, SPARE, spare(0xc0ff)),
        (10, code),
        "conforming, below"
    );
    assert_eq!(
        fault_of(CS_OFFSET, SPARE, spare(0xc01b)),
        (11, code),
        "not present"
    );
}

#[test]
fn a_wrong_stack_segment_is_a_fault_of_the_new_task() {
    let code = u32::from(SPARE);
    assert_eq!(fault_of(SS_OFFSET, 0, 0), (10, 0), "null");
    assert_eq!(
        fault_of(SS_OFFSET, SPARE, spare(0xc091)),
        (10, code),
        "read-only"
    );
    assert_eq!(
        fault_of(SS_OFFSET, SPARE, spare(0xc09b)),
        (10, code),
        "code"
    );
    assert_eq!(
        fault_of(SS_OFFSET, SPARE, spare(0xc0f3)),
        (10, code),
        "another level"
    );
    assert_eq!(
        fault_of(SS_OFFSET, SPARE | 3, spare(0xc093)),
        (10, code),
        "RPL"
    );
    assert_eq!(
        fault_of(SS_OFFSET, SPARE, spare(0xc013)),
        (12, code),
        "not present"
    );
}

#[test]
fn a_wrong_data_segment_is_a_fault_of_the_new_task() {
    let code = u32::from(SPARE);
    assert_eq!(
        fault_of(DS_OFFSET, SPARE, spare(0xc099)),
        (10, code),
        "execute-only"
    );
    assert_eq!(
        fault_of(DS_OFFSET, SPARE, spare(0x82)),
        (10, code),
        "a local table"
    );
    assert_eq!(
        fault_of(DS_OFFSET, SPARE | 3, spare(0xc093)),
        (10, code),
        "RPL"
    );
    assert_eq!(
        fault_of(DS_OFFSET, SPARE, spare(0xc013)),
        (11, code),
        "not present"
    );
    for offset in [0x48, 0x58, 0x5c] {
        assert_eq!(
            fault_of(offset, SPARE, spare(0x82)),
            (10, code),
            "{offset:#x}"
        );
    }
}

#[test]
fn conforming_code_is_data_for_everybody() {
    let mut machine = Machine::new();
    machine.describe(SPARE, spare(0xc09f));
    for (offset, selector) in [
        (0x4c, USER_CODE),
        (0x50, USER_DATA),
        (0x54, SPARE | 3),
        (0x48, 0),
    ] {
        machine.memory.put32(NEW + offset, selector.into());
    }
    assert_eq!(machine.switch_by(Source::Call), RUNS);
    assert_eq!(machine.state.segments[DS].selector, SPARE | 3);
}

#[test]
fn a_task_runs_at_the_level_of_its_code() {
    let mut machine = Machine::new();
    for (offset, selector) in [
        (0x4c, USER_CODE),
        (0x50, USER_DATA),
        (0x54, DATA),
        (0x48, 0),
    ] {
        machine.memory.put32(NEW + offset, selector.into());
    }
    assert_eq!(
        machine.faulted(Source::Call),
        (10, DATA.into()),
        "DS is not for level 3"
    );
    assert_eq!(machine.state.segments[SS].access, 0xc0f3);
    assert_eq!(machine.state.segments[DS].access & UNUSABLE, UNUSABLE);
}

#[test]
fn before_code_and_stack_are_loaded_the_level_is_3() {
    for (offset, selector) in [(CS_OFFSET, 0), (SS_OFFSET, 0), (LDT_OFFSET, 0x80)] {
        let mut machine = Machine::new();
        machine.memory.put32(NEW + offset, selector);
        machine.faulted(Source::Call);
        let (code, stack) = (machine.state.segments[CS], machine.state.segments[SS]);
        assert_eq!((code.access >> 5 & 3, stack.access >> 5 & 3), (3, 3));
        assert_eq!(stack.access & UNUSABLE, UNUSABLE);
        assert_eq!(code.access & UNUSABLE, 0, "code is never unusable");
        assert_eq!(machine.state.eip, 0x200, "other registers are loaded");
    }
}

#[test]
fn an_error_code_goes_to_the_new_stack() {
    let mut machine = Machine::new();
    assert_eq!(machine.switch_by(PROTECTION_FAULT), RUNS);
    assert_eq!(machine.state.gpr[4], 0x6ffc);
    assert_eq!(machine.memory.get32(0x6ffc), 0xbad0);
}

#[test]
fn an_error_code_of_a_task_of_16_bits_has_16_bits() {
    let mut machine = Machine::new();
    machine.narrow();
    assert_eq!(machine.switch_by(PROTECTION_FAULT), RUNS);
    assert_eq!(machine.state.gpr[4], 0x6ffe);
    assert_eq!(machine.memory.get16(0x6ffe), 0xbad0);
}

#[test]
fn a_stack_pointer_of_16_bits_wraps() {
    let mut machine = Machine::new();
    machine.describe(SPARE, descriptor(0, 0xffff, 0x93));
    machine.memory.put32(NEW + SS_OFFSET, SPARE.into());
    machine.memory.put32(NEW + 0x38, 0xabcd_0000);
    assert_eq!(machine.switch_by(PROTECTION_FAULT), RUNS);
    assert_eq!(machine.state.gpr[4], 0xabcd_fffc);
    assert_eq!(machine.memory.get32(0xfffc), 0xbad0);
}

#[test]
fn an_error_code_has_to_fit_on_the_stack() {
    // Limit, rights, ESP, whether it fits.
    for (limit, access, top, fits) in [
        (0x6fff, 0x4093, 0x7000, true),
        (0x6ffe, 0x4093, 0x7000, false),
        (0x6fff, 0x4093, 2, false),
        (0x6ffb, 0x4097, 0x7000, true),
        (0x6ffc, 0x4097, 0x7000, false),
    ] {
        let mut machine = Machine::new();
        machine.describe(SPARE, descriptor(0, limit, access));
        machine.memory.put32(NEW + SS_OFFSET, SPARE.into());
        machine.memory.put32(NEW + 0x38, top);
        // Not a contributory exception, so that the second is seen.
        let alignment = gate(EventKind::Exception, 17, Some(0));
        if fits {
            assert_eq!(machine.switch_by(alignment), RUNS);
        } else {
            assert_eq!(machine.faulted(alignment), (12, 1));
            assert_eq!(machine.state.gpr[4], top);
        }
    }
}

#[test]
fn an_error_code_is_pushed_with_the_rights_of_the_new_task() {
    let alignment = gate(EventKind::Exception, 17, Some(0));
    for (bits, code) in [(3, 7), (7, 0)] {
        let mut machine = Machine::new().with_paging();
        for (offset, selector) in [(0x4c, USER_CODE), (0x50, USER_DATA), (0x54, 0), (0x48, 0)] {
            machine.memory.put32(NEW + offset, selector.into());
        }
        machine.set_page(6, bits);
        match code {
            0 => assert_eq!(machine.switch_by(alignment), RUNS),
            _ => assert_eq!(machine.faulted(alignment), (14, code)),
        }
    }
}

#[test]
fn the_t_flag_is_a_debug_exception_in_the_new_task() {
    let mut machine = Machine::new();
    machine.memory.put16(NEW + 0x64, 1);
    assert_eq!(machine.faulted(Source::Call), (1, 0));
    assert_eq!(machine.state.dr6, 0xffff_8ff0);
    assert_eq!(machine.state.segments[DS].selector, DATA);
}
