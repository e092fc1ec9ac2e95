//! The memory of a VM: reading and writing it by its own addresses.

use super::Vm;
use crate::memory;
use acrn_abi::{Gpa, Hpa, PAGE_SIZE};
use acrn_memory::Access;

impl Vm {
    /// Host address of a guest address; `None` where the guest has no memory.
    #[inline]
    pub fn translate(&self, gpa: Gpa) -> Option<Hpa> {
        let guard = self.nested.lock();
        let mapping = guard.as_ref()?.translate(gpa)?;
        Some(mapping.hpa)
    }

    /// Host address of a guest address where the guest may write.
    pub fn translate_for_write(&self, gpa: Gpa) -> Option<Hpa> {
        let guard = self.nested.lock();
        let mapping = guard.as_ref()?.translate(gpa)?;
        mapping
            .access
            .contains(Access::WRITE)
            .then_some(mapping.hpa)
    }

    /// Reads 8 bytes of guest memory.
    pub fn read_word(&self, gpa: Gpa) -> Option<u64> {
        let mut word = [0; 8];
        self.read(gpa, &mut word).then(|| u64::from_le_bytes(word))
    }

    /// Copies guest memory out; `false` when part of the range is not there.
    pub fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> bool {
        let mut done = 0;
        while done < buffer.len() {
            let Some(at) = gpa.checked_add(done as u64) else {
                return false;
            };
            let here = ((PAGE_SIZE - at.page_offset()) as usize).min(buffer.len() - done);
            let Some(hpa) = self.translate(at) else {
                return false;
            };
            if !memory::read_guest(hpa, &mut buffer[done..done + here]) {
                return false;
            }
            done += here;
        }
        true
    }

    /// Copies into guest memory; `false` when part of the range is not there, or not writable.
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let Some(at) = gpa.checked_add(done as u64) else {
                return false;
            };
            let here = ((PAGE_SIZE - at.page_offset()) as usize).min(bytes.len() - done);
            let Some(hpa) = self.translate_for_write(at) else {
                return false;
            };
            if !memory::write_guest(hpa, &bytes[done..done + here]) {
                return false;
            }
            done += here;
        }
        true
    }
}
