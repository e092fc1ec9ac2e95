//! Talking to a running `acrn-dm` through its control socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::definition::check_name;
use rustix::process::{Pid, getpgid};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(12);
/// Longest answer.
const MAX_ANSWER: u64 = 64 << 10;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum DmError {
    /// No socket belongs to the VM's processes.
    #[error(
        "no acrn-dm answers for it: it may be starting or ending; see acrnctl logs, or try again"
    )]
    Absent,
    /// The socket did not do what it should.
    #[error("acrn-dm does not answer: {0}; stop the VM with acrnctl stop -f")]
    Silent(String),
    /// `acrn-dm` says no.
    #[error("acrn-dm refuses: {0}")]
    Refused(String),
}

/// What `acrn-dm` tells of its VM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// `running`, `paused`, `suspended` or `stopping`.
    pub state: String,
    /// Process id of the Device Model.
    pub pid: i32,
    /// Number in the hypervisor, relative to the Service VM.
    pub vmid: u16,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Bytes of RAM.
    pub memory: u64,
    /// The RAM is made of huge pages.
    pub huge_pages: bool,
}

/// The control socket of the `acrn-dm` in a process group, among those in `directory`. The group
/// decides, not the name: a launch script may give its VM any.
pub fn find(directory: &Path, group: i32) -> Option<PathBuf> {
    let group = Pid::from_raw(group)?;
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let file = entry.file_name();
        let pid = process_of(file.to_str()?)?;
        (getpgid(Some(pid)) == Ok(group)).then(|| entry.path())
    })
}

/// Names and process groups of those `acrn-dm` among the sockets that are in none of these groups: VMs
/// that somebody else has started.
pub fn strangers(directory: &Path, groups: &[i32]) -> Vec<(String, i32)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let stranger = |entry: fs::DirEntry| {
        let file = entry.file_name();
        let file = file.to_str()?;
        let group = getpgid(Some(process_of(file)?))
            .ok()?
            .as_raw_nonzero()
            .get();
        let name = file.rsplit_once(".monitor.")?.0.to_owned();
        (!groups.contains(&group) && check_name(&name).is_ok()).then_some((name, group))
    };
    let mut all: Vec<(String, i32)> = entries.filter_map(stranger).collect();
    all.sort();
    all
}

/// The process in `NAME.monitor.PID.socket`.
fn process_of(file: &str) -> Option<Pid> {
    let (rest, pid) = file.strip_suffix(".socket")?.rsplit_once('.')?;
    rest.strip_suffix(".monitor")?;
    Pid::from_raw(pid.parse().ok().filter(|&pid| pid > 0)?)
}

#[derive(Deserialize)]
struct Ack {
    ack: i32,
    #[serde(default)]
    error: String,
}

/// Has the `acrn-dm` of a process group carry out a command and returns its answer.
///
/// # Errors
/// There is none, it is silent, or it refuses.
pub async fn command(
    directory: &Path,
    group: i32,
    command: &str,
    device: &str,
) -> Result<String, DmError> {
    let socket = find(directory, group).ok_or(DmError::Absent)?;
    let request = serde_json::json!({ "command": command, "device": device });
    let answer = timeout(PATIENCE, exchange(&socket, &format!("{request}\n")))
        .await
        .map_err(|_| DmError::Silent(format!("no word for {} s", PATIENCE.as_secs())))?
        .map_err(|error| DmError::Silent(error.to_string()))?;
    judge(&answer)?;
    Ok(answer)
}

/// Takes an answer for yes or no.
///
/// # Errors
/// It is no, or not understood.
pub fn judge(answer: &str) -> Result<(), DmError> {
    let ack: Ack =
        serde_json::from_str(answer).map_err(|error| DmError::Silent(error.to_string()))?;
    if ack.ack == 0 {
        Ok(())
    } else {
        Err(DmError::Refused(ack.error))
    }
}

async fn exchange(socket: &Path, request: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let mut reader = BufReader::new(stream.take(MAX_ANSWER));
    reader.read_line(&mut answer).await?;
    Ok(answer)
}

/// Asks for the status.
///
/// # Errors
/// As for [`command`].
pub async fn status(directory: &Path, group: i32) -> Result<Status, DmError> {
    Status::parse(&command(directory, group, "status", "").await?)
}

impl Status {
    /// Reads the answer to `status`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(answer: &str) -> Result<Self, DmError> {
        serde_json::from_str(answer).map_err(|error| DmError::Silent(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A control socket of this very process, which answers each client with one line.
    fn answers(directory: &Path, answers: &'static [&'static str]) -> i32 {
        let path = directory.join(format!("vm1.monitor.{}.socket", std::process::id()));
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                reader.read_line(&mut request).unwrap();
                assert!(request.contains("command"));
                writeln!(stream, "{answer}").unwrap();
            }
        });
        getpgid(None).unwrap().as_raw_nonzero().get()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let group = answers(
            folder.path(),
            &[
                r#"{"ack":0,"huge_pages":true,"memory":64,"name":"x","pid":3,"state":"paused","vcpus":2,"vmid":1}"#,
                r#"{"ack":-1,"error":"not now"}"#,
                "what?",
            ],
        );
        let status = status(folder.path(), group).await.unwrap();
        assert_eq!((status.state.as_str(), status.vcpus), ("paused", 2));
        let refused = command(folder.path(), group, "reset", "").await;
        assert!(matches!(refused, Err(DmError::Refused(why)) if why == "not now"));
        let silent = command(folder.path(), group, "reset", "").await;
        assert!(matches!(silent, Err(DmError::Silent(_))));
        let absent = command(folder.path(), 1, "reset", "").await;
        assert!(matches!(absent, Err(DmError::Absent)));
    }

    #[test]
    fn files_that_are_no_sockets_of_vms_are_passed_over() {
        assert_eq!(process_of("vm.1.monitor.42.socket"), Pid::from_raw(42));
        for file in [
            "acrnd.7.socket",
            "vm.monitor.-1.socket",
            "vm.monitor.x.socket",
            "vm",
        ] {
            assert_eq!(process_of(file), None, "{file}");
        }
    }
}
