//! The inspector on recorded machines: trees of files that play `/sys` and `/proc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use acrn_config::{BoardFile, Severity};
use acrn_inspector::doctor::{Diagnosis, Verdict, examine};
use acrn_inspector::host::Host;
use acrn_inspector::inspect::{Inspection, inspect};

/// A PC with an Intel processor of four threads, a bridge with a network card behind it, and an IOMMU.
struct Machine {
    folder: tempfile::TempDir,
}

const CPUID: &str = "\
6 0 80 0 0 0
0 0 16 756e6547 6c65746e 49656e69
1 0 906ea 100800 fffaf3bf bfebfbff
7 0 0 29c67af 0 0
80000001 0 0 0 121 2c100800
80000007 0 0 0 0 100
80000008 0 3027 0 0 0
";

const IOMEM: &str = "\
00001000-0009efff : System RAM
00100000-7fffffff : System RAM
80000000-dfffffff : PCI Bus 0000:00
  80000000-800fffff : PCI Bus 0000:01
100000000-27fffffff : System RAM
";

fn table(body: &[&[u8]]) -> Vec<u8> {
    [&[0; 36][..], &body.concat()].concat()
}

impl Machine {
    fn new() -> Self {
        let this = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        // What Linux says of itself, without bit 31 of leaf 1: no virtual machine.
        this.write("cpuid", &CPUID.replace("fffaf3bf", "7ffaf3bf"));
        this.processors();
        this.write("proc/iomem", IOMEM);
        this.write("proc/ioports", "0000-0cf7 : PCI Bus 0000:00\n");
        this.write("proc/meminfo", "MemTotal:        8045612 kB\n");
        this.write(
            "proc/interrupts",
            "   0: 1 timer\n   4: 2 ttyS0\n   9: 3 acpi\n NMI: 0\n",
        );
        this.write(
            "proc/bus/input/devices",
            "I: Bus=0019\nN: Name=\"Power Button\"\nP: Phys=PNP0C0C/button\n",
        );
        this.tables();
        this.function("0000:00:1c.0", 0x8086, 0xa338, 0x06_0400, "", &bridge(1));
        let card = "0x80000000 0x8001ffff 0x40200\n0x0 0x0 0x0\n0x3000 0x301f 0x40101\n";
        this.function(
            "0000:01:00.0",
            0x8086,
            0x15f2,
            0x02_0000,
            card,
            &card_config(),
        );
        for (file, text) in [
            ("type", "4\n"),
            ("port", "0x3F8\n"),
            ("irq", "4\n"),
            ("iomem_base", "0x0\n"),
        ] {
            this.write(&format!("sys/class/tty/ttyS0/{file}"), text);
        }
        for (file, level) in [
            ("nominal_perf", "20\n"),
            ("highest_perf", "40\n"),
            ("lowest_perf", "4\n"),
        ] {
            this.write(
                &format!("sys/devices/system/cpu/cpu1/acpi_cppc/{file}"),
                level,
            );
        }
        this.write("srv/vms/one.img", "");
        this.write("srv/vms/notes.txt", "");
        this.write("sys/class/dmi/id/board_vendor", "Example Boards\n");
        this.write("sys/class/dmi/id/board_name", "One\n");
        this
    }

    fn processors(&self) {
        let mut info = String::new();
        for cpu in 0..4 {
            info += &format!(
                "processor\t: {cpu}\napicid\t\t: {}\nflags\t\t: vmx x2apic\nvmx flags\t: vnmi tsc_offset ept vpid unrestricted_guest\n\n",
                cpu * 2
            );
            let directory = format!("sys/devices/system/cpu/cpu{cpu}");
            self.write(
                &format!("{directory}/topology/core_id"),
                &format!("{}\n", cpu / 2),
            );
            let cache = format!("{directory}/cache/index3");
            let facts = [
                ("level", "3"),
                ("type", "Unified"),
                ("shared_cpu_list", "0-3"),
                ("size", "12288K"),
            ];
            for (file, text) in facts {
                self.write(&format!("{cache}/{file}"), text);
            }
        }
        self.write("proc/cpuinfo", &info);
        self.write("sys/devices/system/cpu/online", "0-3\n");
    }

    fn tables(&self) {
        let io_apic = [1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
        self.bytes(
            "sys/firmware/acpi/tables/APIC",
            &table(&[&[0; 8], &io_apic]),
        );
        let mut fadt = vec![0; 244];
        fadt[64..68].copy_from_slice(&0x1804_u32.to_le_bytes());
        fadt[89] = 2;
        self.bytes("sys/firmware/acpi/tables/FACP", &fadt);
        let unit = [
            &[0, 0, 16, 0, 1, 0, 0, 0][..],
            &0xfed9_0000_u64.to_le_bytes(),
        ]
        .concat();
        self.bytes("sys/firmware/acpi/tables/DMAR", &table(&[&[0; 12], &unit]));
        let program = b"\x08_S5_\x12\x06\x02\x0a\x05\x0a\x00\x5b\x82\x13\\COM1\x08_HID\x0c\x41\xd0\x05\x01\x08_UID\x01";
        let mut program = program.to_vec();
        program[14] = u8::try_from(program.len() - 14).unwrap();
        self.bytes("sys/firmware/acpi/tables/DSDT", &table(&[&program]));
    }

    fn function(
        &self,
        name: &str,
        vendor: u16,
        device: u16,
        class: u32,
        bars: &str,
        config: &[u8],
    ) {
        let directory = format!("sys/bus/pci/devices/{name}");
        self.write(&format!("{directory}/vendor"), &format!("{vendor:#06x}\n"));
        self.write(&format!("{directory}/device"), &format!("{device:#06x}\n"));
        self.write(&format!("{directory}/class"), &format!("{class:#08x}\n"));
        self.write(&format!("{directory}/resource"), bars);
        self.bytes(&format!("{directory}/config"), config);
    }

    fn write(&self, path: &str, text: &str) {
        self.bytes(path, text.as_bytes());
    }

    fn bytes(&self, path: &str, bytes: &[u8]) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn inspect(&self) -> Inspection {
        inspect(
            &Host::new(self.folder.path()),
            "test",
            &["/srv/vms/".to_owned()],
        )
    }

    fn examine(&self) -> Diagnosis {
        examine(&Host::new(self.folder.path()))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut pending = vec![self.folder.path().to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let list = if path.is_dir() {
                    &mut pending
                } else {
                    &mut files
                };
                list.push(path);
            }
        }
        files.sort();
        files
    }
}

fn bridge(secondary: u8) -> Vec<u8> {
    let mut config = vec![0; 256];
    config[0x19] = secondary;
    config
}

fn card_config() -> Vec<u8> {
    let mut config = vec![0; 256];
    config[6] = 0x10;
    config[0x34] = 0x40;
    config[0x40..0x44].copy_from_slice(&[0x11, 0, 4, 0]);
    config
}

#[test]
fn a_board_file_says_what_the_machine_has_and_acrn_config_reads_it() {
    let inspection = Machine::new().inspect();
    let board = BoardFile::parse("test.xml", &inspection.text).unwrap();
    assert_eq!(board.findings, []);
    let model = &board.model;
    let apics: Vec<u32> = model.cpus().iter().map(|cpu| cpu.apic_id).collect();
    assert_eq!(apics, [0, 2, 4, 6]);
    assert_eq!(model.processors.dies[0].cores.len(), 2);
    assert_eq!(model.memory_size(), 0x9e000 + 0x7ff0_0000 + 0x1_8000_0000);
    assert_eq!(model.caches_of(3).count(), 1);
    assert_eq!(model.ioapics.list[0].address.0, 0xfec0_0000);
    let functions = model.pci_functions();
    let places: Vec<String> = functions
        .iter()
        .map(|function| function.bdf.to_string())
        .collect();
    assert_eq!(places, ["00:1c.0", "01:00.0"]);
    assert_eq!(functions[1].id(), Some((0x8086, 0x15f2)));
    assert!(functions[1].has_capability("MSI-X"));
    assert_eq!(functions[1].memory_bars().count(), 1);
    assert_eq!(model.pci_windows()[0], (0x8000_0000, 0xdfff_ffff));
    let ttys = model.ttys();
    assert_eq!((ttys.len(), ttys[0].path.as_str()), (1, "/dev/ttyS0"));
    assert!(!model.free_irqs().contains(&4) && model.free_irqs().contains(&5));
    assert!(model.max_msix_table_num.contains('5'));
    assert!(model.base_board_info.contains("Example Boards"));
    assert!(
        model.pm_info.contains("PM1A_CNT_ADDRESS         0x1804UL"),
        "{}",
        model.pm_info
    );
    assert!(
        model.s5_info.contains("S5_PKG_VAL_PM1A          0x5U"),
        "{}",
        model.s5_info
    );
    assert!(model.drhd_info.contains("0xFED90000UL"));
    let thread = &model.processors.dies[0].cores[0].threads[1];
    assert_eq!(
        (thread.hwp_guaranteed, thread.hwp_highest, thread.hwp_lowest),
        (Some(20), Some(40), Some(4))
    );
    let images = &model.block_device_info;
    assert!(
        images.contains("/srv/vms/one.img: TYPE=\"img\"") && !images.contains("notes"),
        "{images}"
    );
    assert!(inspection.text.contains("PNP0501"), "{}", inspection.text);
    assert_eq!(inspection.iommus.count(), 1);
}

#[test]
fn an_empty_machine_gets_a_file_and_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let inspection = inspect(&Host::new(folder.path()), "empty", &["/srv".to_owned()]);
    let board = BoardFile::parse("empty.xml", &inspection.text).unwrap();
    assert!(board.model.cpus().is_empty());
    let what: Vec<&str> = inspection
        .gaps
        .iter()
        .map(|gap| gap.what.as_str())
        .collect();
    for path in [
        "/proc/cpuinfo",
        "/proc/iomem",
        "/sys/bus/pci/devices",
        "/sys/firmware/acpi/tables/APIC",
    ] {
        assert!(what.contains(&path), "{path} in {what:?}");
    }
    for gap in &inspection.gaps {
        assert!(!gap.reason.is_empty() && !gap.meaning.is_empty(), "{gap:?}");
    }
}

/// Whatever is in a file, and whether it is there or not, the rest of the machine is described.
#[test]
fn no_file_can_keep_the_inspector_from_its_work() {
    let machine = Machine::new();
    let before = machine.inspect().board.model;
    for file in machine.files() {
        let original = fs::read(&file).unwrap();
        let half = original[..original.len() / 2].to_vec();
        for content in [
            Vec::new(),
            half,
            vec![0xff; 300],
            b"99999999999999999999999 : -".to_vec(),
        ] {
            fs::write(&file, content).unwrap();
            let inspection = machine.inspect();
            let board = BoardFile::parse("test.xml", &inspection.text).unwrap();
            let bad = board
                .findings
                .iter()
                .find(|finding| finding.severity == Severity::Error);
            assert!(bad.is_none(), "{}: {bad:?}", file.display());
            machine.examine();
        }
        fs::remove_file(&file).unwrap();
        machine.inspect();
        fs::write(&file, original).unwrap();
    }
    assert_eq!(machine.inspect().board.model, before);
}

fn verdict(diagnosis: &Diagnosis, name: &str) -> Verdict {
    diagnosis
        .checks
        .iter()
        .find(|check| check.name == name)
        .unwrap()
        .verdict
}

fn possible(diagnosis: &Diagnosis, name: &str) -> bool {
    diagnosis
        .kinds
        .iter()
        .find(|kind| kind.name == name)
        .unwrap()
        .possible
}

#[test]
fn a_machine_with_everything_runs_every_kind_of_vm() {
    let diagnosis = Machine::new().examine();
    assert!(diagnosis.runs, "{}", diagnosis.text());
    assert!(
        diagnosis.kinds.iter().all(|kind| kind.possible),
        "{}",
        diagnosis.text()
    );
    assert!(
        diagnosis
            .text()
            .ends_with("The hypervisor will run on this machine.\n")
    );
}

#[test]
fn a_firmware_setting_that_is_off_is_named() {
    let machine = Machine::new();
    let path = machine.folder.path().join("proc/cpuinfo");
    let info = fs::read_to_string(&path).unwrap();
    fs::write(&path, info.replace(": vmx x2apic", ": x2apic")).unwrap();
    let diagnosis = machine.examine();
    assert!(!diagnosis.runs);
    let text = diagnosis.text();
    assert!(text.contains("the firmware has switched it off"), "{text}");
    assert!(text.contains("“Intel Virtualization Technology”"), "{text}");
    assert!(text.contains("will not run"), "{text}");
}

#[test]
fn a_paging_feature_that_only_saves_time_is_no_obstacle() {
    const PAGING: &str = "second-level paging";
    let machine = Machine::new();
    let path = machine.folder.path().join("proc/cpuinfo");
    let info = fs::read_to_string(&path).unwrap();
    fs::write(&path, info.replace(" vpid", "")).unwrap();
    let diagnosis = machine.examine();
    assert!(diagnosis.runs, "{}", diagnosis.text());
    assert_eq!(verdict(&diagnosis, PAGING), Verdict::Warning);
    fs::write(&path, info.replace(" vnmi", "")).unwrap();
    let diagnosis = machine.examine();
    assert_eq!(verdict(&diagnosis, PAGING), Verdict::Bad);
    assert!(diagnosis.text().contains("no vnmi"), "{}", diagnosis.text());
}

#[test]
fn secure_boot_is_an_obstacle_with_a_setting_to_change() {
    let machine = Machine::new();
    let verdict_now = || verdict(&machine.examine(), "Secure Boot");
    assert_eq!(verdict_now(), Verdict::Good);
    machine.write("sys/firmware/efi/fw_platform_size", "64\n");
    assert_eq!(verdict_now(), Verdict::Unknown);
    let variables = "sys/firmware/efi/efivars";
    machine.bytes(&format!("{variables}/BootCurrent-8be4df61"), &[6, 0]);
    assert_eq!(verdict_now(), Verdict::Good);
    let variable = format!("{variables}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    machine.bytes(&variable, &[6, 0, 0, 0, 0]);
    assert_eq!(verdict_now(), Verdict::Good);
    machine.bytes(&variable, &[6, 0, 0, 0, 1]);
    let diagnosis = machine.examine();
    assert!(!diagnosis.runs && !possible(&diagnosis, "Service VM"));
    let text = diagnosis.text();
    assert!(text.contains("switch “Secure Boot” off"), "{text}");
    for odd in [&[][..], &[6, 0, 0, 0], &[6, 0, 0, 0, 7]] {
        machine.bytes(&variable, odd);
        assert_eq!(verdict_now(), Verdict::Unknown);
    }
}

#[test]
fn a_boot_loader_other_than_grub_is_noted() {
    let machine = Machine::new();
    let verdict_now = || verdict(&machine.examine(), "boot loader");
    assert_eq!(verdict_now(), Verdict::Unknown);
    machine.write("boot/loader/loader.conf", "timeout 3\n");
    assert_eq!(verdict_now(), Verdict::Warning);
    machine.write("boot/grub/grub.cfg", "");
    assert_eq!(verdict_now(), Verdict::Good);
    assert!(machine.examine().runs);
}

#[test]
fn what_is_missing_costs_the_kinds_of_vm_that_need_it() {
    let machine = Machine::new();
    fs::remove_file(machine.folder.path().join("sys/firmware/acpi/tables/DMAR")).unwrap();
    let diagnosis = machine.examine();
    assert!(diagnosis.runs);
    assert_eq!(verdict(&diagnosis, "IOMMU"), Verdict::Warning);
    assert!(possible(&diagnosis, "pre-launched VM"));
    assert!(!possible(&diagnosis, "pre-launched VM with devices"));

    machine.write("cpuid", &CPUID.replace("fffaf3bf", "ffdaf3bf"));
    let diagnosis = machine.examine();
    assert_eq!(verdict(&diagnosis, "local APIC"), Verdict::Warning);
    assert_eq!(verdict(&diagnosis, "machine"), Verdict::Warning);
    assert!(!possible(&diagnosis, "post-launched real-time VM"));
}

fn program(words: &[&str], directory: &Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acrn-board-inspector"));
    command.args(words).current_dir(directory).output().unwrap()
}

#[test]
fn this_very_machine_is_described_whatever_it_hides() {
    let folder = tempfile::tempdir().unwrap();
    let output = program(&["here", "--json"], folder.path());
    assert!(output.status.success(), "{output:?}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!summary["cpus"].as_array().unwrap().is_empty(), "{summary}");
    let board = BoardFile::load(&folder.path().join("here.xml")).unwrap();
    assert!(
        board
            .findings
            .iter()
            .all(|finding| finding.severity != Severity::Error),
        "{:?}",
        board.findings
    );
    let doctor = program(&["--doctor", "--json"], folder.path());
    let by_word = program(&["doctor", "--json"], folder.path());
    assert_eq!(by_word.stdout, doctor.stdout);
    let diagnosis: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(
        doctor.status.success(),
        diagnosis["runs"].as_bool().unwrap()
    );
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(program(&[], folder.path()).status.code(), Some(2));
    let nowhere = program(&["x", "--out", "/no/such/x.xml"], folder.path());
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&nowhere.stderr).contains("--out"),
        "{nowhere:?}"
    );
    let printed = program(&["x", "--out", "-"], folder.path());
    assert!(
        String::from_utf8_lossy(&printed.stdout).starts_with("<?xml"),
        "{printed:?}"
    );
    let completion = program(&["--completion", "bash"], folder.path());
    assert!(String::from_utf8_lossy(&completion.stdout).contains("complete -F"));
}
