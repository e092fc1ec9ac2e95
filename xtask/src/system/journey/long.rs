//! The long form: the scenario comes out of the Configurator in a browser; launch script, updates, the keys of GRUB's
//! menu, a disk of `acrn-image`, and the way back.

use std::fs;
use std::path::{Path, PathBuf};

use acrn_config::BoardFile;
use anyhow::{Context as _, Result, ensure};

use super::{Journey, scenario_text};
use crate::deb::Part;
use crate::layout::Layout;
use crate::progress::Step;
use crate::rootfs::{Ext4, fresh_directory};
use crate::session::Session;
use crate::system::support::{BOOT, COMMAND, test_of_crate};
use crate::target::{Debian, HOST, SYSTEM};

const SCRIPT: &str = "/var/lib/acrn/launch/launch_user_vm_id1.sh";
/// The User VM after the first change and after the second.
const SECOND: (u32, &[u32]) = (384, &[0]);
const THIRD: (u32, &[u32]) = (320, &[1]);
/// What somebody has written, and what must be there as long as the machine is.
const OWN: [(&str, &str); 3] = [
    ("/etc/default/acrn-bridge", "# mine"),
    ("/etc/default/grub.d/acrn.cfg", "# mine"),
    ("/etc/acrn/vms/mine.toml", "script = \"/root/mine.sh\""),
];
/// The chapter whose commands are followed.
const CHAPTER: &str = include_str!("../../../../docs/src/images.md");

/// A disk with the files of the User VM with Debian: one like the machine's own, which itself would have the same
/// identity as that.
pub(super) fn user_disk(layout: &Layout, debian: &Debian, directory: &Path) -> Result<PathBuf> {
    let step = Step::begin("disk with a disk");
    let stage = fresh_directory(&directory.join("stage"))?;
    for kind in ["img", "vmlinuz", "initrd"] {
        let file = stage.join(format!("debian.{kind}"));
        fs::hard_link(debian.image.with_extension(kind), file)?;
    }
    let disk = fresh_directory(&directory.join("disks"))?.join("srv.img");
    let label = "srv";
    let size_mib = 4096;
    Ext4 { label, size_mib }.make(layout, &step, &stage, &disk)?;
    step.done("made");
    Ok(disk)
}

impl Journey<'_> {
    /// The whole way.
    pub(super) fn long(&mut self) -> Result<()> {
        let newer = self.packages(Part::Kernel, Some(2))?;
        let older = self.packages(Part::Kernel, Some(1))?;
        self.set_up(&older, Self::packed_in_browser)?;
        self.leg(
            "the Service VM boots",
            None,
            "reboot",
            |journey, session| {
                journey.reach_prompt(session)?;
                journey.stop(session)?;
                journey.launch_by_script(session)
            },
        )?;
        self.leg(
            "everything boots again",
            None,
            "reboot",
            |journey, session| {
                journey.start_managed(session)?;
                session.check("grep kept /root/kept", COMMAND)?;
                journey.debian_as_user_vm(session)
            },
        )?;
        self.leg(
            "it boots for an update",
            None,
            "reboot",
            |journey, session| {
                journey.start_managed(session)?;
                journey.update(&newer)?;
                journey.change()
            },
        )?;
        self.leg(
            "it boots with another scenario",
            None,
            "reboot",
            |journey, session| {
                journey.is_changed(session)?;
                journey.put("/root/scenario.xml", &scenario_text(THIRD)?)?;
                journey
                    .target
                    .run("acrn-config apply /root/scenario.xml")
                    .map(drop)
            },
        )?;
        self.leg(
            "the previous scenario boots",
            Some('p'),
            "reboot",
            |journey, session| {
                journey.is_in_force(session, "POST_STD_VM1 (post-launched): CPUs 0x1,")
            },
        )?;
        self.leg(
            "the Service VM boots alone",
            Some('s'),
            "reboot",
            |journey, session| {
                journey.is_in_force(session, "in force: the safe default")?;
                journey.target.run(&format!(
                    "acrn-config apply --previous && grep -q 'm {}M' {SCRIPT}",
                    SECOND.0
                ))?;
                journey.take_away()
            },
        )?;
        self.leg("Debian boots", None, "poweroff", |journey, _| {
            journey.target.run("! test -e /dev/acrn_hsm").map(drop)
        })
    }

    /// The Configurator makes the package, driven in a browser.
    fn packed_in_browser(&self, board: &BoardFile) -> Result<PathBuf> {
        let board_file = self.directory.join("target.xml");
        fs::write(&board_file, board.document.to_string())?;
        let package = self.directory.join("acrn-scenario.deb");
        test_of_crate(
            self.context.layout,
            &["acrn-configurator", "--test=browser"],
            "target::a_package_for_an_inspected_machine",
            &[
                ("ACRN_BOARD", board_file.as_os_str()),
                ("ACRN_PACKAGE", package.as_os_str()),
            ],
        )?;
        Ok(package)
    }

    fn launch_by_script(&mut self, session: &mut Session) -> Result<()> {
        self.target.run(&format!(
            "nohup {SCRIPT} </dev/null >/root/launch.log 2>&1 &"
        ))?;
        session.to_user_login(1, BOOT)?;
        session.log_in(1)?;
        session.check("grep kept /root/kept", COMMAND)?;
        self.stage("the launch script has started the User VM");
        Ok(())
    }

    /// A disk of `acrn-image create`, as the book describes its VM; a file in it is there after a restart.
    fn debian_as_user_vm(&mut self, session: &mut Session) -> Result<()> {
        let (_, text) = CHAPTER.split_once("```toml\n").context("no definition")?;
        let (definition, _) = text.split_once("```").context("no end")?;
        // Its console is shown on that of the machine.
        let console = "unix:/run/acrn/debian.console";
        ensure!(definition.contains(console), "the book has another console");
        self.put(
            "/etc/acrn/vms/debian.toml",
            &definition.replace(console, "hv"),
        )?;
        self.target.run("mount /dev/vdc /srv")?;
        for command in ["echo kept >/root/kept && sync", "grep kept /root/kept"] {
            self.target.run("acrnctl start debian")?;
            let shown = session.to_named_guest("debian", HOST, SYSTEM);
            shown.with_context(|| self.target.run("acrnctl logs debian").unwrap_or_default())?;
            session.check(command, COMMAND)?;
            self.stage("Debian is there as a User VM");
            self.target.run("acrnctl stop debian")?;
            session.to_hypervisor()?;
        }
        self.target
            .run("rm /etc/acrn/vms/debian.toml && umount /srv")?;
        Ok(())
    }

    /// Packages of a later build over those that are installed, with a User VM running: it goes on, and what somebody
    /// has written stays.
    fn update(&mut self, packages: &[PathBuf]) -> Result<()> {
        for (path, line) in OWN {
            self.target.run(&format!("echo '{line}' >>{path}"))?;
        }
        let sums = "md5sum /boot/acrn/current/*";
        let before = self.target.run(sums)?;
        self.install(packages)?;
        self.is_service_vm()?;
        self.keeps_own()?;
        ensure!(
            self.target.run(sums)? == before,
            "an update has changed the configuration in force"
        );
        self.target.run(
            "acrnctl list | grep -q 'POST_STD_VM1 *started' && dpkg-query -W acrn-tools | grep -q '+2$'",
        )?;
        self.stage("the packages are updated");
        Ok(())
    }

    fn keeps_own(&self) -> Result<()> {
        for (path, line) in OWN {
            self.target
                .run(&format!("grep -qxF '{line}' {path}"))
                .with_context(|| format!("{path} is not as somebody has left it"))?;
        }
        Ok(())
    }

    /// Another scenario, by a later package; the one before keeps an entry.
    fn change(&mut self) -> Result<()> {
        let board = self.target.run("cat /boot/acrn/current/board.xml")?;
        let board = BoardFile::parse("board.xml", &board)?;
        let package = self.packed(&board, "2.0", SECOND)?;
        self.install(&[package])?;
        ensure!(
            self.has_entry("acrn-previous")?,
            "the scenario of before has no entry in GRUB's menu"
        );
        Ok(())
    }

    /// The User VM is as the second scenario has it.
    fn is_changed(&mut self, session: &mut Session) -> Result<()> {
        self.start_managed(session)?;
        ensure!(
            session.check("nproc", COMMAND)? == "1",
            "the VM has another number of CPUs"
        );
        let memory = memory(session)?;
        ensure!(
            (300 << 10..384 << 10).contains(&memory),
            "the VM has {memory} KiB"
        );
        self.stop(session)
    }

    /// The hypervisor says this of its configuration.
    fn is_in_force(&self, session: &mut Session, sign: &str) -> Result<()> {
        self.is_service_vm()?;
        session.to_hypervisor()?;
        let config = session.hypervisor_command("config")?;
        ensure!(config.contains(sign), "no {sign:?} in:\n{config}");
        Ok(())
    }

    /// Removes the packages, which leaves settings, and purges them, which leaves what somebody has written.
    fn take_away(&mut self) -> Result<()> {
        let packages = "acrn-scenario acrn-hypervisor acrn-tools";
        self.target.run(&format!("dpkg --remove {packages}"))?;
        self.keeps_own()?;
        ensure!(!self.has_entry("acrn")?, "GRUB's menu still has an entry");
        self.target
            .run("! test -e /boot/acrn.bin && ! command -v acrnctl && test -d /boot/acrn")?;
        self.target.run(&format!("dpkg --purge {packages}"))?;
        self.target.run(
            "! test -e /boot/acrn && ! test -e /etc/default/acrn-bridge && test -e /etc/acrn/vms/mine.toml",
        )?;
        self.stage("the packages are gone");
        Ok(())
    }

    fn put(&self, to: &str, text: &str) -> Result<()> {
        let path = self.directory.join("put");
        fs::write(&path, text)?;
        self.target.put(&path, to)
    }
}

/// Memory of the User VM whose shell is shown, in KiB.
fn memory(session: &mut Session) -> Result<u64> {
    let text = session.check("awk '/MemTotal/ { print $2 }' /proc/meminfo", COMMAND)?;
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is no size"))
}
