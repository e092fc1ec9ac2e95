//! What asks for a task switch.

/// Kinds of events that a task gate of the IDT may deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// External interrupt.
    External,
    /// Non-maskable interrupt.
    Nmi,
    /// Exception that the processor found.
    Exception,
    /// INT n, INT3 or INTO.
    Software,
}

/// An event that a task gate of the IDT delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Kind.
    pub kind: EventKind,
    /// Vector.
    pub vector: u8,
    /// Error code of an exception that has one.
    pub error_code: Option<u32>,
}

/// What switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// CALL of a task gate or TSS.
    Call,
    /// IRET of a nested task.
    Return,
    /// JMP to a task gate or TSS.
    Jump,
    /// A task gate of the IDT.
    Gate(Event),
}

impl Source {
    /// The new task is nested: it may return with IRET.
    pub(super) const fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Gate(_))
    }

    /// Bit 0 of error codes: the fault is met while something is delivered that the program did
    /// not ask for.
    pub(super) const fn external(self) -> u32 {
        match self {
            Self::Gate(event) => !matches!(event.kind, EventKind::Software) as u32,
            _ => 0,
        }
    }

    pub(super) fn error_code(self) -> Option<u32> {
        match self {
            Self::Gate(event) => event.error_code,
            _ => None,
        }
    }
}

/// A task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Selector of the new task's TSS.
    pub selector: u16,
    /// What switches.
    pub source: Source,
    /// Where the old task will go on.
    pub return_eip: u32,
}
