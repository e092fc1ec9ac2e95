//! Access to host memory for the parsers of boot and firmware data.

use crate::Hpa;
use zerocopy::{FromBytes, IntoBytes};

/// Host physical memory as a parser sees it: a read either succeeds whole or fails.
///
/// Parsers follow pointers that firmware or a boot loader wrote. With this trait the bounds check
/// is in one place, the hypervisor's mapping, and tests put a vector there.
pub trait PhysicalMemory {
    /// Fills `buffer` from the memory at `address`. Returns `false`, with `buffer` in any state,
    /// when part of the range does not exist or may not be read.
    fn read(&self, address: Hpa, buffer: &mut [u8]) -> bool;

    /// Reads one structure; `None` as for [`read`](Self::read).
    fn read_as<T: FromBytes + IntoBytes>(&self, address: Hpa) -> Option<T> {
        let mut value = T::new_zeroed();
        self.read(address, value.as_mut_bytes()).then_some(value)
    }
}

impl<M: PhysicalMemory + ?Sized> PhysicalMemory for &M {
    fn read(&self, address: Hpa, buffer: &mut [u8]) -> bool {
        (**self).read(address, buffer)
    }
}
