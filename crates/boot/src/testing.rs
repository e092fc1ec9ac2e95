//! Memory for tests.

use acrn_abi::{Hpa, PhysicalMemory};

/// Host memory from address 0.
pub struct Ram(pub Vec<u8>);

impl Ram {
    pub fn new(size: usize) -> Self {
        Self(vec![0; size])
    }
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
    pub fn put32(&mut self, at: usize, words: &[u32]) {
        for (i, word) in words.iter().enumerate() {
            self.put(at + 4 * i, &word.to_le_bytes());
        }
    }
}

impl PhysicalMemory for Ram {
    fn read(&self, address: Hpa, buffer: &mut [u8]) -> bool {
        let range = usize::try_from(address.0).ok().and_then(|start| {
            start
                .checked_add(buffer.len())
                .and_then(|end| self.0.get(start..end))
        });
        range.is_some_and(|bytes| {
            buffer.copy_from_slice(bytes);
            true
        })
    }
}
