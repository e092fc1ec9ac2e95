//! Options of `virtio-console`: `[@]backend:port[=path][:socket_type]`.

use std::path::PathBuf;

use crate::pci::DeviceError;
use crate::virtio::options::{OptionList, refuse};

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

/// The port as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleOptions {
    /// What it is connected to.
    pub kind: Kind,
    /// Name of the port.
    pub port: String,
    /// File, socket, terminal or link.
    pub path: Option<PathBuf>,
}

impl ConsoleOptions {
    /// Reads the option string.
    ///
    /// # Errors
    /// An unknown backend, a path that is missing, or more than one port.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        let mut ports = OptionList::new(text).map(|option| option.text);
        let wrong = |option: &str, remedy: &str| Err(refuse(NAME, option, remedy.to_owned()));
        let Some(port) = ports.next() else {
            return wrong(text, "name a backend, for example @stdio:console");
        };
        if let Some(second) = ports.next() {
            return wrong(
                second,
                "a console has one port: add another virtio-console for it",
            );
        }
        // `@` marks the port for the kernel's console; with one port it is that anyway.
        let described = port.strip_prefix('@').unwrap_or(port);
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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Kind, String, Option<PathBuf>) {
        let options = ConsoleOptions::parse(text).unwrap();
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
    fn each_mistake_is_named_with_a_remedy() {
        for (text, named) in [
            ("", "@stdio"),
            ("serial:x", "stdio, tty"),
            ("file:x", "needs a path"),
            ("stdio:a,pty:b", "pty:b"),
        ] {
            let error = ConsoleOptions::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
