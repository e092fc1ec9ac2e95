//! Writing a configuration.

use crate::crc::Crc;
use crate::{Config, header};

/// Hands the encoded configuration to `sink`, piece by piece. It is encoded twice, first for its
/// length and checksum, so that no memory is needed.
///
/// What [`Config::check`] refuses is encoded all the same, and refused when it is parsed.
pub fn encode(config: &Config<'_>, sink: &mut dyn FnMut(&[u8])) {
    let (mut length, mut crc) = (0usize, Crc::new());
    config.write_body(&mut |bytes| {
        length += bytes.len();
        crc.add(bytes);
    });
    sink(&header::make(length as u32, crc.value()));
    config.write_body(sink);
}
