//! The life of a VM: creation, running, pause, reset, end.
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

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use acrn_abi::hypercall::VmCreation;
use acrn_abi::vm_flags::VmFlags;

use crate::acpi::{self, Platform, TablesTooLarge};
use crate::cli::VmSpec;
use crate::exit::ExitCode;
use crate::hsm::page::RequestPage;
use crate::hsm::{Hsm, HsmError};
use crate::loader::{LoadError, Program};
use crate::memory::{Memory, MemoryError};
use control::{Answer, Command, Control};
use machine::{Machine, MachineError, Parts};
use requests::RequestLoop;

/// How long a guest has to react to the power button.
const POWER_OFF_TIME: Duration = Duration::from_secs(60);
/// How often creating the VM is tried: its predecessor may still be going.
const CREATE_TRIES: u32 = 5;
const CREATE_PAUSE: Duration = Duration::from_millis(200);

/// Something that concerns the VM as a whole.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The guest switched itself off.
    PowerOff,
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
    paused: bool,
    /// When a guest that was asked to stop is switched off.
    deadline: Option<Instant>,
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
            platform: Platform { apic_ids, coms },
            vcpus,
            vmid: creation.vmid,
            scrub: !spec.flags.contains(VmFlags::RT),
            events,
            sender,
            requests: None,
            paused: false,
            deadline: None,
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
        let remedy = "see the hypervisor's log";
        self.hsm.set_vcpu_regs(&regs).map_err(HsmError::refused(
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
        self.paused = false;
        log::info!("{} runs with {} CPUs", self.name, self.vcpus);
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
                    match self.events.recv_timeout(left) {
                        Ok(event) => event,
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
                Event::Stop => {
                    if self.deadline.is_some() {
                        log::warn!("{} is switched off by force", self.name);
                        return Ok(ExitCode::Forced.number());
                    }
                    self.press_power_button();
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
    fn press_power_button(&mut self) {
        if let Err(error) = self.set_paused(false) {
            log::warn!("{error}");
        }
        log::info!("{}: power button", self.name);
        self.machine.press_power_button();
        self.deadline = Some(Instant::now() + POWER_OFF_TIME);
    }

    /// Executes a command; `Some` ends the VM with this code.
    fn control(&mut self, control: Control) -> Result<Option<i32>, RunError> {
        let done = |result: Result<(), HsmError>| match result {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed(error.to_string()),
        };
        let mut end = None;
        let answer = match &control.command {
            Command::BlkRescan(medium) => match self.machine.insert(medium) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(error),
            },
            Command::Status => self.status(),
            Command::Pause => done(self.set_paused(true)),
            Command::Resume => done(self.set_paused(false)),
            Command::Reset => match self.reset() {
                Ok(()) => Answer::Done,
                Err(error) => {
                    control.answer(Answer::Failed(error.to_string()));
                    return Err(error);
                }
            },
            Command::Stop => {
                if self.deadline.is_none() {
                    self.press_power_button();
                }
                Answer::Done
            }
            Command::Destroy => {
                end = Some(ExitCode::Success.number());
                Answer::Done
            }
        };
        control.answer(answer);
        Ok(end)
    }

    fn status(&self) -> Answer {
        let state = match (self.paused, self.deadline) {
            (true, _) => "paused",
            (false, Some(_)) => "stopping",
            (false, None) => "running",
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

    fn set_paused(&mut self, paused: bool) -> Result<(), HsmError> {
        if paused == self.paused {
            return Ok(());
        }
        if paused {
            self.hsm
                .pause_vm()
                .map_err(HsmError::refused("pause the VM", "try again"))?;
        } else {
            self.hsm
                .start_vm()
                .map_err(HsmError::refused("resume the VM", "reset it"))?;
        }
        self.paused = paused;
        log::info!(
            "{} {}",
            self.name,
            if paused { "is paused" } else { "goes on" }
        );
        Ok(())
    }

    /// Restarts the guest in the same VM.
    fn reset(&mut self) -> Result<(), RunError> {
        log::info!("{} is reset", self.name);
        let remedy = "start the VM anew";
        if !self.paused {
            self.hsm
                .pause_vm()
                .map_err(HsmError::refused("pause the VM for a reset", remedy))?;
            self.paused = true;
        }
        // Requests in work are answered first; what came after that is dropped by the driver.
        drop(self.requests.take());
        self.hsm
            .clear_requests()
            .map_err(HsmError::refused("clear the requests of the VM", remedy))?;
        self.machine.reset();
        self.hsm
            .reset_vm()
            .map_err(HsmError::refused("reset the VM", remedy))?;
        // What the old guest still asked for does not concern the new one.
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Reset | Event::PowerOff | Event::DebugExit(_) => {}
                other => {
                    let _ = self.sender.send(other);
                    break;
                }
            }
        }
        self.deadline = None;
        self.start()
    }

    /// Ends the VM and gives everything back.
    fn end(mut self) {
        if !self.paused {
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
