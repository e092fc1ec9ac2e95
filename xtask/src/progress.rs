//! Progress of steps that take longer than two seconds, and the logs of the commands
//! that they run.
//!
//! On a terminal the line of the running step is rewritten each second; elsewhere a new
//! line is written at growing intervals, so that a log file stays readable.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// One named step with a running clock.
pub struct Step {
    name: String,
    start: Instant,
    detail: Arc<Mutex<String>>,
    stop: Option<Sender<()>>,
    ticker: Option<JoinHandle<()>>,
}

impl Step {
    /// Starts the clock; nothing is printed during the first two seconds.
    #[must_use]
    pub fn begin(name: &str) -> Self {
        let detail = Arc::new(Mutex::new(String::from("working")));
        let (stop, stopped) = mpsc::channel::<()>();
        let start = Instant::now();
        let ticker = {
            let (name, detail) = (name.to_owned(), Arc::clone(&detail));
            std::thread::spawn(move || {
                let terminal = std::io::stderr().is_terminal();
                let mut next = Duration::from_secs(2);
                while let Err(RecvTimeoutError::Timeout) =
                    stopped.recv_timeout(next.saturating_sub(start.elapsed()))
                {
                    let text = detail
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clone();
                    let line = format!("{name}: {text}, {}", elapsed(start.elapsed()));
                    if terminal {
                        eprint!("\r\x1b[K{line}");
                        next = start.elapsed() + Duration::from_secs(1);
                    } else {
                        eprintln!("{line}");
                        next = start.elapsed() + (next / 2).clamp(SHORT, LONG);
                    }
                }
                if terminal {
                    eprint!("\r\x1b[K");
                }
            })
        };
        Self {
            name: name.to_owned(),
            start,
            detail,
            stop: Some(stop),
            ticker: Some(ticker),
        }
    }

    /// What the step is doing now, for the next line of progress.
    pub fn detail(&self, text: impl Into<String>) {
        *self.detail.lock().unwrap_or_else(PoisonError::into_inner) = text.into();
    }

    /// Ends the step with a closing line.
    pub fn done(mut self, result: &str) {
        self.silence();
        eprintln!(
            "{}: {result} ({})",
            self.name,
            elapsed(self.start.elapsed())
        );
    }

    /// Runs `command` with its output in `log`; `watch` sees each line and may return a
    /// new detail. On failure the end of the log becomes part of the error.
    ///
    /// # Errors
    /// The command cannot be started or does not succeed.
    pub fn run(
        &self,
        command: &mut Command,
        log: &Path,
        mut watch: impl FnMut(&str) -> Option<String>,
    ) -> Result<()> {
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        writeln!(file, "$ {command:?}")?;
        let program = command.get_program().to_string_lossy().into_owned();
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("cannot start {program}: is it installed?"))?;
        // `command` keeps copies of the pipe's writing end; without this the reader
        // below would never see the end of the output.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut reader = BufReader::new(File::from(reader));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            file.write_all(&line)?;
            if let Some(detail) = watch(String::from_utf8_lossy(&line).trim_end()) {
                self.detail(detail);
            }
            line.clear();
        }
        let status = child.wait()?;
        if !status.success() {
            bail!(
                "{}: {program} failed ({status}); full log: {}\n{}",
                self.name,
                crate::layout::display(log),
                tail(log, 25)
            );
        }
        Ok(())
    }

    fn silence(&mut self) {
        drop(self.stop.take());
        if let Some(ticker) = self.ticker.take() {
            // The ticker cannot panic in a way that matters here.
            let _ = ticker.join();
        }
    }
}

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(15);

impl Drop for Step {
    fn drop(&mut self) {
        self.silence();
    }
}

/// A duration as a person reads it: `3.2s`, `3m10s`.
#[must_use]
pub fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1}s", time.as_secs_f64())
    } else {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    }
}

/// The last `count` lines of a file, indented; empty if it cannot be read.
#[must_use]
pub fn tail(path: &Path, count: usize) -> String {
    let mut bytes = Vec::new();
    if File::open(path)
        .and_then(|mut f| f.read_to_end(&mut bytes))
        .is_err()
    {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines[from..]
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// Runs a short helper silently and returns its standard output.
///
/// # Errors
/// It cannot be started, or fails: then with what it wrote to standard error.
pub fn output_of(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}: is it installed?"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_change_to_minutes_at_sixty_seconds() {
        assert_eq!(elapsed(Duration::from_millis(3_240)), "3.2s");
        assert_eq!(elapsed(Duration::from_secs(190)), "3m10s");
    }

    #[test]
    fn a_failing_command_reports_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let step = Step::begin("probe");
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo cause >&2; exit 3"]);
        let mut seen = Vec::new();
        let error = step
            .run(&mut command, &log, |line| {
                seen.push(line.to_owned());
                None
            })
            .unwrap_err()
            .to_string();
        assert_eq!(seen, ["first", "cause"]);
        assert!(
            error.contains("cause") && error.contains("probe"),
            "{error}"
        );
    }
}
