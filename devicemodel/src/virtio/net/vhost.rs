//! vhost-net: the Service VM's kernel serves a queue pair itself.
//!
//! The kernel gets the doorbells as they are and an irqfd for each interrupt, so that packets
//! do not pass through this process at all. Where the guest has no MSI-X, a relay thread turns
//! the kernel's signal into INTx.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK};

use super::options::NAME;
use crate::pci::{DeviceError, EventFd, GuestRam};
use crate::virtio::queue::DeviceQueue;
use crate::virtio::worker::{Poll, Stop, Worker};

const DEVICE: &str = "/dev/vhost-net";
// From `<linux/vhost.h>`.
const GET_FEATURES: libc::c_ulong = 0x8008_af00;
const SET_FEATURES: libc::c_ulong = 0x4008_af00;
const SET_OWNER: libc::c_ulong = 0xaf01;
const SET_MEM_TABLE: libc::c_ulong = 0x4008_af03;
const SET_VRING_NUM: libc::c_ulong = 0x4008_af10;
const SET_VRING_ADDR: libc::c_ulong = 0x4028_af11;
const SET_VRING_BASE: libc::c_ulong = 0x4008_af12;
const SET_VRING_KICK: libc::c_ulong = 0x4008_af20;
const SET_VRING_CALL: libc::c_ulong = 0x4008_af21;
const NET_SET_BACKEND: libc::c_ulong = 0x4008_af30;
/// More regions than guest RAM ever has.
const MOST_REGIONS: usize = 8;

/// `vhost_vring_state` and `vhost_vring_file`: a ring's index with a number or descriptor.
#[repr(C)]
struct RingValue {
    index: u32,
    value: i32,
}

/// `vhost_vring_addr`, host virtual addresses.
#[repr(C)]
struct RingAddress {
    index: u32,
    flags: u32,
    table: u64,
    used: u64,
    available: u64,
    log: u64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Region {
    guest: u64,
    size: u64,
    host: u64,
    flags: u64,
}

/// `vhost_memory`.
#[repr(C)]
struct MemoryTable {
    count: u32,
    padding: u32,
    regions: [Region; MOST_REGIONS],
}

/// The kernel's server for one queue pair.
pub struct VhostNet {
    file: File,
    /// What the rings use while they run.
    queues: Vec<DeviceQueue>,
    calls: Vec<EventFd>,
}

impl VhostNet {
    /// Opens the driver.
    ///
    /// # Errors
    /// There is no such driver, or no permission.
    pub fn open() -> Result<Self, DeviceError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map_err(|source| DeviceError::File {
                device: NAME,
                path: DEVICE.into(),
                source,
                remedy: "load the driver with: modprobe vhost_net; or drop vhost",
            })?;
        let vhost = Self {
            file,
            queues: Vec::new(),
            calls: Vec::new(),
        };
        // SAFETY: VHOST_SET_OWNER takes no argument.
        check(unsafe { libc::ioctl(vhost.file.as_raw_fd(), SET_OWNER) }).map_err(|source| {
            DeviceError::Host {
                device: NAME,
                action: "take vhost-net over",
                source,
            }
        })?;
        Ok(vhost)
    }

    /// Hands the pair's queues to the kernel; returns relays for interrupts that it cannot
    /// send itself.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn start(
        &mut self,
        queues: [Option<DeviceQueue>; 2],
        link: BorrowedFd<'_>,
        features: u64,
        mem: &GuestRam,
    ) -> Result<Vec<Worker>, DeviceError> {
        let failed = |source| DeviceError::Host {
            device: NAME,
            action: "start vhost-net",
            source,
        };
        self.set_features(features).map_err(failed)?;
        self.set_memory(mem).map_err(failed)?;
        let mut relays = Vec::new();
        for (index, queue) in (0..).zip(queues.into_iter().flatten()) {
            let call = match queue.events().irqfd(queue.index()) {
                Some(irqfd) => irqfd,
                None => {
                    let call = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(failed)?;
                    relays.push(relay(&queue, call.try_clone().map_err(failed)?)?);
                    call
                }
            };
            self.start_ring(index, &queue, &call, mem).map_err(failed)?;
            let link = RingValue {
                index,
                value: link.as_raw_fd(),
            };
            self.control(NET_SET_BACKEND, &link).map_err(failed)?;
            self.queues.push(queue);
            self.calls.push(call);
        }
        Ok(relays)
    }

    /// Takes the queues back; the kernel no longer touches guest RAM afterwards.
    pub fn stop(&mut self) {
        for index in 0..self.queues.len() as u32 {
            // A backend of -1 waits for packets under way.
            if let Err(error) = self.control(NET_SET_BACKEND, &RingValue { index, value: -1 }) {
                log::error!("{NAME}: vhost-net does not stop: {error}");
            }
            for request in [SET_VRING_KICK, SET_VRING_CALL] {
                let _ = self.control(request, &RingValue { index, value: -1 });
            }
        }
        self.queues.clear();
        self.calls.clear();
    }

    /// Features that concern the rings; the TAP interface takes care of the others.
    fn set_features(&self, negotiated: u64) -> io::Result<()> {
        let mut known = 0u64;
        // SAFETY: VHOST_GET_FEATURES writes a 64-bit number at the pointer.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), GET_FEATURES, &raw mut known) })?;
        self.control(SET_FEATURES, &(negotiated & known))
    }

    fn set_memory(&self, mem: &GuestRam) -> io::Result<()> {
        let mut table = MemoryTable {
            count: 0,
            padding: 0,
            regions: [Region::default(); MOST_REGIONS],
        };
        for (slot, region) in table.regions.iter_mut().zip(mem.iter()) {
            let guest = region.start_addr();
            let host = host_address(mem, guest.0)?;
            *slot = Region {
                guest: guest.0,
                size: region.len(),
                host,
                flags: 0,
            };
            table.count += 1;
        }
        self.control(SET_MEM_TABLE, &table)
    }

    fn start_ring(
        &self,
        index: u32,
        queue: &DeviceQueue,
        call: &EventFd,
        mem: &GuestRam,
    ) -> io::Result<()> {
        let [table, available, used] = queue.ring_addresses();
        let addresses = RingAddress {
            index,
            flags: 0,
            table: host_address(mem, table)?,
            used: host_address(mem, used)?,
            available: host_address(mem, available)?,
            log: 0,
        };
        let value = |value: RawFd| RingValue { index, value };
        self.control(SET_VRING_NUM, &value(queue.size().into()))?;
        self.control(SET_VRING_BASE, &value(0))?;
        self.control(SET_VRING_ADDR, &addresses)?;
        self.control(SET_VRING_CALL, &value(call.as_raw_fd()))?;
        self.control(SET_VRING_KICK, &value(queue.kick().as_raw_fd()))
    }

    /// A request whose argument the kernel only reads.
    fn control<T>(&self, request: libc::c_ulong, argument: &T) -> io::Result<()> {
        // SAFETY: each request in this file is made with the structure that belongs to it, and
        // the kernel only reads it. What it then does to guest RAM is bounded by the memory
        // table, whose mapping outlives the rings (`stop` runs before it goes).
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, std::ptr::from_ref(argument)) })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn host_address(mem: &GuestRam, guest: u64) -> io::Result<u64> {
    mem.get_host_address(GuestAddress(guest))
        .map(|pointer| pointer as u64)
        .map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Interrupts the driver each time the kernel signals `call`.
fn relay(queue: &DeviceQueue, call: EventFd) -> Result<Worker, DeviceError> {
    let (events, index) = (queue.events().clone(), queue.index());
    let body = move |stop: Stop| {
        let Ok(mut poll) = Poll::new(&stop) else {
            return;
        };
        if poll.add(call.as_raw_fd(), 0).is_err() {
            return;
        }
        while poll.wait(|_| ()) {
            if call.read().is_ok() {
                events.queue_used(index);
            }
        }
    };
    Worker::spawn(NAME, "vhost-intx", body)
}
