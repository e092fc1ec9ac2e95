//! System calls that move data between files and guest RAM without a copy of our own.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::chain::GuestBuffers;

/// Turns the result of a system call into a count.
fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Number of pieces as the kernel wants it; chains have at most `IOV_MAX` of them.
fn pieces(buffers: &GuestBuffers) -> libc::c_int {
    buffers.as_iovecs().len() as libc::c_int
}

/// Reads from `fd` into guest RAM.
///
/// # Errors
/// What `readv(2)` reports.
pub fn readv(fd: impl AsFd, target: &GuestBuffers) -> io::Result<usize> {
    readv_pieces(fd, target.as_iovecs())
}

/// Like [`readv`], with pieces of several chains in a row.
pub(super) fn readv_pieces(fd: impl AsFd, target: &[libc::iovec]) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the pieces are translated ranges of guest RAM, mapped as long as their chains,
    // which the caller borrows, exist; the kernel writes only there.
    count(unsafe { libc::readv(fd, target.as_ptr(), target.len() as libc::c_int) })
}

/// Writes from guest RAM to `fd`.
///
/// # Errors
/// What `writev(2)` reports.
pub fn writev(fd: impl AsFd, source: &GuestBuffers) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the pieces are guest RAM that stays mapped during the call; it is only read.
    count(unsafe { libc::writev(fd, source.as_iovecs().as_ptr(), pieces(source)) })
}

/// Reads from byte `offset` of a file into guest RAM.
///
/// # Errors
/// What `preadv(2)` reports.
pub fn preadv(fd: impl AsFd, target: &GuestBuffers, offset: u64) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let offset = file_offset(offset)?;
    // SAFETY: as in `readv_pieces`.
    count(unsafe { libc::preadv(fd, target.as_iovecs().as_ptr(), pieces(target), offset) })
}

/// Writes from guest RAM to byte `offset` of a file; with `durable`, the data is on the medium
/// when the call returns.
///
/// # Errors
/// What `pwritev2(2)` reports.
pub fn pwritev(
    fd: impl AsFd,
    source: &GuestBuffers,
    offset: u64,
    durable: bool,
) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let offset = file_offset(offset)?;
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    let iovecs = source.as_iovecs().as_ptr();
    // SAFETY: as in `writev`.
    count(unsafe { libc::pwritev2(fd, iovecs, pieces(source), offset, flags) })
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    offset
        .try_into()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Fills guest RAM with random bytes from the kernel; returns how many it delivered.
///
/// # Errors
/// What `getrandom(2)` reports.
pub fn random(target: &GuestBuffers) -> io::Result<usize> {
    let mut filled = 0;
    for piece in target.as_iovecs() {
        // SAFETY: the piece is guest RAM that stays mapped during the call.
        let got = count(unsafe { libc::getrandom(piece.iov_base, piece.iov_len, 0) })?;
        filled += got;
        if got < piece.iov_len {
            break;
        }
    }
    Ok(filled)
}
