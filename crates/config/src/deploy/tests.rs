use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::apply::{ApplyError, Target, Wanted, apply};
use super::package;
use crate::presets::{QEMU_BOARD, preset};
use crate::{BoardFile, ScenarioFile};

/// A machine that is a directory, with QEMU's board and a GRUB that counts its calls.
struct Sandbox {
    directory: tempfile::TempDir,
    target: Target,
}

impl Sandbox {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("boot")).unwrap();
        let sandbox = Self {
            target: Target {
                root,
                inspector: directory.path().join("inspector"),
                update_grub: directory.path().join("grub"),
            },
            directory,
        };
        sandbox.machine(QEMU_BOARD);
        sandbox.program(&sandbox.target.update_grub, "exit 0");
        sandbox
    }

    fn machine(&self, board: &str) {
        let path = self.directory.path().join("board.xml");
        fs::write(&path, board).unwrap();
        let steps = format!("cat '{}'", path.display());
        self.program(&self.target.inspector, &steps);
    }

    fn program(&self, path: &Path, steps: &str) {
        fs::write(path, format!("#!/bin/sh\n{steps}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn scenario(&self, name: &str, change: (&str, &str)) -> Wanted {
        let path = self.directory.path().join("scenario.xml");
        let text = preset(name).unwrap().scenario.replace(change.0, change.1);
        fs::write(&path, text).unwrap();
        Wanted::File(path, None)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.target.root.join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// All files below the root with their contents.
    fn state(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn collect(directory: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(&path, files);
                } else {
                    files.push((path.clone(), fs::read(&path).unwrap()));
                }
            }
        }
        let mut files = Vec::new();
        collect(&self.target.root, &mut files);
        files.sort();
        files
    }
}

const SAME: (&str, &str) = ("", "");

#[test]
fn a_scenario_in_force_has_configuration_entry_scripts_and_definitions() {
    let sandbox = Sandbox::new();
    let applied = apply(&sandbox.target, &sandbox.scenario("shared", SAME)).unwrap();
    assert_eq!(applied.vms, ["POST_STD_VM1", "POST_RT_VM1", "POST_STD_VM2"]);
    let entry = sandbox.text("boot/acrn/current/entry");
    assert!(entry.starts_with("kernel=Linux_bzImage\nramdisk=Linux_ramdisk\n"));
    assert!(
        entry.contains("cmdline=console=ttyS0,115200 quiet"),
        "{entry}"
    );
    assert!(
        sandbox
            .path("var/lib/acrn/launch/launch_user_vm_id1.sh")
            .exists()
    );
    assert!(
        sandbox
            .text("etc/acrn/vms/POST_STD_VM1.toml")
            .contains("launch_user_vm_id1.sh")
    );
    assert!(!sandbox.path("boot/acrn/previous").exists());
}

#[test]
fn a_second_scenario_keeps_the_first_and_the_way_back_leads_there() {
    let sandbox = Sandbox::new();
    apply(&sandbox.target, &sandbox.scenario("shared", SAME)).unwrap();
    let first = fs::read(sandbox.path("boot/acrn/current/acrn.cfg")).unwrap();
    let smaller = ("<size>512</size>", "<size>256</size>");
    apply(&sandbox.target, &sandbox.scenario("shared", smaller)).unwrap();
    let previous = fs::read(sandbox.path("boot/acrn/previous/acrn.cfg")).unwrap();
    assert_eq!(previous, first);
    assert!(
        sandbox
            .text("var/lib/acrn/launch/launch_user_vm_id1.sh")
            .contains("-m 256M")
    );
    apply(&sandbox.target, &Wanted::Previous).unwrap();
    assert_eq!(
        fs::read(sandbox.path("boot/acrn/current/acrn.cfg")).unwrap(),
        first
    );
    assert!(
        sandbox
            .text("var/lib/acrn/launch/launch_user_vm_id1.sh")
            .contains("-m 512M")
    );
}

#[test]
fn vms_that_the_scenario_no_longer_has_lose_their_files() {
    let sandbox = Sandbox::new();
    apply(&sandbox.target, &sandbox.scenario("shared", SAME)).unwrap();
    apply(&sandbox.target, &Wanted::Nothing).unwrap();
    assert!(!sandbox.path("boot/acrn/current").exists());
    assert!(sandbox.path("boot/acrn/previous/acrn.cfg").exists());
    assert!(!sandbox.path("etc/acrn/vms/POST_STD_VM1.toml").exists());
    assert!(
        !sandbox
            .path("var/lib/acrn/launch/launch_user_vm_id1.sh")
            .exists()
    );
}

#[test]
fn a_definition_of_somebody_else_stays_and_is_named() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("etc/acrn/vms/POST_STD_VM1.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "autostart = true\n").unwrap();
    let applied = apply(&sandbox.target, &sandbox.scenario("shared", SAME)).unwrap();
    assert_eq!(applied.foreign, [path]);
    assert_eq!(
        sandbox.text("etc/acrn/vms/POST_STD_VM1.toml"),
        "autostart = true\n"
    );
}

#[test]
fn when_the_menu_cannot_be_written_everything_is_as_before() {
    let sandbox = Sandbox::new();
    for applied_before in [0, 1, 2] {
        let before = sandbox.state();
        sandbox.program(&sandbox.target.update_grub, "echo no space >&2; exit 1");
        let changed = ("<size>512</size>", "<size>128</size>");
        let error = apply(&sandbox.target, &sandbox.scenario("shared", changed)).unwrap_err();
        assert!(error.to_string().contains("no space"), "{error}");
        let after = sandbox.state();
        assert_eq!(after, before, "after {applied_before} scenarios");
        sandbox.program(&sandbox.target.update_grub, "exit 0");
        let other = ("POST_STD_VM2", ["VM_A", "VM_B", "VM_C"][applied_before]);
        apply(&sandbox.target, &sandbox.scenario("shared", other)).unwrap();
    }
}

#[test]
fn a_scenario_with_an_error_is_refused_with_its_findings() {
    let sandbox = Sandbox::new();
    let wrong = ("<pcpu_id>3<", "<pcpu_id>9<");
    let error = apply(&sandbox.target, &sandbox.scenario("shared", wrong)).unwrap_err();
    assert!(matches!(&error, ApplyError::Findings(_)), "{error}");
    assert!(error.to_string().contains("cpu-exists"), "{error}");
    assert!(sandbox.state().is_empty());
}

#[test]
fn a_configuration_for_another_board_is_refused_but_not_where_the_hypervisor_hides_a_part() {
    let sandbox = Sandbox::new();
    let board = sandbox.directory.path().join("own.xml");
    fs::write(&board, QEMU_BOARD).unwrap();
    let Wanted::File(scenario, _) = sandbox.scenario("shared", SAME) else {
        unreachable!()
    };
    let wanted = Wanted::File(scenario, Some(board));
    let fewer = without_last_cpu(QEMU_BOARD);
    sandbox.machine(&fewer);
    let error = apply(&sandbox.target, &wanted).unwrap_err();
    assert!(error.to_string().contains("another board"), "{error}");
    let hsm = sandbox.path("dev/acrn_hsm");
    fs::create_dir_all(hsm.parent().unwrap()).unwrap();
    fs::write(hsm, "").unwrap();
    apply(&sandbox.target, &wanted).unwrap();
    // A CPU that the configuration does not know is another machine all the same.
    sandbox.machine(&fewer.replace("apic_id>0x1<", "apic_id>0x21<"));
    let error = apply(&sandbox.target, &wanted).unwrap_err();
    assert!(error.to_string().contains("another board"), "{error}");
}

/// The board without its last thread.
fn without_last_cpu(board: &str) -> String {
    let start = board.rfind("<core ").unwrap();
    let end = start + board[start..].find("</core>").unwrap() + "</core>".len();
    format!("{}{}", &board[..start], &board[end..])
}

#[test]
fn a_configuration_by_itself_is_put_in_force_without_scripts() {
    let sandbox = Sandbox::new();
    let board = BoardFile::parse("board.xml", QEMU_BOARD).unwrap();
    let scenario = ScenarioFile::parse("s.xml", preset("shared").unwrap().scenario).unwrap();
    let path = sandbox.directory.path().join("acrn.cfg");
    fs::write(&path, crate::build(&board, &scenario).unwrap().blob).unwrap();
    let applied = apply(&sandbox.target, &Wanted::File(path.clone(), None)).unwrap();
    assert!(applied.vms.is_empty());
    assert!(sandbox.path("boot/acrn/current/entry").exists());
    fs::write(&path, b"ACRNcfg\0 damaged").unwrap();
    let error = apply(&sandbox.target, &Wanted::File(path, None)).unwrap_err();
    assert!(matches!(error, ApplyError::Config { .. }), "{error}");
}

#[test]
fn there_is_no_way_back_where_nothing_was() {
    let sandbox = Sandbox::new();
    let error = apply(&sandbox.target, &Wanted::Previous).unwrap_err();
    assert!(matches!(error, ApplyError::NoPrevious(_)), "{error}");
}

#[test]
fn a_scenario_without_service_vm_has_an_entry_without_its_modules() {
    let sandbox = Sandbox::new();
    apply(&sandbox.target, &sandbox.scenario("partitioned", SAME)).unwrap();
    assert_eq!(
        sandbox.text("boot/acrn/current/entry"),
        "kernel=\nramdisk=\ncmdline=\n"
    );
}

#[test]
fn a_package_of_the_same_files_is_the_same_and_a_wrong_scenario_has_none() {
    let board = BoardFile::parse("board.xml", QEMU_BOARD).unwrap();
    let text = preset("shared").unwrap().scenario;
    let scenario = ScenarioFile::parse("s.xml", text).unwrap();
    let (name, bytes, _) = package(&board, &scenario, "1.0+7", 7).unwrap();
    assert_eq!(name, "acrn-scenario_1.0+7_all.deb");
    assert_eq!(package(&board, &scenario, "1.0+7", 7).unwrap().1, bytes);
    assert!(package(&board, &scenario, "new", 7).is_err());
    let wrong = text.replace("<pcpu_id>3<", "<pcpu_id>9<");
    let wrong = ScenarioFile::parse("s.xml", &wrong).unwrap();
    assert!(package(&board, &wrong, "1", 7).is_err());
}
