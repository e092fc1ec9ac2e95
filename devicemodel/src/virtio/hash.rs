//! A small hash for names that must come out the same each time (serial numbers, MACs).

/// FNV-1a, 64 bits. Not for anything that somebody may attack.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
