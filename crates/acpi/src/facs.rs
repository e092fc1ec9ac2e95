//! The firmware control structure (5.2.10): where the machine goes on when it wakes from S3.

use acrn_abi::{Hpa, PhysicalMemory};

const SIGNATURE: [u8; 4] = *b"FACS";
/// The waking vector for real mode.
const VECTOR: u64 = 12;
/// The one for protected mode, which goes first, from version 1 on.
const WIDE_VECTOR: u64 = 24;
const VERSION: u64 = 32;

/// First address that real mode does not reach.
const REAL_MODE_END: u32 = 1 << 20;

/// Where and what to write for the machine to go on in real mode at `vector`; `None` when there is no
/// such structure at `facs`.
pub fn waking_at(
    memory: &impl PhysicalMemory,
    facs: Hpa,
    vector: u32,
) -> Option<impl Iterator<Item = (Hpa, [u8; 4])>> {
    let mut version = [0];
    if !is_there(memory, facs) || !memory.read(Hpa(facs.0 + VERSION), &mut version) {
        return None;
    }
    let wide = if version[0] >= 1 { 2 } else { 0 };
    let words = [(VECTOR, vector), (WIDE_VECTOR, 0), (WIDE_VECTOR + 4, 0)];
    let words = words.into_iter().take(1 + wide);
    Some(words.map(move |(offset, word)| (Hpa(facs.0 + offset), word.to_le_bytes())))
}

/// Where the system wants to go on in real mode, if it has said so.
pub fn waking_vector(memory: &impl PhysicalMemory, facs: Hpa) -> Option<u32> {
    let mut bytes = [0; 4];
    if !is_there(memory, facs) || !memory.read(Hpa(facs.0 + VECTOR), &mut bytes) {
        return None;
    }
    let vector = u32::from_le_bytes(bytes);
    (1..REAL_MODE_END).contains(&vector).then_some(vector)
}

fn is_there(memory: &impl PhysicalMemory, facs: Hpa) -> bool {
    let mut signature = [0; 4];
    facs.0 != 0 && memory.read(facs, &mut signature) && signature == SIGNATURE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ram;

    const AT: Hpa = Hpa(0x1000);

    fn facs(vector: u32, version: u8) -> Ram {
        let mut ram = Ram::new(0x2000);
        ram.put(0x1000, &SIGNATURE);
        ram.put(0x100c, &vector.to_le_bytes());
        ram.put(0x1020, &[version]);
        ram
    }

    #[test]
    fn a_waking_vector_is_an_address_of_the_first_megabyte() {
        for (vector, read) in [(0, None), (0x9_a010, Some(0x9_a010)), (1 << 20, None)] {
            assert_eq!(waking_vector(&facs(vector, 1), AT), read);
        }
        assert_eq!(waking_vector(&facs(0x1000, 1), Hpa(0)), None);
        assert_eq!(waking_vector(&facs(0x1000, 1), Hpa(0x1001)), None);
    }

    #[test]
    fn a_vector_for_protected_mode_would_go_first_and_is_cleared() {
        let places = |version| {
            let facs = facs(0, version);
            let words = waking_at(&facs, AT, 0x9_f000).unwrap();
            words.collect::<Vec<_>>()
        };
        let own = (Hpa(0x100c), 0x9_f000_u32.to_le_bytes());
        assert_eq!(places(0), [own]);
        assert_eq!(
            places(1),
            [own, (Hpa(0x1018), [0; 4]), (Hpa(0x101c), [0; 4])]
        );
        assert!(waking_at(&facs(0, 1), Hpa(0x2000), 1).is_none());
    }
}
