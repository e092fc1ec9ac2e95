//! acrn-dm, the Device Model: creates a User VM and gives it virtual devices.
//!
//! One process is one VM. It runs in the Service VM and needs nothing but upstream Linux's
//! `/dev/acrn_hsm` ([`hsm`]). From [`cli`] comes a checked description of the VM; [`run`] builds
//! it from [`memory`], a program put there by [`loader`], [`acpi`] tables and devices ([`legacy`],
//! [`pci`], [`virtio`]), starts it, and serves it until it ends.
//!
//! What a guest does is data: any port, address, size and value is answered somehow, and nothing
//! that a guest writes can stop more than itself.

pub mod acpi;
pub mod cli;
pub mod exit;
pub mod hsm;
pub mod inter_vm;
pub mod legacy;
pub mod loader;
pub mod logger;
pub mod memory;
pub mod pci;
pub mod run;
pub mod terminal;
pub mod virtio;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use cli::{Request, VmSpec};
use exit::ExitCode;
use hsm::Hsm;
use hsm::absent::Absent;
use hsm::device::Device;
use legacy::backend::announce;
use loader::Program;
use memory::{Layout, Memory};
use run::affinity::{self, Affinity};
use run::control::ControlSocket;
use run::instance::{Instance, RUN_DIRECTORY};
use run::machine::{Machine, Parts};
use run::{RunError, Vm, sandbox, signals};

/// Runs acrn-dm with a command line and returns its exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> i32 {
    let spec = match cli::parse(arguments) {
        Ok(Request::Run(spec)) => spec,
        Ok(Request::Print(text)) => {
            print!("{text}");
            return ExitCode::Success.number();
        }
        Err(error) => return complain(&error, error.code),
    };
    logger::start(spec.name.as_str(), spec.log_level);
    for warning in &spec.warnings {
        log::warn!("{warning}");
    }
    match run_vm(&spec) {
        Ok(code) => code,
        Err(error) => {
            terminal::restore();
            complain(&error, error.code())
        }
    }
}

fn complain(error: &dyn std::fmt::Display, code: ExitCode) -> i32 {
    eprintln!("acrn-dm: {error}");
    code.number()
}

fn run_vm(spec: &VmSpec) -> Result<i32, RunError> {
    let program = Program::open(&spec.boot, &spec.bootargs, spec.memory)?;
    let affinity = affinity::resolve(&spec.cpu_affinity, Path::new(affinity::MADT))?;
    if spec.dry_run {
        return dry_run(spec);
    }
    let instance = Instance::claim(&spec.name, Path::new(RUN_DIRECTORY))?;
    signals::block().map_err(RunError::Thread)?;
    if spec.sandbox {
        sandbox::announce();
    }
    let device: Arc<dyn Hsm> = Arc::new(Device::open()?);
    let code = serve(spec, program, affinity, device, &instance);
    drop(instance);
    code
}

fn serve(
    spec: &VmSpec,
    program: Program,
    affinity: Affinity,
    hsm: Arc<dyn Hsm>,
    instance: &Instance,
) -> Result<i32, RunError> {
    let memory = Memory::allocate(spec.memory)?;
    let mut vm = Vm::create(spec, program, affinity, hsm, memory)?;
    let mut sockets = vec![instance.manager_socket()?];
    sockets.extend(spec.cmd_monitor.clone());
    let mut listening = Vec::new();
    for path in sockets {
        let socket = ControlSocket::listen(&path, vm.events())
            .map_err(|source| run::instance::InstanceError::Path { path, source })?;
        listening.push(socket);
    }
    signals::listen(vm.events()).map_err(RunError::Thread)?;
    for text in vm.announcements() {
        announce(&text);
    }
    vm.start()?;
    if spec.sandbox
        && let Err(error) = sandbox::enter()
    {
        log::warn!("the sandbox is incomplete: {error}");
    }
    Ok(vm.run())
}

/// Builds what can be built without the hypervisor, and takes it apart again.
fn dry_run(spec: &VmSpec) -> Result<i32, RunError> {
    let layout = Layout::new(spec.memory);
    let memory = Memory::ordinary(layout).map_err(|source| memory::MemoryError::Map {
        wanted: spec.memory >> 20,
        source,
    })?;
    let (events, _receiver) = channel();
    let parts = Parts {
        hsm: Arc::new(Absent),
        memory: &memory,
        vcpus: 1,
        events,
    };
    let machine = Machine::new(spec, &parts)?;
    machine.stop();
    println!(
        "{}: everything that can be checked without the hypervisor is in order",
        spec.name
    );
    Ok(ExitCode::Success.number())
}
