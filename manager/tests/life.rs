//! The real `life_mngr` on pseudo-terminals, with the test as the other side, as ACRN's own program
//! is, and with itself.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

const PATIENCE: Duration = Duration::from_secs(20);

/// A serial line: the test has one end, and the other has a path.
struct Wire {
    end: File,
    path: PathBuf,
    // Open for as long as the wire is, so that nobody who leaves hangs it up.
    _other: File,
}

impl Wire {
    fn new() -> Self {
        let pair = openpty(None, None).unwrap();
        let mut modes = tcgetattr(&pair.slave).unwrap();
        cfmakeraw(&mut modes);
        tcsetattr(&pair.slave, SetArg::TCSANOW, &modes).unwrap();
        let other = File::from(pair.slave);
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&other));
        Self {
            end: pair.master.into(),
            path: fs::read_link(link).unwrap(),
            _other: other,
        }
    }

    fn send(&mut self, text: &str) {
        self.end.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until exactly this text has come.
    fn expect(&mut self, text: &str) {
        let mut seen = Vec::new();
        let begin = Instant::now();
        while seen != text.as_bytes() {
            let heard = String::from_utf8_lossy(&seen).into_owned();
            let wrong = !text.as_bytes().starts_with(&seen) || begin.elapsed() > PATIENCE;
            assert!(!wrong, "\"{heard}\" instead of \"{text}\"");
            if ready(&self.end) {
                let mut byte = [0];
                self.end.read_exact(&mut byte).unwrap();
                seen.push(byte[0]);
            }
        }
    }
}

fn ready(file: &File) -> bool {
    let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut files, PollTimeout::from(100_u8)).unwrap() > 0
}

/// A machine with a `life_mngr`.
struct Machine {
    folder: tempfile::TempDir,
    program: Child,
}

impl Machine {
    fn new(kind: &str, lines: &[&Path], more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let lines: Vec<String> = lines
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let lines = lines.join(",");
        let config = format!("VM_TYPE={kind}\nVM_NAME=vm1\nDEV_NAME=tty:{lines}\n{more}\n");
        fs::write(path("conf"), config).unwrap();
        for end in ["poweroff", "reboot"] {
            fs::write(path(end), "#!/bin/sh\n: >\"$0.done\"\n").unwrap();
            fs::set_permissions(path(end), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_life_mngr"));
        command.arg("--config").arg(path("conf"));
        command.arg("--socket").arg(path("socket"));
        command.arg("--poweroff").arg(path("poweroff"));
        command.arg("--reboot").arg(path("reboot"));
        command.stderr(File::create(path("log")).unwrap());
        let program = command.spawn().unwrap();
        let this = Self { folder, program };
        this.wait_for("socket");
        this
    }

    fn wait_for(&self, name: &str) {
        let begin = Instant::now();
        while !self.folder.path().join(name).exists() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            assert!(begin.elapsed() < PATIENCE, "no {name}: {log:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_log(&self, text: &str) {
        let begin = Instant::now();
        loop {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
            if log.contains(text) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "no \"{text}\" in {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn request(&self, text: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_life_mngr"));
        let command = command.args(["request", text, "--socket"]);
        command
            .arg(self.folder.path().join("socket"))
            .output()
            .unwrap()
    }

    fn granted(&self, text: &str, reply: &str) {
        let output = self.request(text);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{reply}\n")
        );
        assert!(output.status.success());
    }

    fn refused(&self, text: &str, reply: &str) {
        let output = self.request(text);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(reply),
            "{output:?}"
        );
    }

    fn still_up(&self) -> bool {
        let done = |name: &str| self.folder.path().join(name).exists();
        !done("poweroff.done") && !done("reboot.done")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.program.kill().unwrap();
        self.program.wait().unwrap();
    }
}

#[test]
fn a_service_vm_shuts_acrns_guests_down_and_then_itself() {
    let (mut one, mut two) = (Wire::new(), Wire::new());
    let lines = [one.path.as_path(), two.path.as_path()];
    let service = Machine::new("service_vm", &lines, "");
    one.send("sync:POST_STD_VM1");
    one.expect("ack_sync");
    two.send("sync:POST_STD_VM2\n");
    two.expect("ack_sync");
    service.granted("user_vm_shutdown:POST_STD_VM2", "ack_req_user_vm_shutdown");
    two.expect("user_vm_shutdown");
    two.send("ack_user_vm_shutdown");
    service.refused("user_vm_shutdown:POST_STD_VM3", "user_vm_disconnect");
    service.refused("nonsense", "unknown_request");
    two.send("sync:POST_STD_VM2\0");
    two.expect("ack_sync");
    assert!(service.still_up());
    service.granted("req_sys_shutdown", "ack_req_sys_shutdown");
    one.expect("poweroff_cmd");
    two.expect("poweroff_cmd");
    one.send("ack_poweroff");
    assert!(service.still_up());
    two.send("ack_poweroff");
    service.wait_for("poweroff.done");
}

#[test]
fn a_service_vm_that_ends_anyway_shuts_its_guests_down_and_stays_up() {
    let mut wire = Wire::new();
    let service = Machine::new("service_vm", &[&wire.path], "");
    wire.send("sync:VM1");
    wire.expect("ack_sync");
    let guest = std::thread::spawn(move || {
        wire.expect("poweroff_cmd");
        wire.send("ack_poweroff");
        wire
    });
    service.granted("guests_shutdown", "ack_guests_shutdown");
    guest.join().unwrap();
    assert!(service.still_up());
}

#[test]
fn only_the_guest_on_the_allowed_line_ends_the_system() {
    let (mut one, mut two) = (Wire::new(), Wire::new());
    let lines = [one.path.as_path(), two.path.as_path()];
    let allowed = format!("ALLOW_TRIGGER_SYSREBOOT={}", two.path.display());
    let service = Machine::new("service_vm", &lines, &allowed);
    for (wire, name) in [(&mut one, "sync:a"), (&mut two, "sync:b")] {
        wire.send(name);
        wire.expect("ack_sync");
    }
    one.send("req_sys_reboot");
    one.expect("system shutdown request is rejected");
    two.send("req_sys_shutdown");
    two.expect("system shutdown request is rejected");
    two.send("req_sys_reboot");
    two.expect("ack_req_sys_rebootpoweroff_cmd");
    one.expect("poweroff_cmd");
    for wire in [&mut one, &mut two] {
        wire.send("ack_poweroff");
    }
    service.wait_for("reboot.done");
}

#[test]
fn a_user_vm_answers_acrns_service_vm_and_ends() {
    let mut wire = Wire::new();
    let user = Machine::new("user_vm", &[&wire.path], "");
    wire.expect("sync:vm1");
    user.refused("req_sys_shutdown", "user_vm_disconnect");
    wire.send("ack_sync");
    user.wait_for_log("the Service VM answers");
    user.granted("req_sys_shutdown", "ack_req_sys_shutdown");
    wire.expect("req_sys_shutdown");
    wire.send("ack_req_sys_shutdown");
    assert!(user.still_up());
    wire.send("poweroff_cmd");
    wire.expect("ack_poweroff");
    user.wait_for("poweroff.done");
    wire.send("user_vm_reboot");
    wire.expect("ack_user_vm_reboot");
    user.wait_for("reboot.done");
}

#[test]
fn both_sides_understand_each_other_over_a_wire_that_comes_late() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("line");
    let service = Machine::new("service_vm", &[&socket], "");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let wire = Wire::new();
    let user = Machine::new("user_vm", &[&wire.path], "");
    let (mut to_user, mut from_user) =
        (wire.end.try_clone().unwrap(), wire.end.try_clone().unwrap());
    let (mut from_service, mut to_service) = (stream.try_clone().unwrap(), stream);
    std::thread::spawn(move || std::io::copy(&mut from_user, &mut to_service));
    std::thread::spawn(move || std::io::copy(&mut from_service, &mut to_user));
    service.wait_for_log("vm1 is connected");
    user.wait_for_log("the Service VM answers");
    service.granted("guests_shutdown", "ack_guests_shutdown");
    user.wait_for("poweroff.done");
    assert!(service.still_up());
}
