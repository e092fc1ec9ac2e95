//! A thread that calls back at a time: the motor of the clocks.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::run::sandbox;

/// Shortest period: a guest that asks for less gets this.
const SHORTEST: Duration = Duration::from_micros(100);

#[derive(Clone, Copy, Default)]
struct Setting {
    at: Option<Instant>,
    period: Option<Duration>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    setting: Mutex<Setting>,
    changed: Condvar,
}

/// The handle; dropping it ends the thread.
pub struct Alarm {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Alarm {
    /// Starts the thread, which calls `ring` at each time that is set.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn new(name: &str, ring: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = sandbox::spawn(name.to_owned(), move || run(&theirs, ring))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Rings at `at` and, with a period, again and again after that. Replaces what was set.
    pub fn set(&self, at: Instant, period: Option<Duration>) {
        self.change(|setting| {
            setting.at = Some(at);
            setting.period = period.map(|period| period.max(SHORTEST));
        });
    }

    /// Does not ring any more.
    pub fn cancel(&self) {
        self.change(|setting| setting.at = None);
    }

    fn change(&self, change: impl FnOnce(&mut Setting)) {
        change(
            &mut self
                .shared
                .setting
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.shared.changed.notify_one();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.change(|setting| setting.ended = true);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, mut ring: impl FnMut()) {
    let mut setting = shared
        .setting
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    while !setting.ended {
        let now = Instant::now();
        match setting.at {
            Some(at) if at <= now => {
                setting.at = setting.period.and_then(|period| following(at, period, now));
                drop(setting);
                ring();
                setting = shared
                    .setting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
            }
            Some(at) => {
                let wait = at - now;
                setting = match shared.changed.wait_timeout(setting, wait) {
                    Ok((setting, _)) => setting,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
            None => {
                setting = shared
                    .changed
                    .wait(setting)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// The next ring after `at`. When more than a few have been missed, they are left out: a guest
/// that was paused must not be flooded.
fn following(at: Instant, period: Duration, now: Instant) -> Option<Instant> {
    let next = at.checked_add(period)?;
    if now.saturating_duration_since(next) > period * 8 {
        now.checked_add(period)
    } else {
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn it_rings_once_or_periodically() {
        let (sender, rings) = mpsc::channel();
        let alarm = Alarm::new("test", move || sender.send(()).unwrap()).unwrap();
        alarm.set(Instant::now(), None);
        rings.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(rings.recv_timeout(Duration::from_millis(20)).is_err());
        alarm.set(Instant::now(), Some(Duration::from_millis(1)));
        for _ in 0..3 {
            rings.recv_timeout(Duration::from_secs(5)).unwrap();
        }
        alarm.cancel();
    }

    #[test]
    fn rings_missed_long_ago_are_left_out() {
        let at = Instant::now();
        let period = Duration::from_millis(1);
        let late = at + Duration::from_secs(10);
        assert_eq!(following(at, period, late), Some(late + period));
        assert_eq!(following(at, period, at + period), Some(at + period));
    }
}
