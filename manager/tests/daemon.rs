//! The real `acrnd` and `acrnctl` with a program that plays `acrn-dm`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Does by its VM's name what a test needs: ends at once, or ignores its power button. A file
/// called `end` in the definition's `kernel` directory makes it end with the status in it.
const FAKE_DM: &str = r#"#!/bin/sh
case $3 in
crash*) exit 7 ;;
stubborn*) trap '' TERM ;;
*) trap 'exit 0' TERM ;;
esac
grep -q memsize "$2" || exit 9
echo "$3 runs"
while :; do
    if [ -e "$PLACE/end-$3" ]; then exit "$(cat "$PLACE/end-$3")"; fi
    sleep 0.05
done
"#;

struct Place {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Place {
    /// A daemon with these definitions.
    fn new(definitions: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dm = folder.path().join("dm");
        fs::write(&dm, FAKE_DM).unwrap();
        fs::set_permissions(&dm, fs::Permissions::from_mode(0o755)).unwrap();
        let mut this = Self {
            folder,
            daemon: None,
        };
        for (name, text) in definitions {
            this.define(name, text);
        }
        this.start_daemon();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn define(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path("vms")).unwrap();
        let path = self.path("vms").join(format!("{name}.toml"));
        fs::write(path, format!("{text}\n[vm]\nmemsize = '64M'\n")).unwrap();
    }

    /// Starts the daemon and waits until it says that it is ready.
    fn start_daemon(&mut self) {
        let notify = self.path("notify");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_acrnd"));
        command.arg("--definitions").arg(self.path("vms"));
        command.arg("--run").arg(self.path("run"));
        command.arg("--logs").arg(self.path("logs"));
        command.arg("--dm").arg(self.path("dm"));
        command.env("PLACE", self.folder.path());
        command.env("NOTIFY_SOCKET", &notify);
        let log = fs::File::create(self.path("acrnd.log")).unwrap();
        self.daemon = Some(command.stderr(log).spawn().unwrap());
        let mut text = [0; 16];
        let count = ready.recv(&mut text).unwrap();
        assert_eq!(&text[..count], b"READY=1");
    }

    fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acrnctl"));
        command.arg("--socket").arg(self.path("run/acrnd.sock"));
        command.args(words).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs `acrnctl` and returns what it printed.
    fn check(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `acrnctl`, which must fail with this status, and returns its message.
    fn fail(&self, words: &[&str], status: i32) -> String {
        let output = self.run(words);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{words:?}: {errors}");
        errors
    }

    fn vm(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.check(&["--json", "list"])).unwrap();
        let all = all.as_array().unwrap();
        all.iter().find(|vm| vm["name"] == name).unwrap().clone()
    }

    /// Waits until a VM is as it should be.
    fn until(&self, name: &str, what: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let vm = self.vm(name);
            if what(&vm) {
                return vm;
            }
            assert!(begin.elapsed() < PATIENCE, "{vm}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log_has(&self, name: &str, text: &str) {
        let begin = Instant::now();
        while !self.check(&["logs", name]).contains(text) {
            assert!(begin.elapsed() < PATIENCE, "{name} does not print {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.run(&["stop", "--force", "--all"]);
            self.kill_daemon();
        }
    }
}

fn alive(group: &Value) -> bool {
    Path::new(&format!("/proc/{group}")).exists()
}

#[test]
fn a_vm_is_started_listed_and_stopped_by_its_power_button() {
    let place = Place::new(&[("vm1", ""), ("vm2", "autostart = true\nafter = ['vm1']")]);
    assert_eq!(place.vm("vm2")["state"], "started");
    assert_eq!(place.vm("vm1")["state"], "stopped");
    assert_eq!(place.check(&["start", "vm1"]), "vm1 started\n");
    place.log_has("vm1", "vm1 runs");
    assert!(place.fail(&["start", "vm1"], 5).contains("runs already"));
    assert!(place.fail(&["del", "vm1"], 5).contains("stop it"));
    assert_eq!(place.check(&["stop", "vm1"]), "vm1 stopped\n");
    assert_eq!(place.vm("vm1")["exit_status"], 0);
    assert_eq!(place.check(&["stop", "--all"]), "vm2 stopped\n");
    let events = place.check(&["events"]);
    for text in ["vm2 started", "vm1 started", "vm1 stopping power button"] {
        assert!(events.contains(text), "{events}");
    }
    let socket = fs::metadata(place.path("run/acrnd.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_vm_that_crashes_is_started_again_and_again() {
    let place = Place::new(&[("crash1", "restart = 'on-failure'"), ("crash2", "")]);
    place.check(&["start", "crash2"]);
    let failed = place.until("crash2", |vm| vm["state"] == "failed");
    assert_eq!(failed["exit_status"], 7);
    place.check(&["start", "crash1"]);
    place.until("crash1", |vm| vm["restarts"].as_u64() >= Some(2));
    let events = place.check(&["events"]);
    assert!(
        events.contains("again in 1 s") && events.contains("again in 2 s"),
        "{events}"
    );
    place.until("crash1", |vm| vm["state"] == "waiting");
    assert_eq!(place.check(&["stop", "crash1"]), "crash1 stopped\n");
}

#[test]
fn a_guest_that_ignores_its_button_is_forced() {
    let place = Place::new(&[("stubborn", "stop_timeout = 1"), ("stubborn2", "")]);
    for name in ["stubborn", "stubborn2"] {
        place.check(&["start", name]);
        place.log_has(name, "runs");
    }
    assert_eq!(place.check(&["stop", "stubborn"]), "stubborn stopped\n");
    assert_eq!(
        place.check(&["stop", "-f", "stubborn2"]),
        "stubborn2 stopped\n"
    );
    let events = place.check(&["events"]);
    assert!(events.contains("stubborn forced switched off"), "{events}");
    assert!(events.contains("stubborn2 forced killed"), "{events}");
}

#[test]
fn a_killed_daemon_loses_no_vm_and_no_exit_status() {
    let mut place = Place::new(&[
        ("vm1", "autostart = true"),
        ("vm2", "autostart = true"),
        ("vm3", "autostart = true\nrestart = 'on-failure'"),
        ("vm4", "autostart = true"),
    ]);
    for name in ["vm1", "vm2", "vm3", "vm4"] {
        place.log_has(name, "runs");
    }
    place.check(&["stop", "vm4"]);
    let before = place.vm("vm1");
    let name = fs::read_to_string(format!("/proc/{}/comm", before["group"])).unwrap();
    assert_eq!(name, "acrnd-keeper\n");
    let gone = [
        place.vm("vm2")["group"].clone(),
        place.vm("vm3")["group"].clone(),
    ];
    place.kill_daemon();
    assert!(place.fail(&["list"], 3).contains("systemctl start acrnd"));
    fs::write(place.path("end-vm2"), "30").unwrap();
    fs::write(place.path("end-vm3"), "25").unwrap();
    let begin = Instant::now();
    while gone.iter().any(alive) && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::remove_file(place.path("end-vm3")).unwrap();
    assert!(alive(&before["group"]), "{before}");

    place.start_daemon();
    assert_eq!(place.vm("vm1")["group"], before["group"]);
    assert_eq!(place.vm("vm1")["state"], "started");
    assert_eq!(place.vm("vm2")["state"], "failed");
    assert_eq!(place.vm("vm2")["exit_status"], 30);
    assert_eq!(place.vm("vm4")["state"], "stopped");
    place.until("vm3", |vm| vm["state"] == "started" && vm["restarts"] == 1);

    // What happened before is still told.
    let events = place.check(&["--json", "events"]);
    let lines = events
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let numbers: Vec<u64> = lines
        .map(|event: Value| event["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let starts = events.matches(r#""vm":"vm1","event":"started""#).count();
    assert_eq!(starts, 1, "{events}");

    // The end of an adopted VM is seen, and its status known.
    fs::write(place.path("end-vm1"), "3").unwrap();
    let ended = place.until("vm1", |vm| vm["state"] == "failed");
    assert_eq!(ended["exit_status"], 3);
}

#[test]
fn commands_reach_the_device_model_by_its_process_group() {
    let place = Place::new(&[("vm1", "autostart = true")]);
    place.log_has("vm1", "runs");
    assert!(
        place
            .fail(&["pause", "vm1"], 1)
            .contains("no acrn-dm answers")
    );
    let group = place.vm("vm1")["group"].clone();
    let sockets = place.path("run/mngr");
    fs::create_dir_all(&sockets).unwrap();
    let socket = sockets.join(format!("another.monitor.{group}.socket"));
    let listener = UnixListener::bind(socket).unwrap();
    let answers = [
        (r#""command":"pause""#, r#"{"ack":0}"#),
        (
            r#""command":"status""#,
            r#"{"ack":0,"huge_pages":true,"memory":1,"name":"x","pid":1,"state":"paused","vcpus":2,"vmid":1}"#,
        ),
        (r#""command":"suspend""#, r#"{"ack":0}"#),
        (
            r#""command":"status""#,
            r#"{"ack":0,"huge_pages":true,"memory":1,"name":"x","pid":1,"state":"running","vcpus":2,"vmid":1}"#,
        ),
        (
            r#""command":"status""#,
            r#"{"ack":0,"huge_pages":true,"memory":1,"name":"x","pid":1,"state":"running","vcpus":2,"vmid":1}"#,
        ),
        (
            r#""command":"status""#,
            r#"{"ack":0,"huge_pages":true,"memory":1,"name":"x","pid":1,"state":"suspended","vcpus":2,"vmid":1}"#,
        ),
        (
            r#""device":"6,/srv/disk""#,
            r#"{"ack":-1,"error":"slot 6 has a medium"}"#,
        ),
    ];
    let dm = std::thread::spawn(move || {
        for (request, answer) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            assert!(line.contains(request), "{line}");
            writeln!(stream, "{answer}").unwrap();
        }
    });
    // Another one is this test's own, and not the daemon's.
    let own = std::process::id();
    let _stranger = UnixListener::bind(sockets.join(format!("rt1.monitor.{own}.socket"))).unwrap();
    assert_eq!(place.check(&["pause", "vm1"]), "vm1 paused\n");
    assert_eq!(place.check(&["suspend", "vm1"]), "vm1 suspended\n");
    let refused = place.fail(&["blkrescan", "vm1", "6,/srv/disk"], 5);
    assert!(refused.contains("slot 6 has a medium"), "{refused}");
    dm.join().unwrap();
    assert_eq!(place.vm("rt1")["state"], "untracked");
    assert!(place.fail(&["stop", "rt1"], 4).contains("rt1"));
}

#[test]
fn scripts_and_definitions_are_added_and_deleted() {
    let place = Place::new(&[]);
    let script = place.path("launch.sh");
    fs::write(&script, "#!/bin/sh\necho \"$VM_NAME with $1\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    place.check(&["add", "--name", "vm5", script, "--words"]);
    let named = place.path("named.sh");
    fs::write(&named, "vm_name=rt$1\nacrn-dm -m 1G $vm_name\n").unwrap();
    let added = place.check(&["add", named.to_str().unwrap(), "7"]);
    assert_eq!(added, "rt7 stopped\n");
    place.check(&["del", "rt7"]);
    assert!(
        place
            .fail(&["add", "--name", "vm5", script], 5)
            .contains("already")
    );
    place.check(&["start", "vm5"]);
    place.log_has("vm5", "vm5 with --words");
    place.until("vm5", |vm| vm["state"] == "stopped");
    place.check(&["del", "vm5"]);
    assert!(place.fail(&["start", "vm5"], 4).contains("acrnctl list"));

    place.define("broken", "autostrat = 1");
    let broken = place.vm("broken");
    assert_eq!(broken["state"], "invalid");
    assert!(
        broken["error"].as_str().unwrap().contains("line 1"),
        "{broken}"
    );
    assert!(place.fail(&["start", "broken"], 1).contains("line 1"));
    let escape = place.fail(&["add", "--name", "../x", script], 1);
    assert!(escape.contains("no name of a VM"), "{escape}");
}

#[test]
fn vms_that_wait_for_each_other_are_told_so() {
    let place = Place::new(&[
        ("a", "after = ['b']\nautostart = true"),
        ("b", "after = ['a']"),
        ("c", "after = ['a']\nautostart = true"),
    ]);
    let list = place.check(&["list"]);
    assert!(list.contains("circle among a, b, c"), "{list}");
    assert!(
        place
            .fail(&["start", "a"], 1)
            .contains("take one of them out")
    );
    place.define("b", "");
    place.check(&["start", "a"]);
    assert_eq!(place.vm("a")["state"], "started");
}

#[test]
fn events_are_streamed_as_they_happen() {
    let place = Place::new(&[("vm1", "")]);
    let mut follower = Command::new(env!("CARGO_BIN_EXE_acrnctl"));
    follower.arg("--socket").arg(place.path("run/acrnd.sock"));
    follower.args(["--json", "events", "--follow"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    place.check(&["start", "vm1"]);
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&event["vm"], &event["event"]),
        (&"vm1".into(), &"started".into())
    );
    place.check(&["stop", "vm1"]);
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&event["number"], &event["event"]),
        (&2.into(), &"stopping".into())
    );
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn a_log_is_followed_as_it_grows() {
    let place = Place::new(&[("vm1", "")]);
    let mut follower = Command::new(env!("CARGO_BIN_EXE_acrnctl"));
    follower.arg("--socket").arg(place.path("run/acrnd.sock"));
    follower.args(["logs", "--follow", "vm1"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    place.check(&["start", "vm1"]);
    assert_eq!(lines.next().unwrap().unwrap(), "vm1 runs");
    let log = fs::OpenOptions::new()
        .append(true)
        .open(place.path("logs/vm1.log"));
    writeln!(log.unwrap(), "and goes on").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "and goes on");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// Requests that are nearly right, as they are and with a few bytes changed.
#[test]
fn no_request_ends_the_daemon_or_leaves_its_directories() {
    let place = Place::new(&[("vm1", "autostart = true")]);
    let seeds = [
        "GET /v1/vms/vm1/stats HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /v1/vms/vm1/stop?force=maybe HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/vms/..%2F..%2Fetc%2Fpasswd/log HTTP/1.1\r\nhost: a\r\n\r\n",
        "DELETE /v1/vms/%00 HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/events?after=-1 HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /v1/vms HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 49\r\n\r\n\
         {\"name\":\"../x\",\"definition\":\"[vm]\\nmemsize='1G'\"}",
        "POST /v1/vms HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n",
    ];
    let mut random = 0x0123_4567_89ab_cdef_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).unwrap() % below
    };
    for round in 0..400 {
        let mut request = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..next(6) * usize::from(round >= seeds.len()) {
            let at = next(request.len());
            request[at] = u8::try_from(next(256)).unwrap();
        }
        let mut stream = UnixStream::connect(place.path("run/acrnd.sock")).unwrap();
        stream.write_all(&request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        // It may hang up on what is no HTTP.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 "),
            "{answer}"
        );
        assert!(!answer.contains("root:"), "{answer}");
    }
    assert!(!place.path("x.toml").exists() && !place.path("vms/../x.toml").exists());
    place.check(&["list"]);
}

#[test]
fn every_program_prints_completions() {
    for program in [
        env!("CARGO_BIN_EXE_acrnctl"),
        env!("CARGO_BIN_EXE_acrnd"),
        env!("CARGO_BIN_EXE_life_mngr"),
    ] {
        let output = Command::new(program).args(["completion", "bash"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(text.contains("complete -F"), "{program}: {text}");
    }
}

#[test]
fn a_second_daemon_is_refused() {
    let place = Place::new(&[]);
    let mut second = Command::new(env!("CARGO_BIN_EXE_acrnd"));
    let second = second.arg("--run").arg(place.path("run")).output().unwrap();
    let errors = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && errors.contains("runs already"),
        "{errors}"
    );
    place.check(&["list"]);
}
