//! The daemon that owns the User VMs.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use acrn_manager::cli::{DaemonArgs, Role};
use acrn_manager::daemon::{Settings, Shared};
use acrn_manager::{api, keeper, notify};
use clap::{CommandFactory, Parser};
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let args = DaemonArgs::parse();
    let result = match args.role {
        Some(Role::Keep {
            directory,
            program,
            words,
        }) => keeper::keep(&directory, &program, &words),
        Some(Role::Completion { shell }) => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut DaemonArgs::command(), "acrnd", &mut text);
            io::stdout().write_all(&text)
        }
        None => serve(Settings {
            definitions: args.definitions,
            run: args.run,
            logs: args.logs,
            dm: args.dm,
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("acrnd: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(settings: Settings) -> io::Result<()> {
    let run = settings.run.clone();
    fs::create_dir_all(&run).map_err(|error| {
        io::Error::other(format!("{}: {error}; run acrnd as root", run.display()))
    })?;
    let _only = claim(&run)?;
    let listener = listen(&run.join("acrnd.sock"))?;
    let shared = Shared::start(settings)?;
    if let Some(address) = std::env::var_os("NOTIFY_SOCKET") {
        notify::notify(&address, "READY=1")?;
    }
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    // The VMs stay: whoever wants them to end says so to acrnctl.
    tokio::select! {
        result = axum::serve(listener, api::router(shared)) => result,
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    }
}

/// Makes sure that this is the only daemon, for as long as the file is open.
fn claim(run: &Path) -> io::Result<File> {
    let path = run.join("acrnd.lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        io::Error::other(format!(
            "{}: {error}; acrnd runs already: acrnctl list shows its VMs",
            path.display()
        ))
    })?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Listens for root only, from the first moment on.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = listener?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}
