//! A set of the 256 interrupt vectors: what IRR, ISR and TMR are.

/// Set of vectors as four words, vector 0 in bit 0 of word 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet {
    words: [u64; 4],
}

impl VectorSet {
    /// No vector.
    pub const EMPTY: Self = Self { words: [0; 4] };

    /// Adds `vector`; whether it was missing before.
    #[inline]
    pub fn insert(&mut self, vector: u8) -> bool {
        let word = &mut self.words[usize::from(vector >> 6)];
        let bit = 1 << (vector & 63);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes `vector` out; whether it was there.
    #[inline]
    pub fn remove(&mut self, vector: u8) -> bool {
        let word = &mut self.words[usize::from(vector >> 6)];
        let bit = 1 << (vector & 63);
        let old = *word & bit != 0;
        *word &= !bit;
        old
    }

    /// Whether `vector` is in the set.
    #[inline]
    pub fn contains(&self, vector: u8) -> bool {
        self.words[usize::from(vector >> 6)] & (1 << (vector & 63)) != 0
    }

    /// The highest vector of the set.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        for index in (0..4u8).rev() {
            let word = self.words[usize::from(index)];
            if word != 0 {
                return Some(index * 64 + (63 - word.leading_zeros() as u8));
            }
        }
        None
    }

    /// Word `index` (0..=3); zero beyond.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// Replaces the vectors of `mask` in word `index` by those of `bits`; no effect beyond word 3.
    pub fn merge(&mut self, index: usize, mask: u64, bits: u64) {
        if let Some(word) = self.words.get_mut(index) {
            *word = *word & !mask | bits & mask;
        }
    }

    /// 32-bit register `index` (0..=7) as the local APIC shows it; zero beyond.
    pub fn register(&self, index: usize) -> u32 {
        (self.word(index / 2) >> (index % 2 * 32)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_vector_is_found_in_each_word() {
        let mut set = VectorSet::EMPTY;
        assert_eq!(set.highest(), None);
        for vector in [0, 63, 64, 127, 128, 200, 255] {
            assert!(set.insert(vector));
            assert!(!set.insert(vector));
            assert_eq!(set.highest(), Some(vector));
        }
        assert!(set.remove(255));
        assert!(!set.remove(255));
        assert_eq!(set.highest(), Some(200));
    }

    #[test]
    fn a_register_shows_32_vectors() {
        let mut set = VectorSet::EMPTY;
        set.insert(0x31);
        set.insert(0xff);
        assert_eq!(set.register(1), 1 << 17);
        assert_eq!(set.register(7), 1 << 31);
        assert_eq!(set.register(8), 0);
    }
}
