//! Threads of devices: started at activation, stopped and joined at reset.
//!
//! A worker sleeps in [`Poll::wait`] on the descriptors that concern it; one of them always is
//! its [`Stop`], so that a reset wakes it. Loops over a queue look at [`Stop::requested`] on
//! each turn, so that a driver that keeps a queue full cannot delay a reset.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::queue::DeviceQueue;
use crate::pci::{DeviceError, EventFd};
use crate::run::sandbox;

/// Token that [`Poll`] keeps for the stop descriptor.
const STOP: u64 = u64::MAX;

/// The request to end, as a worker sees it.
pub struct Stop {
    event: EventFd,
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// Whether the worker is to end now.
    pub fn requested(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

/// A running worker thread. Dropping it stops and joins it.
pub struct Worker {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread named `name` (the kernel keeps 15 bytes of it) that runs `body`.
    ///
    /// # Errors
    /// When the host refuses the thread or a descriptor, on behalf of `device`.
    pub fn spawn(
        device: &'static str,
        name: &str,
        body: impl FnOnce(Stop) + Send + 'static,
    ) -> Result<Self, DeviceError> {
        let start = || -> io::Result<Self> {
            let event = EventFd::new(EFD_NONBLOCK)?;
            let flag = Arc::new(AtomicBool::new(false));
            let theirs = Stop {
                event: event.try_clone()?,
                flag: flag.clone(),
            };
            let thread = sandbox::spawn(name.to_owned(), move || body(theirs))?;
            Ok(Self {
                stop: Stop { event, flag },
                thread: Some(thread),
            })
        };
        start().map_err(|source| DeviceError::Host {
            device,
            action: "start its worker thread",
            source,
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.flag.store(true, Ordering::Relaxed);
        let _ = self.stop.event.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for any of several descriptors.
pub struct Poll {
    epoll: Epoll,
    ready: [EpollEvent; 8],
}

impl Poll {
    /// Watches nothing but the request to stop.
    ///
    /// # Errors
    /// What `epoll_create1(2)` reports.
    pub fn new(stop: &Stop) -> io::Result<Self> {
        let poll = Self {
            epoll: Epoll::new()?,
            ready: [EpollEvent::default(); 8],
        };
        poll.add(stop.event.as_raw_fd(), STOP)?;
        Ok(poll)
    }

    /// Watches each of `queues` for kicks, reported as its place. `None` when the host refuses, which the log
    /// says on behalf of `device`.
    pub fn of_queues(device: &str, stop: &Stop, queues: &[&DeviceQueue]) -> Option<Self> {
        let watch = || {
            let poll = Self::new(stop)?;
            for (token, queue) in (0..).zip(queues) {
                poll.add(queue.kick().as_raw_fd(), token)?;
            }
            Ok(poll)
        };
        let refused = |error: io::Error| log::error!("{device}: no event polling: {error}");
        watch().map_err(refused).ok()
    }

    /// Watches `fd` for data to read, reported as `token`.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` reports.
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.epoll.ctl(
            ControlOperation::Add,
            fd,
            EpollEvent::new(EventSet::IN, token),
        )
    }

    /// Watches `fd`, reporting `token` only when new data arrives. What is there already is
    /// for the caller to read until none is left.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` reports.
    pub fn add_edge(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
    }

    /// Watches `fd` no longer.
    pub fn remove(&self, fd: RawFd) {
        // Fails only when it was not watched.
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// Sleeps until something is ready and hands each token to `handle`. `false` when the
    /// worker is to stop.
    pub fn wait(&mut self, mut handle: impl FnMut(u64)) -> bool {
        let count = match self.epoll.wait(-1, &mut self.ready) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                log::error!("virtio: a worker cannot wait for events and ends: {error}");
                return false;
            }
        };
        let mut go_on = true;
        for event in self.ready.iter().take(count) {
            match event.data() {
                STOP => go_on = false,
                token => handle(token),
            }
        }
        go_on
    }
}
