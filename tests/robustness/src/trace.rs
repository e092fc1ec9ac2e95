//! The files of traces, and a ring whose other end does what it likes.

use crate::Source;
use acrn_abi::sbuf::SbufHeader;
use acrn_tools::capture::{self, Capture};
use acrn_tools::report::Report;
use acrn_tools::{chrome, show};
use acrn_trace::{RingMemory, Writer};
use zerocopy::FromBytes;

/// A trace's file, and all that is made of one.
pub(crate) fn file(data: &[u8]) {
    let Ok(trace) = Capture::parse(data) else {
        return;
    };
    assert!(trace.records.is_sorted_by_key(|record| record.tsc));
    let report = Report::new(&trace);
    assert!(!report.to_string().is_empty());
    for record in &trace.records {
        assert!(!show::line(&trace, record).contains('\n'));
        assert!(show::json(&trace, record)["us"].is_number());
    }
    let mut picture = Vec::new();
    chrome::write(&trace, &mut picture).expect("a vector takes everything");
    let picture: serde_json::Value = serde_json::from_slice(&picture).expect("it is JSON");
    assert!(picture["traceEvents"].is_array());
}

pub(crate) fn file_seeds() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    capture::begin(&mut bytes, 1_000_000, 2).expect("a vector takes everything");
    for (tsc, number) in (1u64..).zip([0x11, 0x10, 0x30, 0x20, 0x40]) {
        let cpu = tsc % 2;
        for word in [tsc, number | 2 << 48 | cpu << 56, 1 << 48, 7] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    vec![bytes]
}

/// Panics at any access outside of the ring.
struct Block(Vec<u8>);

impl RingMemory for Block {
    fn load(&self, offset: u32) -> u32 {
        let at = offset as usize;
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }
    fn store(&mut self, offset: u32, value: u32) {
        let at = offset as usize;
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// A header, and then words that the owner of the ring writes between the hypervisor's elements.
pub(crate) fn ring(data: &[u8]) {
    const ELEMENT: u32 = 32;
    const MOST: u32 = 64 << 10;
    let Ok((header, rest)) = SbufHeader::read_from_prefix(data) else {
        return;
    };
    let Ok(mut writer) = Writer::new(&header, ELEMENT) else {
        return;
    };
    if writer.bytes() > MOST {
        return;
    }
    let mut memory = Block(vec![0; writer.bytes() as usize]);
    let mut source = Source::new(rest);
    for _ in 0..rest.len() / 6 {
        let offset = u32::from(source.u8()) % 16 * 4;
        memory.store(offset, source.u32());
        for _ in 0..source.u8() % 8 {
            writer.push(&mut memory, &[0xa5; ELEMENT as usize]);
        }
    }
}

pub(crate) fn ring_seeds() -> Vec<Vec<u8>> {
    use zerocopy::IntoBytes;
    let seed = |count, flags| {
        let mut bytes = SbufHeader::new(count, 32, flags).as_bytes().to_vec();
        bytes.extend(0..240u8);
        bytes
    };
    vec![seed(2, 0), seed(8, 1), seed(9, 2), seed(64, 3)]
}
