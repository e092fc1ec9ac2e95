//! Shared memory of the Service VM: a file below `/dev/shm` that programs there and the guests see, which
//! may be several. They have it without the right to execute, by which the hypervisor knows memory that
//! may be lent to several VMs.
//!
//! The file stays when the VM ends, with its contents. The kernel's driver lends memory and has no way to
//! take it back, so the guest has it where firmware puts the BAR, always; where the guest moves
//! the BAR to, each access is carried out here. There is no doorbell: registers read as zero.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use acrn_abi::hsm::VmMemmap;
use acrn_abi::hypercall::memory::{READ, WRITE};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{Bytes, FileOffset, VolatileMemory};

use super::{IVSHMEM, MEMORY, Region};
use crate::hsm::Hsm;
use crate::pci::{ConfigSpace, DeviceError, PciDevice};

/// Where the files are.
const DIRECTORY: &str = "/dev/shm";
/// Bytes in one request to the driver, as for ordinary memory of the VM.
const SEGMENT: u64 = 32 << 20;

/// See the module.
pub struct SharedFile {
    config: ConfigSpace,
    memory: MmapRegion<()>,
    hsm: Arc<dyn Hsm>,
}

impl SharedFile {
    /// Opens the file of a region, or makes it.
    pub(super) fn open(region: &Region, hsm: Arc<dyn Hsm>) -> Result<Self, DeviceError> {
        Self::open_in(Path::new(DIRECTORY), region, hsm)
    }

    fn open_in(directory: &Path, region: &Region, hsm: Arc<dyn Hsm>) -> Result<Self, DeviceError> {
        let path = directory.join(&region.name);
        let failed = |remedy| {
            let path: PathBuf = path.clone();
            move |source| DeviceError::File {
                device: IVSHMEM,
                path,
                source,
                remedy,
            }
        };
        let file = open(&path).map_err(failed("check that /dev/shm is mounted"))?;
        let size = fit(&file, region.size).map_err(failed("free memory in the Service VM"))?;
        if size != region.size {
            return Err(DeviceError::Option {
                device: IVSHMEM,
                option: format!("dm:/{},{}", region.name, region.size >> 20),
                remedy: format!(
                    "the memory of this name has {} MiB: use that size, or remove {} when nobody \
                     uses it",
                    size >> 20,
                    path.display()
                ),
            });
        }
        let builder = MmapRegionBuilder::new(size as usize)
            .with_file_offset(FileOffset::new(file, 0))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED);
        let memory = builder
            .build()
            .map_err(|error| failed("free memory in the Service VM")(io::Error::other(error)))?;
        Ok(Self {
            config: region.config()?,
            memory,
            hsm,
        })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Gives a new file its size; the size that the file has.
fn fit(file: &File, size: u64) -> io::Result<u64> {
    match file.metadata()?.len() {
        0 => file.set_len(size).map(|()| size),
        found => Ok(found),
    }
}

impl PciDevice for SharedFile {
    fn name(&self) -> &str {
        IVSHMEM
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn placed(&mut self) -> Result<(), DeviceError> {
        let start = self.config.bar_programmed(MEMORY).unwrap_or_default();
        let (base, size) = (self.memory.as_ptr() as u64, self.memory.size() as u64);
        for offset in (0..size).step_by(SEGMENT as usize) {
            let segment = VmMemmap {
                kind: VmMemmap::RAM,
                attributes: READ | WRITE,
                user_vm_pa: start + offset,
                base: base + offset,
                len: SEGMENT.min(size - offset),
            };
            self.hsm
                .set_memory(&segment)
                .map_err(|source| DeviceError::Host {
                    device: IVSHMEM,
                    action: "share memory of the Service VM",
                    source,
                })?;
        }
        Ok(())
    }
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if usize::from(bar) == MEMORY {
            let _ = self
                .memory
                .as_volatile_slice()
                .read_slice(data, offset as usize);
        }
    }
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if usize::from(bar) == MEMORY {
            let _ = self
                .memory
                .as_volatile_slice()
                .write_slice(data, offset as usize);
        }
    }
    fn reset(&mut self) {}
    fn stop(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::fake::{Call, FakeHsm};
    use crate::pci::bus::Bus;
    use acrn_abi::types::Bdf;

    fn region(mib: u64) -> Region {
        Region::parse(&format!("dm:/ring,{mib}")).unwrap()
    }

    #[test]
    fn the_guest_gets_the_file_where_the_bar_is() {
        let dir = tempfile::tempdir().unwrap();
        let hsm = FakeHsm::new();
        let device = SharedFile::open_in(dir.path(), &region(64), hsm.clone()).unwrap();
        let mut bus = Bus::new();
        let slot = Bdf::new(0, 5, 0);
        bus.add(slot, Box::new(device)).unwrap();
        bus.placed(slot).unwrap();
        let memory = |gpa| Call::Memory { gpa, len: 32 << 20 };
        assert_eq!(hsm.take_calls(), [memory(0x8400_0000), memory(0x8600_0000)]);
    }

    #[test]
    fn what_is_written_is_in_the_file_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut device = SharedFile::open_in(dir.path(), &region(2), FakeHsm::new()).unwrap();
        device.bar_write(2, 4096, b"hello");
        device.bar_write(0, 0, b"nothing");
        drop(device);
        let bytes = std::fs::read(dir.path().join("ring")).unwrap();
        assert_eq!((bytes.len(), &bytes[4096..4101]), (2 << 20, &b"hello"[..]));
        let mut again = SharedFile::open_in(dir.path(), &region(2), FakeHsm::new()).unwrap();
        let mut data = [0; 5];
        again.bar_read(2, 4096, &mut data);
        assert_eq!(&data, b"hello");
        again.bar_read(0, 8, &mut data);
        assert_eq!(data, [0; 5], "it has no number");
    }

    #[test]
    fn another_size_or_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(SharedFile::open_in(dir.path(), &region(2), FakeHsm::new()).unwrap());
        let again = SharedFile::open_in(dir.path(), &region(4), FakeHsm::new());
        let error = again.err().unwrap().to_string();
        assert!(error.contains("has 2 MiB"), "{error}");
        std::fs::rename(dir.path().join("ring"), dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink("other", dir.path().join("ring")).unwrap();
        assert!(SharedFile::open_in(dir.path(), &region(2), FakeHsm::new()).is_err());
    }
}
