//! Task switches. Memory is 64 KiB, one to one; the GDT is at 0x1000, the old task at 0x2000, the new
//! one at 0x3000.

mod done;
mod new;
mod old;

use std::cell::RefCell;

use acrn_abi::{Gpa, Gva};
use proptest::prelude::*;

use crate::paging::GuestPhysical;
use crate::task::segment::{CS, DS, ES, FS, GS, LDTR, SS, TR};
use crate::task::*;

const SIZE: usize = 0x1_0000;
const GDT: usize = 0x1000;
const OLD: usize = 0x2000;
const NEW: usize = 0x3000;
const LDT: usize = 0x4000;
const TABLES: usize = 0x8000;

const OLD_TASK: u16 = 0x08;
const NEW_TASK: u16 = 0x10;
const CODE: u16 = 0x18;
const DATA: u16 = 0x20;
const USER_CODE: u16 = 0x2b;
const USER_DATA: u16 = 0x33;
const LOCAL: u16 = 0x38;
const SPARE: u16 = 0x40;

const NT: u32 = 1 << 14;
const VM: u32 = 1 << 17;
const UNUSABLE: u32 = 1 << 16;
const PG: u64 = 1 << 31;
const WP: u64 = 1 << 16;
const PAE: u64 = 1 << 5;

#[derive(Clone)]
struct Memory(RefCell<Vec<u8>>);

impl Memory {
    fn range(&self, gpa: Gpa, length: usize) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(gpa.0).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.0.borrow().len()).then_some(start..end)
    }
    fn put(&self, at: usize, bytes: &[u8]) {
        self.0.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn put16(&self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }
    fn put32(&self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }
    fn get16(&self, at: usize) -> u16 {
        let bytes = self.0.borrow();
        u16::from_le_bytes([bytes[at], bytes[at + 1]])
    }
    fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) | u32::from(self.get16(at + 2)) << 16
    }
}

impl GuestPhysical for Memory {
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes)
            .then(|| u32::from_le_bytes(bytes))
    }
}

impl GuestMemory for Memory {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> bool {
        let Some(range) = self.range(gpa, buffer.len()) else {
            return false;
        };
        buffer.copy_from_slice(&self.0.borrow()[range]);
        true
    }
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool {
        let Some(range) = self.range(gpa, bytes.len()) else {
            return false;
        };
        self.0.borrow_mut()[range].copy_from_slice(bytes);
        true
    }
}

/// A descriptor with a limit in bytes.
fn descriptor(base: usize, limit: u32, access: u32) -> u64 {
    let (base, limit, access) = (base as u64, u64::from(limit), u64::from(access));
    limit & 0xffff
        | (limit & 0xf_0000) << 32
        | (base & 0xff_ffff) << 16
        | (base >> 24) << 56
        | access << 40
}

/// A processor in the old task, and what it can switch to.
#[derive(Clone)]
struct Machine {
    memory: Memory,
    state: State,
}

impl Machine {
    /// Tasks of 32 bits at privilege level 0, without paging.
    fn new() -> Self {
        let memory = Memory(RefCell::new(vec![0; SIZE]));
        let plain = |selector, access| SegmentRegister {
            selector,
            access,
            limit: 0xffff_ffff,
            base: 0,
        };
        let data = plain(DATA, 0xc093);
        let state = State {
            cr0: 1,
            cr3: 0x5000,
            cr4: 0,
            efer: 0,
            physical_bits: 40,
            dr6: 0xffff_0ff0,
            dr7: 0x7ff,
            eip: 0x100,
            eflags: 0x202,
            gpr: [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7],
            segments: [
                data,
                plain(CODE, 0xc09b),
                data,
                data,
                data,
                data,
                SegmentRegister {
                    access: UNUSABLE,
                    ..SegmentRegister::default()
                },
                SegmentRegister {
                    selector: OLD_TASK,
                    access: 0x8b,
                    limit: 0x67,
                    base: OLD as u64,
                },
            ],
            gdt: (GDT as u64, 0x7f),
        };
        let machine = Self { memory, state };
        machine.describe(OLD_TASK, descriptor(OLD, 0x67, 0x8b));
        machine.describe(NEW_TASK, descriptor(NEW, 0x67, 0x89));
        machine.describe(CODE, descriptor(0, 0xf_ffff, 0xc09b));
        machine.describe(DATA, descriptor(0, 0xf_ffff, 0xc093));
        machine.describe(USER_CODE, descriptor(0, 0xf_ffff, 0xc0fb));
        machine.describe(USER_DATA, descriptor(0, 0xf_ffff, 0xc0f3));
        machine.describe(LOCAL, descriptor(LDT, 0xf, 0x82));
        for (offset, value) in [
            (0x1c, 0x6000),
            (0x20, 0x200),
            (0x24, 0x46),
            (0x48, DATA.into()),
            (0x4c, CODE.into()),
            (0x50, DATA.into()),
            (0x54, DATA.into()),
        ] {
            machine.memory.put32(NEW + offset, value);
        }
        for number in 0..8 {
            machine
                .memory
                .put32(NEW + 0x28 + number * 4, 0xb0 + number as u32);
        }
        machine.memory.put32(NEW + 0x38, 0x7000);
        machine
    }

    fn describe(&self, selector: u16, descriptor: u64) {
        let at = GDT + usize::from(selector & 0xfff8);
        self.memory.put(at, &descriptor.to_le_bytes());
    }

    fn rights(&self, selector: u16) -> u8 {
        self.memory.0.borrow()[GDT + usize::from(selector & 0xfff8) + 5]
    }

    fn set_rights(&self, selector: u16, rights: u8) {
        self.memory
            .put(GDT + usize::from(selector & 0xfff8) + 5, &[rights]);
    }

    /// Makes the new task one of 16 bits.
    fn narrow(&self) {
        self.describe(NEW_TASK, descriptor(NEW, 0x2b, 0x81));
        let words = [
            0x300, 0x7fd5, 0xc0, 0xc1, 0xc2, 0xc3, 0x7000, 0xc5, 0xc6, 0xc7, DATA, CODE, DATA,
            DATA, 0,
        ];
        for (number, word) in words.into_iter().enumerate() {
            self.memory.put16(NEW + 0x0e + number * 2, word);
        }
    }

    /// Tables of two levels, one to one in small pages; the new task's are the same.
    fn with_paging(mut self) -> Self {
        self.state.cr0 |= PG | WP;
        self.state.cr3 = TABLES as u64;
        self.memory.put32(NEW + 0x1c, TABLES as u32);
        self.memory.put32(TABLES, TABLES as u32 + 0x1007);
        for page in 0..16 {
            self.set_page(page, 7);
        }
        self
    }

    /// Bits of the entry for a page.
    fn set_page(&self, page: usize, bits: u32) {
        let entry = (page as u32) << 12 | bits;
        self.memory.put32(TABLES + 0x1000 + page * 4, entry);
    }

    fn switch_by(&mut self, source: Source) -> Outcome {
        self.switch_to(NEW_TASK, source)
    }

    fn switch_to(&mut self, selector: u16, source: Source) -> Outcome {
        let request = Request {
            selector,
            source,
            return_eip: 0x107,
        };
        switch(&mut self.state, &request, &self.memory).expect("memory everywhere")
    }

    /// The fault of a switch that leaves state and memory as they were.
    fn refused(&mut self, source: Source) -> (u8, u32) {
        self.refused_to(NEW_TASK, source)
    }

    fn refused_to(&mut self, selector: u16, source: Source) -> (u8, u32) {
        let before = self.clone();
        let outcome = self.switch_to(selector, source);
        assert!(!outcome.switched, "the old task goes on");
        assert_eq!(self.state, before.state);
        assert_eq!(self.memory.0, before.memory.0, "nothing is written");
        raised(outcome)
    }

    /// The fault of a switch behind its point of no return.
    fn faulted(&mut self, source: Source) -> (u8, u32) {
        let outcome = self.switch_by(source);
        assert!(outcome.switched, "it is the new task's");
        assert_eq!(self.state.segments[TR].selector, NEW_TASK);
        raised(outcome)
    }
}

fn raised(outcome: Outcome) -> (u8, u32) {
    match outcome.next {
        Next::Raise(fault) => (fault.vector, fault.error_code.unwrap_or(0)),
        other => panic!("no fault but {other:?}"),
    }
}

const RUNS: Outcome = Outcome {
    switched: true,
    next: Next::Run,
};

const fn gate(kind: EventKind, vector: u8, error_code: Option<u32>) -> Source {
    Source::Gate(Event {
        kind,
        vector,
        error_code,
    })
}

const INTERRUPT: Source = gate(EventKind::External, 0x40, None);
const SOFTWARE: Source = gate(EventKind::Software, 0x40, None);
const PROTECTION_FAULT: Source = gate(EventKind::Exception, 13, Some(0xbad0));

fn source() -> impl Strategy<Value = Source> {
    let kind = prop_oneof![
        Just(EventKind::External),
        Just(EventKind::Nmi),
        Just(EventKind::Exception),
        Just(EventKind::Software),
    ];
    let event = (kind, 0u8..32, proptest::option::of(any::<u32>()));
    prop_oneof![
        Just(Source::Call),
        Just(Source::Return),
        Just(Source::Jump),
        event.prop_map(|(kind, vector, error_code)| gate(kind, vector, error_code)),
    ]
}

proptest! {
    /// Damages a good machine in some places.
    #[test]
    fn damaged_tasks_do_not_panic_and_give_a_state_that_can_be_entered(
        source in source(),
        busy in any::<bool>(),
        paging in any::<bool>(),
        narrow in any::<bool>(),
        damage in proptest::collection::vec((0usize..0x300, any::<u8>()), 0..8),
    ) {
        let mut machine = Machine::new();
        if narrow {
            machine.narrow();
        }
        if paging {
            machine = machine.with_paging();
        }
        if busy {
            let rights = machine.rights(NEW_TASK);
            machine.set_rights(NEW_TASK, rights | 2);
        }
        for (place, value) in damage {
            let at = [GDT, OLD, NEW, TABLES, TABLES + 0x1000, NEW + 0x40][place >> 7];
            machine.memory.put(at + (place & 0x7f), &[value]);
        }
        let before = machine.state;
        let request = Request { selector: NEW_TASK, source, return_eip: 0x107 };
        let Ok(outcome) = switch(&mut machine.state, &request, &machine.memory) else {
            return Ok(());
        };
        let state = &machine.state;
        if !outcome.switched {
            prop_assert_eq!(state, &before);
            return Ok(());
        }
        let (code, stack) = (state.segments[CS], state.segments[SS]);
        prop_assert_eq!(state.eflags & !0x003f_7fd7, 0);
        prop_assert_eq!(state.eflags & 2, 2);
        if state.eflags & VM == 0 {
            let conforming = code.access & 0x1c == 0x1c;
            let levels = (code.access >> 5 & 3, stack.access >> 5 & 3);
            prop_assert!(code.access & 0x1_0099 == 0x99, "{:x?}", code);
            prop_assert!(levels.0 == levels.1 || conforming && levels.0 < levels.1);
        }
        prop_assert_eq!(state.segments[TR].access & 0x1_0097, 0x83);
    }
}
