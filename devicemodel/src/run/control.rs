//! Commands from outside, over Unix sockets.
//!
//! Two languages are understood. ACRN's manager library sends one `mngr_msg` of fixed size per
//! connection and reads one back. Anything that begins with `{` is JSON: one object per line (or
//! several without a break), each answered by one line.
//!
//! ```text
//! {"command":"status"}   ->   {"ack":0,"name":"vm1","state":"running",...}
//! ```
//!
//! Commands are `status`, `pause`, `suspend` (the sleep button), `resume`, `reset`, `stop` (the power
//! button), `destroy`, and `blkrescan` with a `device`, such as `6,/srv/disk.img`, for a drive that has
//! no medium.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, sandbox};

/// How long a client may take for a message, and the VM for its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest JSON text of a client.
const MAX_TEXT: usize = 64 << 10;
/// Clients served at the same time.
const MAX_CLIENTS: usize = 8;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Tell how the VM is.
    Status,
    /// Stop its CPUs.
    Pause,
    /// Press the sleep button.
    Suspend,
    /// Let its CPUs go on, or wake it.
    Resume,
    /// Restart the guest.
    Reset,
    /// Press the power button.
    Stop,
    /// Switch off at once.
    Destroy,
    /// Put a medium into a drive without one: `SLOT,PATH`.
    #[serde(skip)]
    BlkRescan(String),
}

/// What a VM tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Name.
    pub name: String,
    /// `running`, `paused`, `suspended` or `stopping`.
    pub state: &'static str,
    /// Process id of the Device Model.
    pub pid: u32,
    /// Number in the hypervisor, relative to the Service VM.
    pub vmid: u16,
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Bytes of RAM.
    pub memory: u64,
    /// The RAM is made of huge pages.
    pub huge_pages: bool,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, or begun.
    Done,
    /// Refused, and why.
    Failed(String),
    /// The status.
    Status(Status),
}

/// A command on its way to the main loop.
#[derive(Debug)]
pub struct Control {
    /// What to do.
    pub command: Command,
    reply: SyncSender<Answer>,
}

impl Control {
    /// A command, and where its answer comes.
    pub fn new(command: Command) -> (Self, std::sync::mpsc::Receiver<Answer>) {
        let (reply, answer) = sync_channel(1);
        (Self { command, reply }, answer)
    }

    /// Answers it.
    pub fn answer(&self, answer: Answer) {
        let _ = self.reply.try_send(answer);
    }
}

impl PartialEq for Control {
    fn eq(&self, other: &Self) -> bool {
        self.command == other.command
    }
}

/// A listening socket; dropping it removes it.
pub struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, for the owner only.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(path: &Path, events: Sender<Event>) -> io::Result<Self> {
        let left_over = UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if left_over {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let this = Self {
            path: path.to_owned(),
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let accept = move || {
            let clients = std::sync::Arc::new(());
            for stream in listener.incoming() {
                let (Ok(stream), true) = (
                    stream,
                    std::sync::Arc::strong_count(&clients) <= MAX_CLIENTS,
                ) else {
                    // Out of descriptors or overrun: not a reason to spin.
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                };
                let (events, guard) = (events.clone(), clients.clone());
                let serve = move || {
                    if let Err(error) = serve(stream, &events) {
                        log::debug!("a client of the control socket went away: {error}");
                    }
                    drop(guard);
                };
                let _ = sandbox::spawn("client".into(), serve);
            }
        };
        sandbox::spawn("control".into(), accept)?;
        Ok(this)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Has the main loop execute a command.
fn execute(command: Command, events: &Sender<Event>) -> Answer {
    let (control, answer) = Control::new(command);
    if events.send(Event::Control(control)).is_err() {
        return Answer::Failed("the VM is ending".into());
    }
    answer
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Answer::Failed("the VM is ending".into()))
}

fn serve(mut stream: UnixStream, events: &Sender<Event>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if first[0] == b'{' {
        // A monitor stays connected and may be silent for long.
        serve_json(stream, events)
    } else {
        stream.set_read_timeout(Some(PATIENCE))?;
        manager::serve(stream, first[0], events)
    }
}

#[derive(Deserialize)]
struct Request {
    command: String,
    #[serde(default)]
    device: String,
}

fn serve_json(mut stream: UnixStream, events: &Sender<Event>) -> io::Result<()> {
    let mut text = b"{".to_vec();
    let mut chunk = [0; 1024];
    loop {
        let mut requests = serde_json::Deserializer::from_slice(&text).into_iter::<Request>();
        let mut answers = Vec::new();
        let mut broken = None;
        for request in requests.by_ref() {
            match request {
                Ok(request) => answers.push(json_answer(request, events)),
                Err(error) if error.is_eof() => break,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        let used = requests.byte_offset();
        for answer in answers {
            stream.write_all(format!("{answer}\n").as_bytes())?;
        }
        if let Some(error) = broken {
            let answer =
                serde_json::json!({ "ack": -1, "error": format!("not understood: {error}") });
            return stream.write_all(format!("{answer}\n").as_bytes());
        }
        text.drain(..used);
        if text.len() > MAX_TEXT {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => text.extend_from_slice(&chunk[..count]),
        }
    }
}

fn json_answer(request: Request, events: &Sender<Event>) -> serde_json::Value {
    let Request {
        command: name,
        device,
    } = request;
    let command = if name == "blkrescan" {
        Ok(Command::BlkRescan(device))
    } else {
        serde_json::from_value::<Command>(name.as_str().into())
    };
    let Ok(command) = command else {
        let error = format!(
            "there is no command \"{name}\": use status, pause, suspend, resume, reset, stop, \
             destroy or blkrescan"
        );
        return serde_json::json!({ "ack": -1, "error": error });
    };
    match execute(command, events) {
        Answer::Done => serde_json::json!({ "ack": 0 }),
        Answer::Failed(error) => serde_json::json!({ "ack": -1, "error": error }),
        Answer::Status(status) => {
            let mut value = serde_json::to_value(status).unwrap_or_default();
            if let Some(fields) = value.as_object_mut() {
                fields.insert("ack".into(), 0.into());
            }
            value
        }
    }
}

/// The binary messages of ACRN's manager library.
mod manager {
    use super::*;

    /// "mngr msg", as the library spells it.
    const MAGIC: u64 = 0x0067_736d_206d_6d76;
    const SIZE: usize = 280;
    /// Where the union begins: after magic, id and time stamp.
    const DATA: usize = 24;

    const DM_STOP: u32 = 3;
    const DM_SUSPEND: u32 = 4;
    const DM_RESUME: u32 = 5;
    const DM_QUERY: u32 = 6;
    const DM_BLKRESCAN: u32 = 7;

    const STATE_STARTED: i32 = 2;
    const STATE_SUSPENDED: i32 = 3;

    /// Answers messages until the client closes.
    pub(super) fn serve(
        mut stream: UnixStream,
        first: u8,
        events: &Sender<Event>,
    ) -> io::Result<()> {
        let mut message = [0; SIZE];
        message[0] = first;
        let mut begin = 1;
        loop {
            stream.read_exact(&mut message[begin..])?;
            begin = 0;
            let Some(result) = handle(&message, events) else {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            };
            message[DATA..].fill(0);
            message[DATA..DATA + 4].copy_from_slice(&result.to_le_bytes());
            stream.write_all(&message)?;
        }
    }

    /// Executes a message; `None` when it is none.
    fn handle(message: &[u8; SIZE], events: &Sender<Event>) -> Option<i32> {
        let word = |at: usize| {
            message
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok())
                .map(u32::from_le_bytes)
        };
        let magic = u64::from(word(0)?) | u64::from(word(4)?) << 32;
        if magic != MAGIC {
            return None;
        }
        let forced = word(DATA)? != 0;
        let command = match word(8)? {
            DM_STOP if forced => Command::Destroy,
            DM_STOP => Command::Stop,
            DM_SUSPEND => Command::Suspend,
            DM_RESUME => Command::Resume,
            DM_QUERY => Command::Status,
            DM_BLKRESCAN => Command::BlkRescan(text(message.get(DATA..)?)),
            other => {
                log::debug!("a manager sent the unknown message {other}");
                return Some(-1);
            }
        };
        Some(match execute(command, events) {
            Answer::Done => 0,
            Answer::Failed(error) => {
                log::warn!("a manager's command failed: {error}");
                -1
            }
            Answer::Status(status) if matches!(status.state, "paused" | "suspended") => {
                STATE_SUSPENDED
            }
            Answer::Status(_) => STATE_STARTED,
        })
    }

    /// The text of a field that a zero ends.
    fn text(field: &[u8]) -> String {
        let bytes = field.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[cfg(test)]
    mod tests {
        use std::sync::mpsc::channel;

        use super::*;

        fn ask(id: u32, data: &[u8]) -> (i32, Command) {
            let (mut client, server) = UnixStream::pair().unwrap();
            let (sender, events) = channel();
            let thread = std::thread::spawn(move || {
                let _ = super::super::serve(server, &sender);
            });
            let mut message = vec![0; SIZE];
            message[..8].copy_from_slice(&MAGIC.to_le_bytes());
            message[8..12].copy_from_slice(&id.to_le_bytes());
            message[DATA..DATA + data.len()].copy_from_slice(data);
            client.write_all(&message).unwrap();
            let Ok(Event::Control(control)) = events.recv_timeout(PATIENCE) else {
                panic!()
            };
            control.answer(Answer::Done);
            client.read_exact(&mut message).unwrap();
            drop(client);
            thread.join().unwrap();
            let result = i32::from_le_bytes(message[DATA..DATA + 4].try_into().unwrap());
            (result, control.command)
        }

        #[test]
        fn messages_of_acrnctl_become_commands() {
            assert_eq!(ask(DM_STOP, &[]), (0, Command::Stop));
            assert_eq!(ask(DM_STOP, &[1]), (0, Command::Destroy));
            assert_eq!(ask(DM_SUSPEND, &[]), (0, Command::Suspend));
            let rescan = Command::BlkRescan("3,/srv/disk".to_owned());
            assert_eq!(ask(DM_BLKRESCAN, b"3,/srv/disk\0"), (0, rescan));
        }

        #[test]
        fn what_is_no_message_is_cut_off() {
            let (mut client, server) = UnixStream::pair().unwrap();
            let (sender, _events) = channel();
            client.write_all(&[7; SIZE]).unwrap();
            assert!(super::super::serve(server, &sender).is_err());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn json_commands_are_answered_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (sender, events) = channel();
        let socket = ControlSocket::listen(&path, sender).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client
            .write_all(b"{\"command\":\"pause\"}{\"command\":\"re")
            .unwrap();
        let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
        let mut next = |expected: Command, answer: Answer| {
            let Ok(Event::Control(control)) = events.recv_timeout(PATIENCE) else {
                panic!()
            };
            assert_eq!(control.command, expected);
            control.answer(answer);
            lines.next().unwrap().unwrap()
        };
        assert_eq!(next(Command::Pause, Answer::Done), r#"{"ack":0}"#);
        client.write_all(b"set\"}\n").unwrap();
        let failed = next(Command::Reset, Answer::Failed("no".into()));
        assert!(failed.contains("-1") && failed.contains("no"), "{failed}");
        client.write_all(b"{\"command\":\"status\"}\n").unwrap();
        let status = Status {
            name: "vm1".into(),
            state: "running",
            pid: 1,
            vmid: 1,
            vcpus: 2,
            memory: 3,
            huge_pages: true,
        };
        assert!(next(Command::Status, Answer::Status(status)).contains(r#""state":"running""#));
        client
            .write_all(b"{\"command\":\"blkrescan\",\"device\":\"6,/d\"}\n")
            .unwrap();
        let rescan = Command::BlkRescan("6,/d".to_owned());
        assert_eq!(next(rescan, Answer::Done), r#"{"ack":0}"#);
        client.write_all(b"{\"command\":\"fly\"}\n").unwrap();
        assert!(lines.next().unwrap().unwrap().contains("fly"));
        drop(socket);
        assert!(!path.exists());
    }
}
