//! A new user's way: from a machine with Debian by our packages to a User VM, and back.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use acrn_config::{BoardFile, ScenarioFile, deploy};
use anyhow::{Context as _, Result, ensure};

use super::support::{BOOT, COMMAND};
use super::{Context, Outcome};
use crate::deb::{self, Part};
use crate::progress::elapsed;
use crate::rootfs::fresh_directory;
use crate::session::Session;
use crate::target::{Debian, Target};

/// Time for Debian to boot or end, also below the hypervisor.
const SYSTEM: Duration = Duration::from_secs(420);
const VM: &str = "POST_STD_VM1";
const SCRIPT: &str = "/var/lib/acrn/launch/launch_user_vm_id1.sh";

/// The journey, or with `--full` its long form.
pub(super) fn journey(context: &Context) -> Result<Outcome> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(Outcome::Skipped("only root can make Debian's disk".into()));
    }
    let layout = context.layout;
    let mut packages = Vec::new();
    for part in [Part::Hypervisor, Part::Tools, Part::Kernel] {
        packages.push(deb::build(layout, part)?);
    }
    deb::lint(layout, &packages)?;
    let directory = fresh_directory(&layout.runs().join(context.name))?;
    let data = context.artefacts.data_disk.clone();
    let target = Debian::build(layout)?.target(&directory, &[data])?;
    let mut journey = Journey {
        context,
        target,
        directory,
        boots: 0,
        since: Instant::now(),
    };
    let result = journey.travel(&packages);
    let _ = fs::remove_dir_all(&journey.directory);
    result.map(|()| Outcome::Passed)
}

struct Journey<'a> {
    context: &'a Context<'a>,
    target: Target,
    directory: PathBuf,
    boots: u32,
    since: Instant,
}

impl Journey<'_> {
    fn travel(&mut self, packages: &[PathBuf]) -> Result<()> {
        let mut session = self.boot("Debian boots")?;
        self.target.run("! test -e /dev/acrn_hsm")?;
        self.prepare()?;
        let start = Instant::now();
        self.install(packages)?;
        self.stage("the packages are installed");
        let board = self.inspect()?;
        let scenario = self.packed(&board, 256)?;
        self.install(&[scenario])?;
        self.stage("the scenario is installed");
        self.target.run(
            "! grep -q acrn-previous /boot/grub/grub.cfg && grep -q 'id acrn-safe' /boot/grub/grub.cfg",
        )?;
        session = self.reboot(session, "the Service VM boots")?;
        self.is_service_vm()?;
        self.start_managed(&mut session)?;
        println!(
            "    from the packages to a User VM's prompt: {}",
            elapsed(start.elapsed())
        );
        session.check("echo kept >/root/kept && sync", COMMAND)?;
        self.stop(&mut session)?;
        if self.context.full {
            session = self.return_and_change(session)?;
            session = self.purge(session)?;
        }
        self.target.end(&mut session, "poweroff", SYSTEM)
    }

    /// Says how long the way was since the last time.
    fn stage(&mut self, what: &str) {
        println!("    {what}: {}", elapsed(self.since.elapsed()));
        self.since = Instant::now();
    }

    /// What a user's Debian has, and ours lacks since it was not installed by an installer: a menu of GRUB's.
    /// The best compression of RAM disks would take an emulated processor minutes.
    fn prepare(&self) -> Result<()> {
        self.target
            .run("echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/test && update-grub")
            .map(drop)
    }

    /// The long form's part: the launch script, a reboot of everything, another scenario and the way back.
    fn return_and_change(&mut self, mut session: Session) -> Result<Session> {
        self.target.run(&format!(
            "nohup {SCRIPT} </dev/null >/root/launch.log 2>&1 &"
        ))?;
        session.to_user_login(1, BOOT)?;
        session.log_in(1)?;
        session.check("grep kept /root/kept", COMMAND)?;
        session = self.reboot(session, "it boots again")?;
        self.start_managed(&mut session)?;
        session.check("grep kept /root/kept", COMMAND)?;
        let memory: u64 = memory(&mut session)?;
        let board = BoardFile::parse(
            "board.xml",
            &self.target.run("cat /boot/acrn/current/board.xml")?,
        )?;
        self.put("scenario.xml", &scenario_text(384, &[0])?)?;
        ensure!(
            board.model.cpus().len() == 2,
            "the board kept has other CPUs"
        );
        self.target.run("acrn-config apply /root/scenario.xml")?;
        session = self.reboot(session, "it boots again")?;
        self.start_managed(&mut session)?;
        ensure!(
            session.check("nproc", COMMAND)? == "1",
            "the VM has another number of CPUs"
        );
        let more = self::memory(&mut session)?;
        ensure!(
            more > memory + (96 << 10),
            "the VM had {memory} KiB and now has {more}"
        );
        self.stop(&mut session)?;
        self.target
            .run("acrn-config apply --previous && grep -q 'm 256M' /var/lib/acrn/launch/*.sh")?;
        Ok(session)
    }

    fn boot(&mut self, what: &str) -> Result<Session> {
        self.boots += 1;
        let log = self.context.log(&format!("boot{}", self.boots));
        let session = self.target.start(self.context.layout, &log, SYSTEM)?;
        self.stage(what);
        self.target.run("mkdir -p /data && mount /dev/vdb /data")?;
        Ok(session)
    }

    fn reboot(&mut self, mut session: Session, what: &str) -> Result<Session> {
        self.target.end(&mut session, "reboot", SYSTEM)?;
        drop(session);
        self.stage("it goes down");
        self.boot(what)
    }

    fn install(&self, packages: &[PathBuf]) -> Result<()> {
        for package in packages {
            let name = package.file_name().unwrap_or_default().to_string_lossy();
            self.target.put(package, &format!("/root/{name}"))?;
        }
        self.target
            .run("dpkg --install /root/*.deb && rm /root/*.deb")
            .map(drop)
    }

    /// Inspects the machine, which does not run the hypervisor yet.
    fn inspect(&self) -> Result<BoardFile> {
        let text = self.target.run("acrn-board-inspector target --out -")?;
        Ok(BoardFile::parse("target.xml", &text)?)
    }

    /// A package with a scenario for the machine.
    fn packed(&self, board: &BoardFile, memory: u32) -> Result<PathBuf> {
        let scenario = ScenarioFile::parse("scenario.xml", &scenario_text(memory, &[0, 1])?)?;
        let (name, bytes, _) = deploy::package(board, &scenario, "1.0", 0)?;
        let path = self.directory.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text)?;
        self.target.put(&path, &format!("/root/{name}"))
    }

    fn is_service_vm(&self) -> Result<()> {
        self.target.run("test -c /dev/acrn_hsm")?;
        let units = "acrn-bridge acrnd acrn-vms";
        let states = self.target.run(&format!("systemctl is-active {units}"))?;
        ensure!(states == "active\n".repeat(3), "{units} are\n{states}");
        // The network is what it was: the bridge is beside it.
        self.target
            .run("ip -brief address show acrn-br0 | grep -q 192.168.100.1/24")?;
        Ok(())
    }

    fn start_managed(&mut self, session: &mut Session) -> Result<()> {
        self.target.run(&format!("acrnctl start {VM}"))?;
        let shown = session.to_user_login(1, BOOT);
        shown.with_context(|| {
            self.target
                .run(&format!("acrnctl logs {VM}"))
                .unwrap_or_default()
        })?;
        session.log_in(1)?;
        self.stage("the User VM is there");
        Ok(())
    }

    fn stop(&self, session: &mut Session) -> Result<()> {
        self.target.run(&format!("acrnctl stop {VM}"))?;
        session.to_hypervisor()
    }

    /// Takes the packages away: the machine is an ordinary one again.
    fn purge(&mut self, session: Session) -> Result<Session> {
        self.target
            .run("dpkg --purge acrn-scenario acrn-hypervisor acrn-tools")?;
        self.target.run(
            "! grep -q acrn.bin /boot/grub/grub.cfg && ! test -e /boot/acrn && ! test -e /boot/acrn.bin",
        )?;
        self.target.run("! command -v acrnctl")?;
        self.stage("the packages are gone");
        let session = self.reboot(session, "Debian boots")?;
        self.target.run("! test -e /dev/acrn_hsm")?;
        Ok(session)
    }
}

/// Memory of the User VM whose shell is shown, in KiB.
fn memory(session: &mut Session) -> Result<u64> {
    let text = session.check("awk '/MemTotal/ { print $2 }' /proc/meminfo", COMMAND)?;
    text.trim()
        .parse()
        .with_context(|| format!("{text:?} is no size"))
}

/// The Service VM and a User VM on these CPUs, with memory in MiB.
fn scenario_text(memory: u32, cpus: &[u32]) -> Result<String> {
    let template = include_str!("journey.xml");
    let cpus: Vec<String> = cpus
        .iter()
        .map(|cpu| format!("<pcpu><pcpu_id>{cpu}</pcpu_id></pcpu>"))
        .collect();
    ensure!(
        template.contains("@CPUS@"),
        "the template has no place for CPUs"
    );
    Ok(template
        .replace("@MEMORY@", &memory.to_string())
        .replace("@CPUS@", &cpus.concat()))
}
