//! Memory and tables for tests.

use crate::checksum;
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
}

impl PhysicalMemory for Ram {
    fn read(&self, address: Hpa, buffer: &mut [u8]) -> bool {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let bytes = self.0.get(start..start.saturating_add(buffer.len()));
        bytes.is_some_and(|bytes| {
            buffer.copy_from_slice(bytes);
            true
        })
    }
}

/// A table with a right length and checksum.
pub fn table(signature: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.resize(36, 0);
    table.extend(body);
    checksum::fix(&mut table);
    table
}

/// A root pointer of version 2.
pub fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0OEMID \x02".to_vec();
    bytes.extend(rsdt.to_le_bytes());
    bytes.extend(36u32.to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    bytes.extend([0; 4]);
    bytes[8] = checksum::sum(&bytes[..20]).wrapping_neg();
    bytes[32] = checksum::sum(&bytes).wrapping_neg();
    bytes
}
