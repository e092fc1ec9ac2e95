//! Scripts as text, and at work: in a directory that plays `/sys`, with programs that play those of the
//! Service VM.

use super::*;
use crate::presets::preset;
use crate::{BoardFile, ScenarioFile, plan};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The launches of a preset, with a change.
fn launches(name: &str, change: impl Fn(String) -> String) -> Result<Vec<Launch>, LaunchError> {
    let preset = preset(name).unwrap();
    let board = BoardFile::parse("board.xml", preset.board).unwrap();
    let scenario = change(preset.scenario.to_owned());
    let scenario = ScenarioFile::parse("scenario.xml", &scenario).unwrap();
    let (plan, _) = plan(&board, &scenario).unwrap();
    launch(&board.model, &scenario.model, &plan, "/opt/acrn/")
}

fn shared(change: impl Fn(String) -> String) -> Vec<Launch> {
    launches("shared", change).unwrap()
}

fn words(launch: &Launch) -> Vec<String> {
    let list = launch.script.split("dm_params=(\n").nth(1).unwrap();
    quote::words(list.split("\n)\n").next().unwrap()).unwrap()
}

fn has(launch: &Launch, option: &str, value: &str) -> bool {
    let words = words(launch);
    let mut pairs = words.iter().zip(words.iter().skip(1));
    pairs.any(|(first, second)| first == option && second == value)
}

#[test]
fn a_standard_vm_has_its_devices_in_order_and_its_words_last() {
    let all = shared(|text| text);
    let names: Vec<String> = all.iter().map(Launch::script_name).collect();
    let expected = [1, 2, 3].map(|id| format!("launch_user_vm_id{id}.sh"));
    assert_eq!(names, expected);
    let first = &all[0];
    assert!(has(first, "-m", "512M") && has(first, "-l", "com1,hv"));
    assert!(has(first, "--cpu_affinity", "0,1"));
    assert!(has(first, "-k", "/data/bzImage"));
    let words = words(first);
    let slots: Vec<&str> = words
        .iter()
        .zip(words.iter().skip(1))
        .filter(|(option, _)| *option == "-s")
        .map(|(_, device)| device.as_str())
        .collect();
    assert_eq!(slots[..2], ["0:0,hostbridge", "1:0,lpc"]);
    assert!(
        slots
            .iter()
            .any(|slot| slot.ends_with(",virtio-net,tap=tap-vm1"))
    );
    assert_eq!(words.last().unwrap(), "POST_STD_VM1");
    assert!(first.script.contains("\nown_apic_ids=()\n"));
}

#[test]
fn a_real_time_vm_has_its_cpus_to_itself() {
    let all = shared(|text| text);
    let real_time = &all[1];
    assert!(
        real_time
            .script
            .contains("\nown_apic_ids=(3)\ncpus_for_good=yes\n")
    );
    let words = words(real_time);
    for option in ["--rtvm", "--lapic_pt"] {
        assert!(words.iter().any(|word| word == option), "{words:?}");
    }
    assert!(
        real_time
            .definition
            .contains("script = \"/opt/acrn/launch_user_vm_id2.sh\"")
    );
}

#[test]
fn a_vm_that_needs_no_preparation_is_its_own_definition() {
    let all = shared(|text| {
        let network = text.find("<network>").unwrap();
        let end = text.find("</network>").unwrap() + "</network>".len();
        format!("{}{}", &text[..network], &text[end..])
    });
    let definition = &all[0].definition;
    for line in [
        "restart = \"never\"\n",
        "[vm]\nmemsize = \"512M\"\n",
        "kernel = \"/data/bzImage\"\n",
        "cpu_affinity = \"0,1\"\n",
        "lpc = [\n    \"com1,hv\",\n]\n",
    ] {
        assert!(definition.contains(line), "{definition}");
    }
    assert!(!definition.contains("script"));
}

#[test]
fn everything_that_a_scenario_has_becomes_words() {
    let all = launches("generic", |text| text).unwrap();
    for device in [
        "2,passthru,00/02/0",
        "3,passthru,00/1f/3",
        "4,xhci,1-2",
        "5,virtio-net,tap=tap-win,vhost",
        "6,virtio-blk,/home/acrn/windows.img",
        "7,vhost-vsock,cid=3",
        "9,ivshmem,dm:/shm_region_1,2",
        "16,uart,vuart_idx:1",
    ] {
        assert!(has(&all[0], "-s", device), "{device}: {:?}", words(&all[0]));
    }
    assert!(has(&all[0], "--ovmf", "/usr/share/acrn/bios/OVMF.fd"));
    assert!(
        all[0]
            .script
            .contains("\nmodules=(vhost_net vhost_vsock)\n")
    );
    assert!(
        all[0]
            .script
            .contains("\npci_devices=(0000:00:02.0 0000:00:1f.3)\n")
    );
    for device in [
        "2,virtio-gpu,geometry=1280x720+0+0",
        "3,virtio-input,/dev/input/event4,keyboard",
        "4,virtio-console,@file:file_port0=/var/log/vm2.txt",
    ] {
        assert!(has(&all[1], "-s", device), "{device}: {:?}", words(&all[1]));
    }
}

#[test]
fn the_service_vms_lines_have_names_for_setserial() {
    let preset = preset("shared").unwrap();
    let board = BoardFile::parse("board.xml", preset.board).unwrap();
    let scenario = ScenarioFile::parse("scenario.xml", preset.scenario).unwrap();
    let (plan, _) = plan(&board, &scenario).unwrap();
    let text = serial_conf(&scenario.model, &plan).unwrap();
    let first = "# to POST_STD_VM1\n/dev/ttyS8 port 0x9000 irq ";
    assert!(text.starts_with(first), "{text}");
    assert!(
        text.contains("# to POST_RT_VM1\n/dev/ttyS9 port 0x9008 irq "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 6);
    assert!(text.ends_with("uart 16550A baud_base 115200\n"));
}

#[test]
fn parameters_with_an_open_quote_are_refused() {
    let result = launches("shared", |text| {
        text.replace("vm_ip=192.168.100.2\"", "vm_ip")
    });
    let error = result.unwrap_err().to_string();
    assert!(
        error.contains("POST_STD_VM1") && error.contains("close it"),
        "{error}"
    );
}

/// What plays the Service VM.
struct Place {
    folder: tempfile::TempDir,
}

const TOOL: &str = "#!/bin/sh\necho \"${0##*/} $*\" >>\"$PLACE/log\"\n";

impl Place {
    fn new() -> Self {
        let this = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for directory in ["bin", "sys/class/net/acrn-br0", "sys/bus/pci/devices"] {
            fs::create_dir_all(this.path(directory)).unwrap();
        }
        for tool in ["ip", "modprobe", "tunctl", "brctl"] {
            this.tool(tool, TOOL);
        }
        this.tool("id", "#!/bin/sh\necho 0\n");
        this.tool("acrn-dm", &format!("{TOOL}exit 3\n"));
        let cpus = (0..4).map(|cpu| format!("processor\t: {cpu}\napicid\t\t: {cpu}\n\n"));
        this.write("cpuinfo", &cpus.collect::<String>());
        for cpu in 1..4 {
            this.write(&format!("sys/devices/system/cpu/cpu{cpu}/online"), "1\n");
        }
        this.write("sys/devices/virtual/misc/acrn_hsm/remove_cpu", "");
        for file in ["hsm", "disk.img", "bzImage"] {
            this.write(file, "");
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn tool(&self, name: &str, text: &str) {
        let name = format!("bin/{name}");
        self.write(&name, text);
        fs::set_permissions(self.path(&name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, script: &str) -> Output {
        let place = self.folder.path().display().to_string();
        let script = script.replace("/data/user_vm1.img", &format!("{place}/disk.img"));
        let script = script.replace("/data/user_vm2.img", &format!("{place}/disk.img"));
        let script = script.replace("/data/bzImage", &format!("{place}/bzImage"));
        self.write("launch.sh", &script);
        let path = std::env::var("PATH").unwrap();
        let mut bash = Command::new("bash");
        bash.arg(self.path("launch.sh"))
            .env("PLACE", self.folder.path());
        bash.env("PATH", format!("{place}/bin:{path}"));
        bash.env("SYS", self.path("sys"))
            .env("CPUINFO", self.path("cpuinfo"));
        bash.env("HSM", self.path("hsm")).output().unwrap()
    }

    fn complaint(&self, script: &str) -> String {
        let output = self.run(script);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[test]
fn a_script_makes_its_interface_and_takes_it_away() {
    let place = Place::new();
    let output = place.run(&shared(|text| text)[0].script);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    let log = place.read("log");
    let mut rest = log.as_str();
    for line in [
        "ip tuntap add tap-vm1 mode tap\n",
        "ip link set tap-vm1 master acrn-br0\n",
        "acrn-dm -m 512M --cpu_affinity 0,1 -l com1,hv -s 0:0,hostbridge",
        "ip tuntap del tap-vm1 mode tap\n",
    ] {
        let at = rest.find(line);
        assert!(at.is_some(), "\"{line}\" in {log}");
        rest = &rest[at.unwrap()..];
    }
}

#[test]
fn an_interface_that_was_there_stays() {
    let place = Place::new();
    fs::create_dir_all(place.path("sys/class/net/tap-vm1")).unwrap();
    place.run(&shared(|text| text)[0].script);
    assert!(
        !place.read("log").contains("tuntap"),
        "{}",
        place.read("log")
    );
}

#[test]
fn cpus_are_taken_off_line_and_come_back_unless_the_hypervisor_has_them() {
    let online = "sys/devices/system/cpu/cpu3/online";
    let removed = "sys/devices/virtual/misc/acrn_hsm/remove_cpu";
    let place = Place::new();
    place.run(&shared(|text| text)[1].script);
    assert_eq!(
        (place.read(online), place.read(removed)),
        ("0\n".into(), "3\n".into())
    );

    let place = Place::new();
    let borrowed = shared(|text| text)[1]
        .script
        .replace("cpus_for_good=yes", "cpus_for_good=no");
    place.tool(
        "acrn-dm",
        "#!/bin/sh\ncp \"$SYS/devices/system/cpu/cpu3/online\" \"$PLACE/meanwhile\"\n",
    );
    place.run(&borrowed);
    assert_eq!(place.read("meanwhile"), "0\n");
    assert_eq!(
        (place.read(online), place.read(removed)),
        ("1\n".into(), String::new())
    );
}

#[test]
fn devices_are_bound_to_the_stub_and_given_back() {
    let place = Place::new();
    let device = "0000:00:03.0";
    let of = |name: &str| format!("sys/bus/pci/devices/{device}/{name}");
    for file in ["driver_override", "unbound"] {
        place.write(&of(file), "");
    }
    place.write("sys/bus/pci/drivers_probe", "");
    place.write("sys/bus/pci/drivers/e1000e/unbind", "");
    symlink(
        place.path("sys/bus/pci/drivers/e1000e"),
        place.path(&of("driver")),
    )
    .unwrap();
    let copy = format!(
        "#!/bin/sh\ncp \"$SYS/bus/pci/devices/{device}/driver_override\" \"$PLACE/meanwhile\"\n"
    );
    place.tool("acrn-dm", &copy);
    let script = shared(|text| text)[0]
        .script
        .replace("pci_devices=()", &format!("pci_devices=({device})"));
    let output = place.run(&script);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(place.read("meanwhile"), "pci-stub\n");
    assert_eq!(place.read(&of("driver_override")), "\n");
    let unbound = place.read("sys/bus/pci/drivers/e1000e/unbind");
    assert_eq!(unbound, format!("{device}\n"));
}

#[test]
fn what_is_missing_is_said_before_anything_is_changed() {
    let scripts = shared(|text| text);
    let missing = |what: &str, expected: &str| {
        let place = Place::new();
        let path: &Path = &place.path(what);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        let complaint = place.complaint(&scripts[0].script);
        assert!(complaint.contains(expected), "{complaint}");
        assert_eq!(place.read("log"), "", "{what}");
    };
    missing("disk.img", "disk.img is missing");
    missing("bzImage", "bzImage is missing");
    missing("hsm", "CONFIG_ACRN_HSM");
    missing("sys/class/net/acrn-br0", "the bridge acrn-br0");
    let place = Place::new();
    place.write("cpuinfo", "processor\t: 0\napicid\t\t: 0\n");
    let complaint = place.complaint(&scripts[0].script);
    assert!(complaint.contains("APIC id 1"), "{complaint}");
}

#[test]
fn hostile_names_stay_words() {
    let hostile = "/data/user_vm1.img</block>\n      <block>/tmp/$(touch \"$PLACE/pwned\")'.img";
    let all = shared(|text| text.replacen("/data/user_vm1.img", hostile, 1));
    let place = Place::new();
    let complaint = place.complaint(&all[0].script);
    assert!(complaint.contains("$(touch"), "{complaint}");
    assert!(!place.path("pwned").exists());
}
