//! Rings that the hypervisor writes into.
//!
//! Upstream Linux has no driver for them. An *observer* does without: a VM of `/dev/acrn_hsm` that has
//! no vCPU and never runs. The driver pins its memory, which is this process's, and tells the hypervisor
//! where it is; when the file is closed, be it because the process was killed, the driver ends the
//! observer first and lets the memory go then. So the hypervisor never writes into memory that has
//! become somebody else's.

// UNSAFETY: ioctls, and memory that another party writes at any time.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use acrn_abi::PAGE_SIZE;
use acrn_abi::hsm::{self, VmMemmap};
use acrn_abi::hypercall::{SbufParam, Vdev, VmCreation, memory};
use acrn_abi::sbuf::{FLAG_COUNT_OVERRUNS, SbufHeader};
use acrn_abi::vm_flags::VmFlags;
use acrn_trace::{Reader, RingMemory};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use zerocopy::{FromZeros, IntoBytes};

/// Most CPUs that are asked for.
const MOST_CPUS: u16 = 256;
/// Where the observer has the first ring, in its own addresses. Zero would withdraw it.
const FIRST: u64 = 0x1000_0000;

/// Why there is nothing to observe.
#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    /// No driver.
    #[error(
        "there is no {}: run this in the Service VM of an ACRN hypervisor",
        hsm::DEVICE
    )]
    Missing,
    /// No permission, or something else.
    #[error("{path} cannot be opened: {0}; run this as root", path = hsm::DEVICE)]
    Open(io::Error),
    /// No slot.
    #[error(
        "the hypervisor makes no observer ({0}): it is another hypervisor than acrn-rs, or has as many \
         VMs as it can; end one of them"
    )]
    Create(io::Error),
    /// No memory.
    #[error(
        "no memory for rings of {kib} KiB on each of {cpus} CPUs: {source}; ask for smaller ones"
    )]
    Memory {
        /// Bytes of a ring in KiB.
        kib: usize,
        /// Number of CPUs.
        cpus: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("somebody else reads this of CPU {0}; only one can")]
    Busy(u16),
    /// The hypervisor refused a ring.
    #[error("the hypervisor refuses a ring for CPU {cpu}: {source}")]
    Ring {
        /// The CPU.
        cpu: u16,
        /// What the driver said.
        source: io::Error,
    },
    /// No such CPU.
    #[error("there is no CPU {cpu}; the machine has {count}")]
    NoCpu {
        /// What was asked for.
        cpu: u16,
        /// How many there are.
        count: u16,
    },
}

/// Memory of this process that others write too.
struct Shared {
    start: NonNull<std::ffi::c_void>,
    bytes: usize,
}

impl Shared {
    fn new(bytes: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_SHARED)? };
        Ok(Self { start, bytes })
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset % 4 == 0 && offset + 4 <= self.bytes);
        // SAFETY: aligned and inside of the mapping, which lives as long as `self`; everybody who
        // shares it may change it at any time, hence an atomic.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().byte_add(offset).cast()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, to which no reference is left.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

/// A ring in the memory.
struct Part<'a> {
    memory: &'a Shared,
    start: usize,
}

impl RingMemory for Part<'_> {
    fn load(&self, offset: u32) -> u32 {
        let word = self.memory.word(self.start + offset as usize);
        word.load(Ordering::Acquire)
    }

    fn store(&mut self, offset: u32, value: u32) {
        let word = self.memory.word(self.start + offset as usize);
        word.store(value, Ordering::Release);
    }
}

/// What is wanted of the hypervisor.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Name of the observer, with which it is in the hypervisor's `vm_list`; at most 9 letters.
    pub name: &'a str,
    /// One of [`acrn_abi::sbuf::id`].
    pub ring: u32,
    /// Bytes of an element.
    pub element: usize,
    /// Size of each CPU's ring in KiB.
    pub kib: usize,
    /// CPUs; all when empty.
    pub cpus: &'a [u16],
}

/// Rings of some CPUs. Dropping it ends them.
pub struct Observer {
    // Closed before the memory goes, though the driver holds the pages anyway.
    file: File,
    memory: Shared,
    /// The page for I/O requests. Nobody makes any, but the driver wants one.
    _requests: Shared,
    rings: Vec<Ring>,
}

struct Ring {
    cpu: u16,
    start: usize,
    reader: Reader,
}

impl Observer {
    /// Asks the hypervisor for rings. The first CPU's comes last: it brings the log of before.
    ///
    /// # Errors
    /// [`ObserverError`].
    pub fn new(wanted: &Wanted) -> Result<Self, ObserverError> {
        let file = open()?;
        let requests = create(&file, wanted.name)?;
        let count = count_cpus(&file)?;
        let cpus: Vec<u16> = match wanted.cpus {
            [] => (0..count).collect(),
            some => some.to_vec(),
        };
        if let Some(&cpu) = cpus.iter().find(|&&cpu| cpu >= count) {
            return Err(ObserverError::NoCpu { cpu, count });
        }
        let size = wanted.kib.max(1) * 1024;
        let size = size.next_multiple_of(PAGE_SIZE as usize);
        let failed = |source| ObserverError::Memory {
            kib: size / 1024,
            cpus: cpus.len(),
            source,
        };
        let memory = Shared::new(size * cpus.len()).map_err(failed)?;
        lend(&file, &memory).map_err(failed)?;
        let mut observer = Self {
            file,
            memory,
            _requests: requests,
            rings: Vec::new(),
        };
        for (index, cpu) in cpus.into_iter().enumerate().rev() {
            observer.add(wanted, cpu, index * size, size)?;
        }
        observer.rings.reverse();
        Ok(observer)
    }

    fn add(
        &mut self,
        wanted: &Wanted,
        cpu: u16,
        start: usize,
        size: usize,
    ) -> Result<(), ObserverError> {
        let count = (size - size_of::<SbufHeader>()) / wanted.element;
        let header = SbufHeader::new(count as u32, wanted.element as u32, FLAG_COUNT_OVERRUNS);
        let memory = &self.memory;
        Part { memory, start }.write(0, header.as_bytes());
        change(&self.file, wanted.ring, cpu, FIRST + start as u64).map_err(
            |source| match source.raw_os_error() {
                Some(code) if code == Errno::EBUSY as i32 => ObserverError::Busy(cpu),
                _ => ObserverError::Ring { cpu, source },
            },
        )?;
        self.rings.push(Ring {
            cpu,
            start,
            reader: Reader::new(&header),
        });
        Ok(())
    }

    /// The CPUs that are observed.
    pub fn cpus(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.rings.iter().map(|ring| ring.cpu)
    }

    /// Takes what the ring with this index has, up to its size: elements that come in meanwhile are
    /// left for the next time.
    pub fn drain(&mut self, index: usize, element: &mut [u8], mut take: impl FnMut(&[u8])) {
        let Some(ring) = self.rings.get_mut(index) else {
            return;
        };
        let start = ring.start;
        let memory = &self.memory;
        let mut part = Part { memory, start };
        let most = self.memory.bytes / element.len().max(1);
        for _ in 0..most {
            if !ring.reader.take(&mut part, element) {
                return;
            }
            take(element);
        }
    }

    /// Elements that the ring with this index has lost.
    pub fn lost(&self, index: usize) -> u32 {
        let memory = &self.memory;
        self.rings.get(index).map_or(0, |ring| {
            let start = ring.start;
            ring.reader.lost(&Part { memory, start })
        })
    }
}

fn open() -> Result<File, ObserverError> {
    let file = OpenOptions::new().read(true).write(true).open(hsm::DEVICE);
    file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ObserverError::Missing,
        _ => ObserverError::Open(error),
    })
}

/// An ioctl that takes a block, and may change it.
fn call<T>(file: &File, request: u32, block: &mut T) -> io::Result<()> {
    // SAFETY: `block` is valid for reads and writes of the size that `request` encodes, since both are
    // made from `T`.
    let result = unsafe { nix::libc::ioctl(file.as_raw_fd(), request as _, &raw mut *block) };
    Errno::result(result)?;
    Ok(())
}

/// Makes the observer; gives the page for I/O requests, which the driver pins.
fn create(file: &File, name: &str) -> Result<Shared, ObserverError> {
    let page = Shared::new(PAGE_SIZE as usize).map_err(ObserverError::Create)?;
    let name = format!("{name}-{}", std::process::id() % 1_000_000);
    let mut creation = VmCreation {
        vm_flag: VmFlags::OBSERVER.bits(),
        ioreq_buf: page.start.as_ptr() as u64,
        ..VmCreation::default()
    };
    for (to, from) in creation.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    call(file, hsm::CREATE_VM, &mut creation).map_err(ObserverError::Create)?;
    Ok(page)
}

/// Gives the memory to the observer.
fn lend(file: &File, shared: &Shared) -> io::Result<()> {
    let mut segment = VmMemmap {
        kind: VmMemmap::RAM,
        attributes: memory::READ | memory::WRITE,
        user_vm_pa: FIRST,
        base: shared.start.as_ptr() as u64,
        len: shared.bytes as u64,
    };
    call(file, hsm::SET_MEMSEG, &mut segment)
}

/// Sets a ring up, or withdraws it at address 0.
fn change(file: &File, sbuf_id: u32, cpu_id: u16, gpa: u64) -> io::Result<()> {
    let param = SbufParam {
        cpu_id,
        reserved: 0,
        sbuf_id,
        gpa,
    };
    let mut vdev = Vdev::new_zeroed();
    vdev.legacy_id = Vdev::LEGACY_RING;
    vdev.args[..size_of::<SbufParam>()].copy_from_slice(param.as_bytes());
    call(file, hsm::CREATE_VDEV, &mut vdev)
}

/// Number of CPUs: the withdrawal of a ring that is not there says whether there is such a CPU.
fn count_cpus(file: &File) -> Result<u16, ObserverError> {
    for cpu in 0..MOST_CPUS {
        match change(file, acrn_abi::sbuf::id::TRACE, cpu, 0) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return Ok(cpu),
            Err(source) => return Err(ObserverError::Ring { cpu, source }),
            Ok(()) => {}
        }
    }
    Ok(MOST_CPUS)
}
