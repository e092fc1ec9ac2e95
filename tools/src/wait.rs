//! Waiting for the next look, or for the end.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Ends the program's work: SIGINT, SIGTERM, or a time that is over.
pub struct End {
    signals: SignalFd,
    at: Option<Instant>,
}

impl End {
    /// From now on the signals only end the work.
    ///
    /// # Errors
    /// The system's.
    pub fn new(after: Option<Duration>) -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.thread_block()?;
        Ok(Self {
            signals: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?,
            at: after.and_then(|after| Instant::now().checked_add(after)),
        })
    }

    /// Waits so long at most; `true` when it is the end.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self, interval: Duration) -> io::Result<bool> {
        let now = Instant::now();
        let left = self.at.map(|at| at.saturating_duration_since(now));
        let interval = left.map_or(interval, |left| left.min(interval));
        let timeout = PollTimeout::try_from(interval).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let signalled = match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => false,
            result => result? > 0,
        };
        Ok(signalled || self.at.is_some_and(|at| Instant::now() >= at))
    }
}
