//! A static ELF program as a file: its entry and what has to be where in a VM's memory.
//!
//! Programs of both classes are understood. They are entered in 32-bit protected mode, as multiboot has it
//! ([`crate::handover`]), whatever they do then. Offsets are those of the System V ABI, "Object Files".

use acrn_abi::{Gpa, Hpa, PhysicalMemory};
use arrayvec::ArrayVec;
use core::fmt;

/// Most segments that are loaded.
pub const MAX_SEGMENTS: usize = 16;

const EXECUTABLE: u16 = 2;
const MACHINES: [u16; 2] = [3, 62];
const LOAD: u32 = 1;

/// Why a file is not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not begin like an ELF file.
    NoElf,
    /// It is for another processor, or of another byte order.
    Machine(u16),
    /// It is not a static executable; its type.
    Type(u16),
    /// It ends before what it must contain.
    CutOff,
    /// It has more segments than [`MAX_SEGMENTS`], or none.
    Segments(usize),
    /// It begins above 4 GiB.
    Entry(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoElf => f.write_str("it does not begin like an ELF file; check kern_type"),
            Self::Machine(machine) => write!(f, "it is for machine {machine}, not for x86"),
            Self::Type(kind) => write!(f, "it is of type {kind}; link it as a static executable"),
            Self::CutOff => f.write_str("it is cut off; copy it again"),
            Self::Segments(count) => {
                write!(
                    f,
                    "it has {count} segments to load; 1 to {MAX_SEGMENTS} are possible"
                )
            }
            Self::Entry(entry) => write!(f, "its entry {entry:#x} is not below 4 GiB"),
        }
    }
}

/// A piece of the file and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub filled: u64,
    /// Where it belongs.
    pub address: Gpa,
    /// Bytes there; those that the file does not have are zero. At least `filled`.
    pub size: u64,
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// First instruction, below 4 GiB.
    pub entry: u32,
    /// In the order of the file.
    pub segments: ArrayVec<Segment, MAX_SEGMENTS>,
}

impl Program {
    /// Reads the headers of a file of `size` bytes in host memory.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(memory: &impl PhysicalMemory, start: Hpa, size: u64) -> Result<Self, Error> {
        let file = File {
            memory,
            start,
            size,
        };
        let ident: [u8; 6] = file.get(0)?;
        let wide = match ident {
            [0x7f, b'E', b'L', b'F', 1, 1] => false,
            [0x7f, b'E', b'L', b'F', 2, 1] => true,
            [0x7f, b'E', b'L', b'F', ..] => return Err(Error::Machine(file.half(18)?)),
            _ => return Err(Error::NoElf),
        };
        let (kind, machine) = (file.half(16)?, file.half(18)?);
        if !MACHINES.contains(&machine) {
            return Err(Error::Machine(machine));
        }
        if kind != EXECUTABLE {
            return Err(Error::Type(kind));
        }
        let entry = file.word(24, wide)?;
        let (table, sizes) = match wide {
            true => (file.word(32, wide)?, 54),
            false => (file.word(28, wide)?, 42),
        };
        let (length, count) = (file.half(sizes)?, file.half(sizes + 2)?);
        let mut program = Self {
            entry: u32::try_from(entry).map_err(|_| Error::Entry(entry))?,
            segments: ArrayVec::new(),
        };
        for index in 0..u64::from(count) {
            let at = table.checked_add(index * u64::from(length));
            program.add(&file, at.ok_or(Error::CutOff)?, wide)?;
        }
        match program.segments.is_empty() {
            true => Err(Error::Segments(0)),
            false => Ok(program),
        }
    }

    fn add<M: PhysicalMemory>(
        &mut self,
        file: &File<'_, M>,
        at: u64,
        wide: bool,
    ) -> Result<(), Error> {
        // Places of offset, physical address, size in the file and in memory.
        let places = match wide {
            true => [8, 24, 32, 40],
            false => [4, 12, 16, 20],
        };
        let field = |place| file.word(at.checked_add(place).ok_or(Error::CutOff)?, wide);
        if u32::from_le_bytes(file.get(at)?) != LOAD || field(places[3])? == 0 {
            return Ok(());
        }
        let segment = Segment {
            offset: field(places[0])?,
            filled: field(places[2])?,
            address: Gpa(field(places[1])?),
            size: field(places[3])?,
        };
        let end = segment.offset.checked_add(segment.filled);
        if end.is_none_or(|end| end > file.size) || segment.filled > segment.size {
            return Err(Error::CutOff);
        }
        let full = Error::Segments(MAX_SEGMENTS + 1);
        self.segments.try_push(segment).map_err(|_| full)
    }
}

struct File<'a, M> {
    memory: &'a M,
    start: Hpa,
    size: u64,
}

impl<M: PhysicalMemory> File<'_, M> {
    fn get<const N: usize>(&self, offset: u64) -> Result<[u8; N], Error> {
        let end = offset.checked_add(N as u64);
        let at = self.start.checked_add(offset);
        let (Some(at), true) = (at, end.is_some_and(|end| end <= self.size)) else {
            return Err(Error::CutOff);
        };
        let mut bytes = [0; N];
        match self.memory.read(at, &mut bytes) {
            true => Ok(bytes),
            false => Err(Error::CutOff),
        }
    }

    fn half(&self, offset: u64) -> Result<u16, Error> {
        self.get(offset).map(u16::from_le_bytes)
    }

    /// An address or offset, as wide as the class has it.
    fn word(&self, offset: u64, wide: bool) -> Result<u64, Error> {
        match wide {
            true => self.get(offset).map(u64::from_le_bytes),
            false => Ok(u32::from_le_bytes(self.get(offset)?).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ram;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Program, Error> {
        let ram = Ram([&[0; 16], bytes].concat());
        Program::read(&ram, Hpa(16), bytes.len() as u64)
    }

    /// A file with one segment of 4 bytes for 1 MiB that takes 16 there.
    fn program(wide: bool) -> Vec<u8> {
        let mut file = vec![0; 200];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1]);
        let mut put = |at: usize, value: u64, size: usize| {
            file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        };
        let word = if wide { 8 } else { 4 };
        put(16, 2, 2);
        put(18, if wide { 62 } else { 3 }, 2);
        put(24, 0x10_0004, word);
        put(if wide { 32 } else { 28 }, 100, word);
        let sizes = if wide { 54 } else { 42 };
        put(sizes, 56, 2);
        put(sizes + 2, 1, 2);
        put(100, 1, 4);
        let places = if wide {
            [8, 24, 32, 40]
        } else {
            [4, 12, 16, 20]
        };
        for (place, value) in places.into_iter().zip([180, 0x10_0000, 4, 16]) {
            put(100 + place, value, word);
        }
        file
    }

    #[test]
    fn both_classes_are_read() {
        for wide in [false, true] {
            let found = read(&program(wide)).unwrap();
            assert_eq!(found.entry, 0x10_0004);
            let segment = Segment {
                offset: 180,
                filled: 4,
                address: Gpa(0x10_0000),
                size: 16,
            };
            assert_eq!(found.segments.as_slice(), [segment]);
        }
    }

    #[test]
    fn each_defect_has_its_error() {
        let with = |at: usize, value: u8| {
            let mut file = program(true);
            file[at] = value;
            read(&file)
        };
        assert_eq!(read(b"#!/bin/sh"), Err(Error::NoElf));
        assert_eq!(with(5, 2), Err(Error::Machine(62)));
        assert_eq!(with(18, 40), Err(Error::Machine(40)));
        assert_eq!(with(16, 3), Err(Error::Type(3)));
        assert_eq!(with(28, 1), Err(Error::Entry(0x1_0010_0004)));
        assert_eq!(with(100, 2), Err(Error::Segments(0)));
        assert_eq!(with(132, 200), Err(Error::CutOff), "longer than the file");
        assert_eq!(with(140, 3), Err(Error::CutOff), "shorter in memory");
        assert_eq!(with(56, 9), Err(Error::CutOff), "table behind the end");
        assert_eq!(read(&program(true)[..150]), Err(Error::CutOff));
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(
            wide: bool,
            changes in proptest::collection::vec((0usize..200, any::<u8>()), 0..12),
        ) {
            let mut file = program(wide);
            changes.iter().for_each(|&(at, value)| file[at] = value);
            if let Ok(found) = read(&file) {
                for segment in &found.segments {
                    prop_assert!(segment.offset + segment.filled <= file.len() as u64);
                    prop_assert!(segment.filled <= segment.size);
                }
            }
        }
    }
}
