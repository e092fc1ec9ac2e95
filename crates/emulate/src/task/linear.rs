//! Linear addresses of a guest outside of long mode.

use acrn_abi::{Gpa, Gva, PAGE_SIZE};

use super::{Fault, State, Stop, vector};
use crate::paging::{Access, GuestPhysical, WalkContext, WalkError};

/// The guest's memory, which can be written too.
pub trait GuestMemory: GuestPhysical {
    /// Copies out; `false` when part of the range is not there.
    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> bool;
    /// Copies in; `false` when part of the range is not there, or not writable.
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool;
}

/// The guest's memory at linear addresses, which end at 4 GiB and begin anew.
pub struct Linear<'a, M> {
    /// Of the processor's own accesses: those of privilege level 0, for which SMAP knows no exception.
    context: WalkContext,
    memory: &'a M,
}

impl<'a, M: GuestMemory> Linear<'a, M> {
    pub fn new(state: &State, memory: &'a M) -> Self {
        let context = WalkContext {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
            rflags: 0,
            cpl: 0,
            physical_bits: state.physical_bits,
        };
        Self { context, memory }
    }

    /// Changes the address space.
    pub fn load_cr3(&mut self, cr3: u64) -> Result<(), Stop> {
        let context = WalkContext {
            cr3,
            ..self.context
        };
        match context.has_valid_pointers(self.memory) {
            Ok(true) => self.context = context,
            Ok(false) => {
                return Err(Stop::Fault(Fault {
                    vector: vector::PROTECTION,
                    error_code: Some(0),
                    address: None,
                }));
            }
            Err(gpa) => return Err(Stop::NoMemory(gpa)),
        }
        Ok(())
    }

    /// Calls `work` for each page of a range, with the address there and the bytes of the range.
    fn each_page(
        &self,
        at: u32,
        length: u32,
        (access, cpl): (Access, u8),
        mut work: impl FnMut(Gpa, core::ops::Range<usize>) -> bool,
    ) -> Result<(), Stop> {
        let context = WalkContext {
            cpl,
            ..self.context
        };
        let mut done = 0;
        while done < length {
            let here = Gva(at.wrapping_add(done).into());
            let count = (length - done).min((PAGE_SIZE - here.page_offset()) as u32);
            let found = context.translate(self.memory, here, access)?;
            if !work(found.gpa, done as usize..(done + count) as usize) {
                return Err(Stop::NoMemory(found.gpa));
            }
            done += count;
        }
        Ok(())
    }

    pub fn check_read(&self, at: u32, length: u32) -> Result<(), Stop> {
        self.each_page(at, length, (Access::Read, 0), |_, _| true)
    }

    pub fn check_write(&self, at: u32, length: u32) -> Result<(), Stop> {
        self.each_page(at, length, (Access::Write, 0), |_, _| true)
    }

    pub fn read<const N: usize>(&self, at: u32) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        self.each_page(at, N as u32, (Access::Read, 0), |gpa, part| {
            let part = bytes.get_mut(part);
            part.is_some_and(|part| self.memory.read(gpa, part))
        })?;
        Ok(bytes)
    }

    pub fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Stop> {
        self.write_as(at, bytes, 0)
    }

    /// Writes at a privilege level.
    pub fn write_as(&self, at: u32, bytes: &[u8], cpl: u8) -> Result<(), Stop> {
        self.each_page(at, bytes.len() as u32, (Access::Write, cpl), |gpa, part| {
            let part = bytes.get(part);
            part.is_some_and(|part| self.memory.write(gpa, part))
        })
    }
}

impl From<WalkError> for Stop {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Fault(fault) => Self::Fault(Fault {
                vector: vector::PAGE_FAULT,
                error_code: Some(fault.error_code),
                address: Some(fault.address),
            }),
            // Not of 32 bits.
            WalkError::NonCanonical(_) => Self::Fault(Fault {
                vector: vector::PROTECTION,
                error_code: Some(0),
                address: None,
            }),
            WalkError::NoTable(gpa) => Self::NoMemory(gpa),
        }
    }
}
