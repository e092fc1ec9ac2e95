//! `acrnctl console`: the terminal, connected to a VM's first serial port.

use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Ctrl-].
const LEAVE: u8 = 0x1d;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The hypervisor has it.
    #[error(
        "the console of {0} is the hypervisor's: press Ctrl-Space and e on the machine's serial \
         console and type vm_console with the number that vm_list shows"
    )]
    Hypervisor(String),
    /// The definition does not say where it is.
    #[error(
        "the definition of {0} does not say where its console is: see acrnctl logs {0}, or \
         define it with [vm] and lpc = [\"com1,unix:/run/acrn/{0}.console\"]"
    )]
    Unknown(String),
    /// It is somewhere else.
    #[error("the console of {0} is `{1}`, to which acrnctl cannot connect: see acrnctl logs {0}")]
    Elsewhere(String, String),
    /// Nobody is there.
    #[error("the console {place} does not answer: {source}; is {name} running?")]
    NoAnswer {
        /// The VM.
        name: String,
        /// The other end.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection broke off: {0}")]
    Broken(#[from] io::Error),
}

/// The sides of a connection.
struct Link {
    read: Box<dyn Read>,
    write: Box<dyn Write + Send>,
    close: Box<dyn FnOnce() + Send>,
}

/// Connects the terminal until its user leaves or the VM ends.
///
/// # Errors
/// There is nothing to connect to.
pub fn attach(name: &str, place: Option<&str>) -> Result<(), ConsoleError> {
    let link = connect(name, place)?;
    eprintln!("console of {name}; Ctrl-] leaves");
    let _raw = io::stdin()
        .is_terminal()
        .then(RawTerminal::enter)
        .transpose()?;
    let Link {
        mut read,
        mut write,
        close,
    } = link;
    std::thread::spawn(move || {
        let _ = pass_on(&mut io::stdin().lock(), &mut write);
        close();
    });
    let mut output = io::stdout().lock();
    let mut bytes = [0; 1024];
    loop {
        match read.read(&mut bytes)? {
            0 => return Ok(()),
            count => {
                output.write_all(&bytes[..count])?;
                output.flush()?;
            }
        }
    }
}

fn connect(name: &str, place: Option<&str>) -> Result<Link, ConsoleError> {
    let name = name.to_owned();
    let Some(place) = place else {
        return Err(ConsoleError::Unknown(name));
    };
    let link = match place.split_once(':') {
        Some(("unix", path)) => UnixStream::connect(path).and_then(unix),
        Some(("tcp", port)) => match port.parse::<u16>() {
            Ok(port) => TcpStream::connect(("127.0.0.1", port)).and_then(tcp),
            Err(_) => return Err(ConsoleError::Elsewhere(name, place.to_owned())),
        },
        None if place == "hv" => return Err(ConsoleError::Hypervisor(name)),
        _ => return Err(ConsoleError::Elsewhere(name, place.to_owned())),
    };
    link.map_err(|source| ConsoleError::NoAnswer {
        name,
        place: place.to_owned(),
        source,
    })
}

fn unix(stream: UnixStream) -> io::Result<Link> {
    let closer = stream.try_clone()?;
    Ok(Link {
        read: Box::new(stream.try_clone()?),
        write: Box::new(stream),
        close: Box::new(move || drop(closer.shutdown(Shutdown::Both))),
    })
}

fn tcp(stream: TcpStream) -> io::Result<Link> {
    let closer = stream.try_clone()?;
    Ok(Link {
        read: Box::new(stream.try_clone()?),
        write: Box::new(stream),
        close: Box::new(move || drop(closer.shutdown(Shutdown::Both))),
    })
}

/// Copies up to the key that leaves.
fn pass_on(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut bytes = [0; 256];
    loop {
        let count = from.read(&mut bytes)?;
        let typed = &bytes[..count];
        let end = typed.iter().position(|&byte| byte == LEAVE);
        to.write_all(&typed[..end.unwrap_or(count)])?;
        if count == 0 || end.is_some() {
            return Ok(());
        }
    }
}

/// The terminal passes every key on; dropping this undoes it.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_through_up_to_the_one_that_leaves() {
        let mut output = Vec::new();
        pass_on(&mut &b"ls\x03\r\x1dnot this"[..], &mut output).unwrap();
        assert_eq!(output, b"ls\x03\r");
    }

    #[test]
    fn what_cannot_be_reached_is_explained() {
        let error = |place| connect("vm1", place).map(drop).unwrap_err().to_string();
        assert!(error(Some("hv")).contains("vm_console"));
        assert!(error(None).contains("lpc"));
        assert!(error(Some("pty")).contains("acrnctl logs vm1"));
        assert!(error(Some("unix:/no/such")).contains("/no/such"));
    }
}
