//! What several cases share: a machine brought to the Service VM's shell, test data, and
//! the host's side of a network transfer.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Context, Outcome};
use crate::demo::{self, Options};
use crate::layout::Layout;
use crate::machine::Machine;
use crate::progress::{Step, output_of};
use crate::session::Session;

pub(super) const BOOT: Duration = Duration::from_secs(180);
pub(super) const COMMAND: Duration = Duration::from_secs(60);
pub(super) const POWER_OFF: Duration = Duration::from_secs(60);

/// The outcome of a case that needs Debian's disk, unless root runs it.
pub(super) fn unless_root() -> Option<Outcome> {
    let skipped = || Outcome::Skipped("only root can make Debian's disk".into());
    (!nix::unistd::geteuid().is_root()).then(skipped)
}

/// The machine of a demo with these options.
pub(super) fn machine(context: &Context, options: &Options) -> Result<Machine> {
    let mut options = options.clone();
    options.bare |= context.bare;
    options.emulator = context.emulator;
    demo::machine(context.layout, &options, context.artefacts)
}

/// Starts a machine and waits for the Service VM's shell.
pub(super) fn service_vm(context: &Context, machine: &Machine, name: &str) -> Result<Session> {
    let mut session = Session::new(machine.start(context.layout, &context.log(name))?);
    session.wait_for_service_shell(BOOT)?;
    Ok(session)
}

/// Runs a test of a crate that is ignored unless a system test asks for it: `target` says which crate and which of
/// its test programs.
pub(super) fn test_of_crate(
    layout: &Layout,
    target: &[&str],
    name: &str,
    variables: &[(&str, &OsStr)],
) -> Result<()> {
    let step = Step::begin(name);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(layout.root())
        .args(["test", "--package"])
        .args(target)
        .args(["--", "--ignored", "--exact", name]);
    cargo.envs(variables.iter().copied());
    let mut has_passed = false;
    let log = layout.logs().join("crate-test.log");
    step.run(&mut cargo, &log, |line| {
        has_passed |= line.starts_with("test result: ok. 1 passed");
        None
    })?;
    ensure!(has_passed, "there is no test {name} in {target:?} any more");
    Ok(())
}

/// Bytes without a pattern that a defect could reproduce by chance (xorshift64).
pub(super) fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size.next_multiple_of(8));
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A file of noise, made once.
pub(super) fn noise_file(context: &Context, size: usize) -> Result<PathBuf> {
    let path = context.layout.rootfs().join(format!("noise-{size}.img"));
    if fs::metadata(&path).map_or(0, |m| m.len()) != size as u64 {
        crate::rootfs::write(&path, &noise(size))?;
    }
    Ok(path)
}

/// The MD5 sum that the guest's `md5sum` must print.
pub(super) fn md5_of(path: &Path) -> Result<String> {
    let output = output_of(Command::new("md5sum").arg("--").arg(path))?;
    Ok(output
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// One end of a TCP connection on this host, which guests reach at 10.0.2.2.
pub(super) struct Peer<T> {
    /// Its port.
    pub(super) port: u16,
    thread: JoinHandle<Result<T>>,
}

impl<T: Send + 'static> Peer<T> {
    fn listen(
        limit: Duration,
        serve: impl FnOnce(std::net::TcpStream) -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let thread = std::thread::spawn(move || {
            let deadline = Instant::now() + limit;
            loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false)?;
                        stream.set_read_timeout(Some(limit))?;
                        stream.set_write_timeout(Some(limit))?;
                        return serve(stream);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        if Instant::now() > deadline {
                            bail!("no guest connected within {limit:?}");
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        });
        Ok(Self { port, thread })
    }

    /// The end of the transfer.
    pub(super) fn join(self) -> Result<T> {
        self.thread
            .join()
            .ok()
            .context("the host's end of the connection panicked")?
    }
}

/// Sends `bytes` to the first guest that connects.
pub(super) fn sender(bytes: Vec<u8>, limit: Duration) -> Result<Peer<()>> {
    Peer::listen(limit, move |mut stream| {
        stream.write_all(&bytes)?;
        stream.shutdown(Shutdown::Write)?;
        // Closing before the guest has read everything would cut the transfer short.
        let _ = stream.read(&mut [0]);
        Ok(())
    })
}

/// Receives everything from the first guest that connects.
pub(super) fn receiver(limit: Duration) -> Result<Peer<Vec<u8>>> {
    Peer::listen(limit, |mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    })
}
