//! What a trace entry means.
//!
//! The numbers of entering, leaving and taking turns are ACRN's; the words are our own.

use acrn_abi::sbuf::{TraceEntry, event};
use acrn_abi::{VcpuId, Vector, VmId};
use core::fmt;

/// Names of the reasons for which a guest is left, by their number. The last one is no reason of
/// its own: it counts requests to the Device Model.
pub const REASONS: [&str; 25] = [
    "cpuid",
    "msr",
    "io",
    "nested-fault",
    "hlt",
    "pause",
    "interrupt",
    "irq-window",
    "nmi",
    "nmi-window",
    "xsetbv",
    "wbinvd",
    "invd",
    "hypercall",
    "undefined",
    "refused",
    "shutdown",
    "invalid-state",
    "unknown",
    "exception",
    "control-reg",
    "eoi",
    "deadline",
    "task-switch",
    "ioreq",
];

/// A vCPU of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    /// The VM.
    pub vm: VmId,
    /// Its vCPU.
    pub vcpu: VcpuId,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vm{} vcpu{}", self.vm, self.vcpu)
    }
}

// The first word of the payload: VM in bits 48..64, vCPU in 32..48, a value in 0..32.
const IDLE: u64 = u64::MAX;

impl Who {
    const fn pack(self, value: u32) -> u64 {
        (self.vm.0 as u64) << 48 | (self.vcpu.0 as u64) << 32 | value as u64
    }

    const fn unpack(word: u64) -> Self {
        Self {
            vm: VmId((word >> 48) as u16),
            vcpu: VcpuId((word >> 32) as u16),
        }
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The CPU enters a guest.
    Enter(Who),
    /// It has left it.
    Exit {
        /// The guest.
        who: Who,
        /// Why, as an index of [`REASONS`].
        reason: u32,
        /// Where: the guest's instruction pointer.
        rip: u64,
    },
    /// It is a vCPU's turn on the CPU; `None`: nobody has anything to do.
    Turn(Option<Who>),
    /// An interrupt was made pending for a vCPU.
    Interrupt {
        /// For whom.
        who: Who,
        /// Which.
        vector: Vector,
    },
    /// So many entries of the CPU were lost before this one. Not in rings: readers note it.
    Lost(u64),
}

/// An event with time and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The host's TSC.
    pub tsc: u64,
    /// The CPU.
    pub cpu: u8,
    /// What has happened.
    pub event: Event,
}

impl Record {
    /// As an element of a ring.
    pub const fn encode(&self) -> TraceEntry {
        let (number, payload) = match self.event {
            Event::Enter(who) => (event::VM_ENTER, [who.pack(0), 0]),
            Event::Exit { who, reason, rip } => (event::VM_EXIT, [who.pack(reason), rip]),
            Event::Turn(Some(who)) => (event::SCHED_NEXT, [who.pack(0), 0]),
            Event::Turn(None) => (event::SCHED_NEXT, [IDLE, 0]),
            Event::Interrupt { who, vector } => (event::INTERRUPT, [who.pack(vector.0 as u32), 0]),
            Event::Lost(count) => (event::LOST, [count, 0]),
        };
        TraceEntry {
            tsc: self.tsc,
            id: TraceEntry::pack_id(number, 2, self.cpu),
            payload,
        }
    }

    /// Out of a ring or a file; `None` for an event that is not known here.
    pub const fn decode(entry: &TraceEntry) -> Option<Self> {
        let [first, second] = entry.payload;
        let who = Who::unpack(first);
        let event = match entry.event() {
            event::VM_ENTER => Event::Enter(who),
            event::VM_EXIT => Event::Exit {
                who,
                reason: first as u32,
                rip: second,
            },
            event::SCHED_NEXT if first == IDLE => Event::Turn(None),
            event::SCHED_NEXT => Event::Turn(Some(who)),
            event::INTERRUPT => Event::Interrupt {
                who,
                vector: Vector(first as u8),
            },
            event::LOST => Event::Lost(first),
            _ => return None,
        };
        Some(Self {
            tsc: entry.tsc,
            cpu: entry.cpu(),
            event,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(event: Event) -> Record {
        Record {
            tsc: 0x1234_5678_9abc,
            cpu: 15,
            event,
        }
    }

    #[test]
    fn events_survive_their_encoding() {
        let who = Who {
            vm: VmId(7),
            vcpu: VcpuId(15),
        };
        for event in [
            Event::Enter(who),
            Event::Exit {
                who,
                reason: 24,
                rip: u64::MAX,
            },
            Event::Turn(Some(who)),
            Event::Turn(None),
            Event::Interrupt {
                who,
                vector: Vector(0xf3),
            },
            Event::Lost(9),
        ] {
            assert_eq!(Record::decode(&record(event).encode()), Some(record(event)));
        }
    }

    #[test]
    fn what_is_not_known_is_no_event() {
        let entry = TraceEntry {
            id: TraceEntry::pack_id(0x1_0000, 2, 1),
            ..TraceEntry::default()
        };
        assert_eq!(Record::decode(&entry), None);
    }

    proptest! {
        #[test]
        fn no_entry_is_too_strange(tsc: u64, id: u64, payload: [u64; 2]) {
            let _ = Record::decode(&TraceEntry { tsc, id, payload });
        }
    }
}
