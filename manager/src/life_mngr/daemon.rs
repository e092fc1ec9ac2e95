//! The program around the two sides: lines, control socket, clock, and what ends the machine.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cli::Args;
use super::config::{Config, ConfigError, Kind};
use super::port::{self, Line};
use super::request::{Reply, Request};
use super::service::Service;
use super::user::User;
use super::{Action, Client, End, Input, Side};

/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request or reply.
const LONGEST: usize = 256;
/// Time for the last answer to leave the serial line.
const LAST_WORD: Duration = Duration::from_millis(200);
/// The Device Model's name as a process.
const MODEL: &str = "acrn-dm";

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// A file.
    #[error("{}: {source}; check the path, and run life_mngr as root", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration.
    #[error("{}: {source}", path.display())]
    Config {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// The daemon says no.
    #[error("refused: {0}")]
    Refused(String),
    /// Something of the system.
    #[error(transparent)]
    System(#[from] io::Error),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LifeError {
    let path = path.to_owned();
    move |source| LifeError::File { path, source }
}

/// Who waits for a reply, by number.
type Clients = HashMap<Client, oneshot::Sender<Reply>>;
/// A request, and where its reply goes.
type Asked = (Request, oneshot::Sender<Reply>);

/// Runs until the machine ends, or until a signal.
///
/// # Errors
/// The configuration or the socket cannot be used.
pub async fn serve(args: &Args) -> Result<(), LifeError> {
    let text = fs::read_to_string(&args.config).map_err(at(&args.config))?;
    let config = Config::parse(&text).map_err(|source| LifeError::Config {
        path: args.config.clone(),
        source,
    })?;
    let mut side: Box<dyn Side> = match config.kind {
        Kind::Service => Box::new(Service::new(&config)),
        Kind::User => Box::new(User::new(&config.name)),
    };
    let (sender, mut inputs) = unbounded_channel();
    let lines: Vec<Line> = config.lines.iter().map(|_| Line::default()).collect();
    for (port, (path, line)) in config.lines.iter().zip(&lines).enumerate() {
        port::listen(path.clone(), port, line.clone(), sender.clone());
    }
    let mut asked = listen(&args.socket)?;
    let mut clients = Clients::new();
    let mut next: Client = 0;
    let begin = Instant::now();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    loop {
        let due = side.deadline().map(|time| begin + time);
        let input = tokio::select! {
            Some(input) = inputs.recv() => input,
            Some((request, reply)) = asked.recv() => {
                next += 1;
                clients.insert(next, reply);
                Input::Asked(next, request)
            }
            () = until(due) => Input::Time { models: processes(Path::new("/proc"), MODEL) },
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
        };
        for action in side.step(begin.elapsed(), input) {
            match action {
                Action::Send(port, message) => {
                    if let Some(line) = lines.get(port) {
                        line.send(&message);
                    }
                }
                Action::Answer(client, reply) => {
                    // It may have gone.
                    let _ = clients.remove(&client).map(|waiting| waiting.send(reply));
                }
                Action::Note(text) => eprintln!("life_mngr: {text}"),
                Action::End(end) => finish(args, end).await?,
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Ends the machine; the program goes on until that ends it.
async fn finish(args: &Args, end: End) -> Result<(), LifeError> {
    tokio::time::sleep(LAST_WORD).await;
    let program = match end {
        End::PowerOff => &args.poweroff,
        End::Reboot => &args.reboot,
    };
    eprintln!("life_mngr: {}", program.display());
    Command::new(program).spawn().map_err(at(program))?;
    Ok(())
}

/// Processes of a name.
fn processes(proc: &Path, name: &str) -> usize {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        let comm = fs::read_to_string(entry.path().join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    });
    named.count()
}

/// Listens for clients, root's only.
fn listen(path: &Path) -> Result<UnboundedReceiver<Asked>, LifeError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
        _ => {}
    }
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = listener.map_err(at(path))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(at(path))?;
    let (sender, asked) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(client(stream, sender.clone()));
        }
    });
    Ok(asked)
}

/// Serves one client: a request, a reply.
async fn client(mut stream: UnixStream, asked: UnboundedSender<Asked>) {
    let mut bytes = [0; LONGEST];
    let Ok(Ok(count)) = timeout(PATIENCE, stream.read(&mut bytes)).await else {
        return;
    };
    let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
    let reply = match Request::parse(&text) {
        None => Reply::Unknown,
        Some(request) => {
            let (reply, answer) = oneshot::channel();
            if asked.send((request, reply)).is_err() {
                return;
            }
            let Ok(reply) = answer.await else { return };
            reply
        }
    };
    // It may have gone.
    let _ = stream.write_all(reply.text().as_bytes()).await;
}

/// Sends a request to the daemon and returns its reply.
///
/// # Errors
/// There is no daemon, or it refuses.
pub async fn request(socket: &Path, text: &str) -> Result<String, LifeError> {
    let mut stream = UnixStream::connect(socket).await.map_err(at(socket))?;
    stream.write_all(text.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    if reply.starts_with("ack_") {
        Ok(reply)
    } else {
        Err(LifeError::Refused(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_counted_by_their_name() {
        let folder = tempfile::tempdir().unwrap();
        for (pid, name) in [
            ("1", "init"),
            ("7", "acrn-dm"),
            ("8", "acrn-dm"),
            ("9", "acrn-dm2"),
        ] {
            fs::create_dir(folder.path().join(pid)).unwrap();
            fs::write(folder.path().join(pid).join("comm"), format!("{name}\n")).unwrap();
        }
        assert_eq!(processes(folder.path(), MODEL), 2);
        assert_eq!(processes(Path::new("/no/such"), MODEL), 0);
    }
}
