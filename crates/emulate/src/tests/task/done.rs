//! What a switch does when all is in order.

use super::*;

#[test]
fn everything_of_the_new_task_is_loaded() {
    let mut machine = Machine::new();
    assert_eq!(machine.switch_by(Source::Call), RUNS);
    let state = &machine.state;
    assert_eq!(state.eip, 0x200);
    assert_eq!(
        state.gpr,
        [0xb0, 0xb1, 0xb2, 0xb3, 0x7000, 0xb5, 0xb6, 0xb7]
    );
    let code = state.segments[CS];
    assert_eq!((code.selector, code.access), (CODE, 0xc09b));
    assert_eq!((code.limit, code.base), (0xffff_ffff, 0));
    for number in [ES, SS, DS] {
        let data = state.segments[number];
        assert_eq!((data.selector, data.access), (DATA, 0xc093));
    }
    for number in [FS, GS, LDTR] {
        assert_ne!(
            state.segments[number].access & UNUSABLE,
            0,
            "{number} is null"
        );
    }
    let task = state.segments[TR];
    assert_eq!((task.selector, task.access), (NEW_TASK, 0x8b));
    assert_eq!((task.limit, task.base), (0x67, NEW as u64));
}

#[test]
fn the_old_task_is_saved_where_it_goes_on() {
    let mut machine = Machine::new();
    machine.memory.put32(OLD + 0x48, 0xdead_0000);
    machine.switch_by(Source::Call);
    let at = |offset| machine.memory.get32(OLD + offset);
    assert_eq!((at(0x20), at(0x24)), (0x107, 0x202));
    for number in 0..8 {
        assert_eq!(at(0x28 + number * 4), 0xa0 + number as u32);
    }
    assert_eq!(
        at(0x48),
        0xdead_0000 | u32::from(DATA),
        "the half of a selector alone"
    );
    assert_eq!(at(0x4c), CODE.into());
    assert_eq!(at(0x5c), DATA.into());
    assert_eq!((at(0x1c), at(0x60)), (0, 0), "CR3 and LDTR are not saved");
}

#[test]
fn call_and_gates_nest_and_leave_the_old_task_busy() {
    for source in [Source::Call, INTERRUPT, SOFTWARE] {
        let mut machine = Machine::new();
        machine.switch_by(source);
        assert_ne!(machine.state.eflags & NT, 0);
        assert_eq!(machine.memory.get16(NEW), OLD_TASK, "the link");
        assert_eq!(machine.rights(OLD_TASK), 0x8b);
        assert_eq!(machine.rights(NEW_TASK), 0x8b);
    }
}

#[test]
fn jump_does_not_nest_and_releases_the_old_task() {
    let mut machine = Machine::new();
    machine.memory.put16(NEW, 0x7777);
    machine.switch_by(Source::Jump);
    assert_eq!(machine.state.eflags, 0x46);
    assert_eq!(machine.memory.get16(NEW), 0x7777, "no link");
    assert_eq!(machine.rights(OLD_TASK), 0x89);
    assert_eq!(machine.rights(NEW_TASK), 0x8b);
}

#[test]
fn jump_takes_nt_from_the_new_task() {
    let mut machine = Machine::new();
    machine.memory.put32(NEW + 0x24, NT | 2);
    machine.switch_by(Source::Jump);
    assert_eq!(machine.state.eflags, NT | 2);
}

#[test]
fn return_releases_the_old_task_and_clears_its_saved_nt() {
    let mut machine = Machine::new();
    machine.set_rights(NEW_TASK, 0x8b);
    machine.state.eflags |= NT;
    assert_eq!(machine.switch_by(Source::Return), RUNS);
    assert_eq!(machine.memory.get32(OLD + 0x24), 0x202);
    assert_eq!(machine.rights(OLD_TASK), 0x89);
    assert_eq!(machine.rights(NEW_TASK), 0x8b);
    assert_eq!(machine.state.eflags & NT, 0);
}

#[test]
fn call_saves_nt_as_it_was() {
    let mut machine = Machine::new();
    machine.state.eflags |= NT;
    machine.switch_by(Source::Call);
    assert_eq!(machine.memory.get32(OLD + 0x24), 0x202 | NT);
}

#[test]
fn ts_is_set_and_local_breakpoints_are_cleared() {
    let mut machine = Machine::new();
    machine.switch_by(Source::Jump);
    assert_eq!(machine.state.cr0, 1 | 8);
    assert_eq!(machine.state.dr7, 0x6aa);
}

#[test]
fn undefined_flags_are_dropped() {
    let mut machine = Machine::new();
    machine.memory.put32(NEW + 0x24, !VM);
    machine.switch_by(Source::Jump);
    assert_eq!(machine.state.eflags, 0x003f_7fd7 & !VM);
}

#[test]
fn cr3_is_loaded_only_with_paging() {
    let mut machine = Machine::new();
    machine.switch_by(Source::Jump);
    assert_eq!(machine.state.cr3, 0x5000);
    let mut machine = Machine::new().with_paging();
    machine.memory.put32(NEW + 0x1c, TABLES as u32 | 0x18);
    assert_eq!(machine.switch_by(Source::Jump), RUNS);
    assert_eq!(machine.state.cr3, TABLES as u64 | 0x18);
}

#[test]
fn a_tss_of_16_bits_has_no_cr3_no_fs_and_no_upper_halves() {
    let mut machine = Machine::new().with_paging();
    machine.narrow();
    machine.state.segments[FS].selector = CODE;
    assert_eq!(machine.switch_by(Source::Jump), RUNS);
    let state = &machine.state;
    assert_eq!((state.eip, state.eflags), (0x300, 0x7fd7));
    assert_eq!(
        state.gpr,
        [0xc0, 0xc1, 0xc2, 0xc3, 0x7000, 0xc5, 0xc6, 0xc7]
    );
    assert_eq!(state.segments[DS].selector, DATA);
    assert_eq!(
        (state.segments[FS].selector, state.segments[GS].selector),
        (0, 0)
    );
    assert_eq!(state.cr3, TABLES as u64);
    assert_eq!(state.segments[TR].access, 0x83);
}

#[test]
fn a_tss_of_16_bits_gets_lower_halves() {
    let mut machine = Machine::new();
    machine.state.segments[TR].access = 0x83;
    machine.state.segments[TR].limit = 0x2b;
    machine.state.gpr[0] = 0x1234_5678;
    machine.state.segments[DS].selector = 0x23;
    machine.set_rights(OLD_TASK, 0x83);
    machine.memory.put16(OLD + 0x2a, 0x7777);
    machine.switch_by(Source::Jump);
    let at = |offset| machine.memory.get16(OLD + offset);
    assert_eq!((at(0x0e), at(0x10), at(0x12)), (0x107, 0x202, 0x5678));
    assert_eq!(
        (at(0x22), at(0x24), at(0x26), at(0x28)),
        (DATA, CODE, DATA, 0x23)
    );
    assert_eq!(at(0x2a), 0x7777, "LDTR is not saved");
    assert_eq!(machine.rights(OLD_TASK), 0x81);
}

#[test]
fn a_task_has_a_local_table() {
    let mut machine = Machine::new();
    machine.memory.put32(NEW + 0x60, LOCAL.into());
    machine.memory.put32(NEW + 0x54, 0xc);
    machine
        .memory
        .put(LDT + 8, &descriptor(0x1_2340, 0x123, 0x92).to_le_bytes());
    assert_eq!(machine.switch_by(Source::Jump), RUNS);
    let table = machine.state.segments[LDTR];
    assert_eq!((table.selector, table.access), (LOCAL, 0x82));
    assert_eq!((table.limit, table.base), (0xf, LDT as u64));
    let data = machine.state.segments[DS];
    assert_eq!((data.limit, data.base), (0x123, 0x1_2340));
    assert_eq!(data.access, 0x93, "accessed");
    assert_eq!(
        machine.memory.0.borrow()[LDT + 13],
        0x93,
        "in the table too"
    );
}

#[test]
fn a_task_in_virtual_8086_mode_has_its_segments() {
    let mut machine = Machine::new();
    machine.memory.put32(NEW + 0x24, VM | 2);
    assert_eq!(machine.switch_by(Source::Jump), RUNS);
    let code = machine.state.segments[CS];
    assert_eq!((code.access, code.limit), (0xf3, 0xffff));
    assert_eq!(code.base, u64::from(CODE) << 4);
}

#[test]
fn a_tss_may_lie_across_pages() {
    let mut machine = Machine::new().with_paging();
    let bytes = machine.memory.0.borrow()[NEW..NEW + 0x68].to_vec();
    // Two pages that follow each other at linear addresses only.
    machine.memory.put(0x5fc0, &bytes[..0x40]);
    machine.memory.put(0x7000, &bytes[0x40..]);
    machine.memory.put32(TABLES + 0x1000 + 6 * 4, 0x7007);
    machine.describe(NEW_TASK, descriptor(0x5fc0, 0x67, 0x89));
    assert_eq!(machine.switch_by(Source::Call), RUNS);
    assert_eq!(machine.state.segments[CS].selector, CODE);
    assert_eq!(machine.state.gpr[0], 0xb0);
}

#[test]
fn a_task_goes_there_and_back() {
    let mut machine = Machine::new();
    let before = machine.state;
    machine.switch_by(Source::Call);
    let back = machine.memory.get16(NEW);
    assert_eq!(machine.switch_to(back, Source::Return), RUNS);
    let expected = State {
        eip: 0x107,
        cr0: before.cr0 | 8,
        dr7: before.dr7 & !0x155,
        ..before
    };
    assert_eq!(machine.state.gpr, expected.gpr);
    assert_eq!(machine.state, expected);
}
