//! Guest RAM: where it comes from and where the guest sees it.
//!
//! RAM lies at 0 up to 2 GiB and, beyond that, from 4 GiB on; the hole between belongs to PCI
//! and the interrupt controllers. It is made of 2 MiB huge pages when the Service VM can spare
//! them ([`hugepages`]), because one mapping operation then covers 2 MiB; else of ordinary pages.

pub mod hugepages;

use std::io;
use std::sync::Arc;

use acrn_abi::hsm::VmMemmap;
use acrn_abi::hypercall::memory::RWX;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap,
};

use crate::exit::ExitCode;
use crate::hsm::{Hsm, HsmError};
use crate::pci::GuestRam;
use hugepages::Overcommit;

/// End of low memory at most: above it lies the PCI hole.
pub const LOW_LIMIT: u64 = 0x8000_0000;
/// Start of high memory.
pub const HIGH_START: u64 = 0x1_0000_0000;

/// What the Service VM should keep for itself.
const MARGIN: u64 = 8 << 20;
/// Bytes of ordinary memory in one request to the driver: it takes one operation of 32 bytes
/// per page, all of them in one piece of kernel memory.
const ORDINARY_SEGMENT: u64 = 32 << 20;
/// Bytes of huge pages in one request.
const HUGE_SEGMENT: u64 = 1 << 30;

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Too little in the Service VM.
    #[error(
        "-m asks for {wanted} MiB, and the Service VM has {available} MiB to spare: choose less, \
         or give the Service VM more memory"
    )]
    TooLittle {
        /// MiB asked for.
        wanted: u64,
        /// MiB available.
        available: u64,
    },
    /// Mapping fails.
    #[error("-m: {wanted} MiB of memory cannot be had: {source}; choose less")]
    Map {
        /// MiB asked for.
        wanted: u64,
        /// What the system said.
        source: io::Error,
    },
}

impl MemoryError {
    /// The exit code for it.
    pub fn code(&self) -> ExitCode {
        ExitCode::NoMemory
    }
}

/// Where RAM is in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes from address 0 on.
    pub low: u64,
    /// Bytes from [`HIGH_START`] on.
    pub high: u64,
}

impl Layout {
    /// For `size` bytes.
    pub fn new(size: u64) -> Self {
        let low = size.min(LOW_LIMIT);
        Self {
            low,
            high: size - low,
        }
    }

    /// Start and length of each piece.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, u64)> {
        [(0, self.low), (HIGH_START, self.high)]
            .into_iter()
            .filter(|(_, length)| *length != 0)
    }
}

/// The RAM of a VM. Give it back with [`Memory::release`] after the VM is gone.
pub struct Memory {
    ram: Arc<GuestRam>,
    /// Where it is.
    pub layout: Layout,
    /// Held as long as huge pages are: gives the allowance for them back.
    _overcommit: Option<Overcommit>,
    segment: u64,
    /// Made of huge pages.
    pub huge: bool,
}

impl Memory {
    /// `size` bytes, a multiple of 2 MiB.
    ///
    /// # Errors
    /// The Service VM has not enough.
    pub fn allocate(size: u64) -> Result<Self, MemoryError> {
        let layout = Layout::new(size);
        match Self::huge(layout) {
            Ok(memory) => return Ok(memory),
            Err(error) => log::warn!(
                "no huge pages for the guest ({error}): ordinary memory is used, which is slower; \
                 free memory in the Service VM or reserve huge pages to change that"
            ),
        }
        let wanted = size >> 20;
        if let Some(available) = hugepages::available_memory()
            && available < size.saturating_add(MARGIN)
        {
            return Err(MemoryError::TooLittle {
                wanted,
                available: available >> 20,
            });
        }
        Self::ordinary(layout).map_err(|source| MemoryError::Map { wanted, source })
    }

    fn huge(layout: Layout) -> io::Result<Self> {
        let total = layout.low + layout.high;
        let overcommit = Overcommit::raise(total)?;
        let regions = layout
            .pieces()
            .map(|(start, length)| {
                let file = hugepages::memory_file(length)?;
                let builder = MmapRegionBuilder::new(length as usize)
                    .with_file_offset(FileOffset::new(file, 0))
                    .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                    .with_mmap_flags(libc::MAP_SHARED);
                region(builder, start)
            })
            .collect::<io::Result<Vec<_>>>()?;
        Self::assemble(layout, regions, Some(overcommit))
    }

    /// Ordinary memory. Used directly by tests.
    pub(crate) fn ordinary(layout: Layout) -> io::Result<Self> {
        let regions = layout
            .pieces()
            .map(|(start, length)| {
                let builder = MmapRegionBuilder::new(length as usize)
                    .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                    .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                let region = region(builder, start)?;
                // The driver takes a transparent huge page as a whole even when only its
                // beginning belongs to the segment.
                hugepages::forbid_transparent(region.as_ptr(), length as usize)?;
                Ok(region)
            })
            .collect::<io::Result<Vec<_>>>()?;
        Self::assemble(layout, regions, None)
    }

    fn assemble(
        layout: Layout,
        regions: Vec<GuestRegionMmap>,
        overcommit: Option<Overcommit>,
    ) -> io::Result<Self> {
        let ram = GuestRam::from_regions(regions).map_err(io::Error::other)?;
        let huge = overcommit.is_some();
        let segment = if huge { HUGE_SEGMENT } else { ORDINARY_SEGMENT };
        Ok(Self {
            ram: Arc::new(ram),
            layout,
            _overcommit: overcommit,
            segment,
            huge,
        })
    }

    /// The RAM for devices and loader.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Lends the RAM to the VM.
    ///
    /// # Errors
    /// The driver or the hypervisor refuses.
    pub fn map_into(&self, hsm: &dyn Hsm) -> Result<(), HsmError> {
        for region in self.ram.iter() {
            let base = region.as_ptr() as u64;
            let start = region.start_addr().0;
            let mut offset = 0;
            while offset < region.len() {
                let len = (region.len() - offset).min(self.segment);
                let segment = VmMemmap {
                    kind: VmMemmap::RAM,
                    attributes: RWX,
                    user_vm_pa: start + offset,
                    base: base + offset,
                    len,
                };
                hsm.set_memory(&segment).map_err(HsmError::refused(
                    "map the guest's memory",
                    "choose less with -m",
                ))?;
                offset += len;
            }
        }
        Ok(())
    }

    /// Overwrites the guest's data and gives the memory back.
    pub fn release(self) {
        for region in self.ram.iter() {
            let zeros = vec![0u8; 1 << 20];
            let mut offset = 0;
            while offset < region.len() {
                let length = (region.len() - offset).min(zeros.len() as u64);
                let address = GuestAddress(region.start_addr().0 + offset);
                if self
                    .ram
                    .write_slice(&zeros[..length as usize], address)
                    .is_err()
                {
                    break;
                }
                offset += length;
            }
        }
    }
}

fn region(builder: MmapRegionBuilder<()>, start: u64) -> io::Result<GuestRegionMmap> {
    let mapping = builder.build().map_err(|error| match error {
        vm_memory::mmap::MmapRegionError::Mmap(source) => source,
        other => io::Error::other(other),
    })?;
    GuestRegionMmap::new(mapping, GuestAddress(start))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::fake::{Call, FakeHsm};

    #[test]
    fn memory_beyond_two_gibibytes_continues_at_four() {
        assert_eq!(
            Layout::new(1 << 30),
            Layout {
                low: 1 << 30,
                high: 0
            }
        );
        assert_eq!(
            Layout::new(5 << 30),
            Layout {
                low: 2 << 30,
                high: 3 << 30
            }
        );
        let pieces: Vec<_> = Layout::new(3 << 30).pieces().collect();
        assert_eq!(pieces, [(0, 2 << 30), (4 << 30, 1 << 30)]);
    }

    #[test]
    fn ordinary_memory_is_lent_in_pieces_that_the_driver_can_take() {
        let memory = Memory::ordinary(Layout::new(80 << 20)).unwrap();
        let hsm = FakeHsm::new();
        memory.map_into(&*hsm).unwrap();
        let lengths: Vec<_> = hsm
            .take_calls()
            .into_iter()
            .map(|call| match call {
                Call::Memory { gpa, len } => (gpa >> 20, len >> 20),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [(0, 32), (32, 32), (64, 16)]);
    }

    #[test]
    fn released_memory_holds_no_guest_data() {
        let memory = Memory::ordinary(Layout::new(4 << 20)).unwrap();
        let ram = memory.ram().clone();
        ram.write_slice(b"secret", GuestAddress(0x1f_fffd)).unwrap();
        memory.release();
        let mut bytes = [1; 6];
        ram.read_slice(&mut bytes, GuestAddress(0x1f_fffd)).unwrap();
        assert_eq!(bytes, [0; 6]);
    }
}
