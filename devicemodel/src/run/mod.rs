//! The life of a VM: creation, running, pause, suspension, reset, end.
//!
//! [`Vm::create`] builds everything, [`Vm::run`] is the main loop: it sleeps until something
//! concerns the VM as a whole, an [`Event`], and acts on it. I/O of the guest is answered
//! elsewhere ([`requests`]).

pub mod affinity;
pub mod control;
pub mod instance;
pub mod machine;
pub mod requests;
pub mod sandbox;
pub mod signals;
mod sleep;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use acrn_abi::hypercall::{VcpuRegs, VmCreation};
use acrn_abi::vm_flags::VmFlags;

use crate::acpi::{self, Platform, TablesTooLarge};
use crate::cli::VmSpec;
use crate::exit::ExitCode;
use crate::hsm::page::RequestPage;
use crate::hsm::{Hsm, HsmError};
use crate::legacy::power::Fixed;
use crate::loader::{LoadError, Program};
use crate::memory::{Memory, MemoryError};
use control::{Answer, Command, Control};
use machine::{Machine, MachineError, Parts};
use requests::RequestLoop;

/// How long a guest has to react to the power button.
const POWER_OFF_TIME: Duration = Duration::from_secs(60);
/// How often the power button is pressed of a guest that is being woken: it may miss one.
const PRESS_AGAIN: Duration = Duration::from_secs(1);
/// How often creating the VM is tried: its predecessor may still be going.
const CREATE_TRIES: u32 = 5;
const CREATE_PAUSE: Duration = Duration::from_millis(200);

/// Something that concerns the VM as a whole.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The guest switched itself off.
    PowerOff,
    /// The guest suspends to RAM.
    Suspend,
    /// Something wakes a suspended guest.
    Wake,
    /// The guest asked for a reset.
    Reset,
    /// A test program ends with this value.
    DebugExit(u32),
    /// The user asks for the end: the power button first, then by force.
    Stop,
    /// A command from outside.
    Control(Control),
    /// The driver has given the VM up.
    Lost,
}

/// Why a VM cannot be run.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant is named after the module that reports it"
)]
pub enum RunError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Hsm(#[from] HsmError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Acpi(#[from] TablesTooLarge),
    #[error(transparent)]
    Affinity(#[from] affinity::AffinityError),
    #[error(transparent)]
    Instance(#[from] instance::InstanceError),
    #[error("a thread cannot be started: {0}; end other programs")]
    Thread(std::io::Error),
}

impl RunError {
    /// The exit code for it.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Load(error) => error.code(),
            Self::Memory(error) => error.code(),
            Self::Hsm(error) | Self::Machine(MachineError::Hypervisor(error)) => error.code(),
            Self::Machine(_) => ExitCode::Device,
            Self::Acpi(_) => ExitCode::DoesNotFit,
            Self::Affinity(_) => ExitCode::Usage,
            Self::Instance(error) => error.code(),
            Self::Thread(_) => ExitCode::Internal,
        }
    }
}

/// What the vCPUs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// They run, or have not started yet.
    Running,
    /// They stand still and can go on.
    Paused,
    /// The guest has suspended to RAM: it can be woken.
    Suspended,
}

/// A VM that exists.
pub struct Vm {
    name: String,
    hsm: Arc<dyn Hsm>,
    page: Arc<RequestPage>,
    memory: Memory,
    machine: Arc<Machine>,
    program: Program,
    platform: Platform,
    vcpus: u16,
    vmid: u16,
    scrub: bool,
    events: Receiver<Event>,
    sender: Sender<Event>,
    requests: Option<RequestLoop>,
    state: State,
    /// When a guest that was asked to stop is switched off.
    deadline: Option<Instant>,
    /// It was asked while it slept.
    drowsy: bool,
}

impl Vm {
    /// Creates the VM of `spec` with its devices, and lends it `memory`. It does not run yet.
    ///
    /// # Errors
    /// Whatever is missing. All that was made is undone.
    pub fn create(
        spec: &VmSpec,
        program: Program,
        affinity: affinity::Affinity,
        hsm: Arc<dyn Hsm>,
        memory: Memory,
    ) -> Result<Self, RunError> {
        let page: Arc<RequestPage> = RequestPage::new().into();
        let mut creation = VmCreation {
            name: spec.name.padded(),
            vm_flag: spec.flags.bits(),
            ioreq_buf: page.address(),
            cpu_affinity: affinity.bitmap,
            ..VmCreation::default()
        };
        create_vm(&*hsm, &mut creation)?;
        let vcpus = creation.vcpu_num.max(1);
        memory.map_into(&*hsm)?;
        let (sender, events) = channel();
        let parts = Parts {
            hsm: hsm.clone(),
            memory: &memory,
            vcpus,
            events: sender.clone(),
        };
        let machine = Arc::new(Machine::new(spec, &parts)?);
        let apic_ids = if spec.flags.contains(VmFlags::LAPIC_PASSTHROUGH)
            && affinity.apic_ids.len() == usize::from(vcpus)
        {
            affinity.apic_ids
        } else {
            (0..u32::from(vcpus)).collect()
        };
        let coms = spec.coms.iter().map(|com| com.port).collect();
        let remedy = "see the hypervisor's log";
        hsm.create_request_client()
            .map_err(HsmError::refused("take a client for I/O requests", remedy))?;
        Ok(Self {
            name: spec.name.to_string(),
            hsm,
            page,
            memory,
            machine,
            program,
            platform: Platform {
                apic_ids,
                coms,
                sleeps: spec.sleeps(),
            },
            vcpus,
            vmid: creation.vmid,
            scrub: !spec.flags.contains(VmFlags::RT),
            events,
            sender,
            requests: None,
            state: State::Running,
            deadline: None,
            drowsy: false,
        })
    }

    /// Where threads send events.
    pub fn events(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// How users connect to its serial ports.
    pub fn announcements(&self) -> Vec<String> {
        self.machine.announcements()
    }

    /// Loads the guest and starts it.
    ///
    /// # Errors
    /// It cannot be loaded, or the hypervisor refuses.
    pub fn start(&mut self) -> Result<(), RunError> {
        acpi::write(self.memory.ram(), &self.platform)?;
        let regs = self.program.load(&self.memory, acpi::RSDP_ADDRESS)?;
        self.begin(&regs)?;
        log::info!("{} runs with {} CPUs", self.name, self.vcpus);
        Ok(())
    }

    /// Lets the first CPU begin with these registers.
    fn begin(&mut self, regs: &VcpuRegs) -> Result<(), RunError> {
        let remedy = "see the hypervisor's log";
        self.hsm.set_vcpu_regs(regs).map_err(HsmError::refused(
            "set the registers of the first CPU",
            remedy,
        ))?;
        let requests = RequestLoop::start(
            self.hsm.clone(),
            self.page.clone(),
            self.machine.clone(),
            self.vcpus,
            self.sender.clone(),
        )
        .map_err(RunError::Thread)?;
        self.requests = Some(requests);
        self.hsm
            .start_vm()
            .map_err(HsmError::refused("start the VM", remedy))?;
        self.state = State::Running;
        Ok(())
    }

    /// Runs until the VM ends, and cleans up.
    pub fn run(mut self) -> i32 {
        let code = match self.serve() {
            Ok(code) => code,
            Err(error) => {
                log::error!("{error}");
                error.code().number()
            }
        };
        self.end();
        code
    }

    fn serve(&mut self) -> Result<i32, RunError> {
        loop {
            let event = match self.deadline {
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let wait = if self.drowsy {
                        left.min(PRESS_AGAIN)
                    } else {
                        left
                    };
                    match self.events.recv_timeout(wait) {
                        Ok(event) => event,
                        Err(RecvTimeoutError::Timeout) if wait < left => {
                            self.machine.power().happens(Fixed::PowerButton);
                            continue;
                        }
                        Err(RecvTimeoutError::Timeout) => {
                            log::warn!("{} did not react to its power button", self.name);
                            return Ok(ExitCode::Forced.number());
                        }
                        Err(RecvTimeoutError::Disconnected) => Event::Lost,
                    }
                }
                None => self.events.recv().unwrap_or(Event::Lost),
            };
            match event {
                Event::PowerOff => {
                    log::info!("{} switched itself off", self.name);
                    return Ok(ExitCode::Success.number());
                }
                Event::DebugExit(value) => return Ok((value << 1 | 1) as i32 & 0xff),
                Event::Lost => return Ok(ExitCode::Hypervisor.number()),
                Event::Reset => self.reset()?,
                Event::Suspend => self.suspend()?,
                Event::Wake => self.wake()?,
                Event::Stop => {
                    if self.deadline.is_some() {
                        log::warn!("{} is switched off by force", self.name);
                        return Ok(ExitCode::Forced.number());
                    }
                    self.press_power_button()?;
                }
                Event::Control(control) => {
                    if let Some(code) = self.control(control)? {
                        return Ok(code);
                    }
                }
            }
        }
    }

    /// Asks the guest to shut down, and starts the clock.
    fn press_power_button(&mut self) -> Result<(), RunError> {
        self.drowsy = self.state == State::Suspended;
        self.wake()?;
        if let Err(error) = self.set_paused(false) {
            log::warn!("{error}");
        }
        log::info!("{}: power button", self.name);
        self.machine.power().happens(Fixed::PowerButton);
        self.deadline = Some(Instant::now() + POWER_OFF_TIME);
        Ok(())
    }

    /// Executes a command; `Some` ends the VM with this code.
    fn control(&mut self, control: Control) -> Result<Option<i32>, RunError> {
        let mut end = None;
        let answer = match &control.command {
            Command::BlkRescan(medium) => match self.machine.insert(medium) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(error),
            },
            Command::Status => self.status(),
            Command::Pause => answer(self.set_paused(true)),
            Command::Resume if self.state == State::Suspended => {
                self.fatal(&control, Self::wake)?
            }
            Command::Resume => answer(self.set_paused(false)),
            Command::Suspend => answer(self.press_sleep_button()),
            Command::Reset => self.fatal(&control, Self::reset)?,
            Command::Stop if self.deadline.is_some() => Answer::Done,
            Command::Stop => self.fatal(&control, Self::press_power_button)?,
            Command::Destroy => {
                end = Some(ExitCode::Success.number());
                Answer::Done
            }
        };
        control.answer(answer);
        Ok(end)
    }

    /// Does something without which the VM cannot go on.
    fn fatal(
        &mut self,
        control: &Control,
        act: impl FnOnce(&mut Self) -> Result<(), RunError>,
    ) -> Result<Answer, RunError> {
        act(self)
            .map(|()| Answer::Done)
            .inspect_err(|error| control.answer(Answer::Failed(error.to_string())))
    }

    fn status(&self) -> Answer {
        let state = match (self.state, self.deadline) {
            (State::Paused, _) => "paused",
            (State::Suspended, _) => "suspended",
            (State::Running, Some(_)) => "stopping",
            (State::Running, None) => "running",
        };
        Answer::Status(control::Status {
            name: self.name.clone(),
            state,
            pid: std::process::id(),
            vmid: self.vmid,
            vcpus: self.vcpus,
            memory: self.memory.layout.low + self.memory.layout.high,
            huge_pages: self.memory.huge,
        })
    }

    fn set_paused(&mut self, paused: bool) -> Result<(), Refusal> {
        let wanted = match (self.state, paused) {
            (State::Suspended, true) => return Err(Refusal::Suspended),
            (State::Running, true) => State::Paused,
            (State::Paused, false) => State::Running,
            _ => return Ok(()),
        };
        if paused {
            self.hsm
                .pause_vm()
                .map_err(HsmError::refused("pause the VM", "try again"))?;
        } else {
            self.hsm
                .start_vm()
                .map_err(HsmError::refused("resume the VM", "reset it"))?;
        }
        self.state = wanted;
        log::info!(
            "{} {}",
            self.name,
            if paused { "is paused" } else { "goes on" }
        );
        Ok(())
    }

    /// Stops the vCPUs for good: no request of theirs waits any more.
    fn halt(&mut self, action: &'static str) -> Result<(), RunError> {
        let remedy = "start the VM anew";
        if self.state == State::Running {
            self.hsm
                .pause_vm()
                .map_err(HsmError::refused(action, remedy))?;
            self.state = State::Paused;
        }
        // Requests in work are answered first; what came after that is dropped by the driver.
        drop(self.requests.take());
        self.hsm
            .clear_requests()
            .map_err(HsmError::refused("clear the requests of the VM", remedy))?;
        Ok(())
    }

    /// Restarts the guest in the same VM.
    fn reset(&mut self) -> Result<(), RunError> {
        log::info!("{} is reset", self.name);
        if self.state != State::Suspended {
            self.halt("pause the VM for a reset")?;
        }
        self.machine.reset();
        self.reset_cpus()?;
        // What the old guest still asked for does not concern the new one.
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Reset
                | Event::PowerOff
                | Event::Suspend
                | Event::Wake
                | Event::DebugExit(_) => {}
                other => {
                    let _ = self.sender.send(other);
                    break;
                }
            }
        }
        (self.deadline, self.drowsy) = (None, false);
        self.start()
    }

    fn reset_cpus(&self) -> Result<(), RunError> {
        let refused = HsmError::refused("reset the VM", "start the VM anew");
        Ok(self.hsm.reset_vm().map_err(refused)?)
    }

    /// Ends the VM and gives everything back.
    fn end(mut self) {
        if self.state == State::Running {
            // A VM that has crashed may refuse; it is destroyed anyway.
            if let Err(error) = self.hsm.pause_vm() {
                log::debug!("the VM was not paused: {error}");
            }
        }
        drop(self.requests.take());
        self.machine.stop();
        match self.hsm.destroy_vm() {
            Ok(()) if self.scrub => self.memory.release(),
            Ok(()) => {}
            Err(error) => {
                log::warn!("the VM could not be destroyed, which closing its file does: {error}");
            }
        }
    }
}

/// Why a command is not carried out, which harms nobody.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Hsm(#[from] HsmError),
    #[error("it is suspended: resume it first")]
    Suspended,
    #[error("it is paused: resume it first")]
    Paused,
    #[error("a real-time VM does not suspend: pause its guest's work, or stop it")]
    RealTime,
}

fn answer(result: Result<(), Refusal>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn create_vm(hsm: &dyn Hsm, creation: &mut VmCreation) -> Result<(), HsmError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match hsm.create_vm(creation) {
            Ok(()) => return Ok(()),
            Err(source) if tries == CREATE_TRIES => {
                return Err(HsmError::Refused {
                    action: "create the VM",
                    source,
                    remedy: "check --cpu_affinity and the VM's name against the scenario and \
                             against VMs that run already",
                });
            }
            Err(_) => std::thread::sleep(CREATE_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests;
