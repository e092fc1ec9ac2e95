//! The file of a trace: a header, and the entries of the rings as they were read. Those of a CPU follow
//! each other in the order of time; the CPUs are mixed.

use std::io::{self, Read, Write};

use acrn_abi::sbuf::TraceEntry;
use acrn_trace::{Event, Record};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `magic` of a trace.
pub const MAGIC: [u8; 8] = *b"ACRNTRC1";

/// The first 32 bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Rate of the TSC, not 0.
    pub tsc_khz: u64,
    /// Number of CPUs that were observed.
    pub cpus: u64,
    /// Zero.
    pub reserved: u64,
}
const _: () = assert!(size_of::<Header>() == 32);

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum BadCapture {
    /// Reading failed.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Another kind of file.
    #[error("it is no trace; `acrntrace record` writes one")]
    Magic,
    /// No rate.
    #[error("its header has no rate of the clock")]
    Clock,
}

/// A trace in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Rate of the TSC.
    pub tsc_khz: u64,
    /// What has happened, in the order of time; of one CPU in the order in which it was written.
    pub records: Vec<Record>,
    /// Records whose time lies before that of an earlier one of their CPU.
    pub backward: u64,
    /// Entries that mean nothing, and bytes after the last whole entry.
    pub unknown: u64,
}

/// Writes the header.
///
/// # Errors
/// Writing failed.
pub fn begin(to: &mut impl Write, tsc_khz: u64, cpus: usize) -> io::Result<()> {
    let header = Header {
        magic: MAGIC,
        tsc_khz,
        cpus: cpus as u64,
        reserved: 0,
    };
    to.write_all(header.as_bytes())
}

/// An entry that says how many were lost before it.
pub fn lost(cpu: u16, tsc: u64, count: u32) -> TraceEntry {
    let event = Event::Lost(count.into());
    let cpu = cpu as u8;
    Record { tsc, cpu, event }.encode()
}

impl Capture {
    /// Reads a file.
    ///
    /// # Errors
    /// [`BadCapture`].
    pub fn read(from: &mut impl Read) -> Result<Self, BadCapture> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    /// The same of bytes.
    ///
    /// # Errors
    /// [`BadCapture`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadCapture> {
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| BadCapture::Magic)?;
        if header.magic != MAGIC {
            return Err(BadCapture::Magic);
        }
        if header.tsc_khz == 0 {
            return Err(BadCapture::Clock);
        }
        let entries = rest.chunks_exact(size_of::<TraceEntry>());
        let mut unknown = entries.remainder().len() as u64;
        let mut records = Vec::with_capacity(entries.len());
        let (mut backward, mut last) = (0, [0; 256]);
        for entry in entries {
            let entry = TraceEntry::read_from_bytes(entry).ok();
            let Some(record) = entry.and_then(|entry| Record::decode(&entry)) else {
                unknown += 1;
                continue;
            };
            let last = &mut last[usize::from(record.cpu)];
            backward += u64::from(record.tsc < *last);
            *last = record.tsc;
            records.push(record);
        }
        records.sort_by_key(|record| record.tsc);
        Ok(Self {
            tsc_khz: header.tsc_khz,
            records,
            backward,
            unknown,
        })
    }

    /// Time of the first record.
    pub fn start(&self) -> u64 {
        self.records.first().map_or(0, |record| record.tsc)
    }

    /// Microseconds from the first record to a time.
    pub fn us(&self, tsc: u64) -> f64 {
        tsc.saturating_sub(self.start()) as f64 * 1000.0 / self.tsc_khz as f64
    }
}

/// Traces for tests.
#[cfg(test)]
pub mod sample {
    use super::*;
    use acrn_abi::{VcpuId, VmId};
    use acrn_trace::Who;

    /// A vCPU.
    pub const fn who(vm: u16, vcpu: u16) -> Who {
        Who {
            vm: VmId(vm),
            vcpu: VcpuId(vcpu),
        }
    }

    /// A trace of these events, at 1 MHz.
    pub fn capture(events: &[(u64, u8, Event)]) -> Capture {
        let mut file = Vec::new();
        begin(&mut file, 1000, 2).unwrap();
        for &(tsc, cpu, event) in events {
            let entry = Record { tsc, cpu, event }.encode();
            file.extend_from_slice(entry.as_bytes());
        }
        Capture::parse(&file).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpus_are_brought_into_one_order() {
        let who = sample::who(0, 0);
        let capture = sample::capture(&[
            (5, 0, Event::Enter(who)),
            (9, 0, Event::Turn(None)),
            (7, 1, Event::Enter(who)),
        ]);
        let order: Vec<_> = capture.records.iter().map(|r| (r.tsc, r.cpu)).collect();
        assert_eq!(order, [(5, 0), (7, 1), (9, 0)]);
        assert_eq!((capture.backward, capture.unknown), (0, 0));
        assert_eq!(capture.us(9), 4.0);
    }

    #[test]
    fn a_clock_that_goes_back_is_counted() {
        let turn = Event::Turn(None);
        let capture = sample::capture(&[(5, 0, turn), (4, 0, turn), (1, 1, turn)]);
        assert_eq!(capture.backward, 1);
    }

    #[test]
    fn other_files_are_refused() {
        let parse = Capture::parse;
        assert!(matches!(parse(b"ACRN"), Err(BadCapture::Magic)));
        assert!(matches!(parse(&[0; 64]), Err(BadCapture::Magic)));
        let mut file = Vec::new();
        begin(&mut file, 0, 1).unwrap();
        assert!(matches!(parse(&file), Err(BadCapture::Clock)));
    }

    #[test]
    fn a_file_that_was_cut_short_has_what_is_whole() {
        let mut file = Vec::new();
        begin(&mut file, 1, 1).unwrap();
        file.extend_from_slice(lost(3, 7, 8).as_bytes());
        file.extend_from_slice(&[0; 31]);
        let capture = Capture::parse(&file).unwrap();
        assert_eq!(capture.records[0].event, Event::Lost(8));
        assert_eq!((capture.records.len(), capture.unknown), (1, 31));
    }

    proptest! {
        #[test]
        fn no_file_is_too_strange(rest: Vec<u8>) {
            let mut file = Vec::new();
            begin(&mut file, 1, 1).unwrap();
            file.extend(rest);
            Capture::parse(&file).unwrap();
        }
    }
}
