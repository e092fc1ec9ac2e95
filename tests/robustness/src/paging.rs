//! Page tables of a guest.

use crate::Source;
use acrn_abi::{Gpa, Gva};
use acrn_emulate::paging::{Access, GuestPhysical, WalkContext};
use core::cell::Cell;

/// Entries that depend on the input and on nothing else; a few are not there.
struct Tables<'a> {
    bytes: &'a [u8],
    reads: Cell<u32>,
}

impl Tables<'_> {
    fn word(&self, gpa: Gpa) -> Option<u64> {
        self.reads.set(self.reads.get() + 1);
        let count = self.bytes.len().max(1) as u64;
        let mut source = Source::new(self.bytes.get((gpa.0 / 8 % count) as usize..)?);
        let value = source.u64();
        // Mostly present, so that a walk comes further than to its first table.
        (value % 31 != 0).then_some(value | u64::from(value % 5 != 0))
    }
}

impl GuestPhysical for Tables<'_> {
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        self.word(gpa)
    }
    fn read_u32(&self, gpa: Gpa) -> Option<u32> {
        self.word(gpa).map(|value| value as u32)
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let context = WalkContext {
        cr0: source.u64() | 1 | u64::from(source.u8() % 8 != 0) << 31,
        cr3: source.value(),
        cr4: source.u64(),
        efer: source.u64(),
        rflags: source.u64(),
        cpl: source.u8() & 3,
        physical_bits: 32 + source.u8() % 21,
    };
    let gva = Gva(source.value());
    let access = [Access::Read, Access::Write, Access::Execute][usize::from(source.u8() % 3)];
    let tables = Tables {
        bytes: source.rest(),
        reads: Cell::new(0),
    };
    let found = context.translate(&tables, gva, access);
    assert!(tables.reads.get() <= 5, "{} reads", tables.reads.get());
    if let Ok(found) = found {
        assert_eq!(found.gpa.0 & 0xfff, gva.0 & 0xfff, "the offset in the page");
        assert!(found.gpa.0 >> 52 == 0, "{:?} is no address", found.gpa);
    }
}
