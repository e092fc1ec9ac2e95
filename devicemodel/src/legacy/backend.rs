//! Other ends of serial ports: terminal, pseudo-terminal, sockets, files.
//!
//! Output is written by the thread that answers the guest, without waiting; what cannot be
//! written at once, or while nobody is connected, is kept up to a limit and sent later. Input
//! and the rest are done by one thread for each port, which sleeps until something happens.

// UNSAFETY: write(2) on standard output's descriptor without going through Rust's buffers.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::uart::{Transmitter, Uart};
use crate::cli::values::UartBackend;
use crate::pci::DeviceError;
use crate::run::sandbox;
use crate::terminal::RawTerminal;

/// Output that is kept while it cannot be sent.
const KEPT: usize = 64 << 10;
/// How long the end of the VM waits for the last output.
const LAST_WAIT: Duration = Duration::from_millis(200);
const DEVICE: &str = "lpc";

/// Where bytes come from and go to.
struct Channel {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    /// Writing could make us wait unless asked before.
    ask_first: bool,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                stream.into()
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.into()
            }
        })
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

struct State {
    output: Option<OwnedFd>,
    ask_first: bool,
    kept: VecDeque<u8>,
}

struct Shared {
    state: Mutex<State>,
    wake: EventFd,
    /// The thread waits for room in the UART.
    starved: AtomicBool,
    ended: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let _ = self.wake.write(1);
    }
}

impl State {
    /// Sends what is kept; true when all of it went.
    fn flush(&mut self) -> bool {
        while !self.kept.is_empty() {
            let Some(fd) = &self.output else { return false };
            if self.ask_first && !ready(fd.as_fd(), PollFlags::POLLOUT, PollTimeout::ZERO) {
                return false;
            }
            let (first, _) = self.kept.as_slices();
            // A pipe or terminal that is ready for one byte may still wait for more.
            let chunk = if self.ask_first { &first[..1] } else { first };
            match write(fd.as_fd(), chunk) {
                Ok(0) => return false,
                Ok(count) => drop(self.kept.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    // The other end is gone; the thread notices by itself.
                    self.output = None;
                    return false;
                }
            }
        }
        true
    }
}

fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid for reads of its length for the duration of the call.
    let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn ready(fd: BorrowedFd<'_>, events: PollFlags, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(fd, events)];
    matches!(poll(&mut fds, timeout), Ok(count) if count > 0)
}

/// The UART's side.
struct Sender(Arc<Shared>);

impl Transmitter for Sender {
    fn send(&mut self, byte: u8) {
        let mut state = self.0.state();
        let waiting = !state.kept.is_empty();
        if state.kept.len() >= KEPT {
            state.kept.pop_front();
        }
        state.kept.push_back(byte);
        // While something waits already, the thread is at it.
        if (!waiting || state.output.is_none()) && !state.flush() && state.output.is_some() {
            self.0.wake();
        }
    }

    fn drained(&mut self) {
        if self.0.starved.swap(false, Ordering::SeqCst) {
            self.0.wake();
        }
    }
}

/// A transmitter that loses everything.
pub struct Null;

impl Transmitter for Null {
    fn send(&mut self, _: u8) {}
    fn drained(&mut self) {}
}

/// An opened back end. Dropping it closes it and restores what it changed.
pub struct Backend {
    shared: Arc<Shared>,
    listener: Option<Listener>,
    input: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    socket_path: Option<PathBuf>,
    _terminal: Option<RawTerminal>,
    /// The other end of a pseudo-terminal, kept open so that ours never sees it closed.
    _slave: Option<OwnedFd>,
    /// What the user has to know to connect.
    pub announcement: Option<String>,
}

impl Backend {
    /// Opens the back end of port `port` (0 for COM1); `None` for those without one.
    ///
    /// # Errors
    /// The path or port cannot be used.
    pub fn open(port: usize, backend: &UartBackend) -> Result<Option<Self>, DeviceError> {
        let host = |action| {
            move |source| DeviceError::Host {
                device: DEVICE,
                action,
                source,
            }
        };
        let wake =
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("make an event descriptor"))?;
        let mut opened = Self::with_wake(wake);
        let name = format!("com{}", port + 1);
        let channel = match backend {
            UartBackend::Null | UartBackend::Hypervisor => return Ok(None),
            UartBackend::Stdio => {
                opened._terminal = RawTerminal::enter().map_err(host("set up the terminal"))?;
                let input = io::stdin().as_fd().try_clone_to_owned();
                let output = io::stdout().as_fd().try_clone_to_owned();
                Channel {
                    input: input.ok(),
                    output: output.ok(),
                    ask_first: true,
                }
            }
            UartBackend::Pty => {
                let (channel, slave) = open_pty().map_err(host("make a pseudo-terminal"))?;
                let path = std::fs::read_link(format!("/proc/self/fd/{}", slave.as_raw_fd()))
                    .map_err(host("find the name of the pseudo-terminal"))?;
                opened.announcement = Some(format!("{name} is {}", path.display()));
                opened._slave = Some(slave);
                channel
            }
            UartBackend::Tty(path) => open_tty(path)?,
            UartBackend::File(path) => open_file(path)?,
            UartBackend::Tcp(number) => {
                opened.listener = Some(listen_tcp(*number)?);
                opened.announcement = Some(format!("{name} is TCP port {number} of 127.0.0.1"));
                Channel {
                    input: None,
                    output: None,
                    ask_first: false,
                }
            }
            UartBackend::Unix(path) => {
                opened.listener = Some(listen_unix(path)?);
                opened.socket_path = Some(path.clone());
                opened.announcement = Some(format!("{name} is the socket {}", path.display()));
                Channel {
                    input: None,
                    output: None,
                    ask_first: false,
                }
            }
        };
        let mut state = opened.shared.state();
        state.output = channel.output;
        state.ask_first = channel.ask_first;
        drop(state);
        opened.input = channel.input;
        Ok(Some(opened))
    }

    fn with_wake(wake: EventFd) -> Self {
        let state = State {
            output: None,
            ask_first: false,
            kept: VecDeque::new(),
        };
        let shared = Shared {
            state: Mutex::new(state),
            wake,
            starved: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
            listener: None,
            input: None,
            thread: None,
            socket_path: None,
            _terminal: None,
            _slave: None,
            announcement: None,
        }
    }

    /// The UART's way out.
    pub fn transmitter(&self) -> Box<dyn Transmitter> {
        Box::new(Sender(self.shared.clone()))
    }

    /// Starts the thread that feeds `uart`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(&mut self, name: String, uart: Arc<Mutex<Uart>>) -> io::Result<()> {
        let pump = Pump {
            shared: self.shared.clone(),
            uart,
            listener: self.listener.take(),
            input: self.input.take(),
        };
        self.thread = Some(sandbox::spawn(name, move || pump.run())?);
        Ok(())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut state = self.shared.state();
        let until = std::time::Instant::now() + LAST_WAIT;
        while !state.flush() && state.output.is_some() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        state.output = None;
        if let Some(path) = &self.socket_path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The thread of a port.
struct Pump {
    shared: Arc<Shared>,
    uart: Arc<Mutex<Uart>>,
    listener: Option<Listener>,
    input: Option<OwnedFd>,
}

impl Pump {
    fn run(mut self) {
        while !self.shared.ended.load(Ordering::SeqCst) {
            let (input, output, caller) = self.wait();
            let _ = self.shared.wake.read();
            if caller {
                self.connect();
            }
            if input {
                self.feed();
            }
            if output {
                self.shared.state().flush();
            }
        }
    }

    fn uart(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether input can be taken now. If not, the UART wakes us when it can.
    fn has_room(&self) -> bool {
        if self.uart().room() > 0 {
            return true;
        }
        self.shared.starved.store(true, Ordering::SeqCst);
        self.uart().room() > 0
    }

    /// Sleeps until there is input, room for output, or a caller.
    fn wait(&self) -> (bool, bool, bool) {
        let room = self.input.is_some() && self.has_room();
        let output = {
            let state = self.shared.state();
            let waiting = !state.kept.is_empty();
            state
                .output
                .as_ref()
                .filter(|_| waiting)
                .and_then(|fd| fd.try_clone().ok())
        };
        let mut fds = Vec::with_capacity(4);
        let mut add = |fd: Option<RawFd>, events| {
            // SAFETY: the descriptors outlive `fds`: they belong to `self` and to `output`.
            let fd = fd.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })?;
            fds.push(PollFd::new(fd, events));
            Some(fds.len() - 1)
        };
        add(Some(self.shared.wake.as_raw_fd()), PollFlags::POLLIN);
        let input_at = add(
            self.input.as_ref().filter(|_| room).map(AsRawFd::as_raw_fd),
            PollFlags::POLLIN,
        );
        let output_at = add(output.as_ref().map(AsRawFd::as_raw_fd), PollFlags::POLLOUT);
        let free = self.input.is_none();
        let caller_at = add(
            self.listener
                .as_ref()
                .filter(|_| free)
                .map(|listener| listener.as_fd().as_raw_fd()),
            PollFlags::POLLIN,
        );
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            return (false, false, false);
        }
        let fired = |at: Option<usize>| at.and_then(|at| fds.get(at)?.any()).unwrap_or(false);
        (fired(input_at), fired(output_at), fired(caller_at))
    }

    fn connect(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let both = listener.accept().and_then(|fd| Ok((fd.try_clone()?, fd)));
        match both {
            Ok((input, output)) => {
                self.input = Some(input);
                let mut state = self.shared.state();
                state.output = Some(output);
                state.flush();
            }
            Err(error) => log::debug!("a caller of a serial port got lost: {error}"),
        }
    }

    fn feed(&mut self) {
        let Some(fd) = &self.input else { return };
        let mut buffer = [0u8; 64];
        let room = self.uart().room().min(buffer.len());
        if room == 0 {
            return;
        }
        match nix::unistd::read(fd, &mut buffer[..room]) {
            Ok(count) if count > 0 => {
                self.uart().receive(&buffer[..count]);
                return;
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return,
            _ => {}
        }
        // End of input. A socket waits for the next caller; elsewhere, output goes on.
        self.input = None;
        if self.listener.is_some() {
            self.shared.state().output = None;
        }
    }
}

fn open_pty() -> io::Result<(Channel, OwnedFd)> {
    let pair = nix::pty::openpty(None, None)?;
    make_raw(pair.slave.as_fd())?;
    set_nonblocking(pair.master.as_fd())?;
    let output = pair.master.try_clone()?;
    Ok((
        Channel {
            input: Some(pair.master),
            output: Some(output),
            ask_first: false,
        },
        pair.slave,
    ))
}

fn make_raw(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
    let mut settings = tcgetattr(fd)?;
    cfmakeraw(&mut settings);
    tcsetattr(fd, SetArg::TCSANOW, &settings)?;
    Ok(())
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn open_tty(path: &Path) -> Result<Channel, DeviceError> {
    let remedy = "name a terminal device that exists, such as /dev/pts/0";
    let wrong = |source| DeviceError::File {
        device: DEVICE,
        path: path.into(),
        source,
        remedy,
    };
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(wrong)?;
    make_raw(file.as_fd()).map_err(wrong)?;
    let output = file.try_clone().map_err(wrong)?.into();
    Ok(Channel {
        input: Some(file.into()),
        output: Some(output),
        ask_first: false,
    })
}

fn open_file(path: &Path) -> Result<Channel, DeviceError> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|source| DeviceError::File {
            device: DEVICE,
            path: path.into(),
            source,
            remedy: "name a file in a directory that exists and may be written",
        })?;
    Ok(Channel {
        input: None,
        output: Some(file.into()),
        ask_first: false,
    })
}

fn listen_tcp(port: u16) -> Result<Listener, DeviceError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| {
        let option = format!("tcp:{port}");
        let remedy = format!("{source}; choose a port that nobody uses");
        DeviceError::Option {
            device: DEVICE,
            option,
            remedy,
        }
    })?;
    Ok(Listener::Tcp(listener))
}

fn listen_unix(path: &Path) -> Result<Listener, DeviceError> {
    // A socket that nobody answers at is left over from a process that was killed.
    if UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        let _ = std::fs::remove_file(path);
    }
    let listener = UnixListener::bind(path).map_err(|source| DeviceError::File {
        device: DEVICE,
        path: path.into(),
        source,
        remedy: "choose a path that is free, in a directory that may be written",
    })?;
    Ok(Listener::Unix(listener))
}

/// Tells the user how to connect.
pub fn announce(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}\r");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::legacy::PortDevice;
    use crate::pci::InterruptLine;

    struct NoLine;

    impl InterruptLine for NoLine {
        fn set(&self, _: bool) {}
    }

    fn port(backend: &UartBackend) -> (Backend, Arc<Mutex<Uart>>) {
        let mut backend = Backend::open(0, backend).unwrap().expect("has a back end");
        let uart = Uart::new(Arc::new(NoLine), backend.transmitter());
        let uart = Arc::new(Mutex::new(uart));
        backend.start("test".into(), uart.clone()).unwrap();
        (backend, uart)
    }

    fn print(uart: &Mutex<Uart>, text: &[u8]) {
        for byte in text {
            uart.lock().unwrap().write(0, *byte);
        }
    }

    fn await_input(uart: &Mutex<Uart>, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..2000 {
            let mut uart = uart.lock().unwrap();
            while uart.read(5) & 1 != 0 {
                bytes.push(uart.read(0));
            }
            drop(uart);
            if bytes.len() >= count {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bytes
    }

    #[test]
    fn a_socket_gets_what_was_printed_before_it_connected_and_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("com1");
        let (backend, uart) = port(&UartBackend::Unix(path.clone()));
        print(&uart, b"early ");
        let mut client = UnixStream::connect(&path).unwrap();
        let mut text = [0; 6];
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"early ");
        print(&uart, b"late");
        client.read_exact(&mut text[..4]).unwrap();
        assert_eq!(&text[..4], b"late");
        let long = [b'i'; 100];
        client.write_all(&long).unwrap();
        assert_eq!(
            await_input(&uart, 100),
            long,
            "more than the FIFO holds, and none lost"
        );
        drop(client);
        let mut next = UnixStream::connect(&path).unwrap();
        next.write_all(b"again").unwrap();
        assert_eq!(await_input(&uart, 5), b"again");
        drop(backend);
        assert!(!path.exists());
    }

    #[test]
    fn a_pty_that_nobody_reads_does_not_stop_the_guest() {
        let (backend, uart) = port(&UartBackend::Pty);
        print(&uart, &vec![b'x'; KEPT * 2]);
        assert!(
            backend
                .announcement
                .as_ref()
                .is_some_and(|text| text.contains("/dev/pts/"))
        );
    }

    #[test]
    fn a_file_collects_output() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (backend, uart) = port(&UartBackend::File(file.path().into()));
        print(&uart, b"hello");
        drop(backend);
        assert_eq!(std::fs::read(file.path()).unwrap(), b"hello");
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let open = |backend| Backend::open(0, &backend).err().expect("fails").to_string();
        assert!(open(UartBackend::Tty("/no/tty".into())).contains("/no/tty"));
        assert!(open(UartBackend::Unix("/no/dir/socket".into())).contains("/no/dir/socket"));
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(open(UartBackend::Tcp(port)).contains("choose a port"));
    }
}
