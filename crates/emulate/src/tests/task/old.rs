//! Faults of the old task, and of either while something is delivered.

use super::*;

#[test]
fn a_wrong_selector_is_a_fault_of_the_old_task() {
    for (source, vector) in [(Source::Call, 13), (Source::Jump, 13), (Source::Return, 10)] {
        for selector in [0x80, 0x14, CODE, LOCAL, SPARE] {
            let code = u32::from(selector);
            assert_eq!(Machine::new().refused_to(selector, source), (vector, code));
        }
        assert_eq!(Machine::new().refused_to(3, source), (vector, 0), "null");
    }
}

#[test]
fn only_return_goes_to_a_busy_task() {
    let code = u32::from(NEW_TASK);
    for source in [Source::Call, Source::Jump, SOFTWARE] {
        let mut machine = Machine::new();
        machine.set_rights(NEW_TASK, 0x8b);
        assert_eq!(machine.refused(source), (13, code));
    }
    assert_eq!(Machine::new().refused(Source::Return), (10, code));
}

#[test]
fn a_task_that_is_not_present_is_a_fault_of_the_old_one() {
    let mut machine = Machine::new();
    machine.set_rights(NEW_TASK, 0x09);
    assert_eq!(machine.refused(Source::Call), (11, NEW_TASK.into()));
}

#[test]
fn a_tss_that_is_too_small_is_a_fault_of_the_old_task() {
    for (limit, access, refused) in [
        (0x66, 0x89, true),
        (0x67, 0x89, false),
        (0x2a, 0x81, true),
        (0x2b, 0x81, false),
    ] {
        let mut machine = Machine::new();
        machine.narrow();
        machine.memory.put32(NEW + 0x48, DATA.into());
        machine.memory.put32(NEW + 0x4c, CODE.into());
        machine.memory.put32(NEW + 0x60, 0);
        machine.describe(NEW_TASK, descriptor(NEW, limit, access));
        if refused {
            assert_eq!(machine.refused(Source::Jump), (10, NEW_TASK.into()));
        } else {
            assert!(machine.switch_by(Source::Jump).switched);
        }
    }
}

#[test]
fn an_old_tss_that_cannot_hold_the_state_is_a_fault() {
    let mut machine = Machine::new();
    machine.state.segments[TR].limit = 0x5e;
    assert_eq!(machine.refused(Source::Call), (10, OLD_TASK.into()));
    machine.state.segments[TR].limit = 0x5f;
    assert!(machine.switch_by(Source::Call).switched);
    let mut machine = Machine::new();
    machine.state.segments[TR].selector = 0x88;
    assert_eq!(
        machine.refused(Source::Jump),
        (10, 0x88),
        "no descriptor to release"
    );
    assert!(machine.switch_by(Source::Call).switched);
}

#[test]
fn error_codes_say_what_is_external() {
    for (source, code) in [(Source::Call, 0), (SOFTWARE, 0), (INTERRUPT, 1)] {
        let mut machine = Machine::new();
        machine.set_rights(NEW_TASK, 0x09);
        assert_eq!(machine.refused(source), (11, u32::from(NEW_TASK) | code));
        let mut machine = Machine::new();
        machine.memory.put32(NEW + 0x54, LOCAL.into());
        assert_eq!(machine.faulted(source), (10, u32::from(LOCAL) | code));
    }
}

#[test]
fn there_are_no_tasks_in_long_mode() {
    let mut machine = Machine::new();
    machine.state.efer = 1 << 10;
    assert_eq!(machine.refused(Source::Call), (13, NEW_TASK.into()));
}

#[test]
fn pages_are_there_before_anything_is_written() {
    // Page, its bits, what switches, error code: 1 present, 2 write.
    for (page, bits, source, code) in [
        (GDT >> 12, 0, Source::Call, 0),
        (GDT >> 12, 1, Source::Call, 3),
        (OLD >> 12, 0, Source::Call, 2),
        (OLD >> 12, 5, Source::Jump, 3),
        (NEW >> 12, 0, Source::Jump, 0),
        (NEW >> 12, 1, INTERRUPT, 3),
    ] {
        let mut machine = Machine::new().with_paging();
        machine.set_page(page, bits);
        assert_eq!(
            machine.refused(source),
            (14, code),
            "page {page}, bits {bits}"
        );
    }
    let mut machine = Machine::new().with_paging();
    machine.set_page(NEW >> 12, 1);
    assert_eq!(machine.switch_by(Source::Jump), RUNS, "no link is written");
}

#[test]
fn a_page_fault_says_where() {
    let mut machine = Machine::new().with_paging();
    machine.set_page(OLD >> 12, 0);
    let Next::Raise(fault) = machine.switch_by(Source::Call).next else {
        panic!("no fault");
    };
    assert_eq!(fault.address, Some(Gva(OLD as u64 + 0x20)));
}

#[test]
fn a_fault_while_an_exception_is_delivered_may_be_a_double_fault() {
    let page_fault = gate(EventKind::Exception, 14, Some(2));
    let undefined = gate(EventKind::Exception, 6, None);
    let absent = |source| {
        let mut machine = Machine::new();
        machine.set_rights(NEW_TASK, 0x09);
        machine.refused(source)
    };
    let no_page = |source| {
        let mut machine = Machine::new().with_paging();
        machine.set_page(OLD >> 12, 0);
        machine.refused(source)
    };
    let single = (11, u32::from(NEW_TASK) | 1);
    assert_eq!(absent(PROTECTION_FAULT), (8, 0));
    assert_eq!(absent(page_fault), (8, 0));
    assert_eq!(absent(undefined), single);
    assert_eq!(
        absent(gate(EventKind::External, 13, None)),
        single,
        "no exception"
    );
    assert_eq!(no_page(PROTECTION_FAULT), (14, 2));
    assert_eq!(no_page(page_fault), (8, 0));
}

#[test]
fn a_fault_while_a_double_fault_is_delivered_is_the_end() {
    let mut machine = Machine::new();
    machine.set_rights(NEW_TASK, 0x09);
    let outcome = machine.switch_by(gate(EventKind::Exception, 8, Some(0)));
    assert_eq!(outcome.next, Next::Shutdown);
}

#[test]
fn tables_without_memory_are_no_fault() {
    let mut machine = Machine::new();
    machine.describe(NEW_TASK, descriptor(SIZE, 0x67, 0x89));
    let request = Request {
        selector: NEW_TASK,
        source: Source::Jump,
        return_eip: 0,
    };
    let found = switch(&mut machine.state, &request, &machine.memory);
    assert_eq!(found, Err(NoMemory(Gpa(SIZE as u64))));
}
