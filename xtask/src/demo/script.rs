//! The scripted session of `demo --headless`, and its first part, which also leads a
//! person to the User VM's prompt. System tests reuse the pieces.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Options, Stages};
use crate::scenario::{self, Guest};
use crate::session::Session;

/// Firmware and hypervisor; UEFI under emulation needs the most of it.
const BOOT: Duration = Duration::from_secs(120);
const SERVICE_VM: Duration = Duration::from_secs(180);
const USER_VM: Duration = Duration::from_secs(240);
const COMMAND: Duration = Duration::from_secs(60);
const POWER_OFF: Duration = Duration::from_secs(90);

/// Where the output of a User VM's launch script goes.
#[must_use]
pub fn launch_log(id: u16) -> String {
    format!("/var/log/launch_user_vm_id{id}.log")
}

/// A shell command that prints the process id of the Device Model of a User VM. It is the id
/// in the name of its socket, of which a killed one may still lie about.
#[must_use]
pub fn process(id: u16) -> String {
    format!(r"ls /run/acrn/mngr | sed -n 's/^POST_STD_VM{id}\.monitor\.\([0-9]*\)\.socket$/\1/p'")
}

/// A shell command that is true while the Device Model of a User VM runs.
#[must_use]
pub fn runs(id: u16) -> String {
    format!("kill -0 $({}) 2>/dev/null", process(id))
}

/// Boots and goes on to the User VM's log-in prompt.
pub(super) fn up_to_user_login(
    session: &mut Session,
    stages: &mut Stages,
    options: &Options,
) -> Result<()> {
    let (guests, service) = guests(options)?;
    if !service {
        stages.run("boot the hypervisor and the first VM", || {
            session.expect(" login:", BOOT).map(drop)
        })?;
        return see_guests(session, stages, &guests);
    }
    to_service_vm(session, stages, options.bare)?;
    if options.bare {
        return Ok(());
    }
    if !guests.is_empty() {
        see_guests(session, stages, &guests)?;
        session.to_service()?;
    }
    let script = if options.debian_guest {
        "launch_user_vm_debian.sh"
    } else {
        "launch_user_vm_id1.sh"
    };
    to_user_vm(session, stages, script, 1)
}

/// The whole session, from the first instruction to the machine's end.
pub(super) fn whole(session: &mut Session, stages: &mut Stages, options: &Options) -> Result<()> {
    session.vm.console.echo(true);
    let result = (|| {
        up_to_user_login(session, stages, options)?;
        let (guests, service) = guests(options)?;
        if service && !options.bare {
            guest_session(session, stages, options.cpus.min(2))?;
        }
        stages.run("power off the machine", || {
            end_guests(session, &guests, service)?;
            session.power_off(POWER_OFF)
        })
    })();
    session.vm.console.echo(false);
    result
}

/// The pre-launched VMs of the scenario, and whether there is a Service VM.
fn guests(options: &Options) -> Result<(Vec<Guest>, bool)> {
    match &options.scenario {
        Some(name) => scenario::guests(options.emulator, name),
        None => Ok((Vec::new(), true)),
    }
}

/// Logs in to each pre-launched VM.
fn see_guests(session: &mut Session, stages: &mut Stages, guests: &[Guest]) -> Result<()> {
    for guest in guests {
        let stage = format!("boot the pre-launched VM {}", guest.host);
        stages.run(&stage, || {
            session.to_guest(guest.slot, &guest.host, USER_VM)?;
            session.check("uname -sr", COMMAND).map(drop)
        })?;
    }
    Ok(())
}

/// Switches pre-launched VMs off, but for the one whose end is the machine's; the console is left at that,
/// or at the Service VM.
fn end_guests(session: &mut Session, guests: &[Guest], service: bool) -> Result<()> {
    let Some((last, others)) = guests.split_last() else {
        return Ok(());
    };
    let ended = if service { guests } else { others };
    session.to_hypervisor()?;
    for guest in ended {
        session.hypervisor_command(&format!("vm_pause {}", guest.slot))?;
        session.hypervisor_command(&format!("vm_shutdown {}", guest.slot))?;
    }
    match service {
        true => session.to_service(),
        false => session.to_guest(last.slot, &last.host, COMMAND),
    }
}

fn to_service_vm(session: &mut Session, stages: &mut Stages, bare: bool) -> Result<()> {
    if !bare {
        stages.run("boot the hypervisor", || session.wait_for_hypervisor(BOOT))?;
    }
    stages.run("boot the Service VM", || {
        session.wait_for_service_shell(SERVICE_VM)
    })
}

/// From the Service VM's shell: starts a User VM and waits for its log-in prompt.
///
/// # Errors
/// The launch script ends at once, or the prompt does not appear.
pub fn to_user_vm(session: &mut Session, stages: &mut Stages, script: &str, id: u16) -> Result<()> {
    let log = launch_log(id);
    stages.run("launch the User VM", || {
        session.check(&format!("({script} </dev/null >{log} 2>&1 &)"), COMMAND)?;
        // A precondition that is not met ends the script within moments.
        let runs = runs(id);
        let started = format!(
            "for _ in $(seq 50); do {runs} && break; sleep 0.2; done; \
             sleep 1; {runs} || {{ cat {log}; false; }}"
        );
        session.check(&started, COMMAND).map(drop)
    })?;
    let prompt = stages.run("boot the User VM", || session.to_user_login(id, USER_VM));
    if prompt.is_err() {
        // The reason is more likely in the launch script's log than on the console.
        let shown = session
            .to_service()
            .and_then(|()| session.run(&format!("cat {log}; dmesg | tail -n 5"), COMMAND));
        if let Ok(output) = shown {
            eprintln!(
                "The launch script's log and the Service VM's last messages:\n{}",
                output.text
            );
        }
    }
    prompt
}

/// Waits in the Service VM's shell for the end of a User VM's Device Model and returns the
/// log of its launch script.
///
/// # Errors
/// It does not end.
pub fn wait_for_user_end(session: &mut Session, id: u16) -> Result<String> {
    let (runs, log) = (runs(id), launch_log(id));
    let gone = format!(
        "for _ in $(seq 160); do {runs} || break; sleep 0.5; done; \
         ! {runs}; status=$?; sleep 0.5; cat {log}; (exit $status)"
    );
    session.check(&gone, POWER_OFF)
}

/// From the User VM's log-in prompt: work in it, end it, and return to the Service VM.
///
/// # Errors
/// A command fails, or the User VM does not end.
pub fn guest_session(session: &mut Session, stages: &mut Stages, vcpus: u32) -> Result<()> {
    stages.run("log in to the User VM", || session.log_in(1))?;
    stages.run("work in the User VM", || {
        session.check("uname -a; mount | grep ' / '; free -m", COMMAND)?;
        let online = session.check("nproc", COMMAND)?;
        ensure!(
            online == vcpus.to_string(),
            "{online} vCPUs are on line instead of {vcpus}"
        );
        write_and_read_back(session)?;
        session.check("ping -c 2 192.168.100.1", COMMAND).map(drop)
    })?;
    stages.run("power off the User VM", || {
        session.vm.console.send_line("poweroff")?;
        session.to_service()?;
        wait_for_user_end(session, 1).map(drop)
    })
}

fn write_and_read_back(session: &mut Session) -> Result<()> {
    let written = session.check(
        "dd if=/dev/urandom of=/root/probe bs=64k count=32 2>/dev/null && sync && md5sum </root/probe",
        COMMAND,
    )?;
    let read = session.check(
        "echo 3 >/proc/sys/vm/drop_caches; md5sum </root/probe",
        COMMAND,
    )?;
    ensure!(
        written == read,
        "the disk gave back {read} instead of {written}"
    );
    Ok(())
}
