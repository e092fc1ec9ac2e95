//! The inner archives, in POSIX's format "ustar": records of 512 bytes.

use std::collections::BTreeMap;

use crate::{DebError, Entry};

const RECORD: usize = 512;
/// Fields of a header, by offset: POSIX.1-1988, `tar.h`.
const MODE: usize = 100;
const OWNER: usize = 108;
const GROUP: usize = 116;
const SIZE: usize = 124;
const TIME: usize = 136;
const CHECKSUM: usize = 148;
const KIND: usize = 156;
const LINK: usize = 157;
const MAGIC: usize = 257;
const OWNER_NAME: usize = 265;
const GROUP_NAME: usize = 297;
const PREFIX: usize = 345;
const NAME_MOST: usize = 100;
const PREFIX_MOST: usize = 155;
/// Eleven octal digits.
const SIZE_MOST: u64 = 0o77_777_777_777;

/// An archive of these paths, below `./`.
pub(crate) fn write(files: &BTreeMap<String, Entry>, time: u64) -> Result<Vec<u8>, DebError> {
    let mut bytes = header("./", &Entry::Directory, time)?.to_vec();
    for (path, entry) in files {
        let slash = if *entry == Entry::Directory { "/" } else { "" };
        bytes.extend_from_slice(&header(&format!("./{path}{slash}"), entry, time)?);
        if let Entry::File {
            bytes: contents, ..
        } = entry
        {
            bytes.extend_from_slice(contents);
            bytes.resize(bytes.len().next_multiple_of(RECORD), 0);
        }
    }
    bytes.resize(bytes.len() + 2 * RECORD, 0);
    Ok(bytes)
}

fn header(path: &str, entry: &Entry, time: u64) -> Result<[u8; RECORD], DebError> {
    let mut header = [0; RECORD];
    let (prefix, name) = split(path).ok_or_else(|| DebError::Path(path.to_owned()))?;
    put(&mut header, 0, name.as_bytes());
    put(&mut header, PREFIX, prefix.as_bytes());
    let (kind, mode, size) = match entry {
        Entry::Directory => (b'5', 0o755, 0),
        Entry::File { mode, bytes } => (b'0', *mode, bytes.len() as u64),
        Entry::Link(_) => (b'2', 0o777, 0),
    };
    if size > SIZE_MOST {
        let path = path.to_owned();
        return Err(DebError::Size { path, size });
    }
    if let Entry::Link(target) = entry {
        if target.len() > NAME_MOST {
            return Err(DebError::Path(target.clone()));
        }
        put(&mut header, LINK, target.as_bytes());
    }
    header[KIND] = kind;
    for (at, digits, value) in [
        (MODE, 7, u64::from(mode)),
        (OWNER, 7, 0),
        (GROUP, 7, 0),
        (SIZE, 11, size),
        (TIME, 11, time.min(SIZE_MOST)),
    ] {
        put(&mut header, at, format!("{value:0digits$o}").as_bytes());
    }
    put(&mut header, MAGIC, b"ustar\x0000");
    put(&mut header, OWNER_NAME, b"root");
    put(&mut header, GROUP_NAME, b"root");
    // The sum counts its own field as blanks.
    put(&mut header, CHECKSUM, b"        ");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    put(&mut header, CHECKSUM, format!("{sum:06o}\0").as_bytes());
    Ok(header)
}

fn put(header: &mut [u8; RECORD], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Prefix and name of a path, cut at a slash where it is too long for the name's field alone.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.split('/').any(|part| part == "..") || path.contains('\0') {
        return None;
    }
    if path.len() <= NAME_MOST {
        return Some(("", path));
    }
    let cuts = path.match_indices('/').map(|(at, _)| at);
    let mut fitting = cuts.filter(|&at| at <= PREFIX_MOST && path.len() - at - 1 <= NAME_MOST);
    let at = fitting.next()?;
    Some((&path[..at], &path[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_cut_at_a_slash_and_a_longer_one_is_refused() {
        let path = format!("./{}/{}", "d".repeat(90), "f".repeat(90));
        assert_eq!(split(&path), Some((&path[..92], &path[93..])));
        assert_eq!(split(&format!("./{}", "f".repeat(120))), None);
        assert_eq!(split("./usr/../etc/passwd"), None);
    }
}
