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
    lock: PathBuf,
    file: File,
    directory: PathBuf,
}

impl Instance {
    /// Takes `name`, with files below `directory`.
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
                return Ok(Self {
                    lock,
                    file,
                    directory: directory.to_owned(),
                });
            }
        }
    }

    /// Path for the socket that managers talk to.
    ///
    /// # Errors
    /// Its directory cannot be made.
    pub fn manager_socket(&self, name: &VmName) -> Result<PathBuf, InstanceError> {
        let directory = self.directory.join("mngr");
        make_directory(&directory)?;
        Ok(directory.join(format!("{name}.monitor.{}.socket", std::process::id())))
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
        let path = instance.manager_socket(&name).unwrap();
        let expected = format!("mngr/vm1.monitor.{}.socket", std::process::id());
        assert_eq!(path, folder.path().join(expected));
    }
}
