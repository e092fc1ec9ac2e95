//! The header: what the bytes claim to be, judged before anything else.

use crate::crc::Crc;
use crate::error::Error;

/// First bytes of a blob.
pub const MAGIC: [u8; 8] = *b"ACRNcfg\0";
/// The one version that this code reads and writes. It changes with every change of the format:
/// blobs are made anew from their XML files, not migrated.
pub const VERSION: u16 = 1;
/// Size of the header, in bytes.
pub const SIZE: usize = 20;

/// The header of a blob whose body has that length and checksum.
pub(crate) fn make(body_length: u32, crc: u32) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let total = body_length.saturating_add(SIZE as u32);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10..12].copy_from_slice(&(SIZE as u16).to_le_bytes());
    bytes[12..16].copy_from_slice(&total.to_le_bytes());
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The body of a blob whose header is right.
pub(crate) fn body(bytes: &[u8]) -> Result<&[u8], Error> {
    let length = bytes.len();
    let (header, body) = bytes
        .split_first_chunk::<SIZE>()
        .ok_or(Error::TooShort { length })?;
    let (magic, rest) = header
        .split_first_chunk::<8>()
        .ok_or(Error::TooShort { length })?;
    if *magic != MAGIC {
        return Err(Error::Magic(*magic));
    }
    let &[v0, v1, s0, s1, l0, l1, l2, l3, c0, c1, c2, c3, ..] = rest else {
        return Err(Error::TooShort { length });
    };
    let found = u16::from_le_bytes([v0, v1]);
    if found != VERSION || u16::from_le_bytes([s0, s1]) as usize != SIZE {
        return Err(Error::Version { found });
    }
    let claimed = u32::from_le_bytes([l0, l1, l2, l3]);
    if claimed as usize != length {
        return Err(Error::Length { claimed, length });
    }
    let claimed = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = Crc::of(body);
    if claimed != computed {
        return Err(Error::Checksum { claimed, computed });
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(body: &[u8]) -> Vec<u8> {
        let mut bytes = make(body.len() as u32, Crc::of(body)).to_vec();
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_right_header_gives_its_body() {
        assert_eq!(body(&blob(b"hello")), Ok(&b"hello"[..]));
    }

    #[test]
    fn each_claim_is_judged_by_itself() {
        assert_eq!(body(b"short"), Err(Error::TooShort { length: 5 }));
        let mut bytes = blob(b"hello");
        bytes[0] = b'X';
        assert_eq!(body(&bytes), Err(Error::Magic(*b"XCRNcfg\0")));
        let mut bytes = blob(b"hello");
        bytes[8] = 9;
        assert_eq!(body(&bytes), Err(Error::Version { found: 9 }));
        let mut bytes = blob(b"hello");
        bytes.pop();
        assert_eq!(
            body(&bytes),
            Err(Error::Length {
                claimed: 25,
                length: 24
            })
        );
        let mut bytes = blob(b"hello");
        bytes[21] ^= 1;
        assert!(matches!(body(&bytes), Err(Error::Checksum { .. })));
    }
}
