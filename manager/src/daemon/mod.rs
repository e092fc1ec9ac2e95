//! The daemon's VMs: definitions, lives, processes.
//!
//! [`Daemon`] is behind one lock, which is held for short, synchronous steps only. Whatever takes
//! time runs in tasks of its own: one for each process, which waits for its end ([`watch`]), one
//! that waits for the next deadline ([`keep_time`]), and short ones that speak to an `acrn-dm`.

mod process;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch as channel};

use crate::adoption::{Adoption, Process};
use crate::definition::{Definition, DefinitionError, check_name};
use crate::dm;
use crate::events::{Event, Events};
use crate::life::{Action, Exit, Life, Means, Refusal, State, Time};
use crate::log;
use crate::order::order;
use crate::store::{self, Store};
use crate::view::{VmState, VmView};

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of the definitions.
    pub definitions: PathBuf,
    /// `/run/acrn`, below which `acrn-dm` has its sockets.
    pub run: PathBuf,
    /// Directory of the logs.
    pub logs: PathBuf,
    /// The Device Model.
    pub dm: PathBuf,
}

impl Settings {
    /// Directory of the control sockets.
    pub fn sockets(&self) -> PathBuf {
        self.run.join("mngr")
    }

    fn definition(&self, name: &str) -> PathBuf {
        self.definitions.join(format!("{name}.toml"))
    }

    /// The events of this daemon and of those before it. No VM's log has such a name.
    fn journal(&self) -> PathBuf {
        self.logs.join("events.json")
    }

    /// What a VM's processes print.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

/// Why the daemon does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// There is no such VM.
    #[error("there is no VM \"{0}\": acrnctl list shows those that exist")]
    NoSuchVm(String),
    /// There is one already.
    #[error("there is a VM \"{0}\" already: delete it first, or choose another name")]
    Exists(String),
    /// Not in this state.
    #[error("{0}: {1}")]
    State(String, Refusal),
    /// It runs and must not.
    #[error("{0} has not stopped: stop it before you delete it")]
    Busy(String),
    /// A definition that cannot be used.
    #[error("the definition of {0} cannot be used: {1}")]
    Invalid(String, String),
    /// A definition or name that cannot be taken.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A file.
    #[error("{}: {source}; check the permissions and the space left", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `acrn-dm` did not do it.
    #[error("{0}: {1}")]
    Dm(String, dm::DmError),
}

/// One VM.
#[derive(Debug, Default)]
struct Vm {
    /// The last usable definition.
    plan: Definition,
    /// Why the present one is not usable.
    error: Option<String>,
    life: Life,
    process: Option<Process>,
}

/// All VMs.
#[derive(Debug)]
pub struct Daemon {
    /// Where everything is.
    pub settings: Settings,
    store: Store,
    vms: BTreeMap<String, Vm>,
    events: Events,
    newest: channel::Sender<u64>,
    wake: Arc<Notify>,
    begin: Instant,
}

/// The daemon as its tasks share it.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Daemon>>);

impl Shared {
    /// Takes the lock, which must not be held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Daemon> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A daemon that knows its definitions, has taken over the VMs that an earlier one has left,
    /// and has started those that start by themselves.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn start(settings: Settings) -> io::Result<Self> {
        for directory in [&settings.definitions, &settings.logs] {
            fs::create_dir_all(directory)?;
        }
        let events = Events::noted(log::noted(&settings.journal()));
        let daemon = Daemon {
            store: Store::open(settings.run.join("acrnd"))?,
            settings,
            vms: BTreeMap::new(),
            newest: channel::Sender::new(events.last()),
            events,
            wake: Arc::default(),
            begin: Instant::now(),
        };
        let this = Self(Arc::new(Mutex::new(daemon)));
        let mut daemon = this.lock();
        for name in daemon.store.names() {
            daemon.vms.entry(name).or_default();
        }
        daemon.refresh();
        for name in daemon.in_order() {
            daemon.adopt(&this, &name);
        }
        drop(daemon);
        tokio::spawn(keep_time(this.clone()));
        Ok(this)
    }
}

/// Waits for deadlines and has them acted on.
async fn keep_time(shared: Shared) {
    let wake = shared.lock().wake.clone();
    loop {
        let left = shared.lock().time_left();
        match left {
            Some(left) => {
                let _ = tokio::time::timeout(left, wake.notified()).await;
            }
            None => wake.notified().await,
        }
        shared.lock().tick(&shared);
    }
}

/// Waits for the end of a VM's process.
async fn watch(shared: Shared, name: String, process: Process) {
    process::ended(process).await;
    shared.lock().exited(&shared, &name, process);
}

impl Daemon {
    fn now(&self) -> Time {
        self.begin.elapsed()
    }

    /// Time until the next deadline.
    fn time_left(&self) -> Option<Duration> {
        let deadlines = self.vms.values().filter_map(|vm| vm.life.deadline());
        deadlines.min().map(|next| next.saturating_sub(self.now()))
    }

    /// The names of all VMs as they start.
    fn in_order(&self) -> Vec<String> {
        let after = self
            .vms
            .iter()
            .map(|(name, vm)| (name.as_str(), vm.plan.after.as_slice()))
            .collect();
        order(&after).0.into_iter().map(str::to_owned).collect()
    }

    /// Reads the definitions anew. A VM without one goes when it has stopped.
    fn refresh(&mut self) {
        let entries = fs::read_dir(&self.settings.definitions)
            .into_iter()
            .flatten();
        let mut found: BTreeMap<String, PathBuf> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let name = name.strip_suffix(".toml")?;
                check_name(name).ok()?;
                Some((name.to_owned(), entry.path()))
            })
            .collect();
        self.vms.retain(|name, vm| {
            found.contains_key(name) || vm.life.deadline().is_some() || vm.process.is_some()
        });
        for (name, vm) in &mut self.vms {
            if let Some(path) = found.remove(name) {
                vm.define(&path);
            }
        }
        for (name, path) in found {
            let mut vm = Vm::default();
            vm.define(&path);
            self.vms.insert(name, vm);
        }
        self.report_circle();
    }

    /// VMs that wait for each other cannot be used.
    fn report_circle(&mut self) {
        let after: BTreeMap<&str, &[String]> = self
            .vms
            .iter()
            .map(|(name, vm)| (name.as_str(), vm.plan.after.as_slice()))
            .collect();
        let circle: Vec<String> = order(&after).1.into_iter().map(str::to_owned).collect();
        for name in &circle {
            if let Some(vm) = self.vms.get_mut(name) {
                let all = circle.join(", ");
                vm.error.get_or_insert_with(|| {
                    format!("`after` makes a circle among {all}: take one of them out of it")
                });
            }
        }
    }

    fn adopt(&mut self, shared: &Shared, name: &str) {
        let decision = self.store.traces(name).judge();
        let now = self.now();
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        match decision {
            Adoption::New if vm.plan.autostart => {
                if let Err(error) = self.start_vm(shared, name) {
                    self.event(name, "failed", error.to_string());
                }
            }
            Adoption::New | Adoption::Stopped => {}
            Adoption::GoOn(process) | Adoption::GoOnStopping(process) => {
                vm.life.adopt(now);
                vm.process = Some(process);
                tokio::spawn(watch(shared.clone(), name.to_owned(), process));
                self.event(name, "adopted", format!("process {}", process.pid));
                if matches!(decision, Adoption::GoOnStopping(_)) {
                    // What is not there any more cannot be stopped, and need not.
                    let _ = self.stop_vm(shared, name, false);
                }
            }
            Adoption::Ended(exit) => {
                vm.life.adopt(now);
                self.finish(name, exit);
            }
        }
    }

    /// Adds an event.
    pub fn event(&mut self, vm: &str, event: &str, detail: String) {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| {
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
            });
        eprintln!("acrnd: {vm}: {event} {detail}");
        let journal = self.settings.journal();
        if let Err(error) = log::note(&journal, self.events.add(time, vm, event, detail)) {
            eprintln!("acrnd: {}: {error}; free some space", journal.display());
        }
        self.newest.send_replace(self.events.last());
    }

    /// The events behind a number, and where the number of the newest one appears.
    pub fn events_after(&self, after: u64) -> (Vec<Event>, channel::Receiver<u64>) {
        (self.events.after(after), self.newest.subscribe())
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// It does not exist, runs, or has no usable definition.
    pub fn start_vm(&mut self, shared: &Shared, name: &str) -> Result<(), Problem> {
        let now = self.now();
        let vm = self.vm(name)?;
        if let Some(error) = &vm.error {
            return Err(Problem::Invalid(name.to_owned(), error.clone()));
        }
        let action = vm.life.start(now).map_err(refused(name))?;
        self.act(shared, name, action);
        Ok(())
    }

    /// Asks a VM to end.
    ///
    /// # Errors
    /// It does not exist, or has stopped.
    pub fn stop_vm(&mut self, shared: &Shared, name: &str, force: bool) -> Result<(), Problem> {
        let now = self.now();
        let vm = self.vm(name)?;
        let action = vm.life.stop(now, force, &vm.plan).map_err(refused(name))?;
        self.note_wanted(name, false);
        match action {
            Some(action) => self.act(shared, name, action),
            None => self.wake.notify_one(),
        }
        Ok(())
    }

    /// Adds a VM.
    ///
    /// # Errors
    /// It exists, or its name or definition cannot be used.
    pub fn add(&mut self, name: &str, text: &str) -> Result<(), Problem> {
        check_name(name)?;
        Definition::parse(text)?;
        self.refresh();
        if self.vms.contains_key(name) {
            return Err(Problem::Exists(name.to_owned()));
        }
        let path = self.settings.definition(name);
        store::replace(&path, text).map_err(|source| Problem::File { path, source })?;
        self.event(name, "added", String::new());
        self.refresh();
        Ok(())
    }

    /// Deletes a VM that has stopped, with its definition.
    ///
    /// # Errors
    /// It does not exist or has not stopped.
    pub fn delete(&mut self, name: &str) -> Result<(), Problem> {
        let vm = self.vm(name)?;
        if vm.life.has_process() || vm.life.is_wanted() {
            return Err(Problem::Busy(name.to_owned()));
        }
        let path = self.settings.definition(name);
        fs::remove_file(&path)
            .and_then(|()| self.store.forget(name))
            .map_err(|source| Problem::File { path, source })?;
        self.vms.remove(name);
        self.event(name, "deleted", String::new());
        Ok(())
    }

    /// A VM, by the definitions as they are now.
    fn vm(&mut self, name: &str) -> Result<&mut Vm, Problem> {
        self.refresh();
        self.vms
            .get_mut(name)
            .ok_or_else(|| Problem::NoSuchVm(name.to_owned()))
    }

    /// All VMs in the order in which they start.
    pub fn views(&mut self) -> Vec<VmView> {
        self.refresh();
        let names = self.in_order();
        names
            .iter()
            .filter_map(|name| self.vms.get(name).map(|vm| vm.view(name)))
            .collect()
    }

    /// One VM.
    ///
    /// # Errors
    /// It does not exist.
    pub fn view(&mut self, name: &str) -> Result<VmView, Problem> {
        self.vm(name).map(|vm| vm.view(name))
    }

    /// The process group of a VM that runs.
    ///
    /// # Errors
    /// It does not exist or does not run.
    pub fn group(&mut self, name: &str) -> Result<i32, Problem> {
        let process = self.vm(name)?.process;
        process
            .map(|process| process.pid)
            .ok_or_else(|| Problem::State(name.to_owned(), Refusal::DoesNotRun))
    }

    fn tick(&mut self, shared: &Shared) {
        let now = self.now();
        for name in self.in_order() {
            let action = self.vms.get_mut(&name).and_then(|vm| vm.life.tick(now));
            if let Some(action) = action {
                self.act(shared, &name, action);
            }
        }
    }

    fn act(&mut self, shared: &Shared, name: &str, action: Action) {
        match action {
            Action::Spawn => self.spawn(shared, name),
            Action::End(means) => {
                let (event, detail) = match means {
                    Means::PowerButton => ("stopping", "power button"),
                    Means::Destroy => ("forced", "switched off"),
                    Means::Kill => ("forced", "killed"),
                };
                self.event(name, event, detail.to_owned());
                if let Some(process) = self.vms.get(name).and_then(|vm| vm.process) {
                    tokio::spawn(process::end(self.settings.sockets(), process, means));
                }
            }
        }
        self.wake.notify_one();
    }

    fn spawn(&mut self, shared: &Shared, name: &str) {
        self.note_wanted(name, true);
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        match process::spawn(&self.settings, &self.store, name, &vm.plan) {
            Ok(process) => {
                vm.process = Some(process);
                tokio::spawn(watch(shared.clone(), name.to_owned(), process));
                self.event(name, "started", format!("process {}", process.pid));
            }
            Err(error) => {
                self.event(name, "failed", format!("it cannot be started: {error}"));
                self.finish(name, Exit::Unknown);
            }
        }
    }

    fn exited(&mut self, shared: &Shared, name: &str, process: Process) {
        let exit = self.store.exit(name).map_or(Exit::Unknown, Exit::Code);
        let ours = self
            .vms
            .get_mut(name)
            .filter(|vm| vm.process == Some(process));
        let Some(vm) = ours else { return };
        vm.process = None;
        if exit == Exit::Unknown {
            // The keeper was killed: nobody looks after the rest of its group.
            tokio::spawn(process::end(self.settings.sockets(), process, Means::Kill));
        }
        self.finish(name, exit);
        self.tick(shared);
        self.wake.notify_one();
    }

    /// A VM has ended.
    fn finish(&mut self, name: &str, exit: Exit) {
        let now = self.now();
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        vm.life.exited(now, exit, &vm.plan);
        let wanted = vm.life.is_wanted();
        let status = match exit {
            Exit::Code(code) => format!("status {code}"),
            Exit::Unknown => "its status is not known".to_owned(),
        };
        let (event, detail) = match vm.life.state() {
            State::Waiting { until } => {
                let seconds = until.saturating_sub(now).as_secs();
                ("restarting", format!("{status}; again in {seconds} s"))
            }
            State::Failed => ("failed", status),
            _ => ("stopped", status),
        };
        self.event(name, event, detail);
        self.note_wanted(name, wanted);
        self.wake.notify_one();
    }

    fn note_wanted(&mut self, name: &str, wanted: bool) {
        if let Err(error) = self.store.set_wanted(name, wanted) {
            let detail = format!("{}: {error}", self.store.of(name).display());
            self.event(name, "unrecorded", detail);
        }
    }
}

fn refused(name: &str) -> impl FnOnce(Refusal) -> Problem {
    let name = name.to_owned();
    move |refusal| Problem::State(name, refusal)
}

impl Vm {
    fn define(&mut self, path: &PathBuf) {
        let definition = fs::read_to_string(path)
            .map_err(|error| error.to_string())
            .and_then(|text| Definition::parse(&text).map_err(|error| error.to_string()));
        match definition {
            Ok(plan) => (self.plan, self.error) = (plan, None),
            Err(error) => self.error = Some(format!("{}: {error}", path.display())),
        }
    }

    fn view(&self, name: &str) -> VmView {
        let state = match self.life.state() {
            State::Running { .. } => VmState::Started,
            State::Stopping { .. } => VmState::Stopping,
            State::Waiting { .. } => VmState::Waiting,
            _ if self.error.is_some() => VmState::Invalid,
            State::Stopped => VmState::Stopped,
            State::Failed => VmState::Failed,
        };
        VmView {
            name: name.to_owned(),
            state,
            group: self.process.map(|process| process.pid),
            autostart: self.plan.autostart,
            restart: self.plan.restart,
            restarts: self.life.restarts(),
            exit_status: match self.life.exit() {
                Some(Exit::Code(code)) => Some(code),
                Some(Exit::Unknown) | None => None,
            },
            error: self.error.clone(),
            console: self.plan.console().map(str::to_owned),
        }
    }
}
