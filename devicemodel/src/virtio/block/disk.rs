//! The file behind a virtual disk: opened, locked, measured; and its I/O as plain system calls.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::options::{BlockOptions, NAME};
use crate::pci::DeviceError;
use crate::virtio::chain::GuestBuffers;
use crate::virtio::guest_io;

/// Bytes of a virtio sector, whatever the block size.
pub const SECTOR: u64 = 512;
/// `BLKSSZGET`, `BLKPBSZGET`, `BLKDISCARD` of `<linux/fs.h>`.
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKPBSZGET: libc::c_ulong = 0x127b;
const BLKDISCARD: libc::c_ulong = 0x1277;

/// An open disk.
pub struct Disk {
    file: File,
    /// First byte in the file that the guest sees.
    base: u64,
    /// Number of sectors that the guest sees.
    sectors: u64,
    read_only: bool,
    block_device: bool,
    block_size: (u32, u32),
    serial: [u8; 20],
}

impl Disk {
    /// Opens what the options name, and locks it.
    ///
    /// # Errors
    /// The file is missing, in use, not allowed or not a raw image, each with a remedy.
    pub fn open(options: &BlockOptions) -> Result<Self, DeviceError> {
        let Some(path) = &options.path else {
            return Self::absent(options);
        };
        let failed = |source: io::Error, remedy| DeviceError::File {
            device: NAME,
            path: path.clone(),
            source,
            remedy,
        };
        let mut file = open_file(path, options).map_err(|error| {
            let remedy = open_remedy(&error, options);
            failed(error, remedy)
        })?;
        let kind = file
            .metadata()
            .map_err(|e| failed(e, "check the file"))?
            .file_type();
        let block_device = kind.is_block_device();
        if !block_device && !kind.is_file() {
            let source = io::Error::other("it is neither a file nor a block device");
            return Err(failed(source, "name a raw image, a partition or a disk"));
        }
        lock(&file, options.read_only).map_err(|error| {
            failed(
                error,
                "another VM or program uses it; stop that one, or give both of them ro",
            )
        })?;
        refuse_other_formats(&file, options.direct)
            .map_err(|e| failed(e, "convert it with: qemu-img convert -O raw"))?;
        let bytes = file
            .seek(SeekFrom::End(0))
            .map_err(|e| failed(e, "check the device"))?;
        let (base, sectors) = part(bytes / SECTOR, options.range).ok_or_else(|| {
            let source = io::Error::other(format!("it has {} sectors", bytes / SECTOR));
            failed(source, "make it larger with truncate -s, or change range=")
        })?;
        let block_size = options.block_size.unwrap_or_else(|| {
            if block_device {
                device_block_size(&file)
            } else {
                (SECTOR as u32, 4096)
            }
        });
        let read_only = options.read_only;
        let serial = serial(options);
        Ok(Self {
            file,
            base,
            sectors,
            read_only,
            block_device,
            block_size,
            serial,
        })
    }

    /// A drive without a medium.
    fn absent(options: &BlockOptions) -> Result<Self, DeviceError> {
        let file = File::open("/dev/null").map_err(|source| DeviceError::File {
            device: NAME,
            path: "/dev/null".into(),
            source,
            remedy: "mount /dev",
        })?;
        Ok(Self {
            file,
            base: 0,
            sectors: 0,
            read_only: options.read_only,
            block_device: false,
            block_size: options.block_size.unwrap_or((512, 512)),
            serial: serial(options),
        })
    }

    /// The file, for asynchronous I/O.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Size in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Logical and physical block size in bytes.
    pub fn block_size(&self) -> (u32, u32) {
        self.block_size
    }

    /// The serial number, padded with zeros.
    pub fn serial(&self) -> &[u8; 20] {
        &self.serial
    }

    /// Where `count` sectors from `sector` on lie in the file, in bytes; `None` when they are
    /// not all on the disk.
    pub fn locate(&self, sector: u64, count: u64) -> Option<u64> {
        let end = sector.checked_add(count)?;
        (end <= self.sectors).then(|| self.base + sector * SECTOR)
    }

    /// Where the file ends now. An image that was truncated under the guest must not grow
    /// again through a write, with silent zeros in between.
    pub fn end(&self) -> u64 {
        if self.block_device {
            return u64::MAX;
        }
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Reads at byte `offset` of the file until `target` is full.
    ///
    /// # Errors
    /// What the system reports, or `UnexpectedEof` when the file is shorter.
    pub fn read(&self, target: &mut GuestBuffers, mut offset: u64) -> io::Result<()> {
        while !target.is_empty() {
            match guest_io::preadv(&self.file, target, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    target.skip(count);
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `source` at byte `offset` of the file; with `durable`, down to the medium.
    ///
    /// # Errors
    /// What the system reports, or `UnexpectedEof` when the file has shrunk.
    pub fn write(
        &self,
        source: &mut GuestBuffers,
        mut offset: u64,
        durable: bool,
    ) -> io::Result<()> {
        if offset.saturating_add(source.len() as u64) > self.end() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !source.is_empty() {
            match guest_io::pwritev(&self.file, source, offset, durable) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    source.skip(count);
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Brings what was written to the medium.
    ///
    /// # Errors
    /// What `fdatasync(2)` reports.
    pub fn flush(&self) -> io::Result<()> {
        if self.sectors == 0 || self.read_only {
            Ok(())
        } else {
            self.file.sync_data()
        }
    }

    /// Tells the storage that `len` bytes at `offset` are not needed. Storage that cannot use
    /// the hint is no error.
    ///
    /// # Errors
    /// What the system reports.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let result = if self.block_device {
            let range = [offset, len];
            // SAFETY: BLKDISCARD reads two 64-bit numbers at the pointer.
            check(unsafe { libc::ioctl(self.file.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
        } else {
            self.fallocate(
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                offset,
                len,
            )
        };
        match result {
            Err(error) if unsupported(&error) => Ok(()),
            other => other,
        }
    }

    /// Makes `len` bytes at `offset` read as zeros, giving the space back when `unmap`.
    ///
    /// # Errors
    /// What the system reports, or `UnexpectedEof` when the file has shrunk.
    pub fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if offset.saturating_add(len) > self.end() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let punch = libc::FALLOC_FL_PUNCH_HOLE | keep;
        let zero = libc::FALLOC_FL_ZERO_RANGE | keep;
        let ways = if unmap { [punch, zero] } else { [zero, zero] };
        for way in ways {
            match self.fallocate(way, offset, len) {
                Err(error) if unsupported(&error) => {}
                other => return other,
            }
        }
        self.write_plain_zeroes(offset, len)
    }

    fn write_plain_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        // Aligned for files that are opened for direct I/O.
        #[repr(align(4096))]
        struct Zeroes([u8; 64 << 10]);
        static ZEROES: Zeroes = Zeroes([0; 64 << 10]);
        while len > 0 {
            let count = len.min(ZEROES.0.len() as u64);
            self.file
                .write_all_at(&ZEROES.0[..count as usize], offset)?;
            offset += count;
            len -= count;
        }
        Ok(())
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        let bad = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let (offset, len) = (
            offset.try_into().map_err(bad)?,
            len.try_into().map_err(bad)?,
        );
        // SAFETY: no memory is involved.
        check(unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, len) })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY)
    )
}

fn open_file(path: &Path, options: &BlockOptions) -> io::Result<File> {
    let mut flags = if options.direct { libc::O_DIRECT } else { 0 };
    let on_device = std::fs::metadata(path)?.file_type().is_block_device();
    if on_device && !options.read_only {
        // The kernel then refuses disks that are mounted, and mounts while we run.
        flags |= libc::O_EXCL;
    }
    let mut how = OpenOptions::new();
    how.read(true).write(!options.read_only).custom_flags(flags);
    how.open(path)
}

fn open_remedy(error: &io::Error, options: &BlockOptions) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "create it, for example with: truncate -s 8G FILE",
        Some(libc::EROFS) => "add ro, or move it to a file system that can be written",
        Some(libc::EACCES | libc::EPERM) => "run acrn-dm as root, or add ro",
        Some(libc::EBUSY) => "unmount it in the Service VM first, or add ro",
        Some(libc::EINVAL) if options.direct => "its file system has no direct I/O: drop nocache",
        _ => "check the path",
    }
}

/// Takes a lock on the open file, exclusive for writers, which ends with the descriptor.
fn lock(file: &File, shared: bool) -> io::Result<()> {
    // SAFETY: `flock` is plain data for which all zeros is a valid value.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = if shared { libc::F_RDLCK } else { libc::F_WRLCK } as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: F_OFD_SETLK reads a `flock` at the pointer.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) })
}

/// Formats that a guest would take for an empty disk and overwrite.
fn refuse_other_formats(file: &File, direct: bool) -> io::Result<()> {
    let mut start = [0; 8];
    if direct || (&*file).read(&mut start)? < start.len() {
        return Ok(());
    }
    let format = match &start {
        [b'Q', b'F', b'I', 0xfb, ..] => "qcow2",
        b"conectix" | b"vhdxfile" => "VHD",
        [b'K', b'D', b'M', b'V', ..] => "VMDK",
        _ => return Ok(()),
    };
    Err(io::Error::other(format!(
        "it is a {format} image, and only raw ones can be used"
    )))
}

/// First byte and number of sectors of what the guest sees; `None` if that is nothing or lies
/// outside.
fn part(sectors: u64, range: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let (first, count) = range.unwrap_or((0, sectors));
    let inside = count > 0 && first.checked_add(count)? <= sectors;
    inside.then_some((first * SECTOR, count))
}

fn device_block_size(file: &File) -> (u32, u32) {
    let ask = |request| {
        let mut size: libc::c_int = 0;
        // SAFETY: both requests write one `int` at the pointer.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut size) };
        u32::try_from(size)
            .ok()
            .filter(|size| result == 0 && *size >= 512)
    };
    let logical = ask(BLKSSZGET).unwrap_or(512);
    (logical, ask(BLKPBSZGET).unwrap_or(logical).max(logical))
}

/// The serial number as given, or one that stays the same for the same path.
fn serial(options: &BlockOptions) -> [u8; 20] {
    let text = options.serial.clone().unwrap_or_else(|| {
        let path = options
            .path
            .clone()
            .unwrap_or_else(|| PathBuf::from("nodisk"));
        let bytes = path.as_os_str().as_encoded_bytes();
        format!("ACRN{:016x}", crate::virtio::hash::fnv1a(bytes))
    });
    let mut serial = [0; 20];
    for (to, from) in serial.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    serial
}
