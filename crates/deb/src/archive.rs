//! The outer archive, in the format of `ar`: members with a header of 60 bytes, at even offsets.

const MAGIC: &[u8] = b"!<arch>\n";

/// An archive of these members.
pub(crate) fn write(members: &[(&str, &[u8])], time: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (name, contents) in members {
        let size = contents.len();
        let header = format!(
            "{name:<16}{time:<12}{:<6}{:<6}{:<8}{size:<10}`\n",
            0, 0, "100644"
        );
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(contents);
        if size % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}
