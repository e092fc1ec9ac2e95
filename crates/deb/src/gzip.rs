//! Compression.

use std::io::Write;

use flate2::{Compression, GzBuilder};

/// Compresses as well as gzip can, without a name and a time in the result.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    // Writing into memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}
