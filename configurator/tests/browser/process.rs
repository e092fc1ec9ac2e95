//! Programs that a test starts, and that end with it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// A program and all that it has started.
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts a program and waits for a line of its output in which `find` finds something. An error is what a
    /// program has printed that ended before.
    pub fn start(
        command: &mut Command,
        find: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, String), String> {
        let name = command.get_program().to_string_lossy().into_owned();
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{name}: {error}; cargo xtask setup installs what the tests need")
        });
        let mut program = Self { child };
        let stdout = program.child.stdout.take().expect("it is a pipe");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let mut printed = format!("{name} has ended at once:");
        for line in lines.by_ref() {
            if let Some(found) = find(&line) {
                // What else it prints must not stop it.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok((program, found));
            }
            printed += "\n";
            printed += &line;
        }
        Err(printed)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}
