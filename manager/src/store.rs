//! Files by which a new daemon knows what the last one did.
//!
//! Each VM has a directory below `/run/acrn/acrnd`, which a reboot empties: `wanted`, whether it
//! is to run, by the daemon; `process` and `exit`, by its [keeper](crate::keeper). Each file is
//! replaced in one step, so whoever is killed leaves the old one or the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::adoption::{Process, Traces, child_started, started};
use crate::definition::check_name;

const WANTED: &str = "wanted";
const PROCESS: &str = "process";
const EXIT: &str = "exit";

/// The directory of all VMs.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens it, making it if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// The directory of one VM.
    pub fn of(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The VMs that have one.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten();
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| check_name(name).is_ok())
            .collect()
    }

    /// Notes whether a VM is to run.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_wanted(&self, name: &str, wanted: bool) -> io::Result<()> {
        fs::create_dir_all(self.of(name))?;
        replace(
            &self.of(name).join(WANTED),
            if wanted { "yes" } else { "no" },
        )
    }

    /// Removes what the last process of a VM has noted.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn clear(&self, name: &str) -> io::Result<()> {
        for file in [PROCESS, EXIT] {
            match fs::remove_file(self.of(name).join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes everything of a VM.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.of(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What is known of a VM.
    pub fn traces(&self, name: &str) -> Traces {
        let read = |file: &str| fs::read_to_string(self.of(name).join(file)).ok();
        let noted: Option<Process> =
            read(PROCESS).and_then(|text| serde_json::from_str(&text).ok());
        Traces {
            wanted: read(WANTED).map(|text| text == "yes"),
            noted,
            alive: noted.and_then(|process| alive(process.pid)),
            exit: self.exit(name),
        }
    }

    /// The exit status that was noted.
    pub fn exit(&self, name: &str) -> Option<i32> {
        let text = fs::read_to_string(self.of(name).join(EXIT)).ok()?;
        text.trim().parse().ok()
    }
}

/// Notes the process of a VM in its directory.
///
/// # Errors
/// It cannot be written.
pub fn note_process(directory: &Path, process: Process) -> io::Result<()> {
    replace(&directory.join(PROCESS), &serde_json::to_string(&process)?)
}

/// Notes the exit status of a VM in its directory.
///
/// # Errors
/// It cannot be written.
pub fn note_exit(directory: &Path, status: i32) -> io::Result<()> {
    replace(&directory.join(EXIT), &status.to_string())
}

/// The process with this id, if one is alive.
pub fn alive(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    started(&stat).map(|started| Process { pid, started })
}

/// A child that has not been waited for, which may have ended.
pub fn child(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    child_started(&stat).map(|started| Process { pid, started })
}

/// Writes a file so that readers see all of it or none.
///
/// # Errors
/// It cannot be written.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adoption::Adoption;
    use crate::life::Exit;

    #[test]
    fn what_was_noted_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("acrnd")).unwrap();
        assert_eq!(store.traces("vm1").judge(), Adoption::New);
        store.set_wanted("vm1", true).unwrap();
        let ours = alive(std::process::id().cast_signed()).unwrap();
        note_process(&store.of("vm1"), ours).unwrap();
        assert_eq!(store.traces("vm1").judge(), Adoption::GoOn(ours));
        assert_eq!(store.names(), ["vm1"]);

        let dead = Process { started: 0, ..ours };
        note_process(&store.of("vm1"), dead).unwrap();
        note_exit(&store.of("vm1"), 30).unwrap();
        let ended = Adoption::Ended(Exit::Code(30));
        assert_eq!(store.traces("vm1").judge(), ended);
        store.clear("vm1").unwrap();
        let ended = Adoption::Ended(Exit::Unknown);
        assert_eq!(store.traces("vm1").judge(), ended);
        store.forget("vm1").unwrap();
        assert!(store.names().is_empty());
    }
}
