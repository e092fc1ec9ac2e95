//! What a console is connected to in the Service VM.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::termios::{self, SetArg, Termios};

use super::options::{ConsoleOptions, Kind, NAME};
use crate::pci::DeviceError;

/// How long the guest waits for a reader before output is thrown away.
const PATIENCE_MS: u16 = 200;
/// What a pipe takes at once when it says that it is writable (`PIPE_BUF`).
const CHUNK: usize = 4096;

/// An open backend.
pub struct Backend {
    port: Port,
    /// The last write found no reader: the next ones do not wait for one.
    stalled: bool,
}

enum Port {
    /// A terminal, or our own standard input and output.
    Pair {
        input: Option<OwnedFd>,
        output: OwnedFd,
        _mode: Option<RawMode>,
    },
    /// A pseudo-terminal. The slave is kept open so that the master never sees a hang-up.
    Pty {
        master: OwnedFd,
        _slave: OwnedFd,
        link: Option<Created>,
    },
    /// Output into a file.
    File(File),
    /// A listening socket and the one client that it serves.
    Server {
        listener: UnixListener,
        client: Option<UnixStream>,
        _path: Created,
    },
    /// A connection to somebody else's socket.
    Client(Option<UnixStream>),
}

impl Backend {
    /// Opens what the options name.
    ///
    /// # Errors
    /// A path that cannot be used, with a remedy.
    pub fn open(options: &ConsoleOptions) -> Result<Self, DeviceError> {
        let path = options.path.clone().unwrap_or_default();
        let failed = |source: io::Error, remedy| DeviceError::File {
            device: NAME,
            path: path.clone(),
            source,
            remedy,
        };
        let port = match options.kind {
            Kind::Stdio => stdio().map_err(|e| failed(e, "start acrn-dm with open standard files")),
            Kind::Tty => tty(&path).map_err(|e| failed(e, "name a terminal such as /dev/ttyS0")),
            Kind::Pty => pty(options.path.as_deref())
                .map_err(|e| failed(e, "mount /dev/pts, and name a link that does not exist yet")),
            Kind::File => file(&path).map_err(|e| failed(e, "name a file that can be written")),
            Kind::SocketServer => {
                server(&path).map_err(|e| failed(e, "name a path where no file exists yet"))
            }
            Kind::SocketClient => UnixStream::connect(&path)
                .and_then(|stream| {
                    stream
                        .set_nonblocking(true)
                        .map(|()| Port::Client(Some(stream)))
                })
                .map_err(|e| failed(e, "start the program that listens there first")),
        }?;
        Ok(Self {
            port,
            stalled: false,
        })
    }

    /// Descriptor to read from, when there is one now.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        match &self.port {
            Port::Pair { input, .. } => input.as_ref().map(AsFd::as_fd),
            Port::Pty { master, .. } => Some(master.as_fd()),
            Port::Server {
                client: Some(stream),
                ..
            }
            | Port::Client(Some(stream)) => Some(stream.as_fd()),
            _ => None,
        }
    }

    /// Descriptor that becomes readable when somebody wants to connect.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        match &self.port {
            Port::Server {
                listener,
                client: None,
                ..
            } => Some(listener.as_fd()),
            _ => None,
        }
    }

    /// Takes a connection.
    pub fn accept(&mut self) {
        if let Port::Server {
            listener, client, ..
        } = &mut self.port
            && let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            *client = Some(stream);
            self.stalled = false;
        }
    }

    /// The other side has gone: no more input until it comes back.
    pub fn hang_up(&mut self) {
        match &mut self.port {
            Port::Pair { input, .. } => *input = None,
            Port::Server { client, .. } | Port::Client(client) => *client = None,
            Port::Pty { .. } | Port::File(_) => {}
        }
    }

    /// Writes the guest's output. When nobody reads, it is lost: a guest must not hang because
    /// its console is not watched.
    pub fn write(&mut self, data: &[u8]) {
        for chunk in data.chunks(CHUNK) {
            let mut rest = chunk;
            while !rest.is_empty() {
                match self.write_once(rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        }
    }

    fn write_once(&mut self, data: &[u8]) -> io::Result<usize> {
        let patience = if self.stalled { 0 } else { PATIENCE_MS };
        let Some(output) = self.output() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let mut wait = [PollFd::new(output, PollFlags::POLLOUT)];
        let ready = nix::poll::poll(&mut wait, PollTimeout::from(patience))?;
        let result = match ready {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => nix::unistd::write(output, data).map_err(io::Error::from),
        };
        self.stalled = result.is_err();
        result
    }

    fn output(&self) -> Option<BorrowedFd<'_>> {
        match &self.port {
            Port::Pair { output, .. } => Some(output.as_fd()),
            Port::Pty { master, .. } => Some(master.as_fd()),
            Port::File(file) => Some(file.as_fd()),
            Port::Server { client, .. } | Port::Client(client) => client.as_ref().map(AsFd::as_fd),
        }
    }

    /// Where a pseudo-terminal can be opened.
    pub fn pty_link(&self) -> Option<&Path> {
        match &self.port {
            Port::Pty {
                link: Some(link), ..
            } => Some(&link.0),
            _ => None,
        }
    }
}

/// A file system entry that goes with its owner.
struct Created(PathBuf);

impl Drop for Created {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A terminal in raw mode, for as long as this exists.
struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// `None` when `fd` is no terminal.
    fn enter(fd: BorrowedFd<'_>) -> Option<Self> {
        let before = termios::tcgetattr(fd).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(fd, SetArg::TCSANOW, &raw).ok()?;
        Some(Self {
            terminal: fd.try_clone_to_owned().ok()?,
            before,
        })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

fn stdio() -> io::Result<Port> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let mode = RawMode::enter(input.as_fd());
    Ok(Port::Pair {
        input: Some(input),
        output,
        _mode: mode,
    })
}

fn tty(path: &Path) -> io::Result<Port> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)?;
    let output = OwnedFd::from(file);
    let mode = RawMode::enter(output.as_fd());
    if mode.is_none() {
        return Err(io::Error::other("it is no terminal"));
    }
    Ok(Port::Pair {
        input: Some(output.try_clone()?),
        output,
        _mode: mode,
    })
}

fn pty(link: Option<&Path>) -> io::Result<Port> {
    let pair = nix::pty::openpty(None, None)?;
    let mut mode = termios::tcgetattr(&pair.slave)?;
    termios::cfmakeraw(&mut mode);
    termios::tcsetattr(&pair.slave, SetArg::TCSANOW, &mode)?;
    set_nonblocking(pair.master.as_fd())?;
    let name = std::fs::read_link(format!("/proc/self/fd/{}", pair.slave.as_raw_fd()))?;
    log::info!("{NAME}: the console is at {}", name.display());
    let link = link
        .map(|link| std::os::unix::fs::symlink(&name, link).map(|()| Created(link.to_owned())))
        .transpose()?;
    Ok(Port::Pty {
        master: pair.master,
        _slave: pair.slave,
        link,
    })
}

fn file(path: &Path) -> io::Result<Port> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.flush()?;
    Ok(Port::File(file))
}

fn server(path: &Path) -> io::Result<Port> {
    // What a killed process left behind has no listener any more.
    let stale = UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if stale {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(Port::Server {
        listener,
        client: None,
        _path: Created(path.to_owned()),
    })
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
