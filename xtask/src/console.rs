//! A serial line that a script reads and writes: wait for a text, send a line.
//!
//! A thread reads the line at all times, so that output is never lost while the script
//! does something else; it appends to a buffer, to a log file and, when asked to, to
//! this program's standard output. The script's position in the buffer moves past
//! whatever it has waited for. Every wait has a limit.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why a wait ended without the text.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The time was over.
    #[error("{wanted} did not appear within {limit:?}; the console's last lines:\n{tail}")]
    TimedOut {
        /// The texts waited for.
        wanted: String,
        /// How long.
        limit: Duration,
        /// What the console showed instead.
        tail: String,
    },
    /// The other end closed: the emulator has ended.
    #[error("the machine ended before {wanted} appeared; the console's last lines:\n{tail}")]
    Closed {
        /// The texts waited for.
        wanted: String,
        /// What the console showed last.
        tail: String,
    },
    /// The emulator has done wrong, and the hypervisor has said so: nothing more is to be expected.
    #[error("{wanted} will not appear: {DEFECT}; the console's last lines:\n{tail}")]
    Broken {
        /// The texts waited for.
        wanted: String,
        /// What the console showed last.
        tail: String,
    },
    /// The line cannot be written.
    #[error("cannot write to the console: {0}")]
    Write(#[from] std::io::Error),
}

/// What a dump of the hypervisor says of the emulator (see the book, "Limits").
pub(crate) const DEFECT: &str = "a defect of QEMU's emulation";

/// A text that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which of the texts waited for.
    pub index: usize,
    /// What came before it, from the position of the last find.
    pub before: String,
}

/// A serial line.
pub struct Console {
    writer: File,
    shared: Arc<Shared>,
    position: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    echo: AtomicBool,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    closed: bool,
}

/// Sent in one go; the receiver's virtual UART may have a small FIFO.
const CHUNK: usize = 16;
const CHUNK_PAUSE: Duration = Duration::from_millis(4);

impl Console {
    /// Starts to read `stream`, a socket, copying everything to `log`.
    ///
    /// # Errors
    /// The stream cannot be duplicated.
    pub fn new(stream: impl Into<OwnedFd>, mut log: Option<File>) -> std::io::Result<Self> {
        let stream = File::from(stream.into());
        let shared = Arc::new(Shared::default());
        let mut reader = stream.try_clone()?;
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut chunk = [0_u8; 4096];
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                let bytes = &chunk[..count];
                // A full disk or a closed terminal must not stop the machine.
                if let Some(log) = &mut log {
                    let _ = log.write_all(bytes);
                }
                if theirs.echo.load(Ordering::Relaxed) {
                    let mut out = std::io::stdout().lock();
                    let _ = out.write_all(bytes).and_then(|()| out.flush());
                }
                theirs.lock().bytes.extend_from_slice(bytes);
                theirs.changed.notify_all();
            }
            theirs.lock().closed = true;
            theirs.changed.notify_all();
        });
        Ok(Self {
            writer: stream,
            shared,
            position: 0,
        })
    }

    /// Whether output also goes to this program's standard output.
    pub fn echo(&self, on: bool) {
        self.shared.echo.store(on, Ordering::Relaxed);
    }

    /// Waits until `text` appears.
    ///
    /// # Errors
    /// It does not, within `limit` or before the machine ends.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String, ConsoleError> {
        self.wait_for_any(&[text], limit).map(|found| found.before)
    }

    /// Waits until one of `texts` appears; where several do, the first in the stream wins.
    ///
    /// # Errors
    /// As for [`Self::wait_for`].
    pub fn wait_for_any(&mut self, texts: &[&str], limit: Duration) -> Result<Found, ConsoleError> {
        let shared = Arc::clone(&self.shared);
        let deadline = Instant::now() + limit;
        let mut state = shared.lock();
        loop {
            let unread = &state.bytes[self.position..];
            if let Some((at, index)) = first_of(unread, texts) {
                let before = String::from_utf8_lossy(&unread[..at]).into_owned();
                self.position += at + texts[index].len();
                return Ok(Found { index, before });
            }
            let wanted = texts
                .iter()
                .map(|t| format!("{t:?}"))
                .collect::<Vec<_>>()
                .join(" or ");
            if first_of(unread, &[DEFECT]).is_some() {
                let tail = last_lines(&state.bytes, 12);
                return Err(ConsoleError::Broken { wanted, tail });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                let tail = last_lines(&state.bytes, 12);
                return Err(if state.closed {
                    ConsoleError::Closed { wanted, tail }
                } else {
                    ConsoleError::TimedOut {
                        wanted,
                        limit,
                        tail,
                    }
                });
            }
            state = shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Forgets output that has not been waited for yet.
    pub fn skip_unread(&mut self) {
        self.position = self.shared.lock().bytes.len();
    }

    /// Sends raw bytes.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), ConsoleError> {
        for chunk in bytes.chunks(CHUNK) {
            self.writer.write_all(chunk)?;
            if chunk.len() == CHUNK {
                std::thread::sleep(CHUNK_PAUSE);
            }
        }
        Ok(())
    }

    /// Sends a line as the Enter key ends it.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn send_line(&mut self, line: &str) -> Result<(), ConsoleError> {
        self.send(format!("{line}\r").as_bytes())
    }

    /// The last lines that are not empty, indented for a message.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        last_lines(&self.shared.lock().bytes, count)
    }

    /// Everything received so far.
    #[must_use]
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }

    /// Nothing, unless the hypervisor has said that the emulator has done wrong.
    ///
    /// # Errors
    /// It has.
    pub fn sound(&self) -> Result<(), ConsoleError> {
        let bytes = &self.shared.lock().bytes;
        match first_of(bytes, &[DEFECT]) {
            None => Ok(()),
            Some(_) => Err(ConsoleError::Broken {
                wanted: "what was asked for".to_owned(),
                tail: last_lines(bytes, 12),
            }),
        }
    }

    /// Whether the machine has closed the line.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }

    /// A second handle for writing, for a thread that passes keys on.
    ///
    /// # Errors
    /// The stream cannot be duplicated.
    pub fn writer(&self) -> std::io::Result<File> {
        self.writer.try_clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first_of(bytes: &[u8], texts: &[&str]) -> Option<(usize, usize)> {
    texts
        .iter()
        .enumerate()
        .filter_map(|(index, text)| Some((find(bytes, text.as_bytes())?, index)))
        .min()
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    bytes.windows(text.len()).position(|window| window == text)
}

fn last_lines(bytes: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let from = lines.len().saturating_sub(count);
    lines[from..]
        .iter()
        .map(|line| format!("    {}\n", line.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(5);

    fn pair() -> (Console, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Console::new(ours, None).unwrap(), theirs)
    }

    #[test]
    fn a_text_that_arrives_in_pieces_is_found() {
        let (mut console, mut machine) = pair();
        let writer = std::thread::spawn(move || {
            for piece in ["boot\nlog", "in", ": "] {
                machine.write_all(piece.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            machine
        });
        assert_eq!(console.wait_for("login:", LONG).unwrap(), "boot\n");
        writer.join().unwrap();
    }

    #[test]
    fn a_wait_starts_after_the_last_find() {
        let (mut console, mut machine) = pair();
        machine.write_all(b"# one\n# two\n").unwrap();
        console.wait_for("#", LONG).unwrap();
        assert_eq!(console.wait_for("#", LONG).unwrap(), " one\n");
        let error = console.wait_for("#", SHORT).unwrap_err();
        assert!(matches!(error, ConsoleError::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("# two"));
    }

    #[test]
    fn the_first_text_in_the_stream_wins() {
        let (mut console, mut machine) = pair();
        machine.write_all(b"zz panic login").unwrap();
        let found = console.wait_for_any(&["login", "panic"], LONG).unwrap();
        assert_eq!(
            found,
            Found {
                index: 1,
                before: "zz ".into()
            }
        );
    }

    #[test]
    fn a_defect_of_the_emulator_ends_the_wait() {
        let (mut console, mut machine) = pair();
        machine
            .write_all(b"state: a defect of QEMU's emulation, not\n")
            .unwrap();
        let error = console.wait_for("login", LONG).unwrap_err();
        assert!(matches!(error, ConsoleError::Broken { .. }), "{error}");
    }

    #[test]
    fn the_end_of_the_machine_is_not_a_time_out() {
        let (mut console, mut machine) = pair();
        machine.write_all(b"last words\n").unwrap();
        drop(machine);
        let error = console.wait_for("login", LONG).unwrap_err();
        assert!(matches!(error, ConsoleError::Closed { .. }), "{error}");
        assert!(error.to_string().contains("last words"));
        assert!(console.is_closed());
    }

    #[test]
    fn a_line_ends_with_a_carriage_return() {
        let (mut console, mut machine) = pair();
        console.send_line("uname -a").unwrap();
        let mut bytes = [0_u8; 9];
        machine.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"uname -a\r");
    }
}
