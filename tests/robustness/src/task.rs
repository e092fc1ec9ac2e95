//! Task switches of a guest.
//!
//! The input is a list of changes to a good machine: tables of two levels, a GDT, two tasks.

use crate::Source;
use acrn_abi::Gpa;
use acrn_emulate::paging::GuestPhysical;
use acrn_emulate::task::{
    self, Event, EventKind, GuestMemory, Outcome, Request, SegmentRegister, State, segment,
};
use core::cell::{Cell, RefCell};

const SIZE: usize = 0x8000;
const GDT: usize = 0x1000;
const OLD: usize = 0x2000;
const NEW: usize = 0x3000;
const TABLES: usize = 0x4000;
/// Accesses that a switch makes at most, with those of its walks.
const MOST: u32 = 300;

struct Memory {
    bytes: RefCell<Vec<u8>>,
    accesses: Cell<u32>,
}

impl Memory {
    fn range(&self, gpa: Gpa, length: usize) -> Option<core::ops::Range<usize>> {
        self.accesses.set(self.accesses.get() + 1);
        let start = usize::try_from(gpa.0).ok()?;
        let end = start.checked_add(length)?;
        (end <= SIZE).then_some(start..end)
    }
    fn array<const N: usize>(&self, gpa: Gpa) -> Option<[u8; N]> {
        let mut array = [0; N];
        self.read(gpa, &mut array).then_some(array)
    }
}

impl GuestPhysical for Memory {
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        self.array(gpa).map(u64::from_le_bytes)
    }
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        self.array(gpa).map(u32::from_le_bytes)
    }
}

impl GuestMemory for Memory {
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> bool {
        let range = self.range(gpa, buffer.len());
        range.is_some_and(|range| {
            buffer.copy_from_slice(&self.bytes.borrow()[range]);
            true
        })
    }
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool {
        let range = self.range(gpa, bytes.len());
        range.is_some_and(|range| {
            self.bytes.borrow_mut()[range].copy_from_slice(bytes);
            true
        })
    }
}

fn memory() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let mut put = |at: usize, value: u64, size: usize| {
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    let descriptors = [
        0,
        0x0000_8b00_2000_0067,
        0x0000_8900_3000_0067,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x0000_8200_1000_007f,
    ];
    for (index, descriptor) in descriptors.into_iter().enumerate() {
        put(GDT + index * 8, descriptor, 8);
    }
    for (offset, value) in [
        (0x1c, TABLES as u64),
        (0x24, 2),
        (0x38, 0x7000),
        (0x48, 0x20),
        (0x4c, 0x18),
        (0x50, 0x20),
        (0x54, 0x20),
        (0x60, 0x38),
    ] {
        put(NEW + offset, value, 4);
    }
    put(TABLES, TABLES as u64 + 0x1007, 4);
    for page in 0..SIZE >> 12 {
        put(TABLES + 0x1000 + page * 4, (page as u64) << 12 | 7, 4);
    }
    bytes
}

fn request(source: &mut Source<'_>) -> Request {
    let kinds = [
        EventKind::External,
        EventKind::Nmi,
        EventKind::Exception,
        EventKind::Software,
    ];
    let (kind, vector, code) = (source.u8(), source.u8(), source.u32());
    Request {
        selector: match source.u8() % 4 {
            0 => source.u16(),
            _ => 0x10,
        },
        source: match kind % 4 {
            0 => task::Source::Call,
            1 => task::Source::Return,
            2 => task::Source::Jump,
            _ => task::Source::Gate(Event {
                kind: kinds[usize::from(kind >> 2 & 3)],
                vector: vector % 32,
                error_code: (code & 1 != 0).then_some(code >> 1),
            }),
        },
        return_eip: code,
    }
}

fn state(source: &mut Source<'_>) -> State {
    let flags = source.u8();
    let bit = |number: u8, mask: u64| u64::from(flags >> number & 1) * mask;
    let mut segments = [SegmentRegister::default(); 8];
    segments[segment::TR] = SegmentRegister {
        selector: 8,
        access: if flags & 0x80 == 0 { 0x8b } else { 0x83 },
        limit: 0x67,
        base: OLD as u64,
    };
    State {
        cr0: 1 | bit(0, 1 << 31) | bit(1, 1 << 16),
        cr3: TABLES as u64,
        cr4: bit(2, 1 << 4) | bit(3, 1 << 5) | bit(4, 1 << 21),
        efer: bit(5, 1 << 11) | bit(6, 1 << 10),
        physical_bits: 40,
        dr6: 0,
        dr7: source.value(),
        eip: source.u32(),
        eflags: source.u32(),
        gpr: [0; 8],
        segments,
        gdt: (GDT as u64, 0x3f),
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let request = request(&mut source);
    let mut state = state(&mut source);
    let before = state;
    let mut bytes = memory();
    for _ in 0..source.u8() % 24 {
        let place = source.u16();
        let at = [GDT, OLD, NEW, TABLES, TABLES + 0x1000][usize::from(place >> 8) % 5];
        bytes[at + usize::from(place & 0x7f)] = source.u8();
    }
    let memory = Memory {
        bytes: RefCell::new(bytes),
        accesses: Cell::new(0),
    };
    let outcome = task::switch(&mut state, &request, &memory);
    let accesses = memory.accesses.get();
    assert!(accesses <= MOST, "{accesses} accesses");
    match outcome {
        Ok(Outcome { switched: true, .. }) => assert_enterable(&state),
        Ok(_) => assert_eq!(state, before, "the old task goes on"),
        Err(_) => {}
    }
}

/// What the processor would refuse to enter would end the VM.
fn assert_enterable(state: &State) {
    const VM: u32 = 1 << 17;
    let common = |register: &SegmentRegister| {
        let pages = register.access & 1 << 15 != 0;
        assert!(register.access & 1 << 7 != 0, "{register:x?} is present");
        assert!(!pages || register.limit & 0xfff == 0xfff, "{register:x?}");
        assert!(pages || register.limit >> 20 == 0, "{register:x?}");
    };
    let usable = |register: &&SegmentRegister| register.access & 1 << 16 == 0;
    let task = &state.segments[segment::TR];
    assert!(
        matches!(task.access & 0x1_001f, 3 | 11),
        "{task:x?} is busy"
    );
    assert_eq!(task.selector & 4, 0);
    common(task);
    state.segments.iter().filter(usable).for_each(common);
    assert!(state.eflags & 2 != 0 && state.eflags & !0x003f_7fd7 == 0);
    let (code, stack) = (&state.segments[segment::CS], &state.segments[segment::SS]);
    if state.eflags & VM != 0 {
        for register in &state.segments[..segment::LDTR] {
            assert_eq!((register.access, register.limit), (0xf3, 0xffff));
            assert_eq!(register.base, u64::from(register.selector) << 4);
        }
        return;
    }
    let (level, cpl) = (code.access >> 5 & 3, stack.access >> 5 & 3);
    assert!(code.access & 0x1_0019 == 0x19, "{code:x?} is code");
    assert!(level == cpl || code.access & 4 != 0 && level < cpl);
    for register in state.segments[..segment::LDTR].iter().filter(usable) {
        assert!(register.access & 0x11 == 0x11, "{register:x?}");
        assert!(register.access & 8 == 0 || register.access & 2 != 0 || register == code);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // CALL, JMP and an exception with an error code, without damage.
    let input = |kind, flags| {
        let mut bytes = vec![kind, 13, 5, 0, 0, 0, 1, flags];
        bytes.resize(40, 0);
        bytes
    };
    vec![input(0, 0), input(2, 1), input(0xb, 3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_switches_as_it_is() {
        for seed in seeds() {
            let mut source = Source::new(&seed);
            let request = request(&mut source);
            let mut state = state(&mut source);
            let memory = Memory {
                bytes: RefCell::new(memory()),
                accesses: Cell::new(0),
            };
            let outcome = task::switch(&mut state, &request, &memory);
            let done = Outcome {
                switched: true,
                next: task::Next::Run,
            };
            assert_eq!(outcome, Ok(done), "{request:?}");
        }
    }
}
