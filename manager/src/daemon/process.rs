//! The processes of a VM: started, waited for, ended.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, waitpid,
};
use tokio::sync::oneshot;

use super::Settings;
use crate::adoption::Process;
use crate::definition::Definition;
use crate::dm;
use crate::keeper;
use crate::life::Means;
use crate::log;
use crate::store::{self, Store};

/// Starts a VM's keeper, which starts the VM.
pub(super) fn spawn(
    settings: &Settings,
    store: &Store,
    name: &str,
    plan: &Definition,
) -> io::Result<Process> {
    store.clear(name)?;
    let log = log::append(&settings.log(name))?;
    // This very program, even if its file has been replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(keeper::NAME).arg("keep").arg(store.of(name));
    match &plan.script {
        Some(script) => {
            command.arg(script).args(&plan.arguments);
            command.env("VM_NAME", name).envs(&plan.environment);
        }
        None => {
            let file = store.of(name).join("vm.toml");
            let table = plan.vm.clone().unwrap_or_default();
            store::replace(&file, &table.to_string())?;
            command
                .arg(&settings.dm)
                .arg("--config")
                .arg(file)
                .arg(name);
        }
    }
    command
        .env_remove("NOTIFY_SOCKET")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn()?;
    let pid = child.id().cast_signed();
    // A short script may be over by now: its status is noted, and whoever waits for it finds that.
    store::child(pid).ok_or_else(|| io::Error::other("it is not in /proc"))
}

/// Waits until a process has ended.
pub(super) async fn ended(process: Process) {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return;
    };
    // The descriptor first, the look at it then: whoever has the id later is not waited for.
    if let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty())
        && store::alive(process.pid) == Some(process)
    {
        // A thread may wait for years, and does not keep the daemon from ending.
        let (ended, wait) = oneshot::channel();
        std::thread::spawn(move || {
            let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
            while poll(&mut descriptors, None) == Err(Errno::INTR) {}
            let _ = ended.send(());
        });
        let _ = wait.await;
    }
    // Only our own children need it, and an adopted process is none.
    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
}

/// Makes the processes of a VM end, by way of its `acrn-dm` where that answers.
pub(super) async fn end(sockets: PathBuf, process: Process, means: Means) {
    let asked = match means {
        Means::PowerButton => dm::command(&sockets, process.pid, "stop", "").await.is_ok(),
        Means::Destroy => dm::command(&sockets, process.pid, "destroy", "")
            .await
            .is_ok(),
        Means::Kill => false,
    };
    if asked {
        return;
    }
    let signal = if means == Means::Kill {
        Signal::KILL
    } else {
        Signal::TERM
    };
    if let Some(group) = Pid::from_raw(process.pid) {
        // It may have ended meanwhile.
        let _ = kill_process_group(group, signal);
    }
}
