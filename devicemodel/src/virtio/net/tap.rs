//! A TAP interface of the Service VM, one descriptor for each queue pair.
//!
//! Packets cross with virtio's own header (`IFF_VNET_HDR`), so that checksum and segmentation
//! work passes unchanged between guest and kernel.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::link::Link;
use super::options::NAME;
use crate::pci::DeviceError;

const DEVICE: &str = "/dev/net/tun";
// From `<linux/if_tun.h>`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;
const IFF_ATTACH_QUEUE: libc::c_int = 0x0200;
const IFF_DETACH_QUEUE: libc::c_int = 0x0400;

/// An open TAP interface.
pub struct Tap {
    queues: Vec<File>,
    multi_queue: bool,
    mtu: u16,
}

impl Tap {
    /// Opens the interface `name` with `pairs` queues, creating it if there is none, and
    /// brings it up.
    ///
    /// # Errors
    /// There is no TUN/TAP driver, no permission, or the interface is in use or of another
    /// kind; each with a remedy.
    pub fn open(name: &str, pairs: u16) -> Result<Self, DeviceError> {
        let mut tap = Self {
            queues: Vec::new(),
            multi_queue: pairs > 1,
            mtu: 1500,
        };
        for _ in 0..pairs {
            let queue = tap.open_queue(name)?;
            tap.queues.push(queue);
        }
        let failed = |action, source| DeviceError::Host {
            device: NAME,
            action,
            source,
        };
        for queue in &tap.queues {
            let size: libc::c_int = super::HEADER as libc::c_int;
            // SAFETY: TUNSETVNETHDRSZ reads one `int` at the pointer.
            check(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) })
                .map_err(|source| failed("set the header size of the TAP interface", source))?;
        }
        tap.mtu = bring_up(name)
            .map_err(|source| failed("bring the TAP interface up (is acrn-dm root?)", source))?;
        Ok(tap)
    }

    /// Opens one more queue. An interface that was made with several queues must be opened as
    /// such even for one.
    fn open_queue(&mut self, name: &str) -> Result<File, DeviceError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|source| DeviceError::File {
                device: NAME,
                path: DEVICE.into(),
                source,
                remedy: "load the driver with: modprobe tun; and run acrn-dm as root",
            })?;
        let attempt = attach(&file, name, self.multi_queue).or_else(|error| {
            let retry = error.raw_os_error() == Some(libc::EINVAL) && self.queues.is_empty();
            if !retry || self.multi_queue {
                return Err(error);
            }
            attach(&file, name, true)?;
            self.multi_queue = true;
            Ok(())
        });
        attempt.map(|()| file).map_err(|source| DeviceError::File {
            device: NAME,
            path: format!("/sys/class/net/{name}").into(),
            remedy: attach_remedy(&source),
            source,
        })
    }
}

impl Link for Tap {
    fn queue(&self, pair: usize) -> Option<BorrowedFd<'_>> {
        self.queues.get(pair).map(std::os::fd::AsFd::as_fd)
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn set_offloads(&self, flags: u32) -> io::Result<()> {
        let Some(queue) = self.queues.first() else {
            return Ok(());
        };
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }

    fn set_pairs(&self, pairs: usize) -> io::Result<()> {
        if !self.multi_queue {
            return Ok(());
        }
        for (index, queue) in self.queues.iter().enumerate().skip(1) {
            let flags = if index < pairs {
                IFF_ATTACH_QUEUE
            } else {
                IFF_DETACH_QUEUE
            };
            let mut request = interface_request("");
            request.ifr_ifru.ifru_flags = flags as libc::c_short;
            // SAFETY: TUNSETQUEUE reads an `ifreq` at the pointer.
            let result =
                check(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETQUEUE, &raw const request) });
            match result {
                // It is in the wanted state already.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn attach(file: &File, name: &str, multi_queue: bool) -> io::Result<()> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an `ifreq` at the pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })
}

fn attach_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another VM uses this interface: give each VM its own",
        Some(libc::EPERM | libc::EACCES) => {
            "run acrn-dm as root, or give the interface to this user with: ip tuntap add"
        }
        Some(libc::EINVAL) => {
            "an interface of this name exists that is no TAP or has one queue only: delete it, \
             or create it with: ip tuntap add NAME mode tap multi_queue"
        }
        _ => "create the interface with: ip tuntap add NAME mode tap",
    }
}

/// Brings the interface up and returns its MTU.
fn bring_up(name: &str) -> io::Result<u16> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
        .or_else(|_| std::net::UdpSocket::bind(("::1", 0)))
        .or_else(|_| std::net::UdpSocket::bind(("0.0.0.0", 0)))?;
    let fd = socket.as_raw_fd();
    let mut request = interface_request(name);
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of an `ifreq` at the pointer.
    check(unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the call before has filled the flags in.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if libc::c_int::from(flags) & libc::IFF_UP == 0 {
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        // SAFETY: SIOCSIFFLAGS reads an `ifreq` at the pointer.
        check(unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request) })?;
    }
    // SAFETY: SIOCGIFMTU reads the name and writes the MTU of an `ifreq` at the pointer.
    check(unsafe { libc::ioctl(fd, libc::SIOCGIFMTU, &raw mut request) })?;
    // SAFETY: the call before has filled the MTU in.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(1500).max(68))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_can_be_opened_where_the_host_allows_it() {
        let name = format!("acrnt{}", std::process::id() % 100_000);
        let Ok(tap) = Tap::open(&name, 2) else { return };
        assert!(tap.queue(1).is_some() && tap.queue(2).is_none());
        tap.set_offloads(0x7).unwrap();
        tap.set_pairs(1).unwrap();
        tap.set_pairs(2).unwrap();
        tap.set_pairs(2).unwrap();
        let refused = Tap::open("lo", 1).err().unwrap().to_string();
        assert!(refused.contains("lo"), "{refused}");
    }
}
