//! How a task switch ends: with a fault, perhaps of the delivery that it is a part of.

use acrn_abi::{Gpa, Gva};

use super::request::{Event, EventKind, Source};

/// An exception to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Vector.
    pub vector: u8,
    /// Error code.
    pub error_code: Option<u32>,
    /// CR2 of a page fault.
    pub address: Option<Gva>,
}

/// What comes before the next instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Run,
    /// An exception: in the new task after a switch, else in the old one.
    Raise(Fault),
    /// Another fault while a double fault was delivered.
    Shutdown,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The new task is the current one; else the state is that of before.
    pub switched: bool,
    /// What comes then.
    pub next: Next,
}

/// A table or task lies where the guest has no memory: the machine cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory(pub Gpa);

/// Why it stopped on its way.
pub(super) enum Stop {
    Fault(Fault),
    NoMemory(Gpa),
}

/// Exceptions.
pub(super) mod vector {
    pub const DIVIDE: u8 = 0;
    pub const DEBUG: u8 = 1;
    pub const DOUBLE_FAULT: u8 = 8;
    pub const INVALID_TSS: u8 = 10;
    pub const NOT_PRESENT: u8 = 11;
    pub const STACK: u8 = 12;
    pub const PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const VIRTUALIZATION: u8 = 20;
    pub const CONTROL_PROTECTION: u8 = 21;
}

/// A fault whose error code names a segment.
pub(super) fn segment_fault(vector: u8, selector: u16, external: u32) -> Stop {
    Stop::Fault(Fault {
        vector,
        error_code: Some(u32::from(selector & 0xfffc) | external),
        address: None,
    })
}

/// What a fault becomes that is met while an exception is delivered (SDM volume 3A, table 6-5).
pub(super) fn while_delivering(source: Source, fault: Fault) -> Next {
    let first = match source {
        Source::Gate(Event {
            kind: EventKind::Exception,
            vector,
            ..
        }) => Class::of(vector),
        _ => Class::Benign,
    };
    match (first, Class::of(fault.vector)) {
        (Class::Benign, _) | (_, Class::Benign) | (Class::Contributory, Class::PageFault) => {
            Next::Raise(fault)
        }
        (Class::DoubleFault, _) => Next::Shutdown,
        _ => Next::Raise(Fault {
            vector: vector::DOUBLE_FAULT,
            error_code: Some(0),
            address: None,
        }),
    }
}

/// Classes of exceptions (SDM volume 3A, table 6-4).
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Class {
    const fn of(number: u8) -> Self {
        match number {
            vector::DIVIDE | vector::CONTROL_PROTECTION => Self::Contributory,
            vector::INVALID_TSS..=vector::PROTECTION => Self::Contributory,
            vector::PAGE_FAULT | vector::VIRTUALIZATION => Self::PageFault,
            vector::DOUBLE_FAULT => Self::DoubleFault,
            _ => Self::Benign,
        }
    }
}
