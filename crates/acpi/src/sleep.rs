//! Sleep types, from the byte code of the DSDT and SSDTs (7.4.2, 20.2).
//!
//! To switch the machine off, two numbers must be written to PM1 control, and they are in an
//! object `_S5_` of the DSDT. An interpreter for so little would be the largest part of the
//! hypervisor. In all known firmware the object is `Name (_Sx_, Package () { a, b, ... })` with
//! plain numbers, and this is what is searched for; what looks otherwise is not found.

use crate::table::{HEADER_SIZE, Table};
use acrn_abi::{Hpa, PhysicalMemory};

/// Values for the SLP_TYP fields of PM1a and PM1b control, three bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepType {
    /// For PM1a control.
    pub a: u8,
    /// For PM1b control.
    pub b: u8,
}

/// Longest object: NameOp, name, PackageOp, length (4), count, two numbers of up to 9 bytes.
const WINDOW: usize = 32;

const NAME_OP: u8 = 0x08;
const PACKAGE_OP: u8 = 0x12;
const ROOT_CHAR: u8 = b'\\';

/// Searches a table for `_S<digit>_`, for instance `b'5'`.
pub fn find(memory: &impl PhysicalMemory, table: &Table, digit: u8) -> Option<SleepType> {
    let name = [b'_', b'S', digit, b'_'];
    let mut matched = 0;
    let mut before = [0u8; 2];
    let mut offset = HEADER_SIZE;
    let mut found = None;
    table.for_each_chunk(memory, HEADER_SIZE, |bytes| {
        for &byte in bytes {
            offset += 1;
            if found.is_some() {
                return;
            }
            if name.get(matched) == Some(&byte) {
                matched += 1;
            } else {
                // Only the first letter equals another one of the name, so nothing is lost here.
                if matched != 0 {
                    before = [0, 0];
                }
                matched = usize::from(byte == b'_');
                before = if matched == 0 {
                    [before[1], byte]
                } else {
                    before
                };
            }
            if matched == name.len() {
                matched = 0;
                let named = before[1] == NAME_OP || before == [NAME_OP, ROOT_CHAR];
                found = named.then(|| package(memory, table, offset)).flatten();
                before = [0, 0];
            }
        }
    });
    found
}

/// Reads the package that begins at `offset` of the table.
fn package(memory: &impl PhysicalMemory, table: &Table, offset: u32) -> Option<SleepType> {
    let size = (table.length.checked_sub(offset)? as usize).min(WINDOW);
    let mut buffer = [0; WINDOW];
    let bytes = buffer.get_mut(..size)?;
    let at = Hpa(table.address.0.saturating_add(offset.into()));
    if !memory.read(at, bytes) {
        return None;
    }
    let mut rest: &[u8] = bytes;
    if next(&mut rest)? != PACKAGE_OP {
        return None;
    }
    // The top two bits tell how many bytes of length follow. The length itself is not needed.
    let more = next(&mut rest)? >> 6;
    rest = rest.get(usize::from(more)..)?;
    let count = next(&mut rest)?;
    if count == 0 {
        return None;
    }
    let a = number(&mut rest)?;
    let b = if count == 1 { 0 } else { number(&mut rest)? };
    Some(SleepType { a: a & 7, b: b & 7 })
}

fn next(rest: &mut &[u8]) -> Option<u8> {
    let (&first, tail) = rest.split_first()?;
    *rest = tail;
    Some(first)
}

/// A constant; of a wide one the low byte.
fn number(rest: &mut &[u8]) -> Option<u8> {
    let width = match next(rest)? {
        0x00 => return Some(0),
        0x01 => return Some(1),
        0xFF => return Some(0xFF),
        0x0A => 1,
        0x0B => 2,
        0x0C => 4,
        0x0E => 8,
        _ => return None,
    };
    let (value, tail) = rest.split_at_checked(width)?;
    *rest = tail;
    value.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, table};

    fn find_in(body: &[u8], digit: u8) -> Option<SleepType> {
        let mut ram = Ram::new(0x4000);
        ram.put(0x100, &table(*b"DSDT", body));
        find(&ram, &Table::locate(&ram, Hpa(0x100)).unwrap(), digit)
    }

    const S5: &[u8] = &[
        8, b'_', b'S', b'5', b'_', 0x12, 6, 4, 0x0A, 5, 0x0A, 6, 0, 0,
    ];

    #[test]
    fn the_usual_forms_are_found() {
        assert_eq!(find_in(S5, b'5'), Some(SleepType { a: 5, b: 6 }));
        assert_eq!(find_in(S5, b'3'), None);
        let root = b"\x08\\_S3_\x12\x06\x04\x01\x01\x00\x00";
        assert_eq!(find_in(root, b'3'), Some(SleepType { a: 1, b: 1 }));
        let long = b"\x08_S5_\x12\x47\x00\x02\x0b\x07\x00\x00";
        assert_eq!(find_in(long, b'5'), Some(SleepType { a: 7, b: 0 }));
    }

    #[test]
    fn it_is_found_wherever_it_lies_against_the_pieces_that_are_read() {
        for at in 0..600 {
            let mut body = vec![b'_'; at];
            body.extend(S5);
            assert_eq!(
                find_in(&body, b'5'),
                Some(SleepType { a: 5, b: 6 }),
                "at {at}"
            );
        }
    }

    #[test]
    fn a_mention_that_is_no_definition_is_passed_over() {
        let mut body = b"_S5__S5\x08_S5_\x08_S5_\x12\x06".to_vec();
        assert_eq!(find_in(&body, b'5'), None);
        body.extend([0xAA; 40]);
        body.extend(S5);
        assert_eq!(find_in(&body, b'5'), Some(SleepType { a: 5, b: 6 }));
    }

    #[test]
    fn an_object_cut_off_by_the_end_of_the_table_is_not_found() {
        for len in 0..12 {
            assert_eq!(find_in(&S5[..len], b'5'), None, "{len}");
        }
    }
}
