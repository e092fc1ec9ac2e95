//! Huge pages of the Service VM.
//!
//! Instead of enlarging the pool of reserved huge pages, which somebody would have to shrink
//! again, the kernel is *allowed* to make surplus ones (`nr_overcommit_hugepages`). Those go back
//! to the ordinary memory by themselves when the last user is gone, even after `kill -9`; only
//! the allowance, which costs nothing, would stay.

// UNSAFETY: madvise and memfd_create have no safe wrapper that takes these flags.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// Size of a huge page.
pub const HUGE_PAGE: u64 = 2 << 20;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// Serializes changes of several Device Models.
const LOCK: &str = "/run/acrn/hugepages.lock";

/// A raised allowance for surplus huge pages; dropping it takes it back.
pub struct Overcommit {
    pages: u64,
}

impl Overcommit {
    /// Allows the kernel to make huge pages for `bytes`.
    ///
    /// # Errors
    /// The kernel has no huge pages, or does not let us.
    pub fn raise(bytes: u64) -> io::Result<Self> {
        let pages = bytes.div_ceil(HUGE_PAGE);
        change(|value| value.saturating_add(pages))?;
        Ok(Self { pages })
    }
}

impl Drop for Overcommit {
    fn drop(&mut self) {
        if let Err(error) = change(|value| value.saturating_sub(self.pages)) {
            log::warn!("the allowance for huge pages could not be taken back: {error}");
        }
    }
}

fn change(update: impl FnOnce(u64) -> u64) -> io::Result<()> {
    let _lock = lock();
    let path = format!("{POOL}/nr_overcommit_hugepages");
    let value = std::fs::read_to_string(&path)?;
    let value = value.trim().parse::<u64>().map_err(io::Error::other)?;
    std::fs::write(&path, update(value).to_string())
}

/// The lock file, held until dropped. Without it (no `/run`) the worst is a wrong allowance.
fn lock() -> Option<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(LOCK)
        .ok()?;
    // SAFETY: flock on a descriptor that is open for the duration of the call.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    Some(file)
}

/// A file in memory made of huge pages.
///
/// # Errors
/// The kernel has none.
pub fn memory_file(length: u64) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    // SAFETY: the name is a C string that lives through the call.
    let fd = unsafe { libc::memfd_create(c"acrn-guest".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a new descriptor that nobody else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(length)?;
    Ok(file)
}

/// Keeps transparent huge pages out of a mapping.
///
/// # Errors
/// Never on a kernel without them.
pub fn forbid_transparent(address: *mut u8, length: usize) -> io::Result<()> {
    // SAFETY: advice about memory that the caller has mapped; it changes no contents.
    let result = unsafe { libc::madvise(address.cast(), length, libc::MADV_NOHUGEPAGE) };
    // EINVAL: the kernel has no transparent huge pages, which is just as well.
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            error => Err(error),
        },
    }
}

/// Bytes that programs can have without swapping, as the kernel estimates it.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}
