//! The request loop: takes I/O requests from the shared page and has them answered.
//!
//! One thread sleeps in the driver until there is a request. What can be answered at once it
//! answers itself, which costs no switch of threads: ports, clocks, PCI configuration. What may
//! take long (a write to a device's BAR, or a device that another CPU is in) goes to a thread
//! that each vCPU has for this, so no CPU waits for the device of another one.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use acrn_abi::ioreq::{IoRequest, SLOTS};

use super::machine::{Answer, Machine};
use super::{Event, sandbox};
use crate::hsm::Hsm;
use crate::hsm::page::RequestPage;
use crate::pci::bus::Patience;

/// How often the page is looked at while a request is being worked on: the driver does not let
/// us sleep then.
const RESCAN: Duration = Duration::from_micros(250);

/// What the threads share.
struct Shared {
    hsm: Arc<dyn Hsm>,
    page: Arc<RequestPage>,
    machine: Arc<Machine>,
    ended: AtomicBool,
    /// Signalled when a helper has finished.
    idle: Condvar,
    idle_lock: Mutex<()>,
}

impl Shared {
    fn answer(&self, slot: usize, answer: Answer) {
        if let Some(value) = answer.value {
            self.page.answer(slot, value, answer.wide);
        }
        if let Err(error) = self.hsm.finish_request(slot as u16) {
            log::error!("the answer to vCPU {slot} could not be delivered: {error}");
        }
    }
}

/// The thread that works for one vCPU.
struct Helper {
    job: Mutex<Option<IoRequest>>,
    given: Condvar,
    busy: AtomicBool,
}

impl Helper {
    fn new() -> Self {
        Self {
            job: Mutex::new(None),
            given: Condvar::new(),
            busy: AtomicBool::new(false),
        }
    }

    fn give(&self, request: IoRequest) {
        self.busy.store(true, Ordering::Release);
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
        self.given.notify_one();
    }

    fn run(&self, slot: usize, shared: &Shared) {
        loop {
            let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
            let request = loop {
                match job.take() {
                    Some(request) => break request,
                    None if shared.ended.load(Ordering::SeqCst) => return,
                    None => {
                        job = self.given.wait(job).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(job);
            if let Ok(answer) = shared.machine.access(&request, Patience::Wait) {
                shared.answer(slot, answer);
            }
            self.busy.store(false, Ordering::Release);
            drop(
                shared
                    .idle_lock
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            shared.idle.notify_one();
        }
    }
}

/// The running loop.
pub struct RequestLoop {
    shared: Arc<Shared>,
    helpers: Vec<Arc<Helper>>,
    threads: Vec<JoinHandle<()>>,
}

impl RequestLoop {
    /// Starts it for `vcpus` vCPUs.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn start(
        hsm: Arc<dyn Hsm>,
        page: Arc<RequestPage>,
        machine: Arc<Machine>,
        vcpus: u16,
        events: Sender<Event>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            hsm,
            page,
            machine,
            ended: AtomicBool::new(false),
            idle: Condvar::new(),
            idle_lock: Mutex::new(()),
        });
        let count = usize::from(vcpus).clamp(1, SLOTS);
        let mut this = Self {
            shared,
            helpers: Vec::new(),
            threads: Vec::new(),
        };
        for slot in 0..count {
            let helper = Arc::new(Helper::new());
            this.helpers.push(helper.clone());
            let shared = this.shared.clone();
            this.spawn(format!("vcpu-{slot}"), move || helper.run(slot, &shared))?;
        }
        let (shared, helpers) = (this.shared.clone(), this.helpers.clone());
        this.spawn("requests".into(), move || {
            dispatch(&shared, &helpers, &events)
        })?;
        Ok(this)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(sandbox::spawn(name, run)?);
        Ok(())
    }

    /// Ends the loop after the requests in work are answered.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for RequestLoop {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for helper in &self.helpers {
            drop(helper.job.lock().unwrap_or_else(PoisonError::into_inner));
            helper.given.notify_one();
        }
        for thread in self.threads.drain(..) {
            // A wake-up that comes before the thread sleeps is lost, so it is repeated.
            while !thread.is_finished() {
                self.shared.hsm.wake();
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = thread.join();
        }
    }
}

fn dispatch(shared: &Shared, helpers: &[Arc<Helper>], events: &Sender<Event>) {
    while !shared.ended.load(Ordering::SeqCst) {
        let (mut found, mut busy) = (false, false);
        for (slot, helper) in helpers.iter().enumerate() {
            if helper.busy.load(Ordering::Acquire) {
                busy = true;
                continue;
            }
            let Some(request) = shared.page.request(slot) else {
                continue;
            };
            found = true;
            match shared.machine.access(&request, Patience::Refuse) {
                Ok(answer) => shared.answer(slot, answer),
                Err(_) => {
                    helper.give(request);
                    busy = true;
                }
            }
        }
        if found {
            continue;
        }
        if busy {
            let guard = shared
                .idle_lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if helpers
                .iter()
                .any(|helper| helper.busy.load(Ordering::Acquire))
            {
                let _ = shared.idle.wait_timeout(guard, RESCAN);
            }
        } else if let Err(error) = shared.hsm.wait_request() {
            if !shared.ended.load(Ordering::SeqCst) {
                log::error!("the driver gives no more requests: {error}");
                let _ = events.send(Event::Lost);
            }
            return;
        }
    }
}
