//! Options of `virtio-console`: `[@]backend:port[=path][:socket_type]`, with commas between
//! ports.

use std::path::PathBuf;

use crate::pci::DeviceError;
use crate::virtio::options::{OptionList, refuse};

/// Ports of a device at most.
pub const MAX_PORTS: usize = 16;

/// Name of the device in errors.
pub const NAME: &str = "virtio-console";

/// Kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our own standard input and output.
    Stdio,
    /// A terminal of the host.
    Tty,
    /// A new pseudo-terminal; the path names a link to it.
    Pty,
    /// Output into a file.
    File,
    /// A Unix socket that we listen on.
    SocketServer,
    /// A Unix socket that somebody else listens on.
    SocketClient,
}

/// A port as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// What it is connected to.
    pub kind: Kind,
    /// Name of the port.
    pub port: String,
    /// File, socket, terminal or link.
    pub path: Option<PathBuf>,
    /// Marked with `@`: the guest's kernel may use it as a console.
    pub console: bool,
}

impl ConsoleOptions {
    /// Reads the option string: one port or more.
    ///
    /// # Errors
    /// An unknown backend, a path that is missing, too many ports, or standard input and
    /// output for two of them.
    pub fn parse(text: &str) -> Result<Vec<Self>, DeviceError> {
        let wrong = |option: &str, remedy: &str| Err(refuse(NAME, option, remedy.to_owned()));
        let mut ports: Vec<Self> = Vec::new();
        for option in OptionList::new(text) {
            let port = Self::parse_port(option.text)?;
            if ports.len() == MAX_PORTS {
                return wrong(option.text, "a console has 16 ports at most");
            }
            let stdio = |port: &Self| port.kind == Kind::Stdio;
            if stdio(&port) && ports.iter().any(stdio) {
                return wrong(option.text, "one port can have standard input and output");
            }
            ports.push(port);
        }
        if ports.is_empty() {
            return wrong(text, "name a backend, for example @stdio:console");
        }
        Ok(ports)
    }

    fn parse_port(port: &str) -> Result<Self, DeviceError> {
        let wrong = |option: &str, remedy: &str| Err(refuse(NAME, option, remedy.to_owned()));
        let (described, console) = match port.strip_prefix('@') {
            Some(described) => (described, true),
            None => (port, false),
        };
        let (backend, rest) = described.split_once(':').unwrap_or((described, ""));
        let (name, path) = match rest.split_once('=') {
            Some((name, path)) => (name, Some(path)),
            None => (rest, None),
        };
        let (path, client) = match path.map(|path| (path, path.rsplit_once(':'))) {
            Some((_, Some((path, "client")))) => (Some(path), true),
            Some((_, Some((path, "server")))) => (Some(path), false),
            Some((path, _)) => (Some(path), false),
            None => (None, false),
        };
        let kind = match backend {
            "stdio" => Kind::Stdio,
            "tty" => Kind::Tty,
            "pty" => Kind::Pty,
            "file" => Kind::File,
            "socket" if client => Kind::SocketClient,
            "socket" => Kind::SocketServer,
            _ => return wrong(port, "the backends are stdio, tty, pty, file and socket"),
        };
        let needs_path = !matches!(kind, Kind::Stdio | Kind::Pty);
        if needs_path && path.is_none_or(str::is_empty) {
            return wrong(
                port,
                "this backend needs a path, as in file:port=/var/log/console",
            );
        }
        let path = path.filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self {
            kind,
            port: name.to_owned(),
            path,
            console,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Kind, String, Option<PathBuf>) {
        let options = ConsoleOptions::parse(text).unwrap().remove(0);
        (options.kind, options.port, options.path)
    }

    #[test]
    fn each_backend_is_understood() {
        assert_eq!(
            parsed("@stdio:stdio_port"),
            (Kind::Stdio, "stdio_port".into(), None)
        );
        assert_eq!(
            parsed("pty:p=/run/c"),
            (Kind::Pty, "p".into(), Some("/run/c".into()))
        );
        assert_eq!(parsed("@pty:p"), (Kind::Pty, "p".into(), None));
        assert_eq!(
            parsed("file:f=/l"),
            (Kind::File, "f".into(), Some("/l".into()))
        );
        assert_eq!(parsed("tty:t=/dev/ttyS1").0, Kind::Tty);
        assert_eq!(parsed("socket:s=/run/s").0, Kind::SocketServer);
        assert_eq!(parsed("socket:s=/run/s:server").2, Some("/run/s".into()));
        let client = parsed("@socket:s=/run/s:client");
        assert_eq!(
            client,
            (Kind::SocketClient, "s".into(), Some("/run/s".into()))
        );
    }

    #[test]
    fn a_console_has_several_ports_and_those_with_a_mark_are_consoles() {
        let ports = ConsoleOptions::parse("@stdio:a,pty:b,@file:c=/l").unwrap();
        let found: Vec<_> = ports.iter().map(|p| (&p.port[..], p.console)).collect();
        assert_eq!(found, [("a", true), ("b", false), ("c", true)]);
    }

    #[test]
    fn each_mistake_is_named_with_a_remedy() {
        for (text, named) in [
            ("", "@stdio"),
            ("serial:x", "stdio, tty"),
            ("file:x", "needs a path"),
            ("stdio:a,@stdio:b", "@stdio:b"),
            (&"pty:p,".repeat(17), "16 ports"),
        ] {
            let error = ConsoleOptions::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
