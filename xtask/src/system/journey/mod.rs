//! A new user's way: from a machine with Debian by our packages to a User VM, and back.
//!
//! The short form goes as far as a User VM's prompt, with a kernel that the tests build anyway and a scenario that is
//! there. What the [`long`] form does besides is in a module of its own.

mod long;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use acrn_config::{BoardFile, ScenarioFile, deploy};
use anyhow::{Context as _, Result, ensure};

use super::support::{self, BOOT, COMMAND};
use super::{Context, Outcome, report};
use crate::deb::{self, Part};
use crate::progress::elapsed;
use crate::rootfs::fresh_directory;
use crate::session::Session;
use crate::target::{Debian, SYSTEM, Target};

const VM: &str = "POST_STD_VM1";
/// The User VM's memory in MiB, and its CPUs.
const FIRST: (u32, &[u32]) = (256, &[0, 1]);

/// The journey, or with `--full` its long form.
pub(super) fn journey(context: &Context) -> Result<Outcome> {
    if let Some(skipped) = support::unless_root() {
        return Ok(skipped);
    }
    let directory = fresh_directory(&context.layout.runs().join(context.name))?;
    let debian = Debian::build(context.layout)?;
    let mut disks = vec![context.artefacts.data_disk.clone()];
    if context.full {
        disks.push(long::user_disk(context.layout, &debian, &directory)?);
    }
    let mut target = debian.target(&directory, &disks)?;
    // Some minutes go well mostly, half an hour does seldom.
    target.machine.share_one_cpu = context.full;
    let mut journey = Journey {
        context,
        target,
        directory,
        boots: 0,
        repeated: 0,
        since: Instant::now(),
        leg_since: Instant::now(),
        to_prompt: Duration::ZERO,
    };
    let result = match context.full {
        true => journey.long(),
        false => journey.short(),
    };
    let _ = fs::remove_dir_all(&journey.directory);
    result.map(|()| Outcome::Passed)
}

struct Journey<'a> {
    context: &'a Context<'a>,
    target: Target,
    directory: PathBuf,
    boots: u32,
    /// Legs that were done again.
    repeated: usize,
    /// The end of the last stage.
    since: Instant,
    /// The beginning of the leg.
    leg_since: Instant,
    /// From the packages to the end of the leg that installs them.
    to_prompt: Duration,
}

impl Journey<'_> {
    fn short(&mut self) -> Result<()> {
        let packages = self.packages(Part::SmallKernel, None)?;
        self.set_up(&packages, |journey, board| {
            journey.packed(board, "1.0", FIRST)
        })?;
        self.leg(
            "the Service VM boots",
            None,
            "poweroff",
            |journey, session| {
                journey.reach_prompt(session)?;
                journey.stop(session)
            },
        )
    }

    /// A part of the way: switches the machine on, by the entry of GRUB's menu that has this key or by the default,
    /// goes `way` and ends it by `end`, "reboot" or "poweroff". What a defect of the emulator spoils is done
    /// again on the disks of before: it would else spoil most long ways.
    fn leg(
        &mut self,
        what: &str,
        key: Option<char>,
        end: &str,
        mut way: impl FnMut(&mut Self, &mut Session) -> Result<()>,
    ) -> Result<()> {
        self.target.keep_disks()?;
        loop {
            self.leg_since = Instant::now();
            self.since = self.leg_since;
            let error = match self.go(what, key, end, &mut way) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if self.repeated >= report::allowed(&error) {
                return Err(error);
            }
            self.repeated += 1;
            println!("    {what}: failed, is repeated: {error:#}");
            self.target.restore_disks()?;
        }
    }

    fn go(
        &mut self,
        what: &str,
        key: Option<char>,
        end: &str,
        way: &mut impl FnMut(&mut Self, &mut Session) -> Result<()>,
    ) -> Result<()> {
        let mut session = self.boot(what, key)?;
        let gone =
            way(self, &mut session).and_then(|()| self.target.end(&mut session, end, SYSTEM));
        gone.map_err(|error| match session.vm.console.sound() {
            Ok(()) => error,
            Err(broken) => error.context(broken),
        })?;
        self.stage("it goes down");
        Ok(())
    }

    /// From a blank Debian to one with the packages and a scenario, whose package `pack` makes for the board.
    fn set_up(
        &mut self,
        packages: &[PathBuf],
        pack: impl Fn(&Self, &BoardFile) -> Result<PathBuf>,
    ) -> Result<()> {
        self.leg("Debian boots", None, "reboot", |journey, _| {
            journey.target.run("! test -e /dev/acrn_hsm")?;
            journey.prepare()?;
            let start = Instant::now();
            journey.install(packages)?;
            journey.stage("the packages are installed");
            let board = journey.inspect()?;
            let scenario = pack(journey, &board)?;
            journey.stage("the scenario is packed");
            journey.install(&[scenario])?;
            journey.stage("the scenario is installed");
            ensure!(
                journey.has_entry("acrn-safe")? && !journey.has_entry("acrn-previous")?,
                "GRUB's menu has other entries than it should"
            );
            journey.to_prompt = start.elapsed();
            Ok(())
        })
    }

    /// To the shell of a User VM, where a file is left.
    fn reach_prompt(&mut self, session: &mut Session) -> Result<()> {
        self.is_service_vm()?;
        self.start_managed(session)?;
        println!(
            "    from the packages to a User VM's prompt: {}",
            elapsed(self.to_prompt + self.leg_since.elapsed())
        );
        session.check("echo kept >/root/kept && sync", COMMAND)?;
        Ok(())
    }

    /// Says how long the way was since the last time.
    fn stage(&mut self, what: &str) {
        println!("    {what}: {}", elapsed(self.since.elapsed()));
        self.since = Instant::now();
    }

    /// The packages with this kernel, in order.
    fn packages(&mut self, kernel: Part, build: Option<u32>) -> Result<Vec<PathBuf>> {
        let layout = self.context.layout;
        let version = deb::version(build);
        let parts = [Part::Hypervisor, Part::Tools, kernel];
        let packages = parts.map(|part| deb::build(layout, part, &version));
        let packages = packages.into_iter().collect::<Result<Vec<_>>>()?;
        deb::lint(layout, &packages)?;
        self.stage("packages are made");
        Ok(packages)
    }

    /// What a user's Debian has, and ours lacks since it was not installed by an installer: a menu of GRUB's.
    /// The best compression of RAM disks would take an emulated processor minutes.
    fn prepare(&self) -> Result<()> {
        self.target
            .run("echo COMPRESSLEVEL=1 >/etc/initramfs-tools/conf.d/test && update-grub")
            .map(drop)
    }

    /// Switches on and waits until somebody can log in.
    fn boot(&mut self, what: &str, key: Option<char>) -> Result<Session> {
        self.boots += 1;
        let log = self.context.log(&format!("boot{}", self.boots));
        let mut session = self.target.switch_on(self.context.layout, &log)?;
        if let Some(key) = key {
            session.expect(&format!("({key})"), SYSTEM)?;
            session.vm.console.send(key.to_string().as_bytes())?;
        }
        self.target.wait_for_log_in(&mut session, SYSTEM)?;
        self.stage(what);
        self.target.run("mkdir -p /data && mount /dev/vdb /data")?;
        Ok(session)
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

    /// Whether GRUB's menu has an entry with this id.
    fn has_entry(&self, id: &str) -> Result<bool> {
        let menu = self.target.run("cat /boot/grub/grub.cfg")?;
        Ok(menu.contains(&format!("--id {id} ")))
    }

    /// Inspects the machine, which does not run the hypervisor yet.
    fn inspect(&self) -> Result<BoardFile> {
        let text = self.target.run("acrn-board-inspector target --out -")?;
        Ok(BoardFile::parse("target.xml", &text)?)
    }

    /// A package with a scenario for the machine, where the User VM has this memory and these CPUs.
    fn packed(&self, board: &BoardFile, version: &str, vm: (u32, &[u32])) -> Result<PathBuf> {
        let scenario = ScenarioFile::parse("scenario.xml", &scenario_text(vm)?)?;
        let (name, bytes, _) = deploy::package(board, &scenario, version, 0)?;
        let path = self.directory.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
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
}

/// The Service VM and a User VM with this memory in MiB on these CPUs.
fn scenario_text((memory, cpus): (u32, &[u32])) -> Result<String> {
    let template = include_str!("scenario.xml");
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
