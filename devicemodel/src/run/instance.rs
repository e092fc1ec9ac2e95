//! What makes a running VM visible and unique: files under `/run/acrn`.

// UNSAFETY: flock has no safe wrapper for a borrowed file.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::cli::values::VmName;
use crate::exit::ExitCode;

/// Where ACRN's tools look.
pub const RUN_DIRECTORY: &str = "/run/acrn";
/// Directory of the sockets below it.
const MANAGERS: &str = "mngr";

/// Why a name cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// A VM of this name runs.
    #[error("a VM called \"{0}\" runs already: stop it, or choose another name")]
    InUse(VmName),
    /// Files cannot be made.
    #[error("{} cannot be made: {source}; run acrn-dm as root", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl InstanceError {
    /// The exit code for it.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::InUse(_) => ExitCode::NameInUse,
            Self::Path { .. } => ExitCode::NoPermission,
        }
    }
}

/// A name that is taken; dropping it frees it and removes its files.
pub struct Instance {
    name: VmName,
    lock: PathBuf,
    file: File,
    directory: PathBuf,
}

impl Instance {
    /// Takes `name`, with files below `directory`, and removes what a killed process of the
    /// same name has left there.
    ///
    /// # Errors
    /// It is taken, or files cannot be made.
    pub fn claim(name: &VmName, directory: &Path) -> Result<Self, InstanceError> {
        make_directory(directory)?;
        let lock = directory.join(format!("{name}.lock"));
        let wrong = |source| InstanceError::Path {
            path: lock.clone(),
            source,
        };
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o644)
                .open(&lock)
                .map_err(wrong)?;
            // SAFETY: flock on a descriptor that is open.
            let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            if taken != 0 {
                let error = io::Error::last_os_error();
                return Err(match error.kind() {
                    io::ErrorKind::WouldBlock => InstanceError::InUse(name.clone()),
                    _ => wrong(error),
                });
            }
            // Its last owner may have removed the file between our open and our lock.
            let ours = file.metadata().map_err(wrong)?.ino();
            if std::fs::metadata(&lock).is_ok_and(|current| current.ino() == ours) {
                let _ = file.set_len(0);
                let _ = writeln!(&file, "{}", std::process::id());
                let this = Self {
                    name: name.clone(),
                    lock,
                    file,
                    directory: directory.to_owned(),
                };
                this.remove_dead_sockets();
                return Ok(this);
            }
        }
    }

    /// Path for the socket that managers talk to.
    ///
    /// # Errors
    /// Its directory cannot be made.
    pub fn manager_socket(&self) -> Result<PathBuf, InstanceError> {
        let directory = self.directory.join(MANAGERS);
        make_directory(&directory)?;
        let id = std::process::id();
        Ok(directory.join(format!("{}.monitor.{id}.socket", self.name)))
    }

    /// Removes sockets of this name. Nobody can be behind them: we have the lock, and whoever
    /// ends in order removes its socket before it gives the lock back.
    fn remove_dead_sockets(&self) {
        let Ok(entries) = std::fs::read_dir(self.directory.join(MANAGERS)) else {
            return;
        };
        for entry in entries.flatten() {
            let file = entry.file_name();
            if file.to_str().is_some_and(|file| self.is_socket(file)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Whether this is how a socket of this name is called, whatever process it is of.
    fn is_socket(&self, file: &str) -> bool {
        file.strip_prefix(self.name.as_str())
            .and_then(|rest| rest.strip_prefix(".monitor."))
            .and_then(|rest| rest.strip_suffix(".socket"))
            .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Removed while locked, so nobody else's file can be hit.
        let _ = std::fs::remove_file(&self.lock);
        let _ = self.file.flush();
    }
}

fn make_directory(path: &Path) -> Result<(), InstanceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| InstanceError::Path {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::vm_name;

    #[test]
    fn a_name_is_taken_once_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let name = vm_name("vm1").unwrap();
        let first = Instance::claim(&name, folder.path()).unwrap();
        let error = Instance::claim(&name, folder.path()).err().unwrap();
        assert_eq!(error.code(), ExitCode::NameInUse);
        assert!(Instance::claim(&vm_name("vm2").unwrap(), folder.path()).is_ok());
        drop(first);
        assert!(!folder.path().join("vm1.lock").exists());
        assert!(Instance::claim(&name, folder.path()).is_ok());
    }

    #[test]
    fn the_managers_socket_carries_name_and_process() {
        let folder = tempfile::tempdir().unwrap();
        let name = vm_name("vm1").unwrap();
        let instance = Instance::claim(&name, folder.path()).unwrap();
        let path = instance.manager_socket().unwrap();
        let expected = format!("mngr/vm1.monitor.{}.socket", std::process::id());
        assert_eq!(path, folder.path().join(expected));
    }

    #[test]
    fn sockets_of_killed_processes_are_removed_and_those_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let managers = folder.path().join(MANAGERS);
        std::fs::create_dir(&managers).unwrap();
        let others = [
            "vm10.monitor.7.socket",
            "vm1.monitor.8.monitor.9.socket",
            "vm1.monitor.socket",
            "other",
        ];
        let dead = ["vm1.monitor.7.socket", "vm1.monitor.123456.socket"];
        for file in others.iter().chain(&dead) {
            std::fs::write(managers.join(file), "").unwrap();
        }
        let _instance = Instance::claim(&vm_name("vm1").unwrap(), folder.path()).unwrap();
        assert!(others.iter().all(|file| managers.join(file).exists()));
        assert!(!dead.iter().any(|file| managers.join(file).exists()));
    }
}
