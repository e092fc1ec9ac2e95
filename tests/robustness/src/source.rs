//! Numbers out of a byte string, and memory that holds one.

use acrn_abi::{Hpa, PhysicalMemory};

/// Takes a byte string apart. At its end come zeros.
#[derive(Clone, Copy)]
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// The whole string.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `count` bytes, or fewer.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A value that is at a border of something more often than by chance.
    pub fn value(&mut self) -> u64 {
        let (kind, bit) = (self.u8(), self.u8() & 63);
        match kind % 6 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << bit,
            3 => (1 << bit) - 1,
            4 => self.u8().into(),
            _ => self.u64(),
        }
    }
}

/// Host memory that holds a byte string at address 0, and nothing beyond.
pub struct Ram<'a>(pub &'a [u8]);

impl PhysicalMemory for Ram<'_> {
    fn read(&self, address: Hpa, buffer: &mut [u8]) -> bool {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let end = start.saturating_add(buffer.len());
        let bytes = self.0.get(start..end);
        bytes.is_some_and(|bytes| {
            buffer.copy_from_slice(bytes);
            true
        })
    }
}
