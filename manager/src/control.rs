//! What `acrnctl` does.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::cli::{Command, ControlArgs};
use crate::client::{self, ClientError, escaped};
use crate::console::{self, ConsoleError};
use crate::events::Event;
use crate::script;
use crate::view::{NewVm, Stats, VmState, VmView};

/// How often a stop is looked after.
const LOOK: Duration = Duration::from_millis(200);
/// How long a guest may take to suspend.
const SUSPEND_TIME: Duration = Duration::from_secs(60);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the first three are named after their modules")]
pub enum ControlError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// A file for `add`.
    #[error("{}: {source}; check the path", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file for `add` without a usable name.
    #[error("{} names no VM: say --name NAME", .0.display())]
    Nameless(PathBuf),
    /// Words for what is no script.
    #[error("{} is a definition and takes no words: leave them out", .0.display())]
    Words(PathBuf),
    /// The guest does not react to the sleep button.
    #[error(
        "{0} does not suspend: its guest needs a program that reacts to the sleep button; \
         acrnctl pause stops its CPUs"
    )]
    Awake(String),
    /// The daemon speaks differently.
    #[error("acrnd's answer is not understood: {0}; are acrnd and acrnctl of one version?")]
    Answer(#[from] serde_json::Error),
    /// Some of several VMs.
    #[error("{0}")]
    Several(String),
}

impl ControlError {
    /// The exit status for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Client(ClientError::NoDaemon { .. } | ClientError::NotRoot(_)) => 3,
            Self::Client(ClientError::Refused { status: 404, .. }) => 4,
            Self::Client(ClientError::Refused { status: 409, .. }) => 5,
            Self::Nameless(_) | Self::Words(_) => 2,
            _ => 1,
        }
    }
}

type Done = Result<(), ControlError>;

/// Carries a command out.
///
/// # Errors
/// It was refused, or nobody is there to carry it out.
pub async fn run(args: ControlArgs) -> Done {
    let control = Control {
        socket: args.socket,
        json: args.json,
    };
    match args.command {
        Command::List => control.list().await,
        Command::Add { file, name, words } => control.add(&file, name, words).await,
        Command::Del { name } => control.delete(&name).await,
        Command::Start { name } => control.act(&name, "start").await,
        Command::Stop {
            force,
            all,
            no_wait,
            names,
        } => {
            let names = if all {
                control.stoppable().await?
            } else {
                names
            };
            control.stop(&names, force, !no_wait).await
        }
        Command::Reset { name } => control.act(&name, "reset").await,
        Command::Blkrescan { name, device } => {
            let what = format!("blkrescan?device={}", escaped(&device));
            control.act(&name, &what).await
        }
        Command::Pause { name } => control.act(&name, "pause").await,
        Command::Suspend { name, no_wait } => control.suspend(&name, !no_wait).await,
        Command::Resume { name } => control.act(&name, "resume").await,
        Command::Console { name } => control.console(&name).await,
        Command::Stats { name } => control.stats(&name).await,
        Command::Events { follow } => control.events(follow).await,
        Command::Logs { name, follow } => control.logs(&name, follow).await,
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut ControlArgs::command(), "acrnctl", &mut text);
            print(&text)
        }
    }
}

struct Control {
    socket: PathBuf,
    json: bool,
}

impl Control {
    async fn body(
        &self,
        method: &str,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, ControlError> {
        let response = client::send(&self.socket, method, target, body).await?;
        Ok(client::read(response).await?.to_vec())
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ControlError> {
        let body = self.body("GET", target, Vec::new()).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    async fn view(&self, name: &str) -> Result<VmView, ControlError> {
        self.get(&vm(name)).await
    }

    /// Prints a value: as JSON, or as text.
    fn show<T: serde::Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Done {
        let text = if self.json {
            serde_json::to_string(value)? + "\n"
        } else {
            text(value)
        };
        print(text.as_bytes())
    }

    async fn list(&self) -> Done {
        let all: Vec<VmView> = self.get("/v1/vms").await?;
        self.show(&all, |all| table(all))
    }

    async fn add(&self, file: &Path, name: Option<String>, words: Vec<String>) -> Done {
        let name = name
            .or_else(|| name_of(file, &words))
            .ok_or_else(|| ControlError::Nameless(file.to_owned()))?;
        let definition = definition_of(file, words)?;
        let body = serde_json::to_vec(&NewVm { name, definition })?;
        let answer = self.body("POST", "/v1/vms", body).await?;
        let view: VmView = serde_json::from_slice(&answer)?;
        self.show(&view, line)
    }

    async fn delete(&self, name: &str) -> Done {
        self.body("DELETE", &vm(name), Vec::new()).await.map(drop)
    }

    async fn act(&self, name: &str, what: &str) -> Done {
        let target = format!("{}/{what}", vm(name));
        let answer = self.body("POST", &target, Vec::new()).await?;
        let view: VmView = serde_json::from_slice(&answer)?;
        self.show(&view, line)
    }

    /// What can be stopped, those that have started last first.
    async fn stoppable(&self) -> Result<Vec<String>, ControlError> {
        let all: Vec<VmView> = self.get("/v1/vms").await?;
        let passed_over = [
            VmState::Stopped,
            VmState::Failed,
            VmState::Invalid,
            VmState::Untracked,
        ];
        let runs = all
            .into_iter()
            .filter(|vm| !passed_over.contains(&vm.state));
        Ok(runs.rev().map(|vm| vm.name).collect())
    }

    async fn stop(&self, names: &[String], force: bool, wait: bool) -> Done {
        let mut errors = Vec::new();
        let mut asked = Vec::new();
        for name in names {
            let target = format!("{}/stop?force={force}", vm(name));
            match self.body("POST", &target, Vec::new()).await {
                Ok(_) => asked.push(name),
                Err(error) => errors.push(error),
            }
        }
        for name in asked {
            let mut view = self.view(name).await?;
            while wait && view.state == VmState::Stopping {
                tokio::time::sleep(LOOK).await;
                view = self.view(name).await?;
            }
            self.show(&view, line)?;
        }
        match errors.len() {
            0 | 1 => errors.pop().map_or(Ok(()), Err),
            _ => {
                let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(ControlError::Several(all.join("; ")))
            }
        }
    }

    async fn suspend(&self, name: &str, wait: bool) -> Done {
        let target = format!("{}/suspend", vm(name));
        self.body("POST", &target, Vec::new()).await?;
        let begun = tokio::time::Instant::now();
        let mut view = self.view(name).await?;
        while wait && view.state == VmState::Started {
            if begun.elapsed() > SUSPEND_TIME {
                return Err(ControlError::Awake(name.to_owned()));
            }
            tokio::time::sleep(LOOK).await;
            view = self.view(name).await?;
        }
        self.show(&view, line)
    }

    async fn console(&self, name: &str) -> Done {
        let view = self.view(name).await?;
        Ok(console::attach(name, view.console.as_deref())?)
    }

    async fn stats(&self, name: &str) -> Done {
        let stats: Stats = self.get(&format!("{}/stats", vm(name))).await?;
        self.show(&stats, figures)
    }

    async fn logs(&self, name: &str, follow: bool) -> Done {
        if !follow {
            let target = format!("{}/log", vm(name));
            let text = self.body("GET", &target, Vec::new()).await?;
            return self.show_log(&text);
        }
        let target = format!("{}/log?follow=true", vm(name));
        let response = client::send(&self.socket, "GET", &target, Vec::new()).await?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
            self.show_log(frame.data_ref().map_or(&[][..], |data| data))?;
        }
        Ok(())
    }

    /// Prints a part of a log: as it is, or as a JSON string.
    fn show_log(&self, text: &[u8]) -> Done {
        if self.json {
            return self.show(&String::from_utf8_lossy(text), |text| text.to_string());
        }
        print(text)
    }

    async fn events(&self, follow: bool) -> Done {
        let target = format!("/v1/events?follow={follow}");
        let response = client::send(&self.socket, "GET", &target, Vec::new()).await?;
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
                let event: Event = serde_json::from_slice(&text[..end])?;
                text.drain(..=end);
                self.show(&event, event_line)?;
            }
        }
        Ok(())
    }
}

fn vm(name: &str) -> String {
    format!("/v1/vms/{}", escaped(name))
}

/// Writes to standard output; a reader that has gone is no error.
fn print(text: &[u8]) -> Done {
    let mut output = io::stdout().lock();
    match output.write_all(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// The name that a script gives its VM, or else that of the file.
fn name_of(file: &Path, words: &[String]) -> Option<String> {
    let script = std::fs::read(file).ok().filter(|_| !is_definition(file));
    let text = script.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    text.and_then(|text| script::vm_name(&text, words))
        .or_else(|| file.file_stem()?.to_str().map(str::to_owned))
}

fn is_definition(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "toml")
}

/// The text of a definition: that of the file, or one for a script.
fn definition_of(file: &Path, words: Vec<String>) -> Result<String, ControlError> {
    let wrong = |source| ControlError::File {
        path: file.to_owned(),
        source,
    };
    if is_definition(file) {
        if !words.is_empty() {
            return Err(ControlError::Words(file.to_owned()));
        }
        return std::fs::read_to_string(file).map_err(wrong);
    }
    let path = std::fs::canonicalize(file).map_err(wrong)?;
    let path = path
        .to_str()
        .ok_or_else(|| wrong(io::ErrorKind::InvalidFilename.into()))?;
    let mut table = toml::Table::new();
    table.insert("script".into(), path.into());
    if !words.is_empty() {
        table.insert("arguments".into(), words.into());
    }
    Ok(table.to_string())
}

fn line(vm: &VmView) -> String {
    format!("{} {}\n", vm.name, vm.state.name())
}

fn table(all: &[VmView]) -> String {
    let width = all.iter().map(|vm| vm.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  STATE      RESTARTS  REMARK\n", "NAME");
    for vm in all {
        let remark = match (&vm.error, vm.exit_status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) if matches!(vm.state, VmState::Failed | VmState::Waiting) => {
                format!("exit status {status}")
            }
            _ if vm.autostart => "autostart".to_owned(),
            _ => String::new(),
        };
        let (name, state, restarts) = (&vm.name, vm.state.name(), vm.restarts);
        let row = format!("{name:width$}  {state:9}  {restarts:8}  {remark}");
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn figures(stats: &Stats) -> String {
    let pages = if stats.huge_pages { "huge" } else { "ordinary" };
    format!(
        "VM                {} ({} in the hypervisor's list)\n\
         vCPUs             {}\n\
         memory            {} MiB in {pages} pages\n\
         acrn-dm           process {}, {} threads\n\
         CPU time of it    {}.{:03} s\n\
         restarts          {}\n",
        stats.name,
        stats.vmid,
        stats.vcpus,
        stats.memory >> 20,
        stats.pid,
        stats.dm_threads,
        stats.dm_cpu_ms / 1000,
        stats.dm_cpu_ms % 1000,
        stats.restarts,
    )
}

/// An event with its time of day, in UTC.
fn event_line(event: &Event) -> String {
    let seconds = event.time / 1000 % 86_400;
    let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
    let time = format!("{hour:02}:{minute:02}:{:02}", seconds % 60);
    let text = format!("{time} {} {} {}", event.vm, event.event, event.detail);
    text.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Definition;

    #[test]
    fn a_script_becomes_a_definition_that_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("launch \"one\".sh");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let text = definition_of(&script, vec!["-x".into(), "it's".into()]).unwrap();
        let definition = Definition::parse(&text).unwrap();
        assert_eq!(definition.arguments, ["-x", "it's"]);
        assert_eq!(definition.script, Some(script.canonicalize().unwrap()));
        let missing = definition_of(Path::new("/no/such.sh"), Vec::new()).unwrap_err();
        assert_eq!(missing.status(), 1);
        let words = definition_of(Path::new("vm.toml"), vec!["a".into()]).unwrap_err();
        assert_eq!(words.status(), 2);
    }

    #[test]
    fn exit_statuses_tell_reasons_apart() {
        for (status, expected) in [(404, 4), (409, 5), (400, 1), (502, 1)] {
            let reason = String::new();
            let error = ControlError::Client(ClientError::Refused { status, reason });
            assert_eq!(error.status(), expected);
        }
    }

    #[test]
    fn events_have_their_time_of_day() {
        let event = Event {
            number: 1,
            time: (86_400 + 3600 + 61) * 1000,
            vm: "vm1".into(),
            event: "started".into(),
            detail: String::new(),
        };
        assert_eq!(event_line(&event), "01:01:01 vm1 started\n");
    }
}
