//! The serial lines: terminals in raw mode, or Unix sockets behind which `acrn-dm` has one.
//!
//! What is not there yet is looked for again: a User VM's socket comes when the VM starts.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};
use tokio::sync::mpsc::UnboundedSender;

use super::message::{Decoder, Message};
use super::{Input, Port};

/// How soon a line that is not there is looked for again.
const RETRY: Duration = Duration::from_secs(1);
/// Silence that ends a message.
const SILENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
const BAUD: u32 = 115_200;

/// A line, for whoever sends.
#[derive(Debug, Default, Clone)]
pub struct Line(Arc<Mutex<Option<Arc<OwnedFd>>>>);

impl Line {
    /// Sends a message. What cannot be sent at once is lost, as on any such line: whoever needs an
    /// answer sends again.
    pub fn send(&self, message: &Message) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.as_ref() {
            let _ = rustix::io::write(file, message.text().as_bytes());
        }
    }

    fn set(&self, file: Option<Arc<OwnedFd>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }
}

/// Listens on a line until nobody wants to know, on a thread that does not keep the program from
/// ending.
pub fn listen(path: PathBuf, port: Port, line: Line, inputs: UnboundedSender<Input>) {
    std::thread::spawn(move || {
        while !inputs.is_closed() {
            if let Ok(file) = open(&path).map(Arc::new) {
                line.set(Some(file.clone()));
                let _ = inputs.send(Input::Opened(port));
                // Whatever it ends with, the line is gone and may come again.
                let _ = read(&file, port, &inputs);
                line.set(None);
                let _ = inputs.send(Input::Closed(port));
            }
            sleep(RETRY);
        }
    });
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    if std::fs::metadata(path)?.file_type().is_socket() {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        return Ok(stream.into());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let mut modes = tcgetattr(&file)?;
    modes.make_raw();
    modes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    modes.control_modes &= !(ControlModes::CSTOPB | ControlModes::CRTSCTS);
    modes.set_speed(BAUD)?;
    tcsetattr(&file, OptionalActions::Flush, &modes)?;
    Ok(file)
}

fn read(file: &OwnedFd, port: Port, inputs: &UnboundedSender<Input>) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut bytes = [0; 256];
    loop {
        let limit = decoder.is_waiting().then_some(&SILENCE);
        let message = match poll(&mut [PollFd::new(file, PollFlags::IN)], limit) {
            Ok(0) => decoder.silence(),
            Ok(_) => None,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let count = match rustix::io::read(file, &mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let read = bytes.iter().take(count);
        let complete = read.filter_map(|&byte| decoder.push(byte));
        for message in message.into_iter().chain(complete) {
            let _ = inputs.send(Input::Heard(port, message));
        }
    }
}
